"""The update of PPO, the same for control and text: epochs and minibatches in one compiled loop.

The learner returns metrics. It never logs or writes them.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

import keras
import tensorflow as tf

from tfppo.errors import UsageError
from tfppo.execution.compilation import compiled
from tfppo.execution.replicas import ALONE, Replicas
from tfppo.execution.variables import Variable
from tfppo.ops.divergences import (
    adaptive_kl_coefficient_schulman,
    adaptive_kl_coefficient_ziegler,
    fixed_kl_coefficient,
)
from tfppo.ops.masking import explained_variance
from tfppo.ops.nest import map_tensors
from tfppo.ops.random import fold_in, permutation
from tfppo.ppo.config import PPOConfig
from tfppo.ppo.guard import NOTHING, Guard, Masked, Quantity
from tfppo.ppo.objective import (
    AUXILIARY,
    MEAN_METRICS,
    OF_VALUES,
    AuxiliaryLoss,
    Coefficients,
    Gradients,
    Metrics,
    Objective,
    counted_entries,
)
from tfppo.ppo.optimizers import checked_optimizer, make_optimizer
from tfppo.ppo.schedules import make_schedule
from tfppo.ppo.types import Batch, Inputs, Policy, value_mask_of
from tfppo.settings import exact_div

METRICS = (
    *MEAN_METRICS,
    "policy/ratio_max",
    "policy/first_ratio_max",
    "value/explained_variance",
    "schedule/learning_rate",
    "schedule/clip_ratio",
    "schedule/entropy_coeff",
    "schedule/kl_coeff",
    "guard/skipped_updates",
)

# Means over gradient steps; all others are over the entries of the mask.
OF_STEPS = ("loss/total", AUXILIARY, "policy/grad_norm")

Data = TypeVar("Data")


class Totals(NamedTuple):
    """Sums and maxima over the minibatches that were evaluated and are finite."""

    steps: tf.Tensor  # [] number of minibatches
    sums: tf.Tensor  # [len(objective.mean_metrics(batch))], each metric times its weight, see `_weights`
    weights: tf.Tensor  # [len(objective.mean_metrics(batch))]
    largest_ratio: tf.Tensor  # []
    first_ratio: tf.Tensor  # [] the largest ratio of the first minibatch


class UpdateState(NamedTuple):
    """The state of the loops over epochs and minibatches."""

    proceed: tf.Tensor  # [] bool, False ends the update
    totals: Totals
    epoch_kl: tf.Tensor  # [2] the sums of the weighted KL and of the weights over the minibatches of the latest epoch
    found: tf.Tensor  # [] int64, index into `guard.QUANTITIES`, or NOTHING


def _weights(minibatch: Batch[Inputs], config: PPOConfig, names: Sequence[str]) -> dict[str, tf.Tensor]:
    """Returns the weight of a minibatch in the mean of each metric: the share of its entries that count.

    In a mean over sequences it is the number of sequences that count, in another unit.
    """
    size = tf.cast(tf.size(minibatch.advantages), minibatch.advantages.dtype)
    counts = counted_entries(minibatch, config)
    kinds = dict.fromkeys(OF_VALUES, counts.values / size) | dict.fromkeys(OF_STEPS, tf.ones_like(size))
    return {name: kinds.get(name, counts.actions / size) for name in names}


def _explained_variance(batch: Batch[Inputs]) -> Metrics:
    if not batch.has_values:
        return {}
    return {"value/explained_variance": explained_variance(batch.old_values, batch.returns, value_mask_of(batch))}


def _nothing_else(data: object) -> Mapping[Quantity, Masked]:
    del data
    return {}


class PPOLearner(tf.Module, Generic[Data, Inputs]):
    """Trains a policy on batches by proximal policy optimization (Schulman et al. 2017).

    One call of `update` is one iteration: `num_epochs` passes over the batch in minibatches, with one step of the
    optimizer on the objective for each minibatch (see `objective.Objective`). Numbers that are not finite never reach
    the weights (see `guard.Guard`).

    Args:
      policy: The policy to train.
      config: The settings of PPO.
      num_iterations: Number of updates in the run. The schedules end there.
      prepare: Converts the argument of `update` to a Batch inside the compiled program, for example a rollout to
        transitions with advantages. None: the argument is a Batch.
      refresh: Like `prepare`, but with the values of the current policy. If `recompute_advantages` is on, each epoch
        uses the advantages and returns of its result (Andrychowicz et al. 2021).
      guarded: Returns the quantities of the argument of `update` that must be finite, besides those of the batch. By
        default there are none.
      item_size: Number of transitions in one item of a batch. It is the rollout length if an item is an environment
        with all its steps. A minibatch has `config.minibatch_size / item_size` items.
      seed: Seed of the order of the items.
      mode: "xla", "graph" or "eager".
      replicas: The replicas that share each minibatch. All of them get the same data.
      optimizer: A new Keras optimizer, which replaces that of the settings. Its learning rate replaces `learning_rate`,
        and the schedule begins there.
      auxiliary: A loss on other data, which is added in every gradient step. None: there is none.

    Raises:
      UsageError: If `recompute_advantages` is on without `refresh`, if a minibatch cannot be divided into items or
        among replicas, or if the optimizer cannot be used.
    """

    def __init__(
        self,
        policy: Policy[Inputs],
        config: PPOConfig,
        num_iterations: int,
        *,
        prepare: Callable[[Data], Batch[Inputs]] | None = None,
        refresh: Callable[[Data], Batch[Inputs]] | None = None,
        guarded: Callable[[Data], Mapping[Quantity, Masked]] = _nothing_else,
        item_size: int = 1,
        seed: int = 0,
        mode: str = "xla",
        replicas: Replicas = ALONE,
        optimizer: keras.optimizers.Optimizer | None = None,
        auxiliary: AuxiliaryLoss | None = None,
    ):
        super().__init__(name="ppo_learner")
        if optimizer is not None:
            if replicas.count > 1:
                raise UsageError(
                    f"an optimizer is given and there are {replicas.count} replicas, each of which needs its own "
                    "variables: leave it out and set optimizer, or set distribute to none"
                )
            rate = float(keras.ops.convert_to_numpy(checked_optimizer(optimizer).learning_rate))
            config = dataclasses.replace(config, learning_rate=rate)
        self.policy = policy
        self.config = config
        self.replicas = replicas
        self.item_size = item_size
        self.items_per_minibatch = exact_div(config.minibatch_size, item_size, "minibatch_size", "item_size")
        replicas.divide(self.items_per_minibatch, "minibatch_size", config.num_micro_batches)
        mode, share_mode = replicas.modes(mode)
        self.objective = Objective(policy, config, replicas, share_mode, auxiliary)
        self.prepare = prepare
        self.refresh = refresh if config.recompute_advantages else None
        if config.recompute_advantages and refresh is None:
            raise UsageError("recompute_advantages is True and refresh is None: give the learner a refresh function")
        self.guarded = guarded
        self.seed = tf.constant([seed, 0x0FF5E7], tf.int32)
        with replicas.scope():
            self.optimizer = make_optimizer(config) if optimizer is None else optimizer
            self.optimizer.build(policy.trainable_variables)
        self.guard = Guard()
        self.iteration = tf.Variable(0, dtype=tf.int64, trainable=False, name="iteration")
        self.kl_coeff = tf.Variable(config.kl_coeff, dtype=tf.float32, trainable=False, name="kl_coeff")
        self._mode = mode
        self.set_num_iterations(num_iterations)

    def set_num_iterations(self, num_iterations: int) -> None:
        """Sets the number of updates in the run. The schedules end there, and `update` is compiled again.

        Args:
          num_iterations: Number of updates, including those that are done.

        Raises:
          UsageError: If the warm-up is not shorter.
        """
        config = self.config
        self.learning_rate = make_schedule(
            config.learning_rate_schedule, config.learning_rate, num_iterations, config.warmup_iterations
        )
        high = config.clip_ratio if config.clip_ratio_high is None else config.clip_ratio_high
        self.clip_ratio = make_schedule(config.clip_ratio_schedule, config.clip_ratio, num_iterations)
        self.clip_ratio_high = make_schedule(config.clip_ratio_schedule, high, num_iterations)
        self.entropy_coeff = make_schedule(config.entropy_coeff_schedule, config.entropy_coeff, num_iterations)
        self.update = compiled(self.update_function, self._mode)

    def update_function(self, data: Data) -> Metrics:
        """Trains on one rollout. `update` is the compiled form of this method.

        Args:
          data: The rollout, in the form that `prepare` takes.

        Returns:
          The metrics `METRICS`, scalars by name. A batch without values has no `loss/value` and no `value/` metrics.
          Unless its name says otherwise, a metric is a mean over the minibatches that were evaluated and are finite. A
          minibatch weighs as much as it has entries inside the mask, so the mean of a loss is the mean over all these
          entries; loss/total and policy/grad_norm are means over gradient steps.
        """
        batch = self._prepared(data)
        learning_rate = self.learning_rate(self.iteration)
        coefficients = Coefficients(
            self.clip_ratio(self.iteration),
            self.clip_ratio_high(self.iteration),
            self.entropy_coeff(self.iteration),
            self.kl_coeff.read_value(),
        )
        self.optimizer.learning_rate.assign(learning_rate)
        trained = [*self.policy.trainable_variables, *self.optimizer.variables]
        before = [tf.identity(variable) for variable in trained]  # TensorFlow copies a variable when it is assigned
        result = self._run_epochs(data, batch, coefficients)
        is_finite = result.found == NOTHING
        self._undo_unless(is_finite, trained, before)
        kl = tf.math.divide_no_nan(*tf.unstack(result.epoch_kl))
        if batch.reference_kl is not None:
            kl = tf.reduce_mean(batch.reference_kl)
        kl_coeff = self._next_kl_coeff(kl, batch.actions.shape[0])
        self.kl_coeff.assign(tf.where(is_finite, kl_coeff, self.kl_coeff))
        self.iteration.assign_add(1)
        totals = result.totals
        means = tf.unstack(totals.sums / totals.weights)  # NaN if no entry counts
        return {
            **dict(zip(self.objective.mean_metrics(batch), means, strict=True)),
            "policy/ratio_max": totals.largest_ratio,
            "policy/first_ratio_max": totals.first_ratio,
            **_explained_variance(batch),
            "schedule/learning_rate": learning_rate,
            "schedule/clip_ratio": coefficients.clip_ratio,
            "schedule/entropy_coeff": coefficients.entropy_coeff,
            "schedule/kl_coeff": coefficients.kl_coeff,
            "guard/skipped_updates": self.guard.count(result.found),
        }

    def _prepared(self, data: Data) -> Batch[Inputs]:
        if self.prepare is not None:
            return self.prepare(data)
        if not isinstance(data, Batch):
            raise UsageError(
                f"update was called with a {type(data).__name__}; it must be a Batch: give the learner a prepare "
                "function"
            )
        return data

    def _run_epochs(self, data: Data, batch: Batch[Inputs], coefficients: Coefficients) -> UpdateState:
        """Takes the gradient steps of an iteration, until the guard finds something or target_kl ends the iteration."""
        num_items = batch.actions.shape[0]
        num_minibatches = exact_div(
            num_items * self.item_size, self.config.minibatch_size, "the size of the batch", "minibatch_size"
        )
        rows = [num_minibatches, self.items_per_minibatch]
        seed = fold_in(self.seed, self.iteration)
        zero = tf.zeros([], batch.advantages.dtype)
        found = self.guard.of_data({**self.guarded(data), **batch.guarded()})

        def epoch_body(epoch: tf.Tensor, state: UpdateState) -> tuple[tf.Tensor, UpdateState]:
            order = permutation(num_items, fold_in(seed, epoch))
            others = fold_in(seed, self.config.num_epochs + epoch)
            current = batch
            if self.refresh is not None:
                recomputed = self.refresh(data)
                current = batch._replace(advantages=recomputed.advantages, returns=recomputed.returns)
            minibatches = map_tensors(lambda x: tf.reshape(tf.gather(x, order), [*rows, *x.shape[1:]]), current)

            def minibatch_body(index: tf.Tensor, state: UpdateState) -> tuple[tf.Tensor, UpdateState]:
                minibatch = map_tensors(lambda x: x[index], minibatches)  # [M, ...]
                return index + 1, self._train_on(minibatch, coefficients, fold_in(others, index), state)

            _, state = tf.while_loop(
                lambda index, state: (index < num_minibatches) & state.proceed,
                minibatch_body,
                (tf.constant(0), state._replace(epoch_kl=tf.zeros([2], zero.dtype))),
            )
            return epoch + 1, state

        zeros = tf.zeros([len(self.objective.mean_metrics(batch))], zero.dtype)
        start = UpdateState(
            proceed=found == NOTHING,
            totals=Totals(zero, zeros, zeros, zero, zero),
            epoch_kl=tf.zeros([2], zero.dtype),
            found=found,
        )
        _, state = tf.while_loop(
            lambda epoch, state: (epoch < self.config.num_epochs) & state.proceed, epoch_body, (tf.constant(0), start)
        )
        return state

    def _train_on(
        self, minibatch: Batch[Inputs], coefficients: Coefficients, seed: tf.Tensor, state: UpdateState
    ) -> UpdateState:
        """Evaluates a minibatch. If everything is finite, takes a gradient step and adds the metrics to the totals."""
        metrics, gradients = self.objective.gradients(minibatch, coefficients, seed)
        found = self.guard.of_step(metrics["loss/total"], metrics["policy/grad_norm"])
        is_finite = found == NOTHING
        before, ratio = state.totals, metrics["policy/ratio_max"]
        weights = _weights(minibatch, self.config, self.objective.mean_metrics(minibatch))
        stacked, kl_weight = tf.stack(list(weights.values())), weights["loss/kl"]
        after = Totals(
            steps=before.steps + 1,
            sums=before.sums + stacked * tf.stack([metrics[name] for name in weights]),
            weights=before.weights + stacked,
            largest_ratio=tf.maximum(before.largest_ratio, ratio),
            first_ratio=tf.where(before.steps == 0, ratio, before.first_ratio),
        )
        return UpdateState(
            proceed=self._step(gradients, metrics["policy/approx_kl"]) & is_finite,
            totals=tf.nest.map_structure(lambda new, old: tf.where(is_finite, new, old), after, before),
            epoch_kl=state.epoch_kl + tf.stack([kl_weight * metrics["loss/kl"], kl_weight]),
            found=found,
        )

    def _step(self, gradients: Gradients, approx_kl: tf.Tensor) -> tf.Tensor:
        """Applies the gradients unless target_kl ends the iteration. Returns whether the iteration continues."""

        def apply() -> tf.Tensor:
            self.replicas.apply(self.optimizer, gradients, self.policy.trainable_variables)
            return tf.constant(True)

        if self.config.target_kl is None:
            return apply()
        return tf.cond(approx_kl <= 1.5 * self.config.target_kl, apply, lambda: tf.constant(False))

    @staticmethod
    def _undo_unless(is_finite: tf.Tensor, variables: Sequence[Variable], before: list[tf.Tensor]) -> None:
        """Restores the variables to their values before the update if something in it was not finite.

        This happens once per update. A check before each gradient step would take about a tenth of the time of a plain
        graph.
        """

        def undo() -> tf.Tensor:
            for variable, value in zip(variables, before, strict=True):
                variable.assign(value)
            return tf.constant(False)

        tf.cond(is_finite, lambda: tf.constant(True), undo)

    def _next_kl_coeff(self, kl: tf.Tensor, num_items: int) -> tf.Tensor:
        config = self.config
        if config.kl_controller == "schulman":
            return adaptive_kl_coefficient_schulman(self.kl_coeff, kl, config.adaptive_kl_target)
        if config.kl_controller == "ziegler":
            return adaptive_kl_coefficient_ziegler(
                self.kl_coeff, kl, config.adaptive_kl_target, num_items, config.kl_horizon
            )
        return fixed_kl_coefficient(self.kl_coeff, kl)
