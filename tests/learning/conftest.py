"""A training and what comes of it."""

import pytest

from tfppo.control.evaluate import episode_returns


@pytest.fixture(scope="session")
def greedy_returns():
    """Lets a trainer train; returns of 100 greedy episodes afterwards."""

    def greedy_returns(trainer):
        for _ in trainer.iterations():
            pass
        trainer.close()
        run, control = trainer.config.run, trainer.config.control
        return episode_returns(trainer.policy, control.env, 100, run.seed, normalization=trainer.normalization)

    return greedy_returns
