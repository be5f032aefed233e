"""What becomes of a tuned language model: evaluations, pictures, responses and exports."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfppo.reporting.console import progress_bar
from tfppo.settings import check_value
from tfppo.text.config import TextRunConfig
from tfppo.text.data.codec import PromptCodec
from tfppo.text.data.prompts import as_prompts
from tfppo.text.evaluate import Responder, compare, describe, held_out_prompts
from tfppo.text.export import export_model
from tfppo.text.models.language_model import LanguageModel
from tfppo.text.policy import TextPolicy
from tfppo.text.presets.model_card import tuning_of
from tfppo.text.records import draw_pictures, farewell_of
from tfppo.text.rewards.callables import Reward
from tfppo.text.start.assembly import Parts
from tfppo.text.start.prompts import OwnPrompts
from tfppo.text.tasks import Task
from tfppo.training.trainer import Evaluation


class TextResults(ABC):
    """The part of a text trainer that uses its language model. It changes nothing."""

    config: TextRunConfig
    policy: TextPolicy
    reference: LanguageModel
    codec: PromptCodec
    task: Task
    reward: Reward
    parts: Parts
    own_prompts: OwnPrompts | None
    _folder: Path | None

    @property
    @abstractmethod
    def iteration(self) -> int:
        """Number of iterations done."""

    @property
    @abstractmethod
    def num_iterations(self) -> int:
        """Number of iterations of the whole run."""

    @property
    @abstractmethod
    def weights(self) -> list[tf.Variable]:
        """All weights of the trained models, in a fixed order."""

    def draw(self, folder: Path) -> None:
        """Draws the learning curve and the frontier (score against KL) into the run's folder and for TensorBoard."""
        draw_pictures(folder, self.task, self.num_iterations)

    def judge(self, size: int, seed: int) -> Evaluation:
        """Evaluates the policy and the reference policy on held-out prompts.

        Args:
          size: Number of prompts.
          seed: Seed of the responses.

        Returns:
          The numbers of `evaluate.compare`, with the task, the seed and, for prompts of the user, their split.

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
        split = {} if self.own_prompts is None else {"split": self.own_prompts.used_for("test")}
        return {"task": self.task.name, "seed": seed} | split | evaluation

    def describe(self, evaluation: Evaluation) -> str:
        """Formats an evaluation as a small table."""
        return describe(evaluation)

    def farewell(self, folder: Path) -> str:
        """Lists the files of a finished run and the commands that use them."""
        return farewell_of(folder, self.parts.sample_prompts())

    def export(self, folder: Path, form: str | None = None) -> str:
        """Writes the language model with a model card, in the form "keras" by default; see `export_model`."""
        tuning = tuning_of(self.config, self.iteration, self.weights, self._folder)
        return export_model(folder, form or "keras", self.policy.model.model, self.codec, tuning)

    def evaluate(self, prompts: int = 200, seed: int | None = None) -> Evaluation:
        """Evaluates the policy of now and the reference policy, as a run does at its end.

        Args:
          prompts: Number of held-out prompts.
          seed: Seed of the responses. None: the seed of the run.

        Returns:
          The numbers, as in `evaluation.json`.

        Raises:
          UsageError: If the task has no test prompts, or the reward fails.
        """
        check_value("prompts", prompts, "at least 1", lambda size: size >= 1)
        return self.judge(prompts, self.config.run.seed if seed is None else seed)

    def generate(
        self,
        prompts: Sequence[object],
        *,
        temperature: float | None = None,
        max_new_tokens: int | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        samples: int = 1,
        reference: bool = False,
        strip_prompt: bool = True,
    ) -> list[str]:
        """Generates responses with the policy of now.

        Args:
          prompts: Texts to respond to, or conversations as lists of messages.
          temperature: Divides the logits; 0 always takes the most probable token. None uses the temperature of the run.
          max_new_tokens: Largest number of tokens of a response. None uses the response_length of the run.
          top_k: Samples from the k most probable tokens; None samples from all.
          top_p: Samples from the most probable tokens whose probabilities sum to p; None samples from all.
          seed: Seed of the sampling noise.
          samples: Number of responses to each prompt.
          reference: True generates with the reference policy, which is the model before tuning.
          strip_prompt: False puts each response behind its prompt, with a space in a conversation.

        Returns:
          The responses, `samples` of them in a row for each prompt.

        Raises:
          UsageError: If an argument is invalid, a prompt is empty, or a prompt and its response do not fit into the
            context.
        """
        if temperature is not None:
            check_value("temperature", temperature, "at least 0", lambda value: value >= 0)
        model, text = self.reference if reference else self.policy.model, self.config.text
        length = text.response_length if max_new_tokens is None else max_new_tokens
        context = math.inf if model.context_length is None else model.context_length
        wanted = "at least 1" if length < 1 else f"below the context of {context} tokens, which also holds the prompt"
        check_value("max_new_tokens", length, wanted, lambda tokens: 1 <= tokens < context)
        if top_k is not None:
            check_value("top_k", top_k, "at least 1, or None for all tokens", lambda value: value >= 1)
        if top_p is not None:
            check_value("top_p", top_p, "above 0 and at most 1, or None for all tokens", lambda value: 0 < value <= 1)
        check_value("samples", samples, "at least 1", lambda value: value >= 1)
        responder = Responder(
            model, self.codec, text, response_length=length, temperature=temperature, top_k=top_k, top_p=top_p
        )
        repeated = [prompt for prompt in as_prompts(prompts, "prompts") for _ in range(samples)]
        texts = responder.respond(self.encode(repeated, length), seed).texts
        return texts if strip_prompt else self.codec.join(repeated, texts)

    def encode(self, prompts: Sequence[str], max_new_tokens: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Encodes prompts, see `start.assembly.Parts.encode`."""
        return self.parts.encode(prompts, max_new_tokens)

    def save(self, path: Path | str, format: str | None = None) -> None:
        """Saves the language model of now to a folder, with a model card.

        Args:
          path: The folder. An older export in it is replaced after the new one is complete.
          format: "keras" for a preset of KerasHub, which the setting `preset` takes, or "transformers" for a folder
            that transformers loads. None: "keras".

        Raises:
          UsageError: If the folder holds something else or cannot be written to, or the model has no such form.
        """
        self.export(Path(path), format)
