"""The tasks "polarity" and "topic": the class of a sentence, in one word.

The sentences and their human ratings are those that are shipped with tfppo (Hutto and Gilbert 2014).
"""

import functools
from collections.abc import Sequence

from tfppo.text.data.corpus import Split, corpus_path, sentences
from tfppo.text.data.metrics import vader_compound
from tfppo.text.data.prompts import Prompt
from tfppo.text.tasks.definition.answers import Row, answer_task, drawn, macro_f1, most_frequent

CLEAR = 0.5  # ratings nearer to 0 than this are neither positive nor negative
CLASSES = {"movie": "film", "amazon": "product", "nyt": "news", "tweet": "tweet"}
QUESTION = "\nIt is"  # after the sentence
LONGEST = 240  # characters of a sentence
SETTINGS = {
    "prompt_length": 100,
    "response_length": 6,
    "iterations": 80,
    "learning_rate": 1e-4,
}
SFT = {"preset": corpus_path().with_name("movie-gpt2"), "epochs": 2, "learning_rate": 5e-4}  # the shipped model


@functools.cache
def polarity_rows(split: Split) -> list[Row]:
    """Returns sentences about movies with a clear rating; the answer is "positive" or "negative"."""
    return [
        {"prompt": sentence.text + QUESTION, "answer": "positive" if sentence.rating > 0 else "negative"}
        for sentence in sentences(split, "movie")
        if abs(sentence.rating) >= CLEAR and len(sentence.text) <= LONGEST
    ]


@functools.cache
def topic_rows(split: Split) -> list[Row]:
    """Returns the sentences of all four kinds; the answer is the kind."""
    return [
        {"prompt": sentence.text + QUESTION, "answer": CLASSES[sentence.domain]}
        for sentence in sentences(split)
        if len(sentence.text) <= LONGEST
    ]


def lexicon(prompts: Sequence[Prompt]) -> list[str]:
    """Answers with the sign of VADER, a lexicon of sentiment."""
    scores = vader_compound([prompt.removesuffix(QUESTION) for prompt in prompts])
    return ["positive" if score > 0 else "negative" for score in scores]


POLARITY = answer_task(
    "polarity",
    "say whether people rate a sentence about a movie as positive or negative",
    polarity_rows,
    baselines={
        "majority": functools.partial(most_frequent, polarity_rows),
        "chance": functools.partial(drawn, polarity_rows),
        "VADER": lexicon,
    },
    defaults=SETTINGS,
    sft_defaults=SFT,
)
TOPIC = answer_task(
    "topic",
    "say whether a sentence is about a film or a product, or is from the news or a tweet",
    topic_rows,
    measure=macro_f1,
    metric="macro_f1",
    defaults=SETTINGS,
    sft_defaults={**SFT, "epochs": 1},  # it has twice as many examples
)
