"""Numbers that are not finite never reach the weights, are counted and named, and end a run if they persist."""

import numpy as np
import pytest
import tensorflow as tf
from slow_learner import START, LinearPolicy, make_batch, tensors
from support.refusal import refusal

from tfppo.control.recipes import make_control_config
from tfppo.control.rollouts.fused import fused_iterations
from tfppo.control.trainer import ControlTrainer
from tfppo.errors import UsageError
from tfppo.ops.masking import masked_finite
from tfppo.ppo.config import PPOConfig
from tfppo.ppo.guard import MAX_IN_A_ROW, NOTHING, QUANTITIES, Guard, Masked, Quantity
from tfppo.ppo.learner import PPOLearner

CONFIG = PPOConfig(num_epochs=2, minibatch_size=6, learning_rate=0.05, kl_coeff=0.1, kl_controller="schulman")
NAN, INF = float("nan"), float("inf")


def make_learner(mode="eager", **settings):
    config = PPOConfig(**{name: getattr(CONFIG, name) for name in CONFIG.__dataclass_fields__} | settings)
    return PPOLearner(LinearPolicy(START), config, 9, mode=mode)


def poisoned(name, value=NAN):
    batch = make_batch()
    field = np.array(getattr(batch, name))
    field[np.flatnonzero(batch.mask)[-1]] = value
    return batch._replace(**{name: field})


def state_of(learner):
    variables = [*learner.policy.trainable_variables, *learner.optimizer.variables, learner.kl_coeff]
    return [np.asarray(v.numpy()).tobytes() for v in variables if "learning_rate" not in v.name]


@pytest.mark.representatives(2)
@pytest.mark.fault(
    "An advantage, a return or an old value is not finite",
    "The update is skipped and counted. Weights and optimizer keep their values.",
)
@pytest.mark.parametrize(
    ("name", "value", "mode"),
    [
        *(("advantages", NAN, mode) for mode in ("eager", "graph")),
        pytest.param("advantages", NAN, "xla", marks=pytest.mark.slow),
        *(("returns", value, "eager") for value in (NAN, INF, -INF)),
        *((name, -INF, "eager") for name in ("old_log_probs", "old_values")),
    ],
)
def test_an_update_on_what_is_not_finite_changes_nothing_and_is_counted(name, value, mode):
    learner = make_learner(mode)
    learner.update(tensors(make_batch()))
    before = state_of(learner)
    metrics = learner.update(tensors(poisoned(name, value)))
    assert state_of(learner) == before
    assert metrics["guard/skipped_updates"] == 1 and learner.guard.culprit is Quantity[name.upper()]
    assert str(learner.guard.culprit) == name
    assert int(learner.iteration) == 2  # the schedules continue
    metrics = learner.update(tensors(make_batch()))
    assert state_of(learner) != before
    assert metrics["guard/skipped_updates"] == 1 and learner.guard.culprit is None
    assert all(np.isfinite(float(value)) for value in metrics.values())


def test_what_the_masks_leave_out_may_be_anything():
    learner, batch = make_learner(), make_batch()
    outside = np.flatnonzero(~batch.mask)
    assert len(outside)
    for name in ("advantages", "returns", "old_log_probs", "old_values"):
        batch = batch._replace(**{name: np.where(batch.mask, getattr(batch, name), NAN)})
    assert learner.update(tensors(batch))["guard/skipped_updates"] == 0


class Breaking(LinearPolicy):
    """A policy that returns invalid values from some evaluation on, like a network that has diverged."""

    def __init__(self, weights, good, factor):
        super().__init__(weights)
        self.count, self.good, self.factor = tf.Variable(0), good, factor

    def evaluate_actions(self, inputs, actions):
        evaluation = super().evaluate_actions(inputs, actions)
        bad = self.count.assign_add(1) > self.good
        factor = tf.where(bad, tf.constant(self.factor), 1.0)
        return evaluation._replace(values=evaluation.values * factor)


@pytest.mark.representatives(5)
@pytest.mark.fault(
    "A loss or a gradient is not finite",
    "The update stops. Weights and optimizer get their values from before the update.",
)
@pytest.mark.parametrize(
    ("good", "factor", "culprit", "mode"),
    [
        pytest.param(
            good, factor, culprit, mode, marks=[pytest.mark.slow] * (mode == "graph" and (good, factor) != (1, INF))
        )
        for factor, culprit in [(NAN, Quantity.LOSS), (INF, Quantity.LOSS), (3e18, Quantity.GRADIENT)]
        for good in (0, 1, 3)
        for mode in ("eager", "graph")
    ],
)
def test_an_update_that_breaks_on_the_way_leaves_no_trace(good, factor, culprit, mode):
    """The metrics are means over the steps that were finite."""
    batch = tensors(make_batch())
    learner = PPOLearner(Breaking(START, good, factor), PPOConfig(**SETTINGS), 9, mode=mode)
    before = state_of(learner)
    metrics = learner.update(batch)
    assert learner.guard.culprit is culprit and metrics["guard/skipped_updates"] == 1
    assert state_of(learner) == before and int(learner.optimizer.iterations) == 0
    assert int(learner.policy.count) == good + 1  # no step was taken after it
    means = [float(metrics[name]) for name in ("loss/total", "policy/grad_norm", "policy/approx_kl")]
    assert np.isfinite(means).all() if good else np.isnan(means).all()
    if good:
        other = PPOLearner(Breaking(START, 100, 1.0), PPOConfig(**SETTINGS), 9, mode=mode)
        assert float(other.update(batch)["policy/first_ratio_max"]) == float(metrics["policy/first_ratio_max"])


