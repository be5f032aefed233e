"""The task "sentiment", the default: positive sentences about movies.

The reward is a reward model that was trained on human ratings. The metric is VADER, a sentiment lexicon, which was not
used to train the reward model. Both read the prompt together with its response.
"""

from collections.abc import Sequence

from tfppo.text.data.metrics import vader_compound, word_count
from tfppo.text.data.prompts import joined
from tfppo.text.rewards.callables import Reward
from tfppo.text.tasks.definition.beginnings import movie_prompts
from tfppo.text.tasks.definition.registry import register_task
from tfppo.text.tasks.definition.task import Task

WORDS = 10  # shorter responses are penalized; the reference policy writes about 14 words (benchmarks/results)
SHORT_COST = 5.0  # the scores of the reference policy's responses have a standard deviation of about 2


def shortfall(responses: Sequence[str]) -> list[float]:
    """Computes the share of WORDS words that each response lacks: 0 if it is long enough, 1 if it is empty.

    Without a penalty for it the policy learns to write only a few words of praise, because a short response costs
    little KL and has little that could lower its score.

    Args:
      responses: N responses.

    Returns:
      N numbers from 0 to 1.
    """
    return [max(0.0, 1.0 - word_count(response) / WORDS) for response in responses]


def make_reward() -> Reward:
    """Makes the reward: the score of the included reward model minus SHORT_COST times the shortfall."""
    from tfppo.text.rewards.reward_model import sentiment_reward  # here, because listing tasks needs no TensorFlow

    model = sentiment_reward()

    def friendly(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        lacking = shortfall(responses)
        return [float(s) - SHORT_COST * lack for s, lack in zip(model(prompts, responses), lacking, strict=True)]

    return friendly


def mean_compound(prompts: Sequence[str], responses: Sequence[str]) -> float:
    """Computes the mean VADER compound sentiment of prompt and response.

    Args:
      prompts: N prompts.
      responses: N responses.

    Returns:
      A number from -1 to 1.
    """
    return float(vader_compound(joined(prompts, responses)).mean())


SENTIMENT = register_task(
    Task(
        name="sentiment",
        description="continue the beginning of a movie review in a positive way",
        prompts=movie_prompts,
        make_reward=make_reward,
        measure=mean_compound,
        metric="vader_compound",
        target=0.3,
    )
)
