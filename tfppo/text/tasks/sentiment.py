"""The task "sentiment", the default: friendly movie sentences, by a reward model that was learnt from people's ratings.

VADER, a lexicon, measures it: a judge that the reward model has never seen. Both read the prompt with its response.
"""

from collections.abc import Sequence

from tfppo.text.metrics import vader_compound
from tfppo.text.rewards import Reward
from tfppo.text.tasks.task import Task, movie_prompts, register_task


def make_reward() -> Reward:
    """The reward model of `tfppo.text.preferences`, loaded."""
    from tfppo.text.preferences import sentiment_reward  # TensorFlow, for nobody who only lists tasks

    return sentiment_reward()


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
