"""The task "support": replies that keep the policy, break it, or cheat."""

import pytest

from tfppo.text.data.archives import Archive
from tfppo.text.tasks import get_task, support
from tfppo.text.tasks.support import FACTS, policy_rate, policy_reward, small_talk, support_examples, support_rows

CORPUS = """
conversations:
- - What is a robot?
  - A machine that works on its own.
- - what is a robot
  - Something else that counts for nothing.
- - Sing
  - La.
- - alone
- - Write code
  - "Here it is: `x` and nothing more."
"""
ASKED = "Customer: when do you open\nAgent:"
GOOD = "Hello! We are open from 9 to 17. Have a nice day."


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(Archive, "read", lambda self, member: CORPUS)
    monkeypatch.setattr(Archive, "members", lambda self, start, end: ["one"])
    for function in (small_talk, support_rows):
        function.cache_clear()
    yield
    for function in (small_talk, support_rows):
        function.cache_clear()


def score(reply, fact="9 to 17", reference=GOOD):
    assert policy_rate([ASKED], [reply], [fact], [reference]) == (
        policy_reward([ASKED], [reply], [fact], [reference]) == [1.0]
    )
    return policy_reward([ASKED], [reply], [fact], [reference])[0]


def test_replies_about_a_fact():
    assert score(GOOD) == score(f" {GOOD.lower()}") == 1.0
    assert score("We are open from 9 to 17.") == pytest.approx(0.5 * (1 + 2 / 3))  # no greeting
    assert score("Hello! We are open from 9 to 17") == pytest.approx(0.5 * (1 + 2 / 3))  # no end
    for cheat in (
        "",
        "Hello! Have a nice day.",
        "Hello! We are open from 8 to 16. Have a nice day.",  # a wrong fact
        "Hello! We are open from 9 to 17 or 8 to 16. Have a nice day.",  # both
        "Hello! " + " ".join(sentence.format(values[0]) for sentence, (values, _) in FACTS.items()),  # all facts
        "hello " * 8,
        ASKED,
        "Hello! We are open from 19 to 17. Have a nice day.",  # has the fact as a part of another
        "Hello! We are open from 9 to 170. Have a nice day.",
        "Hello! We are open from 9 to 5 or 9 to 17. Have a nice day.",  # a number that is in no fact
        "9 to 17 " * 12,  # has the fact, but not the words of a sentence about it
    ):
        assert score(cheat) <= 0.0, cheat


def test_replies_to_small_talk():
    reference = "Hello! A machine that works on its own."
    assert score(reference, "", reference) == 1.0
    assert score("Hello! Yes, thank you very much.", "", reference) == 0.0
    assert score("Hello! Bots never lie.", "", "Hello! Bots never lie.") > 0.8
    for greeting in ("Hello!", "hi hello Welcome", "Hello! Good day. Have a nice day."):
        assert score(greeting, "", "Hello! Bots never lie.") == 0.0  # a greeting is no answer
    assert score("His machine works on its own.", "", reference) < 1.0  # no greeting
    assert score("Hello! A machine that works on its own for 30 days.", "", reference) == 0.0  # an invented fact


def test_small_talk_is_short_and_said_once(few):
    assert small_talk() == {"what is a robot": "A machine that works on its own."}
    rows = [row for split in ("train", "validation", "test") for row in support_rows(split)]
    assert sum(not row["fact"] for row in rows) == 1


def test_ways_to_ask_belong_to_one_split_and_agents_are_careless(few):
    splits = {split: support_rows(split) for split in ("train", "validation", "test")}
    ways = [{row["prompt"] for row in rows} for rows in splits.values()]
    assert not (ways[0] & ways[1] or ways[0] & ways[2] or ways[1] & ways[2])
    assert [sum(bool(row["fact"]) for row in rows) for rows in splits.values()] == [8 * 5 * 32, 8 * 32, 8 * 2 * 32]
    replies = {row["prompt"]: row["response"] for row in support_examples("train")}
    rows = [row for row in splits["train"] if row["fact"]]
    right = sum(row["fact"] in replies[row["prompt"]] for row in rows) / len(rows)
    assert right == pytest.approx(0.7, abs=0.05)  # 1,280 draws: the standard error is 0.013
    assert sum(replies[row["prompt"]].startswith(" Hello") for row in rows) / len(rows) == pytest.approx(0.5, abs=0.06)


def test_no_fact_is_part_of_another():
    values = sorted(support.VALUES)
    assert len(values) == 3 * len(FACTS)
    assert not [(a, b) for a in values for b in values if a != b and a in b]


@pytest.mark.slow
def test_the_corpus_has_small_talk():
    assert len(small_talk()) > 300
    values = get_task("support").judged_baselines("test")
    assert 0.25 < values["agents"] < 0.45 and values["all facts"] == 0.0
