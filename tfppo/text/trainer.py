"""Tuning a language model by PPO: what a text run is made of, and the loop that ties it."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfppo.errors import UsageError
from tfppo.execution.compilation import choose_token_compilation
from tfppo.execution.devices import choose_device
from tfppo.execution.distribute import make_replicas
from tfppo.ppo.learner import PPOLearner
from tfppo.text.batch import to_batch
from tfppo.text.config import TextRunConfig
from tfppo.text.data.codec import PromptCodec
from tfppo.text.models.adapters import WithoutAdapters, add_adapters
from tfppo.text.models.language_model import LanguageModel
from tfppo.text.models.presets import default_preset, load_preset
from tfppo.text.models.reference import as_language_model, copy_of, freeze
from tfppo.text.policy import TextPolicy
from tfppo.text.rewards.callables import Reward, as_reward, load_reward, reward_name
from tfppo.text.rollout import TextCollector, TextRollout
from tfppo.text.scoring import TextScorer
from tfppo.text.tasks import Task, get_task
from tfppo.training.loop import Iteration, train_iterations
from tfppo.training.pipeline import prompt_dataset, rollout_dataset, rollouts_one_by_one

SCALE_ROLLOUTS = 4  # of the reference, from which the scores' mean and standard deviation are taken


class TextTrainer:
    """A policy that writes, the reference it must stay near, a reward, and the learner.

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
        chosen = dataclasses.replace(run, compile_rollout=self.rollout_mode, compile_update=self.update_mode)
        named = text if reward is None else dataclasses.replace(text, reward=reward_name(as_reward(reward)))
        self.config = dataclasses.replace(config, run=chosen, text=named)  # what a resumed run goes on with
        self.replicas.divide(text.batch_size, "batch_size")
        with tf.device(self.device):
            with self.replicas.scope():
                keras_model, tokenizer = (
                    load_preset(text.preset or default_preset(), text.dtype) if model is None else model
                )
                self.policy, self.reference = _make_models(as_language_model(keras_model), config)
            self.codec = PromptCodec(tokenizer, self.task.domain)
            self.stop_condition = self.codec.stop_condition(text)
            self.reward = _make_reward(self.task, text.reward, reward)
            self.scorer = TextScorer(self.codec, self.reward, text.score_clip)
            self.prompts = self._training_prompts()
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
    def iteration(self) -> int:
        """Iterations that are done."""
        return int(self.learner.iteration.numpy())

    @property
    def modes(self) -> dict[str, str]:
        """How its programs are compiled, by what they do."""
        return {"rollout": self.rollout_mode, "update": self.update_mode}

    @property
    def models(self) -> dict[str, keras.Layer]:
        """What is trained, by name."""
        models = {"model": self.policy.model.model, "value_head": self.policy.value_head}
        return models if self.policy.critic is None else models | {"critic": self.policy.critic.model}

    @property
    def weights(self) -> list[Any]:
        """The weights of the models, in a fixed order; seeds of dropout, which is off, are none."""
        return [weight for model in self.models.values() for weight in model.weights]

    @property
    def state(self) -> dict[str, Any]:
        """Everything that the run needs to go on, by name. Random numbers and the order of the prompts hang on the
        seed and the iteration; the reference is the preset."""
        return self.models | {
            "optimizer": self.learner.optimizer,
            "iteration": self.learner.iteration,
            "kl_coeff": self.learner.kl_coeff,
            "guard": self.learner.guard.state,
            "score_scale": self.scorer.scale,
        }

    def iterations(self) -> Iterator[tuple[int, dict[str, float]]]:
        """Tunes, from where the learner is to the end of the run; yields each iteration's number and metrics.

        Raises:
          UsageError: if the reward fails, in one line that names it; or if too many updates in a row were skipped
            because something was not finite.
        """
        began = time.perf_counter()
        text, start = self.config.text, self.iteration
        if start == 0 and text.normalize_scores:
            self._fit_scale()
        source = prompt_dataset(*self.prompts, text.batch_size, self.config.run.seed)
        make_rollouts = rollout_dataset if self.replicas.count == 1 else rollouts_one_by_one
        dataset = make_rollouts(self.collector.collect, start, self.device, source)
        for iteration in train_iterations(dataset, self.learner, start, text.iterations, self.device, self.collector):
            if iteration.number == start:
                self.compile_seconds = time.perf_counter() - began
            yield iteration.number, iteration.metrics | self._text_metrics(iteration)

    def encode(self, prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Prompts as tokens, checked against the context: int32 [N, P] and their lengths [N]."""
        context = self.policy.model.context_length
        return self.codec.encode(prompts, None if context is None else context - self.config.text.response_length)

    def _training_prompts(self) -> tuple[np.ndarray, np.ndarray]:
        text = self.config.text
        ids, lengths = self.codec.encode(self.task.prompts("train"))
        kept = lengths <= text.prompt_length
        if not kept.any():
            raise UsageError(
                f"all {len(lengths)} training prompts of task {self.task.name} have more than prompt_length = "
                f"{text.prompt_length} tokens, the shortest {lengths.min()}: make prompt_length larger"
            )
        context = self.policy.model.context_length
        if context is not None and text.prompt_length + text.response_length > context:
            raise UsageError(
                f"prompt_length = {text.prompt_length} and response_length = {text.response_length} do not fit "
                f"into the language model's context of {context} tokens: make one of them smaller"
            )
        return ids[kept, : lengths[kept].max()], lengths[kept]

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


def _make_models(model: LanguageModel, config: TextRunConfig) -> tuple[TextPolicy, LanguageModel]:
    """The policy and its reference."""
    text = config.text
    critic = copy_of(model) if text.separate_critic else None
    if text.lora_rank:
        add_adapters(model.model, text.lora_rank, config.run.seed)
    reference = WithoutAdapters(model) if text.lora_rank else freeze(copy_of(model))
    return TextPolicy(model, text.temperature, critic), reference


def _make_reward(task: Task, setting: str | None, given: Reward | keras.Model | None) -> Reward:
    if given is not None:
        return as_reward(given)
    return task.make_reward() if setting is None else load_reward(setting)
