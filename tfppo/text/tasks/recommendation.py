"""The task "recommendation": ten films for a user of MovieLens-100k who liked eight others.

The ratings (Harper and Konstan 2015) are read in place from the package recbole. A user's liked films are those rated 4
or 5, in the order of time. The users are divided into the splits.
"""

import functools
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import fmean

from tfppo.text.data.archives import RECBOLE
from tfppo.text.data.corpus import Split
from tfppo.text.data.prompts import Prompt
from tfppo.text.tasks.definition.answers import RELATIVE, SETTINGS
from tfppo.text.tasks.definition.registry import register_task
from tfppo.text.tasks.definition.splits import split_by
from tfppo.text.tasks.definition.task import Task

FOLDER = "recbole/dataset_example/ml-100k/ml-100k"
LIKED = 4  # lowest rating of a film that a user likes
SHOWN, WANTED = 8, 10  # films in a prompt, and in a response
STEP = 4  # films between two prompts of the same user in training
QUESTION = "\nNext:"
DEFAULTS = {
    **SETTINGS,
    **RELATIVE,  # how well a list can do depends on the user above all
    "prompt_length": None,
    "response_length": 80,
    "iterations": 150,
    "learning_rate": 5e-4,
    "kl_coeff": 0.002,  # a list of ten films takes 50 tokens, and most of them must change
}


split_of = functools.partial(split_by, validation=10, test=25)  # of a user


@functools.cache
def liked_films() -> dict[str, list[str]]:
    """Returns the titles that each user liked, in the order of time."""
    items = [line.split("\t") for line in RECBOLE.read(f"{FOLDER}.item").splitlines()[1:]]
    titles = {item: title.replace(";", ",") for item, title, *_ in items}
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for line in RECBOLE.read(f"{FOLDER}.inter").splitlines()[1:]:
        user, item, rating, time = line.split("\t")
        if float(rating) >= LIKED:
            found[user].setdefault(titles[item], int(time))
    return {user: sorted(films, key=lambda film: (films[film], film)) for user, films in found.items()}


@functools.cache
def recommendation_rows(split: Split) -> list[dict[str, str]]:
    """Returns prompts with eight films; "liked" has those that the user liked later, in the order of time."""
    rows = {}
    for user, films in liked_films().items():
        last = len(films) - WANTED
        if split_of(user) != split or last < SHOWN:
            continue
        middle = max(SHOWN, len(films) // 2)
        for end in range(SHOWN, last + 1, STEP) if split == "train" else [min(middle, last)]:
            prompt = "; ".join(films[end - SHOWN : end]) + QUESTION
            rows[prompt] = {"prompt": prompt, "liked": "; ".join(films[end:])}
    return list(rows.values())


def gains(prompt: str, response: str, liked: str) -> list[bool]:
    """Tells which of the first ten films of a response the user liked. A film that is named twice counts once.

    Full stops at the ends of titles do not count, because a list may end with one.
    """
    named = [film.strip().rstrip(".") for film in response.split(";")][:WANTED]
    wanted = {film.rstrip(".") for film in liked.split("; ")}
    return [film in wanted and film not in named[:rank] for rank, film in enumerate(named)]


def ndcg(prompts: Sequence[str], responses: Sequence[str], liked: Sequence[str]) -> list[float]:
    """Scores each response with the NDCG at 10 (Jaervelin and Kekaelaeinen 2002) of the films that it names.

    Args:
      prompts: N prompts.
      responses: N responses.
      liked: The films that each user liked later.
    """
    discounts = [1 / math.log2(rank + 2) for rank in range(WANTED)]
    scores = []
    for row in zip(prompts, responses, liked, strict=True):
        found = sum(discount for discount, hit in zip(discounts, gains(*row), strict=False) if hit)
        scores.append(found / sum(discounts))
    return scores


def mean_ndcg(prompts: Sequence[str], responses: Sequence[str], liked: Sequence[str]) -> float:
    """Computes the mean NDCG at 10."""
    return fmean(ndcg(prompts, responses, liked))


def hit_rate(prompts: Sequence[str], responses: Sequence[str], liked: Sequence[str]) -> float:
    """Computes the share of responses with a film that the user liked later."""
    return fmean(any(gains(*row)) for row in zip(prompts, responses, liked, strict=True))


def recommendation_examples(split: Split) -> list[dict[str, str]]:
    """Returns the prompts with the ten films that the user liked next."""
    rows = recommendation_rows(split)
    return [{"prompt": row["prompt"], "response": " " + "; ".join(row["liked"].split("; ")[:WANTED])} for row in rows]


def popular(prompts: Sequence[Prompt]) -> list[str]:
    """Recommends the films that most users of the training split like, without those of the prompt."""
    users = [films for user, films in liked_films().items() if split_of(user) == "train"]
    ranked = [film for film, _ in Counter(film for films in users for film in films).most_common(SHOWN + WANTED)]
    known = [prompt.removesuffix(QUESTION).split("; ") for prompt in prompts]
    return ["; ".join([film for film in ranked if film not in films][:WANTED]) for films in known]


RECOMMENDATION = register_task(
    Task(
        name="recommendation",
        description="recommend ten films to a user who liked eight others (MovieLens-100k)",
        prompts=recommendation_rows,
        make_reward=lambda: ndcg,
        measure=mean_ndcg,
        metric="ndcg_10",
        judges={"hit_rate_10": hit_rate},
        domain=None,
        defaults=DEFAULTS,
        examples=recommendation_examples,
        sft_defaults={
            "epochs": 6,
            "num_layers": 2,
            "hidden_dim": 128,
            "context_length": 192,
            "vocabulary_size": 2048,
            "dropout": 0.1,
        },
        baselines={"popularity": popular},
        archives=(RECBOLE,),
    )
)
