"""The task "sentiment", the default: friendly movie sentences, by a reward model that was learnt from people's ratings.

VADER, a lexicon, measures it: a judge that the reward model has never seen. Both read the prompt with its response.
"""

from collections.abc import Sequence

from tfppo.text.data.metrics import vader_compound, word_count
from tfppo.text.rewards.callables import Reward
from tfppo.text.tasks.task import Task, movie_prompts, register_task

WORDS = 10  # of a response that is not short; the reference writes about 14 (benchmarks/results)
SHORT_COST = 5.0  # points of the reward model, whose scores of the reference's responses spread by about 2


def shortfall(responses: Sequence[str]) -> list[float]:
    """The share of WORDS words that each response lacks: 0 for one that is long enough, 1 for an empty one.

    Words that are not written cost no KL and cannot displease: without this, tuning ends in a few words of praise.
    """
    return [max(0.0, 1.0 - word_count(response) / WORDS) for response in responses]


def make_reward() -> Reward:
    """Returns the shipped reward model's score, less SHORT_COST for the words that a response lacks."""
    from tfppo.text.rewards.reward_model import sentiment_reward  # TensorFlow, for nobody who only lists tasks

    model = sentiment_reward()

    def friendly(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        lacking = shortfall(responses)
        return [float(s) - SHORT_COST * lack for s, lack in zip(model(prompts, responses), lacking, strict=True)]

    return friendly


def mean_compound(prompts: Sequence[str], responses: Sequence[str]) -> float:
    """VADER's compound sentiment of prompt and response, from -1 to 1, on average."""
    texts = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
    return float(vader_compound(texts).mean())


SENTIMENT = register_task(
    Task(
        name="sentiment",
        description="continue the beginning of a movie review in a friendly way",
        prompts=movie_prompts,
        make_reward=make_reward,
        measure=mean_compound,
        metric="vader_compound",
        target=0.3,
    )
)
