"""The tasks "translation" and "messages": English into French, German and Spanish.

"translation" has numbers in words. The package num2words makes the pairs, so each answer can be verified exactly.
"messages" has short messages of two programs for websites, Django and Wagtail, as their communities translated them.
Numbers and messages are divided into the splits by a checksum, the same one for all languages.
"""

import functools
import io
import re
from collections.abc import Sequence

from tfppo.text.data.archives import DJANGO, WAGTAIL
from tfppo.text.data.corpus import Split
from tfppo.text.data.prompts import Prompt
from tfppo.text.tasks.definition.answers import RELATIVE, Row, accuracy, answer_task, normalized
from tfppo.text.tasks.definition.splits import split_by

LANGUAGES = {"fr": "French", "de": "German", "es": "Spanish"}
NUMBERS = range(1, 3000)
CATALOGS = ((DJANGO, "django/"), (WAGTAIL, "wagtail/"))
UNCLEAR = re.compile(r"[%{}<>&\\\d]")  # in messages with gaps, code or numbers
LONGEST = 60  # characters of a message; a translation may have half as many more


split_of = functools.partial(split_by, validation=10, test=15)  # of a number or message


@functools.cache
def translation_rows(split: Split) -> list[Row]:
    """Returns the numbers of a split in English, with the language that is asked for; the answer is the translation."""
    from num2words import num2words

    numbers = [number for number in NUMBERS if split_of(str(number)) == split]
    return [
        {"prompt": f"{num2words(number)}\n{name}:", "answer": num2words(number, lang=code)}
        for number in numbers
        for code, name in LANGUAGES.items()
    ]


def closeness(given: str, right: str) -> float:
    """Returns the share of the characters that two texts have in common at their beginning and at their end.

    The share is of the longer text. It is 1 only if the texts are equal.
    """
    longest = max(len(given), len(right), 1)
    if given == right:
        return 1.0
    shortest = min(len(given), len(right))
    start = next((n for n in range(shortest) if given[n] != right[n]), shortest)
    end = next((n for n in range(shortest - start) if given[-1 - n] != right[-1 - n]), shortest - start)
    return (start + end) / longest


def translation_reward(prompts: Sequence[str], responses: Sequence[str], answer: Sequence[str]) -> list[float]:
    """Scores responses: half for the exact translation, and half for how close they are to it.

    Args:
      prompts: N prompts.
      responses: N responses.
      answer: The N translations.
    """
    scores = []
    for given, right in zip(map(normalized, responses), map(normalized, answer), strict=True):
        scores.append(0.5 * (given == right) + 0.5 * closeness(given, right))
    return scores


def copied(prompts: Sequence[Prompt]) -> list[str]:
    """Answers with the English words."""
    return [prompt.partition("\n")[0] for prompt in prompts]


TRANSLATION = answer_task(
    "translation",
    "translate numbers in English words into French, German and Spanish",
    translation_rows,
    reward=translation_reward,
    metric="exact_match",
    needs=("num2words",),
    baselines={"copy": copied},
    shares_prompts=False,
    defaults={"prompt_length": None, "response_length": 40, "iterations": 100},
    sft_defaults={"epochs": 8, "num_layers": 2, "hidden_dim": 128, "context_length": 96, "dropout": 0.0},
)


@functools.cache
def messages_rows(split: Split) -> list[Row]:
    """Returns the messages of a split in English, with the language that is asked for; the answer is the translation.

    Of messages that differ only in capital letters or in white space the first one is kept.
    """
    from babel.messages.mofile import read_mo

    rows = []
    for code, name in LANGUAGES.items():
        seen = set()
        for archive, start in CATALOGS:
            for file in archive.members(start, f"/locale/{code}/LC_MESSAGES/django.mo"):
                for message in read_mo(io.BytesIO(archive.read_bytes(file))):
                    if not (isinstance(message.id, str) and isinstance(message.string, str)):
                        continue  # with plurals
                    source, target = (" ".join(text.split()) for text in (message.id, message.string))
                    is_clear = len(source) <= LONGEST and len(target) <= 1.5 * LONGEST and not UNCLEAR.search(source)
                    key = source.casefold()
                    if is_clear and re.search(r"\w", source) and target and key not in seen:
                        seen.add(key)
                        if split_of(key) == split:
                            rows.append({"prompt": f"{source}\n{name}:", "answer": target})
    return rows


def chrf(prompts: Sequence[str], responses: Sequence[str], answer: Sequence[str]) -> list[float]:
    """Scores each response with chrF (Popovic 2015) divided by 100: the F-score of its characters and their sequences.

    Args:
      prompts: N prompts.
      responses: N responses.
      answer: The N translations.
    """
    from sacrebleu.metrics import CHRF

    metric = CHRF()
    return [
        metric.sentence_score(given.strip(), [right]).score / 100
        for given, right in zip(responses, answer, strict=True)
    ]


def corpus_chrf(prompts: Sequence[str], responses: Sequence[str], answer: Sequence[str]) -> float:
    """Computes the chrF of all responses together, divided by 100."""
    from sacrebleu.metrics import CHRF

    return float(CHRF().corpus_score([given.strip() for given in responses], [list(answer)]).score / 100)


MESSAGES = answer_task(
    "messages",
    "translate messages of websites into French, German and Spanish",
    messages_rows,
    reward=chrf,
    measure=corpus_chrf,
    metric="chrf",
    judges={"exact_match": accuracy},
    needs=("babel", "sacrebleu"),
    archives=(DJANGO, WAGTAIL),
    baselines={"copy": copied},
    defaults={
        **RELATIVE,
        "prompt_length": None,
        "response_length": 40,
        "iterations": 150,
        "learning_rate": 5e-4,
        "kl_coeff": 0.005,
    },
    sft_defaults={
        "epochs": 20,
        "num_layers": 2,
        "hidden_dim": 128,
        "context_length": 96,
        "vocabulary_size": 2048,
        "dropout": 0.1,
    },
)
