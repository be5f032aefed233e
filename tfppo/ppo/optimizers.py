"""The optimizers that PPO can use; all are Keras' own."""

import keras

from tfppo.errors import UsageError
from tfppo.ppo.config import PPOConfig


def make_optimizer(config: PPOConfig) -> keras.optimizers.Optimizer:
    """Makes the optimizer that the settings name.

    Args:
      config: The settings of PPO.

    Returns:
      The optimizer, not built yet.
    """
    rate, epsilon = config.learning_rate, config.adam_epsilon
    if config.optimizer == "adamw":
        return keras.optimizers.AdamW(rate, config.weight_decay, epsilon=epsilon)
    if config.optimizer == "rmsprop":
        return keras.optimizers.RMSprop(rate, rho=config.rmsprop_rho, epsilon=epsilon)
    if config.optimizer == "sgd":
        return keras.optimizers.SGD(rate)
    return keras.optimizers.Adam(rate, epsilon=epsilon)


def checked_optimizer(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Checks an optimizer that the user made.

    Args:
      optimizer: The optimizer.

    Returns:
      The same optimizer.

    Raises:
      UsageError: If it is no Keras optimizer, has a schedule of its own, or was used already.
    """
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise UsageError(
            f"optimizer is of type {type(optimizer).__name__}; it must be a keras.optimizers.Optimizer, such as "
            "keras.optimizers.RMSprop(1e-3)"
        )
    if isinstance(optimizer._learning_rate, keras.optimizers.schedules.LearningRateSchedule):
        raise UsageError(
            "the optimizer has a learning rate schedule; PPO sets the learning rate in each iteration: give the "
            "optimizer a number, and choose the setting learning_rate_schedule"
        )
    if optimizer.built:
        raise UsageError("the optimizer has already been used; its moments belong to other weights: make a new one")
    return optimizer
