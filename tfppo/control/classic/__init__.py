"""Classic control as tensors: gymnasium's environments step by step, on any device."""

from collections.abc import Callable

from tfppo.control.classic.acrobot import Acrobot
from tfppo.control.classic.cartpole import CartPole
from tfppo.control.classic.mountain_car import MountainCar, MountainCarContinuous
from tfppo.control.classic.pendulum import Pendulum
from tfppo.control.environments import Environment

IN_GRAPH_ENVIRONMENTS: dict[str, Callable[[], Environment]] = {
    "CartPole-v1": CartPole,
    "Acrobot-v1": Acrobot,
    "MountainCar-v0": MountainCar,
    "MountainCarContinuous-v0": MountainCarContinuous,
    "Pendulum-v1": Pendulum,
}

__all__ = ["IN_GRAPH_ENVIRONMENTS", "Acrobot", "CartPole", "MountainCar", "MountainCarContinuous", "Pendulum"]
