"""A fixture that trains a policy and evaluates it."""

import pytest

from tfppo.control.evaluate import Acting, play_episodes


@pytest.fixture(scope="session")
def greedy_returns():
    """Returns a function that trains a trainer to the end and returns the returns of 100 greedy episodes."""

    def greedy_returns(trainer):
        for _ in trainer.iterations():
            pass
        trainer.close()
        run, control = trainer.config.run, trainer.config.control
        return play_episodes(Acting(trainer.policy, trainer.normalization), control.env, 100, run.seed).returns

    return greedy_returns
