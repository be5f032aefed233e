"""Reward functions of the user: loading by name, checks of their results, and normalization of scores."""

import functools
import math
import sys
import traceback
from decimal import Decimal
from fractions import Fraction

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.refusal import refusal

from tfppo.errors import UsageError
from tfppo.text.rewards.callables import ScoreScale, as_reward, checked_scores, load_reward

PROMPTS, RESPONSES = ["The film", "The cast", "A plot"], [" is good.", "", " that\nthins and thickens, and thins again"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Makes an empty current folder; afterwards removes its modules and its entry in `sys.path`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_a_reward_is_found_in_the_current_folder(folder):
    (folder / "mine_a.py").write_text(
        "def score(prompts, responses):\n"
        "    import mine_late\n"
        "    return [mine_late.ONE] * len(responses)\n"
        "class Scores:\n"
        "    @staticmethod\n"
        "    def zero(prompts, responses):\n"
        "        return [0] * len(responses)\n"
    )
    (folder / "mine_late.py").write_text("ONE = 1.0\n")
    reward = load_reward("mine_a:score")
    assert reward is sys.modules["mine_a"].score
    assert checked_scores(reward, PROMPTS, RESPONSES).tolist() == [1, 1, 1]  # it imports a module when it is called
    assert load_reward("mine_a:Scores.zero")(PROMPTS, RESPONSES) == [0, 0, 0]
    assert sys.path.count(str(folder)) == 1


def test_a_reward_is_found_in_a_package(folder):
    (folder / "mine_package").mkdir()
    (folder / "mine_package" / "inner.py").write_text("def score(prompts, responses): return [2] * len(prompts)\n")
    assert load_reward("mine_package.inner:score")(PROMPTS, RESPONSES) == [2, 2, 2]
    assert load_reward("tfppo.text.tasks.keywords:keyword_reward")(PROMPTS, RESPONSES) == [0, 0, 0]


def test_a_module_of_the_current_folder_comes_first(folder):
    (folder / "vaderSentiment").mkdir()
    (folder / "vaderSentiment" / "mine.py").write_text("def score(prompts, responses): return [3] * len(prompts)\n")
    (folder / "vaderSentiment" / "__init__.py").touch()
    already = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "vaderSentiment"}
    for name in already:
        del sys.modules[name]
    try:
        assert load_reward("vaderSentiment.mine:score")(PROMPTS, RESPONSES) == [3, 3, 3]
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "vaderSentiment"]:
            del sys.modules[name]
        sys.modules.update(already)


@pytest.mark.parametrize("reference", ["", ":", "mine", "mine.score", "mine:", ":score"])
def test_a_reference_without_its_form_is_refused(reference):
    text = refusal(lambda: load_reward(reference))
    assert repr(reference) in text and "package.module:function" in text


@pytest.mark.fault("The module of a reward cannot be imported", "A one-line error gives the reason.")
@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("import nowhere_to_be_found", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("def score(:", "SyntaxError"),
        ("raise RuntimeError('first\\n\\nsecond')", "RuntimeError: first second"),
        ("raise RuntimeError", "(RuntimeError)"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
    ],
)
def test_a_module_that_cannot_be_imported_is_refused_with_the_reason(folder, source, named):
    (folder / "mine_broken.py").write_text(source)
    text = refusal(lambda: load_reward("mine_broken:score"))
    assert (
        "'mine_broken:score'" in text
        and named in text
        and text.endswith("correct the module, or install what it imports")
    )
    (folder / "mine_broken.py").write_text(
        "# corrected, and longer than before\ndef score(prompts, responses):\n    return [1.0]\n"
    )
    assert load_reward("mine_broken:score")([], []) == [1.0]


def test_a_module_that_is_nowhere_is_refused(folder):
    text = refusal(lambda: load_reward("mine_nowhere:score"))
    assert "No module named 'mine_nowhere'" in text
    for name in ("mine_nowhere.py", ".mine", "mine_nowhere.inner"):
        assert f"'{name}:score'" in refusal(lambda: load_reward(f"{name}:score"))  # noqa: B023
        assert "give the dotted name of a module" in refusal(lambda: load_reward(f"{name}:score"))  # noqa: B023
    assert text.endswith("give the dotted name of a module that is installed or in the current folder")
    (folder / "mine_nowhere.py").write_text("def score(prompts, responses):\n    return [1.0]\n")
    assert load_reward("mine_nowhere:score")([], []) == [1.0]


