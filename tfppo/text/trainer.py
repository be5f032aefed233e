"""The trainer of text runs: tunes a language model by PPO (Ziegler et al. 2019)."""

import functools
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfppo.execution.devices import choose_device
from tfppo.execution.distribute import make_replicas
from tfppo.ppo.learner import PPOLearner
from tfppo.reporting.tensorboard import TensorBoardWriter
from tfppo.settings import with_settings
from tfppo.text.config import TextRunConfig
from tfppo.text.evaluate import Responder
from tfppo.text.models.adapters import size_without_adapters
from tfppo.text.policy import TextPolicy
from tfppo.text.records import display_of, metrics_of, subject_of
from tfppo.text.results import TextResults
from tfppo.text.rewards.first_scores import describe_first_scores
from tfppo.text.rollouts.batch import to_batch
from tfppo.text.rollouts.rollout import TextCollector, TextRollout
from tfppo.text.rollouts.rollout_file import RolloutFile
from tfppo.text.rollouts.scoring import TextScorer
from tfppo.text.samples import SampleTable
from tfppo.text.start.assembly import choose_modes, keep_parts, load_parts, make_models
from tfppo.text.start.memory import host_memory
from tfppo.text.start.prompts import NO_PROMPTS, GivenPrompts, notices
from tfppo.text.start.task import GivenReward
from tfppo.text.stop_rules import make_stop_rules
from tfppo.text.tasks import Task
from tfppo.text.validation import VALUES, Validation, make_validation
from tfppo.training import run_folder
from tfppo.training.fit import Callbacks, fit
from tfppo.training.loop import train_iterations, writing
from tfppo.training.pipeline import prompt_dataset
from tfppo.training.trainer import Application, Display, ExistingRun, Metrics, executed, is_due


