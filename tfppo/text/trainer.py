"""Tuning a language model by PPO."""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfppo.execution.compilation import choose_token_compilation
from tfppo.execution.devices import choose_device
from tfppo.execution.distribute import make_replicas
from tfppo.ppo.learner import PPOLearner
from tfppo.reporting.console import progress_bar
from tfppo.reporting.curves import plot_curve, plot_frontier
from tfppo.reporting.tensorboard import TensorBoardWriter
from tfppo.settings import with_settings
from tfppo.text.assembly import make_models, make_reward, training_prompts
from tfppo.text.batch import to_batch
from tfppo.text.config import TextRunConfig
from tfppo.text.data.codec import PromptCodec
from tfppo.text.evaluate import Responder, compare, describe, held_out_prompts
from tfppo.text.export import export_preset
from tfppo.text.models.presets import default_preset, load_preset
from tfppo.text.models.reference import as_language_model
from tfppo.text.rewards.callables import Reward, as_reward, reward_name
from tfppo.text.rollout import TextCollector, TextRollout
from tfppo.text.samples import SampleTable
from tfppo.text.scoring import TextScorer
from tfppo.text.tasks import Task, get_task
from tfppo.training import run_folder
from tfppo.training.loop import Iteration, train_iterations, writing
from tfppo.training.pipeline import prompt_dataset
from tfppo.training.trainer import Application, Display, Evaluation, Metrics

SCORE, KL = "text/score_mean", "text/kl"
SAMPLES = 8  # prompts in the tables of samples
SCALE_ROLLOUTS = 4  # of the reference, from which the scores' mean and standard deviation are taken


