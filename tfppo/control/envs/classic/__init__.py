"""In-graph versions of Gymnasium's classic control environments; importing this package registers them."""

from collections.abc import Callable

from tfppo.control.envs.classic.acrobot import Acrobot
from tfppo.control.envs.classic.cartpole import CartPole
from tfppo.control.envs.classic.mountain_car import MountainCar, MountainCarContinuous
from tfppo.control.envs.classic.pendulum import Pendulum
from tfppo.control.envs.environment import Environment, register_environment

CLASSIC: dict[str, Callable[[], Environment]] = {
    "CartPole-v1": CartPole,
    "Acrobot-v1": Acrobot,
    "MountainCar-v0": MountainCar,
    "MountainCarContinuous-v0": MountainCarContinuous,
    "Pendulum-v1": Pendulum,
}
for _env, _make in CLASSIC.items():
    register_environment(_env, _make)

__all__ = ["CLASSIC", "Acrobot", "CartPole", "MountainCar", "MountainCarContinuous", "Pendulum"]