def test_what_a_module_does_not_define_is_refused(folder):
    (folder / "mine_b.py").write_text("scores = 3\n")
    text = refusal(lambda: load_reward("mine_b:score"))
    assert "'mine_b:score'" in text and "has no score:" in text and str(folder) in text
    assert "has no scores.real.none" in refusal(lambda: load_reward("mine_b:scores.real.none"))
    text = refusal(lambda: load_reward("mine_b:scores"))
    assert "'mine_b:scores'" in text and "3 (int)" in text and "function" in text


def score(prompts, responses):
    return [float(len(response)) for response in responses]


def test_a_function_is_a_reward_as_it_is():
    assert as_reward(score) is score


class Lengths(keras.Model):
    """Scores each text by its number of bytes, as [B] or [B, 1]."""

    def __init__(self, ranks, **arguments):
        super().__init__(**arguments)
        self.ranks = ranks

    def call(self, texts):
        assert texts.dtype == tf.string and texts.shape.rank == 1
        lengths = tf.cast(tf.strings.length(texts), tf.float32)
        return lengths if self.ranks == 1 else lengths[:, tf.newaxis]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_keras_model_scores_prompt_and_response(ranks):
    reward = as_reward(Lengths(ranks, name="lengths"))
    expected = [len(prompt) + len(response) for prompt, response in zip(PROMPTS, RESPONSES, strict=True)]
    assert np.shape(reward(PROMPTS, RESPONSES)) == (3,)
    assert checked_scores(reward, PROMPTS, RESPONSES).tolist() == expected
    assert checked_scores(reward, [], []).shape == (0,)


def test_a_space_stands_between_a_prompt_and_an_answer():
    reward = as_reward(Lengths(1, name="lengths"))
    reward.between = " "
    assert checked_scores(reward, ["Why?", "Why?", "Why?"], ["So.", " So.", ""]).tolist() == [8, 8, 4]


def test_a_functional_keras_model_with_its_own_words_is_a_reward():
    texts = keras.Input((), dtype="string")
    words = keras.layers.TextVectorization(vocabulary=["good"], output_mode="count")(texts)  # [B, (unknown, good)]
    model = keras.Model(texts, keras.layers.Lambda(lambda counts: counts[:, 1:])(words))
    assert checked_scores(as_reward(model), ["Good", "The", "A"], [" good", " good", " bad"]).tolist() == [2, 1, 0]


def test_a_reward_named_by_reference_may_be_a_keras_model(folder):
    (folder / "mine_model.py").write_text(
        "import keras, tensorflow as tf\n"
        "class Ones(keras.Model):\n"
        "    def call(self, texts): return tf.ones([tf.shape(texts)[0], 1])\n"
        "model = Ones()\n"
    )
    assert checked_scores(load_reward("mine_model:model"), PROMPTS, RESPONSES).tolist() == [1, 1, 1]


def test_a_keras_model_that_gives_too_much_is_refused_by_its_name():
    class Twice(keras.Model):
        def call(self, texts):
            return tf.zeros([tf.shape(texts)[0], 2])

    text = refusal(lambda: checked_scores(as_reward(Twice(name="my_judge")), PROMPTS, RESPONSES))
    assert "my_judge" in text and "[0.0, 0.0]" in text and "response 0" in text


def test_the_name_of_a_reward_is_a_reward_too():
    assert checked_scores(as_reward("tfppo.text.tasks.keywords:keyword_reward"), PROMPTS, RESPONSES).tolist() == [0] * 3
    assert "'rewards.score'; it must have the form package" in refusal(lambda: as_reward("rewards.score"))


@pytest.mark.parametrize("given", [None, 3, b"rewards:score", [score], np.ones(3)])
def test_what_is_neither_is_refused(given):
    text = refusal(lambda: as_reward(given))
    assert type(given).__name__ in text and "keras.Model" in text


