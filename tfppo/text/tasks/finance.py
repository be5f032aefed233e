"""The task "finance": the opinion of a headline, positive, negative or neutral.

The headlines are made from templates and from the words of two lexicons for finance, which are read in place from the
package finvader: SentiBignomics (Consoli et al. 2022) and the list of Henry (2008). A label is the sum of the words'
values in the lexicon. So the labels are those of a lexicon, and no person has read a headline.
"""

import functools
import random
import re
from collections.abc import Sequence

from tfppo.text.data.archives import FINVADER
from tfppo.text.data.corpus import Split
from tfppo.text.data.metrics import vader_compound
from tfppo.text.data.prompts import Prompt
from tfppo.text.tasks.definition.answers import Row, answer_task, drawn, macro_f1, most_frequent
from tfppo.text.tasks.definition.splits import split_by

COMPANIES = (
    *("Acorn Foods", "Baltic Lines", "Cobalt Mining", "Delta Paper", "Elm Insurance", "Fjord Energy", "Garnet Bank"),
    *("Harbour Steel", "Iris Optics", "Juniper Mills", "Kestrel Air", "Lark Telecom", "Maple Homes", "Pine Motors"),
)
TEMPLATES = (  # {a} is an adjective and {n} a noun of the lexicons
    "{company} reports {a} quarter and {n}",
    "{company}: {n}, {n} and {a} outlook",
    "Analysts see {n} at {company} after {a} year",
    "{a} figures: {company} speaks of {n}",
    "Report on {company} mentions {n} and {a} costs",
    "{company} chief calls market {a}, expects {n}",
    "{n} at {company}, says {a} auditor's report",
    "{company} closes year with {n} and {a} demand",
)
HEADLINES = 14_000
CLEAR = 0.2  # sums nearer to 0 than this are neutral
NOUN = re.compile(r"[a-z]{4,}(ment|tion|sion|ness|ity|ance|ence|cy|ship)")
ADJECTIVE = re.compile(r"[a-z]{3,}(ous|ful|ive|able|less|ical|ional|cial|istic)")
STRONG = 0.3  # smallest absolute value of a word
OPINION = "\nOpinion:"


@functools.cache
def lexicon() -> dict[str, float]:
    """Returns the values of all words, about -1 to 1."""
    texts = [FINVADER.read(f"finvader/{name}.py") for name in ("Henry", "SentiBignomics")]  # the second one counts
    return {word: float(value) for text in texts for word, value in re.findall(r"\['(.+?)'\]\s*=\s*(-?[\d.]+)", text)}


def opinion(words: Sequence[str]) -> str:
    """Returns the opinion of words: the sign of their sum, or neutral."""
    total = sum(lexicon()[word] for word in words)
    return "positive" if total >= CLEAR else "negative" if total <= -CLEAR else "neutral"


@functools.cache
def headlines() -> list[Row]:
    """Makes headlines, the same ones on every machine, each with its opinion."""
    draw = random.Random(1)
    strong = sorted(word for word, value in lexicon().items() if abs(value) >= STRONG)
    words = {kind: [w for w in strong if form.fullmatch(w)] for kind, form in (("n", NOUN), ("a", ADJECTIVE))}
    rows: dict[str, Row] = {}
    while len(rows) < HEADLINES:
        template, used = draw.choice(TEMPLATES), []
        for kind in re.findall(r"\{([an])\}", template):
            used.append(draw.choice(words[kind]))
            template = template.replace(f"{{{kind}}}", used[-1], 1)
        headline = template.format(company=draw.choice(COMPANIES))
        headline = headline[0].upper() + headline[1:]
        rows[headline] = {"prompt": headline + OPINION, "answer": opinion(used)}
    return list(rows.values())


@functools.cache
def finance_rows(split: Split) -> list[Row]:
    """Returns the headlines of a split; a checksum of the headline chooses it. Their words occur in all splits."""
    return [row for row in headlines() if split_by(row["prompt"], validation=5, test=10) == split]


def general_lexicon(prompts: Sequence[Prompt]) -> list[str]:
    """Answers with the sign of VADER, a lexicon that is not made for finance."""
    scores = vader_compound([prompt.removesuffix(OPINION) for prompt in prompts])
    return ["positive" if score > 0.05 else "negative" if score < -0.05 else "neutral" for score in scores]


FINANCE = answer_task(
    "finance",
    "say whether a headline about a company is positive, negative or neutral (labels of a lexicon)",
    finance_rows,
    judges={"macro_f1": macro_f1},
    archives=(FINVADER,),
    baselines={
        "majority": functools.partial(most_frequent, finance_rows),
        "chance": functools.partial(drawn, finance_rows),
        "VADER": general_lexicon,
    },
    shares_prompts=False,
    defaults={"prompt_length": None, "response_length": 4, "iterations": 100, "learning_rate": 3e-4},
    sft_defaults={"epochs": 8, "num_layers": 2, "hidden_dim": 128, "context_length": 64, "vocabulary_size": 2048},
)