class TextTrainer(TextResults):
    """Tunes a language model by PPO to get higher scores and to stay near a reference policy.

    The driver (`training.driver`) uses it through the protocol `training.trainer.Trainer`.

    Args:
      config: Settings of the run.
      task: A task, or its name as in the setting `task`; replaces the task of the config.
      reward: A function `reward(prompts, responses)`, its name as "package.module:function", a Keras model, a
        `RewardModel` or its folder, or a list of these, whose weighted sum is the reward; replaces the reward of the
        config and of the task.
      model: A Keras language model and its tokenizer, which replace the config's preset (see `given_model`).
      prompts: Training prompts with labels, in any form that `as_prompts` takes; replace the prompts of the task.
      validation_prompts: Prompts for samples and validation, in the same forms.
      test_prompts: Prompts for the evaluation at the end, in the same forms.
      optimizer: A new Keras optimizer with a learning rate; it replaces the settings `optimizer` and `learning_rate`.
      folder: Folder of the run, if the run exists already. It may keep the language model.
      trains: False loads no training prompts; such a trainer evaluates, generates or exports only.
      scores: False loads neither task nor reward; such a trainer generates or exports only.

    Raises:
      UsageError: If the task is unknown, the preset or the reward cannot be loaded, the model cannot be tuned, prompts
        and responses do not fit into the model's context, or the parts are not those that an existing run was made of.
    """

    def __init__(
        self,
        config: TextRunConfig,
        *,
        task: Task | str | None = None,
        reward: GivenReward = None,
        model: tuple[keras.Model, Any] | keras.Model | None = None,
        prompts: object = None,
        validation_prompts: object = None,
        test_prompts: object = None,
        optimizer: keras.optimizers.Optimizer | None = None,
        folder: Path | None = None,
        trains: bool = True,
        scores: bool = True,
    ):
        config = executed(config)
        run = config.run
        self.device, self.device_reason = choose_device(run.device, None)
        self.replicas = make_replicas(run.distribute, self.device)
        self.replicas.divide(config.text.batch_size, "batch_size")
        given: GivenPrompts = {"train": prompts, "validation": validation_prompts, "test": test_prompts}
        with tf.device(self.device):
            with self.replicas.scope():
                replicas = 1 if config.text.lora_rank else self.replicas.count  # adapters are made for each replica
                memory = host_memory() if self.replicas.count == 1 and "CPU" in self.device else None
                parts = load_parts(config, task, reward, model, given, folder, trains, scores, replicas, memory)
                self.policy, self.reference = make_models(parts, config)  # last: adapters change a given model
            text, ppo = parts.config.text, parts.config.ppo
            modes = choose_modes(parts.config, self.device)
            self.rollout_mode, self.update_mode = modes.values()
            self.config, self.task, self.codec = with_settings(parts.config, modes), parts.task, parts.codec
            self.prompts, self.own_prompts = parts.prompts or NO_PROMPTS, parts.own_prompts
            self.parts, self.start, self.reward = parts, parts.start, parts.reward
            self.fixed = parts.fixed_weights(self.policy)
            self._folder = folder
            stop_condition = self.codec.stop_condition(text)
            clip = text.score_clip if text.normalize_scores else None
            self.scorer = TextScorer(self.codec, self.reward, self.prompts.texts, clip)
            self.learner = PPOLearner(
                self.policy,
                ppo,
                text.iterations,
                prepare=lambda rollout: to_batch(rollout, text, ppo),
                guarded=TextRollout.guarded,
                seed=run.seed,
                mode=self.update_mode,
                replicas=self.replicas,
                optimizer=optimizer,
                auxiliary=parts.pretraining_loss(self.policy),
            )
            make_collector = functools.partial(
                TextCollector,
                reference=self.reference,
                scorer=self.scorer,
                text=text,
                kl_coeff=self.learner.kl_coeff,
                stop_condition=stop_condition,
                part_names=self.scorer.part_names,
                chunk=self.replicas.divide(ppo.minibatch_size, "minibatch_size", ppo.num_micro_batches),
                seed=run.seed,
                sampling_mode=self.rollout_mode,
                mode=self.update_mode,
                replicas=self.replicas,
            )
            self.collector = self.scale_collector = make_collector(self.policy)
            if self.start.is_tuned:
                self.scale_collector = make_collector(TextPolicy(self.reference, text.temperature, has_values=False))
            self.validation: Validation | None = None
            self.validated = tf.Variable([math.nan] * VALUES, dtype=tf.float64, trainable=False)
        self._trains = trains
        self._set_up_validation()
        self.stop_rules = make_stop_rules(text)
        self.compile_seconds, self.rollouts_keep_state = 0.0, True

    @property
    def name(self) -> str:
        """Start of the default name of the run's folder: the name of the task."""
        return self.task.name

    @property
    def subject(self) -> str:
        """One line that describes the task, the model and the batch size."""
        return subject_of(self.task, self.config.text, self.policy)

    @property
    def modes(self) -> Mapping[str, str]:
        """Compilation mode of the rollout and of the update."""
        return {"rollout": self.rollout_mode, "update": self.update_mode}

    @property
    def display(self) -> Display:
        """Metrics that the console and TensorBoard show."""
        return display_of(self.config.text, self.codec.chat is not None, self.validation is not None)

    @property
    def iteration(self) -> int:
        """Number of iterations done."""
        return int(self.learner.iteration.numpy())

    @property
    def num_iterations(self) -> int:
        """Number of iterations of the whole run."""
        return self.config.text.iterations

    @property
    def next_step(self) -> int:
        """Next step on TensorBoard's horizontal axis, which counts iterations."""
        return self.iteration

    @property
    def models(self) -> dict[str, keras.Layer]:
        """The trained models by name: the language model, and the value head and the critic if there are any."""
        return self.policy.models

    @property
    def weights(self) -> list[tf.Variable]:
        """All weights of `models`, in a fixed order."""
        return [weight for model in self.models.values() for weight in model.weights]

    @property
    def state(self) -> dict[str, object]:
        """Everything that a checkpoint must hold, except for the weights in `fixed`.

        Random numbers and prompts are not part of it, because they depend only on the seed and the iteration. The
        reference policy is not part of it either, because a resumed run loads it from the preset again.
        """
        return (
            self.models
            | {
                "optimizer": self.learner.optimizer,
                "iteration": self.learner.iteration,
                "kl_coeff": self.learner.kl_coeff,
                "guard": self.learner.guard.state,
                "score_scale": self.scorer.scale,
                **{name: rule.latest for name, rule in self.stop_rules.items()},
            }
            | ({"validation": self.validated} if self.config.text.validation_interval else {})
        )

    @property
    def eval_size(self) -> int:
        """Number of held-out prompts of the evaluation at the end; 0 means no evaluation."""
        return self.config.text.eval_prompts

    @property
    def stop_reason(self) -> str | None:
        """Why the run ends early: the KL exceeds `stop_kl`, or the score has reached `target_score`."""
        return next((rule.reason for rule in self.stop_rules.values() if rule.reason is not None), None)

    def recorded_iterations(self, folder: Path, tensorboard: TensorBoardWriter) -> Iterator[tuple[int, Metrics]]:
        """Trains like `iterations`, and writes tables of samples and all responses of training.

        Args:
          folder: Folder of the run; gets `samples.jsonl` and `rollouts/responses.jsonl.gz`.
          tensorboard: Gets the same tables.

        Yields:
          The number and the metrics of each iteration.
        """
        text, start = self.config.text, self.iteration
        table = self._sample_table(folder / run_folder.SAMPLES)
        with writing(folder):
            table.cut_back(start)

        def record(done: int) -> list[dict[str, Any]]:
            rows = table.sample(done)
            with writing(folder):
                tensorboard.write_text("samples", table.append(rows), done)
            return rows

        if not start:
            rows = record(0)
            self.task.checked_measure(*([row[key] for row in rows] for key in ("prompt", "reference")))
        with writing(folder):
            kept = RolloutFile(folder, text, self.codec, self.prompts.texts) if text.save_rollouts else None
        for iteration, row in self._iterations(folder, kept):
            done = iteration + 1
            if done % text.sample_interval == 0 or done == text.iterations or self.stop_reason is not None:
                record(done)
            yield iteration, row

    def _sample_table(self, path: Path) -> SampleTable:
        prompts = self.parts.sample_prompts()
        return SampleTable(
            path,
            prompts,
            self.encode(prompts),
            policy=Responder(self.policy.model, self.codec, self.config.text),
            reference=Responder(self.reference, self.codec, self.config.text),
            reward=self.reward,
            seed=self.config.run.seed,
        )

    def iterations(self) -> Iterator[tuple[int, Metrics]]:
        """Trains from the learner's current iteration to the end of the run, or until a stop rule ends it.

        Yields:
          The number and the metrics of each iteration.

        Raises:
          UsageError: If the reward fails, or if too many updates in a row were skipped because a number was not
            finite.
        """
        yield from self._iterations()

    def _iterations(self, folder: Path | None = None, kept: RolloutFile | None = None) -> Iterator[tuple[int, Metrics]]:
        """Trains as `iterations` describes, and keeps the responses in a file of the run's folder."""
        began = time.perf_counter()
        text = self.config.text
        size = size_without_adapters(self.policy.model.model)
        for line in notices(self.prompts, self.config, size, self.parts.notes):
            print(line, flush=True)
        if self.iteration == 0 and text.normalize_scores:
            self._fit_scale()
        if self.iteration == 0 and self.validation is not None:
            self.validation.measure()
        source = prompt_dataset(*self.prompts[:2], text.batch_size, self.config.run.seed, text.responses_per_prompt)
        for iteration in train_iterations(self.collector, self.learner, self.num_iterations, self.device, source):
            self.compile_seconds = self.compile_seconds or time.perf_counter() - began
            for rule in self.stop_rules.values():
                rule.record(iteration.metrics)
            number, row = iteration.number, iteration.metrics | metrics_of(iteration, text)
            if self.validation is not None:
                if self.is_validated(number + 1):
                    self.validation.measure()
                row |= self.validation.metrics
            if kept is not None:
                assert isinstance(iteration.rollout, TextRollout)
                with writing(folder):
                    kept.append(number, iteration.rollout)
            del iteration  # and its rollout, which would need memory until the end of the next update
            yield number, row
            if self.stop_reason is not None:
                return

    def is_validated(self, done: int) -> bool | None:
        """Returns True if the policy is validated after so many iterations. None: the run has no validation."""
        return is_due(done, self.config.text.validation_interval, self.num_iterations)

    def fit(
        self,
        iterations: int | None = None,
        callbacks: Callbacks = None,
        validation_interval: int | None = None,
        *,
        run_dir: Path | str | None = None,
        extend: bool = False,
        verbose: int | str = "auto",
    ) -> keras.callbacks.History:
        """Tunes the language model as `keras.Model.fit` does. An epoch is an iteration: responses and an update.

        The model of the callbacks is the CausalLM. Their logs are all metrics of the iteration, so
        `EarlyStopping("validation/score_mean", mode="max")` stops by the validation. The schedules end with the last
        iteration; "auto" modes of compilation are those for the length of the run in the settings.

        Args:
          iterations: Iterations of the whole training, in place of the setting. With `extend`: iterations more.
          callbacks: Keras callbacks.
          validation_interval: Iterations between validations, in place of the setting.
          run_dir: Folder of a run, which gets all that `tfppo train text` writes, including the evaluation at the end.
            None writes nothing.
          extend: True goes on with a trainer that has trained before. The schedules are then those of the longer run.
          verbose: 0 prints no progress, unless there is a folder.

        Returns:
          The History: `history` has a list of values for every metric, one for each epoch.

        Raises:
          UsageError: If the trainer has trained before and `extend` is False, a setting is invalid, the folder exists,
            a callback cannot be used, or the reward fails.
        """
        if extend and iterations is not None:
            iterations += self.iteration
        settings = {"iterations": iterations, "validation_interval": validation_interval}
        return fit(self, self.policy.model.model, callbacks, run_dir, extend, verbose, **settings)

    def adopt(self, config: TextRunConfig) -> None:
        """Replaces the settings that `fit` may replace: the length of the run, its folder and its validation."""
        self.config, self.parts = config, self.parts._replace(config=config)
        self.learner.set_num_iterations(self.num_iterations)
        self._set_up_validation()

    def _set_up_validation(self) -> None:
        interval = self.config.text.validation_interval
        if not interval:
            self.validation = None
        elif self.validation is None and self._trains:
            with tf.device(self.device):
                self.validation = make_validation(self.parts, self.policy.model, self.reference, self.validated)

    def write_parts(self, folder: Path) -> None:
        """Keeps the models that the run starts with in the folder of a new run, if no other folder holds them."""
        for line in keep_parts(folder, self.parts):
            print(line)

    def save_extra(self, folder: Path) -> None:
        """Does nothing: `state` holds everything."""

    def restore_extra(self, folder: Path) -> None:
        """Does nothing: `state` holds everything."""

    def record(self, folder: Path, seed: int) -> None:
        """Does nothing: `recorded_iterations` writes the samples."""

    def close(self) -> None:
        """Does nothing: a text run has no environments to close."""

    def _fit_scale(self) -> None:
        """Fits the normalization of scores on responses of the reference policy, and prints what the scores are."""
        source = prompt_dataset(*self.prompts[:2], self.config.text.batch_size, self.config.run.seed + 1)
        scores = self.scale_collector.first_scores(source)
        self.scorer.fit_scale(scores)
        print(describe_first_scores(scores), flush=True)


def make_trainer(config: TextRunConfig, existing: ExistingRun) -> TextTrainer:
    """Makes the trainer of an existing run; the parts that the user may give are `task`, `reward` and `model`."""
    given: Any = existing.given
    return TextTrainer(config, **given, folder=existing.folder, trains=existing.trains, scores=existing.scores)


TEXT = Application("text", TextRunConfig, make_trainer)