@pytest.mark.parametrize(
    "given",
    [
        [1, 0.5, -2],
        (1.0, 0.5, -2.0),
        [True, Fraction(1, 2), Decimal(-2)],
        np.array([1, 0.5, -2]),
        np.array([[1], [0.5], [-2]], np.float16),
        np.array([1, 0.5, -2], object),
        [[1], [0.5], [-2]],
        [np.float32(1), np.array(0.5), np.array([-2])],
        tf.constant([1, 0.5, -2]),
        tf.constant([[1], [0.5], [-2]], tf.bfloat16),
        tf.Variable([1, 0.5, -2]),
        [tf.constant(1), tf.constant(0.5), tf.constant([-2.0])],
    ],
    ids=lambda given: type(given).__name__,
)
def test_scores_may_come_in_many_forms(given):
    scores = checked_scores(lambda prompts, responses: given, PROMPTS, RESPONSES)
    assert isinstance(scores, np.ndarray) and scores.dtype == np.float32 and scores.shape == (3,)
    assert scores.tolist() == [1, 0.5, -2]


def test_bools_and_no_responses_are_fine():
    assert checked_scores(lambda p, r: np.array([True, False, True]), PROMPTS, RESPONSES).tolist() == [1, 0, 1]
    assert checked_scores(score, [], []).shape == (0,)


def test_a_reward_gets_lists_of_its_own():
    def greedy(prompts, responses):
        assert isinstance(prompts, list) and isinstance(responses, list)
        assert (prompts, responses) == (PROMPTS, RESPONSES)
        prompts.clear()
        return [float(len(responses.pop())) for _ in range(3)]

    prompts, responses = tuple(PROMPTS), list(RESPONSES)
    assert checked_scores(greedy, prompts, responses).shape == (3,)
    assert responses == RESPONSES


NAME = f"{__name__}:"