class TextTrainer:
    """Tunes a language model that writes, near a reference, for a reward; a `training.trainer.Trainer`.

    Args:
      config: the settings of the run.
      task: in place of the registered task that the config names.
      reward: `reward(prompts, responses)` or a Keras model, in place of the task's.
      model: a Keras language model with its tokenizer, in place of the config's preset.

    Raises:
      UsageError: on an unknown task, a preset that is none, prompts that do not fit, or a reward that cannot be loaded.
    """

    def __init__(
        self,
        config: TextRunConfig,
        *,
        task: Task | None = None,
        reward: Reward | keras.Model | None = None,
        model: tuple[keras.Model, Any] | None = None,
    ):
        run, text, ppo = config.run, config.text, config.ppo
        self.task = get_task(text.task) if task is None else task
        self.device, self.device_reason = choose_device(run.device, None)
        self.replicas = make_replicas(run.distribute, self.device)
        tokens = text.iterations * text.batch_size * text.response_length
        trained = ppo.num_epochs * text.iterations * text.batch_size * (text.prompt_length + text.response_length)
        self.rollout_mode = choose_token_compilation(run.compile_rollout, "rollout", self.device, tokens)
        self.update_mode = choose_token_compilation(run.compile_update, "update", self.device, trained)
        kept: dict[str, object] = {"compile_rollout": self.rollout_mode, "compile_update": self.update_mode}
        if reward is not None:
            kept["reward"] = reward_name(as_reward(reward))
        if text.preset is not None:  # the run is to be found again from any folder
            kept["preset"] = text.preset.resolve()
        self.config = with_settings(config, kept)  # what a resumed run goes on with
        self.replicas.divide(text.batch_size, "batch_size")
        with tf.device(self.device):
            with self.replicas.scope():
                keras_model, tokenizer = model or load_preset(text.preset or default_preset(), text.dtype)
                self.policy, self.reference = make_models(as_language_model(keras_model), config)
            self.codec = PromptCodec(tokenizer, self.task.domain)
            self.stop_condition = self.codec.stop_condition(text)
            self.reward = make_reward(self.task, text.reward, reward)
            self.scorer = TextScorer(self.codec, self.reward, text.score_clip)
            self.prompts = training_prompts(self.task, self.codec, text, self.policy.model.context_length)
            self.learner = PPOLearner(
                self.policy,
                ppo,
                text.iterations,
                prepare=lambda rollout: to_batch(rollout, text, ppo),
                guarded=TextRollout.guarded,
                seed=run.seed,
                mode=self.update_mode,
                replicas=self.replicas,
            )
            self.collector = TextCollector(
                self.policy,
                self.reference,
                self.scorer,
                text,
                kl_coeff=self.learner.kl_coeff,
                stop_condition=self.stop_condition,
                chunk=self.replicas.divide(ppo.minibatch_size, "minibatch_size", ppo.num_micro_batches),
                seed=run.seed,
                sampling_mode=self.rollout_mode,
                mode=self.update_mode,
                replicas=self.replicas,
            )
        self.compile_seconds = 0.0

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def subject(self) -> str:
        model = self.policy.model.model
        trained = sum(variable.shape.num_elements() for variable in self.policy.trainable_variables)
        return (
            f"task {self.task.name} ({self.task.description}), {type(model).__name__} of "
            f"{model.count_params() / 1e6:.1f}M parameters ({trained / 1e6:.2f}M trained), "
            f"{self.config.text.batch_size} responses an iteration"
        )

    @property
    def modes(self) -> Mapping[str, str]:
        return {"rollout": self.rollout_mode, "update": self.update_mode}

    @property
    def display(self) -> Display:
        columns = {SCORE: "score", KL: "KL", "text/response_length_mean": "words", "time/tokens_per_s": "tokens/s"}
        return Display(columns, None, [SCORE, KL], SCORE, KL, "text/reward_mean", has_choices=True)

    @property
    def iteration(self) -> int:
        return int(self.learner.iteration.numpy())

    @property
    def num_iterations(self) -> int:
        return self.config.text.iterations

    @property
    def next_step(self) -> int:
        return self.iteration

    @property
    def metrics(self) -> Metrics:
        return {}

    @property
    def models(self) -> dict[str, keras.Layer]:
        """What is trained, by name."""
        models = {"model": self.policy.model.model, "value_head": self.policy.value_head}
        return models if self.policy.critic is None else models | {"critic": self.policy.critic.model}

    @property
    def weights(self) -> list[tf.Variable]:
        return [weight for model in self.models.values() for weight in model.weights]

    @property
    def state(self) -> dict[str, object]:
        """See `Trainer`: random numbers and prompts depend on seed and iteration; the reference is the preset."""
        return self.models | {
            "optimizer": self.learner.optimizer,
            "iteration": self.learner.iteration,
            "kl_coeff": self.learner.kl_coeff,
            "guard": self.learner.guard.state,
            "score_scale": self.scorer.scale,
        }

    @property
    def eval_size(self) -> int:
        return self.config.text.eval_prompts

    def is_solved(self, metrics: Metrics) -> bool:
        return False  # a task has no score that would be enough

    def recorded_iterations(self, folder: Path, tensorboard: TensorBoardWriter) -> Iterator[tuple[int, Metrics]]:
        """Trains as `iterations`; tables of samples go into the folder and to TensorBoard."""
        text, start = self.config.text, self.iteration
        with writing(folder):
            table = self._sample_table(folder / run_folder.SAMPLES, start)
            if not start:
                tensorboard.write_text("samples", table.write(0), 0)
        for iteration, row in self.iterations():
            done = iteration + 1
            if done % text.sample_interval == 0 or done == text.iterations:
                with writing(folder):
                    tensorboard.write_text("samples", table.write(done), done)
            yield iteration, row

    def _sample_table(self, path: Path, start: int) -> SampleTable:
        prompts = self.task.prompts("validation")[:SAMPLES] or self.task.prompts("train")[:SAMPLES]
        return SampleTable(
            path,
            prompts,
            self.encode(prompts),
            policy=Responder(self.policy.model, self.codec, self.config.text),
            reference=Responder(self.reference, self.codec, self.config.text),
            reward=self.reward,
            seed=self.config.run.seed,
            start=start,
        )

    def iterations(self) -> Iterator[tuple[int, Metrics]]:
        """Tunes from where the learner is to the end of the run; yields each iteration's number and metrics.

        Raises:
          UsageError: if the reward fails, in one line that names it; or if too many updates in a row were skipped
            because something was not finite.
        """
        began = time.perf_counter()
        text = self.config.text
        if self.iteration == 0 and text.normalize_scores:
            self._fit_scale()
        source = prompt_dataset(*self.prompts, text.batch_size, self.config.run.seed)
        for iteration in train_iterations(self.collector, self.learner, self.num_iterations, self.device, source):
            self.compile_seconds = self.compile_seconds or time.perf_counter() - began
            yield iteration.number, iteration.metrics | self._text_metrics(iteration)

    def save_extra(self, folder: Path) -> None:
        """Writes nothing: `state` is all."""

    def restore_extra(self, folder: Path) -> None:
        """Restores nothing: `state` is all."""

    def draw(self, folder: Path) -> None:
        metrics, frontier = folder / run_folder.METRICS, folder / run_folder.FRONTIER
        title = f"{self.task.name}, {folder.name}"
        plot_curve(metrics, folder / run_folder.CURVE, "iteration", [SCORE, KL], title)
        plot_frontier(metrics, frontier, KL, SCORE, title)
        writer = TensorBoardWriter(folder)
        writer.write_image("text/score_against_kl", frontier.read_bytes(), self.num_iterations)
        writer.close()

    def judge(self, size: int, seed: int) -> Evaluation:
        """Answers so many held-out prompts with the policy and with the reference."""
        with progress_bar("evaluating", 2) as advance:
            evaluation, _ = compare(
                held_out_prompts(self.task, size),
                seed,
                policy=self.policy.model,
                reference=self.reference,
                codec=self.codec,
                task=self.task,
                reward=self.reward,
                text=self.config.text,
                progress=advance,
            )
        return {"task": self.task.name, "seed": seed} | evaluation

    def describe(self, evaluation: Evaluation) -> str:
        return describe(evaluation)

    def record(self, folder: Path, seed: int) -> None:
        """Leaves nothing: the tables of samples are there already."""

    def farewell(self, folder: Path) -> str:
        return (
            f"{folder} holds {run_folder.SAMPLES}, {run_folder.CURVE}, {run_folder.METRICS} and the rest; see it with: "
            f"tensorboard --logdir {run_folder.quoted(folder.parent)}\ntalk to it with: tfppo generate "
            f"{run_folder.quoted(folder)} --prompt 'This film'"
        )

    def export(self, folder: Path) -> str:
        """Writes the language model as a preset, adapters merged; returns how to load it (see `text.export`)."""
        return export_preset(folder, self.policy.model.model, self.codec, self.config.text.temperature)

    def close(self) -> None:
        """Closes nothing: there are no environments."""

    def encode(self, prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Prompts as tokens, checked against the context: int32 [N, P] and their lengths [N]."""
        context = self.policy.model.context_length
        return self.codec.encode(prompts, None if context is None else context - self.config.text.response_length)

    def _text_metrics(self, iteration: Iteration) -> dict[str, float]:
        metrics = iteration.metrics
        coefficient = metrics["schedule/kl_coeff"]
        tokens = metrics["text/response_tokens_mean"] * self.config.text.batch_size
        return {
            "text/kl_coeff": coefficient,
            "text/reward_mean": metrics["text/score_mean"] - coefficient * metrics["text/kl"],
            "time/tokens_per_s": tokens / iteration.seconds,
        }

    def _fit_scale(self) -> None:
        """Takes the scores' mean and standard deviation from responses of the reference, which the policy still is."""
        batches = prompt_dataset(*self.prompts, self.config.text.batch_size, self.config.run.seed + 1)
        scores = []
        with self.collector.raising_own_errors():
            for number, (prompts, lengths) in enumerate(batches.take(SCALE_ROLLOUTS)):
                samples = self.collector.sample_responses(tf.constant(-1 - number, tf.int64), prompts, lengths)
                scores.append(self.collector.score_responses(prompts, lengths, samples)[0].numpy())
        self.scorer.fit_scale(np.concatenate(scores))


TEXT = Application("text", TextRunConfig, "reward", TextTrainer)
