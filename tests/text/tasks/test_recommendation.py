"""The task "recommendation": its data, its metrics on lists that are worked out by hand, and cheats."""

import math

import pytest

from tfppo.text.data.archives import Archive
from tfppo.text.tasks import recommendation
from tfppo.text.tasks.recommendation import hit_rate, liked_films, ndcg, popular, recommendation_rows

FILES = {
    ".item": "item_id:token\tmovie_title\tyear\tclass\n" + "".join(f"{n}\tFilm {n}\t1990\tDrama\n" for n in range(40)),
    ".inter": "user\titem\trating\ttime\n"
    + "".join(f"{user}\t{n}\t{3 + (n + user) % 3}\t{100 - n}\n" for user in range(60) for n in range(40)),
}
FIRST = 1 / sum(1 / math.log2(rank + 2) for rank in range(10))  # NDCG of one hit at the first place


@pytest.fixture
def few(monkeypatch):
    """Replaces MovieLens by 60 users, who like two of three films; the films with high numbers come first."""
    monkeypatch.setattr(Archive, "read", lambda self, member: FILES[member.removeprefix(recommendation.FOLDER)])
    for function in (liked_films, recommendation_rows):
        function.cache_clear()
    yield
    for function in (liked_films, recommendation_rows):
        function.cache_clear()


def test_films_are_in_the_order_of_time_and_users_have_one_split(few):
    films = liked_films()
    assert len(films) == 60 and films["0"][:3] == ["Film 38", "Film 37", "Film 35"]
    rows = {split: recommendation_rows(split) for split in ("train", "validation", "test")}
    assert all(len(row["prompt"].split("; ")) == 8 and row["prompt"].endswith("\nNext:") for row in rows["train"])
    first = films[next(user for user in films if recommendation.split_of(user) == "train")]
    assert rows["train"][0] == {"prompt": "; ".join(first[:8]) + "\nNext:", "liked": "; ".join(first[8:])}
    for row in rows["test"]:
        assert not {*row["prompt"].removesuffix("\nNext:").split("; ")} & {*row["liked"].split("; ")}


def test_ndcg_of_lists():
    liked = "A; B; C"
    for response, wanted in {
        "A; x": FIRST,
        " A ; x.": FIRST,
        "x; A": FIRST / math.log2(3),
        "A; A; A": FIRST,  # a film counts once
        "A; B": FIRST * (1 + 1 / math.log2(3)),
        "": 0.0,
        "the the the": 0.0,
        "A B C": 0.0,
        "x; " * 10 + "A": 0.0,  # behind the tenth
    }.items():
        assert ndcg(["p"], [response], [liked]) == [pytest.approx(wanted)], response
    for response in ("I.Q.", "I.Q", "x; Sunset Blvd...."):  # a title may end with a full stop, and a list, too
        assert ndcg(["p"], [response], ["I.Q.; Sunset Blvd."])[0] > 0, response
    assert ndcg(["p"], ["I.Q.; I.Q"], ["I.Q.; B"]) == [pytest.approx(FIRST)]
    assert ndcg(["p"], ["; ".join("ABCDEFGHIJ")], ["; ".join("JIHGFEDCBA")]) == [pytest.approx(1.0)]
    assert hit_rate(["p"] * 3, ["A", "x; B", "x"], [liked] * 3) == pytest.approx(2 / 3)


def test_the_prompt_copied_earns_nothing(few):
    rows = recommendation_rows("train")[:20]
    prompts, liked = [row["prompt"] for row in rows], [row["liked"] for row in rows]
    assert max(ndcg(prompts, [prompt.removesuffix("\nNext:") for prompt in prompts], liked)) == 0.0
    best = ["; ".join(films.split("; ")[:10]) for films in liked]
    assert min(ndcg(prompts, best, liked)) == pytest.approx(1.0)


def test_the_popular_films_are_those_of_the_training_users(few):
    (answer,) = popular([recommendation_rows("test")[0]["prompt"]])
    films = answer.split("; ")
    assert len(set(films)) == 10 and not {*films} & {*recommendation_rows("test")[0]["prompt"].split("; ")}


@pytest.mark.slow
def test_movielens():
    films = liked_films()
    assert sum(map(len, films.values())) > 55_000 and len(films) > 900
    assert [len(recommendation_rows(split)) for split in ("train", "validation", "test")] == [6314, 78, 207]
    values = recommendation.RECOMMENDATION.judged_baselines("test")
    assert 0.1 < values["popularity"] < 0.3