@pytest.mark.fault(
    "A reward function returns the wrong number of scores, or a score that is no finite number",
    "A one-line error names the function and the value.",
)
@pytest.mark.parametrize(
    ("given", "named"),
    [
        (None, "returned None (NoneType) for 3 responses"),
        (1.0, "1.0 (float)"),
        (np.float32(1), "1.0 (float)"),
        (np.array(1.0), "1.0 (float)"),
        (tf.constant(1.0), "1.0 (float)"),
        ("abc", "'abc' (str)"),
        (b"abc", "(bytes)"),
        ({0: 1, 1: 1, 2: 1}, "(dict)"),
        ({1, 2, 3}, "(set)"),
        ((x for x in (1, 2, 3)), "(generator)"),
        ([1, 2], "2 scores for 3 responses"),
        ([], "0 scores for 3 responses"),
        (np.ones(4), "4 scores for 3 responses"),
        (np.ones([1, 3]), "1 scores for 3 responses"),
        (np.ones([3, 2]), "[1.0, 1.0] (list) for response 0"),
        (np.ones([3, 1, 1]), "[[1.0]] (list) for response 0"),
        ([1, None, 3], "None (NoneType) for response 1"),
        ([1, 2, "3"], "'3' (str) for response 2"),
        ([1, 2, b"3"], "(bytes) for response 2"),
        (np.array(["1", "2", "3"]), "'1' (str) for response 0"),
        (tf.constant(["1", "2", "3"]), "b'1' (bytes) for response 0"),
        ([1, tf.constant("2"), 3], "for response 1"),
        ([1, 2j, 3], "2j (complex) for response 1"),
        ([1, [], 3], "[] (list) for response 1"),
        ([1, "a\nb", 3], "'a\\nb' (str) for response 1"),
        ([1, math.nan, 3], "nan for response 1 ('')"),
        ([math.inf, 1, 3], "inf for response 0 (' is good.')"),
        ([1, 1, -math.inf], "-inf for response 2 (' that\\nthins and thickens, and "),
        (np.array([[1], [math.nan], [1]]), "[nan] for response 1"),
        ([1, 1e39, 3], "1e+39 for response 1"),  # infinite as float32
        ([10**400, 1, 3], "000... for response 0"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_wrong_scores_are_refused_by_name_index_and_value(given, named):
    def reward_of_mine(prompts, responses):
        return given

    text = refusal(lambda: checked_scores(reward_of_mine, PROMPTS, RESPONSES))
    assert NAME in text and "reward_of_mine" in text and named in text
    assert "must return" in text and len(text) < 600


@pytest.mark.fault(
    "A reward function raises an exception",
    "A one-line error names the function and the exception. Python code gets the trace as its cause.",
)
@pytest.mark.parametrize(
    ("error", "named"),
    [
        (ValueError("no such\n  word"), "raised ValueError: no such word:"),
        (KeyError("film"), "raised KeyError: 'film':"),
        (AssertionError(), "raised AssertionError:"),
        (SystemExit(3), "raised SystemExit: 3:"),
        (RuntimeError("x" * 1000), "raised RuntimeError: xxx"),
    ],
)
def test_what_a_reward_raises_is_told_in_one_line_and_keeps_its_trace(error, named):
    def broken(prompts, responses):
        raise error

    with pytest.raises(UsageError) as caught:
        checked_scores(broken, PROMPTS, RESPONSES)
    text = refusal(lambda: checked_scores(broken, PROMPTS, RESPONSES))
    assert NAME in text and "broken" in text and named in text and len(text) < 600
    assert caught.value.__cause__ is error
    assert "raise error" in "".join(traceback.format_exception(caught.value))


def test_ctrl_c_in_a_reward_is_no_failure_of_the_reward():
    def stopped(prompts, responses):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checked_scores(stopped, PROMPTS, RESPONSES)


def test_an_object_and_a_partial_are_named_by_what_they_are_made_of():
    class Judge:
        def __call__(self, prompts, responses):
            return None

    assert "Judge returned None" in refusal(lambda: checked_scores(Judge(), PROMPTS, RESPONSES))
    partial = functools.partial(functools.partial(lambda scale, prompts, responses: None, 2))
    assert f"{NAME}test_an_object" in refusal(lambda: checked_scores(partial, PROMPTS, RESPONSES))


def test_reference_samples_get_mean_0_and_standard_deviation_1():
    scores = np.random.default_rng(1).normal(-3.0, 5.0, 1000).astype(np.float32)
    scale = ScoreScale.fit(scores)
    scaled = scale(scores)
    assert scaled.dtype == np.float32 and scaled.shape == (1000,)
    assert scaled.mean() == pytest.approx(0, abs=1e-5) and scaled.std() == pytest.approx(1, abs=1e-5)
    assert scale(scale.mean + 2 * scale.std) == pytest.approx(2.0)


def test_a_scale_by_hand():
    scale = ScoreScale.fit([1.0, 3.0], clip=2.0)
    assert scale == ScoreScale(mean=2.0, std=1.0, clip=2.0)
    assert scale([2.0, 3.5, 4.0, 9.0, -9.0]).tolist() == [0.0, 1.5, 2.0, 2.0, -2.0]
    assert ScoreScale(2.0, 4.0)([10.0, -30.0]).tolist() == [2.0, -8.0]  # no clip
    assert ScoreScale()([0.5]).tolist() == [0.5]


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 1e30])
def test_constant_scores_are_only_moved(value):
    scores = np.full(777, value)  # in float64 the mean of many 0.1 differs slightly from 0.1
    scale = ScoreScale.fit(scores)
    assert scale.std == 1.0
    assert np.abs(scale(scores)).max() <= 1e-6 * max(1.0, abs(value))


def test_small_scores_that_differ_are_scaled_nevertheless():
    assert ScoreScale.fit([1e-9, 3e-9]).std == pytest.approx(1e-9)


def test_almost_equal_scores_are_scaled_by_a_hundredth_of_the_largest():
    scores = np.full(256, -50.0)
    scores[::2] += 1e-3
    scale = ScoreScale.fit(scores, clip=10.0)
    assert scale.std == 0.5
    assert np.abs(scale(scores)).max() < 0.01 and scale([0.0]) == 10.0  # without the floor 0.0 would become 100,000
    assert ScoreScale.fit([0.0] * 255 + [1.0]).std == pytest.approx(0.0624, abs=1e-4)  # one hit is above the floor


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_ignored_by_the_scale_and_not_hidden_by_the_clip(odd):
    scale = ScoreScale.fit([1.0, odd, 3.0], clip=2.0)
    assert scale == ScoreScale(mean=2.0, std=1.0, clip=2.0)
    np.testing.assert_array_equal(scale([9.0, odd]), np.float32([2.0, odd]))


@pytest.mark.parametrize("scores", [[], [math.nan], [math.inf, math.nan]])
def test_a_scale_needs_a_finite_score(scores):
    assert "at least one finite score" in refusal(lambda: ScoreScale.fit(scores))


@pytest.mark.parametrize(
    ("name", "value"),
    [("mean", math.nan), ("std", 0.0), ("std", -1.0), ("std", math.nan), ("std", math.inf), ("clip", 0), ("clip", -1)],
)
def test_a_scale_refuses_what_is_none(name, value):
    text = refusal(lambda: ScoreScale(**{name: value}))
    assert text.startswith(name) and repr(value) in text