SETTINGS = {name: getattr(CONFIG, name) for name in CONFIG.__dataclass_fields__} | {"max_grad_norm": None}


def test_the_first_ratio_is_that_of_the_first_minibatch_only():
    metrics = make_learner(learning_rate=0.5).update(tensors(make_batch(weights=START)))
    first, largest = (float(metrics[f"policy/{name}"]) for name in ("first_ratio_max", "ratio_max"))
    assert first == pytest.approx(1.0, rel=1e-6) and largest > 1.01
    batch = make_batch(weights=START)
    far = batch._replace(old_log_probs=batch.old_log_probs - 3.0)
    assert float(make_learner().update(tensors(far))["policy/first_ratio_max"]) == pytest.approx(np.exp(3), rel=1e-4)


def test_quantities_are_looked_at_in_their_order():
    guard, one = Guard(), tf.constant(1.0)
    assert guard.of_step(one, one) == NOTHING
    assert QUANTITIES[int(guard.of_step(one * NAN, one * NAN))] is Quantity.LOSS
    assert QUANTITIES[int(guard.of_step(one, one * INF))] is Quantity.GRADIENT
    both = poisoned("advantages")._replace(returns=poisoned("returns").returns)
    data = tensors(both).guarded()
    assert QUANTITIES[int(guard.of_data(data))] is Quantity.ADVANTAGES
    assert QUANTITIES[int(guard.of_data(data | {Quantity.SCORE: Masked(one * INF)}))] is Quantity.SCORE


def test_the_words_and_places_of_quantities_stay():
    """Users read the words, and checkpoints store the indices."""
    assert [quantity.words for quantity in QUANTITIES] == [
        *("an observation", "a reward", "a score", "old_log_probs", "old_values", "reference_log_probs"),
        *("advantages", "returns", "the loss", "the gradient"),
    ]


@pytest.mark.parametrize("kind", ["masks", "value_mask", "reference"])
def test_a_batch_guards_each_field_by_its_own_mask(kind):
    batch, shape = make_batch(), (12,)
    if kind == "value_mask":
        batch = batch._replace(value_mask=~batch.mask)
    if kind == "reference":
        batch = batch._replace(reference_log_probs=np.zeros(shape))
    value_mask = batch.mask if kind != "value_mask" else ~batch.mask
    wanted = {"OLD_LOG_PROBS": batch.mask, "OLD_VALUES": value_mask, "ADVANTAGES": batch.mask, "RETURNS": value_mask}
    wanted |= {"REFERENCE_LOG_PROBS": batch.mask} if kind == "reference" else {}
    guarded = batch.guarded()
    assert {quantity.name for quantity in guarded} == set(wanted)
    for quantity, masked in guarded.items():
        assert masked.values is getattr(batch, quantity.words)
        np.testing.assert_array_equal(masked.mask, wanted[quantity.name])


@pytest.mark.fault("A score is not finite", "The update is skipped and counted. The weights keep their values.")
@pytest.mark.parametrize("mode", ["eager", "graph", pytest.param("xla", marks=pytest.mark.slow)])
def test_what_else_the_data_hold_is_guarded_where_the_learner_is_told(mode):
    data = {"batch": tensors(make_batch()), "scores": tf.constant([1.0, INF])}
    options = {"prepare": lambda data: data["batch"], "mode": mode}
    told = PPOLearner(
        LinearPolicy(START), CONFIG, 9, guarded=lambda data: {Quantity.SCORE: Masked(data["scores"])}, **options
    )
    untold = PPOLearner(LinearPolicy(START), CONFIG, 9, **options)
    before = state_of(told)
    assert told.update(data)["guard/skipped_updates"] == 1 and told.guard.culprit is Quantity.SCORE
    assert state_of(told) == before
    assert untold.update(data)["guard/skipped_updates"] == 0 and state_of(untold) != before


