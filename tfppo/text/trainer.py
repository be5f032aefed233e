"""The trainer of text runs: tunes a language model by PPO (Ziegler et al. 2019)."""

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
from tfppo.text.models.given import check_tokenizer, given_model
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
SAMPLES = 8  # prompts in a table of samples
SCALE_ROLLOUTS = 4  # rollouts of the reference policy that the scores are normalized by


class TextTrainer:
    """Tunes a language model by PPO to get higher scores and to stay near a reference policy.

    The driver (`training.driver`) uses it through the protocol `training.trainer.Trainer`.

    Args:
      config: Settings of the run.
      task: Replaces the registered task that the config names.
      reward: A function `reward(prompts, responses)` or a Keras model; replaces the reward of the config and of the
        task.
      model: A Keras language model and its tokenizer, which replace the config's preset (see `given_model`).

    Raises:
      UsageError: If the task is unknown, the preset or the reward cannot be loaded, the model cannot be tuned, or
        prompts and responses do not fit into the model's context.
    """

    def __init__(
        self,
        config: TextRunConfig,
        *,
        task: Task | None = None,
        reward: Reward | keras.Model | None = None,
        model: tuple[keras.Model, Any] | keras.Model | None = None,
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
        if text.preset is not None:  # an absolute path, so that the run can be resumed from any folder
            kept["preset"] = text.preset.resolve()
        self.config = with_settings(config, kept)  # goes into config.yaml, from which a run is resumed
        self.replicas.divide(text.batch_size, "batch_size")
        with tf.device(self.device):
            with self.replicas.scope():
                if model is None:
                    keras_model, tokenizer = load_preset(text.preset or default_preset(), text.dtype)
                else:
                    copies = 1 if text.lora_rank else self.replicas.count  # adapters are made for each replica
                    keras_model, tokenizer = given_model(model, text.dtype, copies)
                    self.config = with_settings(self.config, {"dtype": keras_model.dtype_policy.name})
                language_model = as_language_model(keras_model)
            check_tokenizer(tokenizer, language_model)
            self.codec = PromptCodec(tokenizer, self.task.domain)
            self.stop_condition = self.codec.stop_condition(text)
            self.reward = make_reward(self.task, text.reward, reward)
            self.scorer = TextScorer(self.codec, self.reward, text.score_clip)
            self.prompts = training_prompts(self.task, self.codec, text, language_model.context_length)
            with self.replicas.scope():  # after all checks, because adapters change the given model
                self.policy, self.reference = make_models(language_model, config)
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
        """Start of the default name of the run's folder: the name of the task."""
        return self.task.name

    @property
    def subject(self) -> str:
        """One line that describes the task, the model and the batch size."""
        model = self.policy.model.model
        trained = sum(variable.shape.num_elements() for variable in self.policy.trainable_variables)
        return (
            f"task {self.task.name} ({self.task.description}), {type(model).__name__} of "
            f"{model.count_params() / 1e6:.1f}M parameters ({trained / 1e6:.2f}M trained), "
            f"{self.config.text.batch_size} responses per iteration"
        )

    @property
    def modes(self) -> Mapping[str, str]:
        """Compilation mode of the rollout and of the update."""
        return {"rollout": self.rollout_mode, "update": self.update_mode}

    @property
    def display(self) -> Display:
        """Metrics that the console and TensorBoard show."""
        columns = {SCORE: "score", KL: "KL", "text/response_length_mean": "words", "time/tokens_per_s": "tokens/s"}
        return Display(columns, None, [SCORE, KL], SCORE, KL, "text/reward_mean", has_choices=True)

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
    def metrics(self) -> Metrics:
        """Metrics for `is_solved`; empty for text."""
        return {}

    @property
    def models(self) -> dict[str, keras.Layer]:
        """The trained models by name: the language model, the value head and the critic if there is one."""
        models = {"model": self.policy.model.model, "value_head": self.policy.value_head}
        return models if self.policy.critic is None else models | {"critic": self.policy.critic.model}

    @property
    def weights(self) -> list[tf.Variable]:
        """All weights of `models`, in a fixed order."""
        return [weight for model in self.models.values() for weight in model.weights]

    @property
    def state(self) -> dict[str, object]:
        """Everything that a checkpoint must hold.

        Random numbers and prompts are not part of it, because they depend only on the seed and the iteration. The
        reference policy is not part of it either, because a resumed run loads it from the preset again.
        """
        return self.models | {
            "optimizer": self.learner.optimizer,
            "iteration": self.learner.iteration,
            "kl_coeff": self.learner.kl_coeff,
            "guard": self.learner.guard.state,
            "score_scale": self.scorer.scale,
        }

    @property
    def eval_size(self) -> int:
        """Number of held-out prompts of the evaluation at the end; 0 means no evaluation."""
        return self.config.text.eval_prompts

    def is_solved(self, metrics: Metrics) -> bool:
        """Returns False: no score ends a text run early."""
        return False

    def recorded_iterations(self, folder: Path, tensorboard: TensorBoardWriter) -> Iterator[tuple[int, Metrics]]:
        """Trains like `iterations`, and writes tables of samples.

        Args:
          folder: Folder of the run; gets `samples.jsonl`.
          tensorboard: Gets the same tables.

        Yields:
          The number and the metrics of each iteration.
        """
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
        """Trains from the learner's current iteration to the end of the run.

        Yields:
          The number and the metrics of each iteration.

        Raises:
          UsageError: If the reward fails, or if too many updates in a row were skipped because a number was not
            finite.
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
        """Does nothing: `state` holds everything."""

    def restore_extra(self, folder: Path) -> None:
        """Does nothing: `state` holds everything."""

    def draw(self, folder: Path) -> None:
        """Draws the learning curve and the frontier (score against KL) into the run's folder and for TensorBoard."""
        metrics, frontier = folder / run_folder.METRICS, folder / run_folder.FRONTIER
        title = f"{self.task.name}, {folder.name}"
        plot_curve(metrics, folder / run_folder.CURVE, "iteration", [SCORE, KL], title)
        plot_frontier(metrics, frontier, KL, SCORE, title)
        writer = TensorBoardWriter(folder)
        writer.write_image("text/score_against_kl", frontier.read_bytes(), self.num_iterations)
        writer.close()

    def judge(self, size: int, seed: int) -> Evaluation:
        """Evaluates the policy and the reference policy on held-out prompts.

        Args:
          size: Number of prompts.
          seed: Seed of the responses.

        Returns:
          The numbers of `evaluate.compare`, with the task and the seed.

        Raises:
          UsageError: If the task has no test prompts, or the reward fails.
        """
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
        """Formats an evaluation as a small table."""
        return describe(evaluation)

    def record(self, folder: Path, seed: int) -> None:
        """Does nothing: `recorded_iterations` writes the samples."""

    def farewell(self, folder: Path) -> str:
        """Lists the files of a finished run and the commands that use them."""
        return (
            f"{folder} holds {run_folder.SAMPLES}, {run_folder.CURVE}, {run_folder.METRICS} and the other results; "
            f"view them with: tensorboard --logdir {run_folder.quoted(folder.parent)}\n"
            f"generate responses with: tfppo generate {run_folder.quoted(folder)} --prompt 'This film'"
        )

    def export(self, folder: Path) -> str:
        """Writes the language model as a preset, with adapters merged into its weights (see `export_preset`).

        Args:
          folder: Folder of the preset.

        Returns:
          A line that says how to load the preset.
        """
        return export_preset(folder, self.policy.model.model, self.codec, self.config.text.temperature)

    def close(self) -> None:
        """Does nothing: a text run has no environments to close."""

    def encode(self, prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Encodes prompts and checks that each fits into the context together with a response.

        Args:
          prompts: N texts.

        Returns:
          Token ids int32 [N, P], padded on the right, and lengths int32 [N].

        Raises:
          UsageError: If a prompt is empty, not a text, or too long.
        """
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
        """Fits the normalization of scores on responses of the policy, which still equals the reference policy."""
        batches = prompt_dataset(*self.prompts, self.config.text.batch_size, self.config.run.seed + 1)
        scores = []
        with self.collector.raising_own_errors():
            for number, (prompts, lengths) in enumerate(batches.take(SCALE_ROLLOUTS)):
                samples = self.collector.sample_responses(tf.constant(-1 - number, tf.int64), prompts, lengths)
                scores.append(self.collector.score_responses(prompts, lengths, samples)[0].numpy())
        self.scorer.fit_scale(np.concatenate(scores))


TEXT = Application("text", TextRunConfig, "reward", TextTrainer)
