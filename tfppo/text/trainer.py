"""The trainer of text runs: tunes a language model by PPO (Ziegler et al. 2019)."""

import functools
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfppo.execution.compilation import choose_token_compilation
from tfppo.execution.devices import choose_device
from tfppo.execution.distribute import make_replicas
from tfppo.ppo.learner import PPOLearner
from tfppo.reporting.console import progress_bar
from tfppo.reporting.curves import plot_curve, plot_frontier
from tfppo.reporting.tensorboard import TensorBoardWriter
from tfppo.settings import with_settings
from tfppo.text.config import TextRunConfig
from tfppo.text.evaluate import Responder, compare, describe, held_out_prompts
from tfppo.text.export import export_model
from tfppo.text.model_card import tuning_of
from tfppo.text.policy import TextPolicy
from tfppo.text.rewards.callables import Reward
from tfppo.text.rewards.first_scores import describe_first_scores
from tfppo.text.rollouts.batch import to_batch
from tfppo.text.rollouts.rollout import TextCollector, TextRollout
from tfppo.text.rollouts.rollout_file import RolloutFile
from tfppo.text.rollouts.scoring import TextScorer
from tfppo.text.samples import SampleTable
from tfppo.text.start.assembly import NO_PROMPTS, load_parts, make_models, notices
from tfppo.text.start.initial import keep_start
from tfppo.text.stop_rules import KL, SCORE, make_stop_rules
from tfppo.text.tasks import Task
from tfppo.training import run_folder
from tfppo.training.loop import Iteration, train_iterations, writing
from tfppo.training.pipeline import prompt_dataset
from tfppo.training.trainer import Application, Display, Evaluation, ExistingRun, Metrics