def test_finite_looks_through_nests_and_leaves_whole_numbers_alone():
    mask = tf.constant([True, False])
    good, bad = tf.constant([[1.0, 2.0], [NAN, INF]]), tf.constant([[1.0, NAN], [0.0, 0.0]])
    assert masked_finite({"a": good, "b": tf.constant([[1], [2]])}, mask)
    assert not masked_finite({"a": good, "b": bad}, mask)
    assert not masked_finite(good) and masked_finite((tf.constant([True]), ()))


# ----- In a run


def make_trainer(**settings):
    small = {"num_envs": 4, "rollout_length": 8, "total_steps": 32 * 12, "hidden_units": (8,), "minibatch_size": 16}
    modes = {"num_epochs": 1, "compile_rollout": "graph", "compile_update": "graph", "device": "cpu"}
    return ControlTrainer(make_control_config("Pendulum-v1", **small | modes | settings))


def break_from(trainer, iteration, until=10**6, field="rewards"):
    """Makes one number of the environment not finite from an iteration on."""
    environment = trainer.environment
    trainer.broken = tf.Variable(False)

    class Broken(type(environment)):
        def step(self, state, actions, seed):
            actions = tf.where(
                tf.math.is_finite(actions), actions, 0.0
            )  # a policy that observes NaN gives such actions
            state, rewards, terminated = super().step(state, actions, seed)
            return state, tf.where(trainer.broken & (field == "rewards"), NAN, rewards), terminated

        def observe(self, state):
            return tf.where(trainer.broken & (field == "observations"), NAN, super().observe(state))

    environment.__class__ = Broken
    rows = []
    for number, row in trainer.iterations():
        rows.append(row)
        trainer.broken.assign(iteration <= number + 1 < until)
    return rows


@pytest.mark.fault(
    "A reward or an observation is not finite",
    "The update is skipped and counted. Weights, optimizer and normalization statistics stay finite.",
)
@pytest.mark.fault(
    "Five updates in a row are skipped", "The run ends with a one-line error that names the quantity and the iteration."
)
@pytest.mark.parametrize(
    ("field", "culprit", "normalize"),
    [
        ("rewards", "a reward", True),
        pytest.param("rewards", "a reward", False, marks=pytest.mark.slow),
        pytest.param("observations", "an observation", True, marks=pytest.mark.slow),
        pytest.param("observations", "an observation", False, marks=pytest.mark.slow),
    ],
)
def test_a_broken_environment_is_named_and_leaves_no_trace_in_what_is_kept(field, culprit, normalize):
    trainer = make_trainer(normalize_observations=normalize, normalize_rewards=normalize)
    rows = break_from(trainer, 2, 5, field)
    skipped = [row["guard/skipped_updates"] for row in rows]
    assert skipped == [0, 0, 1, 2, 3, *[3] * 7]
    kept = [*trainer.weights, *trainer.normalization.state, *trainer.learner.optimizer.variables]
    assert all(np.isfinite(np.asarray(v.numpy())).all() for v in kept)
    trainer = make_trainer(normalize_observations=normalize, normalize_rewards=normalize)
    text = refusal(lambda: break_from(trainer, 3, field=field))
    assert text.startswith(f"{culprit} was not finite in 5 updates in a row") and "iteration 8" in text
    assert "fix the environment" in text and int(trainer.learner.iteration) == 8


@pytest.mark.slow
def test_a_fused_run_stops_as_well():
    trainer = make_trainer(fused=True)
    trainer.policy.actor.trainable_variables[0].assign_add(tf.fill([3, 8], NAN))
    calls = fused_iterations(trainer.collector, trainer.learner, 12, "/CPU:0", "graph", (4, 100))
    assert next(calls)[2]["guard/skipped_updates"] == 4
    assert "in 8 updates in a row" in refusal(lambda: next(calls))


def test_the_count_starts_again_after_an_update_that_was_good():
    learner = make_learner("graph")
    for _ in range(3):
        for _ in range(MAX_IN_A_ROW - 1):
            learner.update(tensors(poisoned("returns")))
            learner.guard.check(0)
        learner.update(tensors(make_batch()))
    assert int(learner.guard.skipped) == 3 * (MAX_IN_A_ROW - 1)


@pytest.mark.fault("A run is resumed while its updates are skipped", "The count of skipped updates continues.")
def test_a_resumed_run_goes_on_counting_where_it_was():
    before, after = make_learner("graph"), make_learner("graph")
    for _ in range(MAX_IN_A_ROW - 1):
        before.update(tensors(poisoned("returns")))
    for variable, value in zip(after.guard.state, before.guard.state, strict=True):
        variable.assign(value)  # like a checkpoint
    after.update(tensors(poisoned("returns")))
    with pytest.raises(UsageError, match=f"returns were not finite in {MAX_IN_A_ROW} updates in a row"):
        after.guard.check(MAX_IN_A_ROW)