class TextTrainer:
    """Tunes a language model by PPO to get higher scores and to stay near a reference policy.

    The driver (`training.driver`) uses it through the protocol `training.trainer.Trainer`.

    Args:
      config: Settings of the run.
      task: A task, or its name as in the setting `task`; replaces the task of the config.
      reward: A function `reward(prompts, responses)`, its name as "package.module:function", or a Keras model; replaces
        the reward of the config and of the task.
      model: A Keras language model and its tokenizer, which replace the config's preset (see `given_model`).
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
        reward: Reward | keras.Model | str | None = None,
        model: tuple[keras.Model, Any] | keras.Model | None = None,
        folder: Path | None = None,
        trains: bool = True,
        scores: bool = True,
    ):
        run, text, ppo = config.run, config.text, config.ppo
        self.device, self.device_reason = choose_device(run.device, None)
        self.replicas = make_replicas(run.distribute, self.device)
        tokens = text.iterations * text.batch_size * text.response_length
        trained = ppo.num_epochs * text.iterations * text.batch_size * (text.prompt_length + text.response_length)
        self.rollout_mode = choose_token_compilation(run.compile_rollout, "rollout", self.device, tokens)
        self.update_mode = choose_token_compilation(run.compile_update, "update", self.device, trained)
        modes = {"compile_rollout": self.rollout_mode, "compile_update": self.update_mode}
        self.replicas.divide(text.batch_size, "batch_size")
        with tf.device(self.device):
            with self.replicas.scope():
                replicas = 1 if text.lora_rank else self.replicas.count  # adapters are made for each replica
                parts = load_parts(with_settings(config, modes), task, reward, model, folder, trains, scores, replicas)
                self.policy, self.reference = make_models(parts, config)  # last: adapters change a given model
            self.config, self.task, self.codec, self.reward = parts.config, parts.task, parts.codec, parts.reward
            self.encode, self.start, self.prompts = parts.encode, parts.start, parts.prompts or NO_PROMPTS
            self._sample_prompts = parts.sample_prompts
            self._is_given, self._folder = model is not None, folder
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
            )
            make_collector = functools.partial(
                TextCollector,
                reference=self.reference,
                scorer=self.scorer,
                text=text,
                kl_coeff=self.learner.kl_coeff,
                stop_condition=stop_condition,
                chunk=self.replicas.divide(ppo.minibatch_size, "minibatch_size", ppo.num_micro_batches),
                seed=run.seed,
                sampling_mode=self.rollout_mode,
                mode=self.update_mode,
                replicas=self.replicas,
            )
            self.collector = self.scale_collector = make_collector(self.policy)
            if self.start.is_tuned:
                self.scale_collector = make_collector(TextPolicy(self.reference, text.temperature))
        self.stop_rules = make_stop_rules(text)
        self.compile_seconds, self.rollouts_keep_state = 0.0, True

    @property
    def name(self) -> str:
        """Start of the default name of the run's folder: the name of the task."""
        return self.task.name

    @property
    def subject(self) -> str:
        """One line that describes the task, the model and the batch size."""
        model = self.policy.model.model
        trained = sum(variable.shape.num_elements() for variable in self.policy.trainable_variables)
        reward = "" if self.config.text.reward is None else f" with reward {self.config.text.reward}"
        critic = "" if self.policy.critic is None else ", with the critic"
        return (
            f"task {self.task.name} ({self.task.description}){reward}, {type(model).__name__} of "
            f"{model.count_params() / 1e6:.2f}M parameters ({trained / 1e6:.2f}M trained{critic}), "
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
    def models(self) -> dict[str, keras.Layer]:
        """The trained models by name: the language model, the value head and the critic if there is one."""
        return self.policy.models

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
            **{name: rule.latest for name, rule in self.stop_rules.items()},
        }

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
        prompts = self._sample_prompts()
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
        """Trains from the learner's current iteration to the end of the run.

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
        for line in notices(self.prompts, text):
            print(line, flush=True)
        if self.iteration == 0 and text.normalize_scores:
            self._fit_scale()
        source = prompt_dataset(*self.prompts[:2], text.batch_size, self.config.run.seed)
        for iteration in train_iterations(self.collector, self.learner, self.num_iterations, self.device, source):
            self.compile_seconds = self.compile_seconds or time.perf_counter() - began
            for rule in self.stop_rules.values():
                rule.record(iteration.metrics)
            number, row = iteration.number, iteration.metrics | self._text_metrics(iteration)
            if kept is not None:
                assert isinstance(iteration.rollout, TextRollout)
                with writing(folder):
                    kept.append(number, iteration.rollout)
            del iteration  # and its rollout, which would need memory until the end of the next update
            yield number, row

    def write_parts(self, folder: Path) -> None:
        """Keeps the models that the run starts with in the folder of a new run, if no other folder holds them."""
        if self._is_given or self.config.text.init_from is not None:
            for line in filter(None, (self.start.note, keep_start(folder, self.start))):
                print(line)

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
            f"view the metrics and samples with: tensorboard --logdir {run_folder.quoted(folder.parent)}\n"
            f"generate responses with: tfppo generate {run_folder.quoted(folder)} --prompt 'This film'"
        )

    def export(self, folder: Path, form: str | None = None) -> str:
        """Writes the language model with a model card, in the form "keras" by default; see `export_model`."""
        tuning = tuning_of(self.config, self.iteration, self.weights, self._folder)
        return export_model(folder, form or "keras", self.policy.model.model, self.codec, tuning)

    def close(self) -> None:
        """Does nothing: a text run has no environments to close."""

    def _text_metrics(self, iteration: Iteration) -> dict[str, float]:
        metrics = iteration.metrics
        coefficient = metrics["schedule/kl_coeff"]
        penalty = self.config.text.missing_end_penalty * (1.0 - metrics["text/eos_fraction"])
        tokens = metrics["text/response_tokens_mean"] * self.config.text.batch_size
        return {
            "text/kl_coeff": coefficient,
            "text/reward_mean": metrics["text/scaled_score_mean"] - penalty - coefficient * metrics["text/kl"],
            "time/tokens_per_s": tokens / iteration.seconds,
        }

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
