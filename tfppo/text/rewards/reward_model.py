"""The reward model: scores texts, or responses to prompts, as people would rate them."""

import json
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Literal, NotRequired, TypedDict, TypeGuard

import keras
import keras_hub
import numpy as np
import tensorflow as tf

from tfppo.errors import UsageError, one_line
from tfppo.execution.compilation import compiled
from tfppo.execution.variables import digest, weights_hash
from tfppo.settings import FLOAT32_MAX
from tfppo.text.data.codec import PromptCodec
from tfppo.text.data.corpus import DOMAINS, Domain
from tfppo.text.data.metrics import word_count
from tfppo.text.data.prompts import joined
from tfppo.text.data.special_tokens import SpecialTokens, special_tokens_of
from tfppo.text.models.reference import as_language_model
from tfppo.text.presets.folder import load_preset, save_preset
from tfppo.text.rewards.encoding import TextEncoder
from tfppo.text.rewards.whole_texts import ReadsTexts
from tfppo.training import run_folder

HEAD_FILE = "head.json"
NUMBERS = ("bias", "words_slope", "words_mean")  # the numbers in this file, besides the kernel
ROWS = 64  # texts in a forward pass
TOKENS = 8192  # largest number of tokens in a forward pass; long texts have fewer rows
NARROWEST = 32  # smallest padded length; the others are its doubles, and few of them, because each is compiled
LONGEST = 128  # tokens that a reward model without `max_length` reads


class Head(TypedDict):
    """The linear head, the line over the number of words that is subtracted, and how texts are read; saved as JSON."""

    kernel: list[float]  # [D]
    bias: float
    words_slope: float
    words_mean: float
    reads: NotRequired[Literal["texts", "responses"]]  # responses behind prompts; missing: texts
    domain: NotRequired[Domain | None]  # of the control token before each text; missing: movie
    max_length: NotRequired[int]  # tokens; missing: 128
    system: NotRequired[str | None]  # text of a system message before each prompt


class RewardModel(ReadsTexts):
    """Scores texts with a language model and a linear head on the hidden state of the last token.

    A line over the number of words is subtracted from the scores. It was fitted on human texts, so that longer texts do
    not score higher for their length. Its slope may be 0.

    Args:
      model: Keras language model.
      tokenizer: Tokenizer of the model.
      head: Weights of the linear head and of the line, and how texts are read.
      special: Start token, end tokens and the chat template that renders prompts. None: those of the tokenizer.
    """

    def __init__(
        self,
        model: keras.Model,
        tokenizer: keras_hub.tokenizers.Tokenizer,
        head: Head,
        special: SpecialTokens | None = None,
    ):
        self.model = model
        self.tokenizer = tokenizer
        self.head = head
        self._language_model = as_language_model(model)
        self._special = special_tokens_of(tokenizer) if special is None else special
        template = self._special.chat_template if self.reads_responses else None
        codec = PromptCodec(tokenizer, head.get("domain", "movie"), self._special, template, head.get("system"))
        context, longest = self._language_model.context_length, head.get("max_length", LONGEST)
        self.longest = longest if context is None else min(context, longest)
        self.encoder = TextEncoder(codec, self.longest)
        self._kernel = tf.constant(head["kernel"], tf.float32)
        self._compiled = compiled(self._last_scores, "graph")

    @property
    def reads_responses(self) -> bool:
        """True if the model was trained on responses behind their prompts, and False if on whole texts."""
        return self.head.get("reads", "texts") == "responses"

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """Scores texts that have no prompt.

        Args:
          texts: N texts; only the first tokens are read, as many as in the training or as the model's context has.

        Returns:
          Scores float32 [N]; higher is better.
        """
        return self._line_off(self._scores(self.encoder.texts(texts).rows), texts)

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Scores responses to prompts, as a reward function does.

        A model that was trained on responses reads them behind their prompts, which its chat template renders if it has
        one. A model that was trained on texts reads prompts joined with their responses.

        Args:
          prompts: N prompts.
          responses: N responses.

        Returns:
          Scores float32 [N]; higher is better.
        """
        if self.reads_responses:
            return self._line_off(self._scores(self.encoder.responses(prompts, responses).rows), responses)
        return self.scores(joined(prompts, responses, self.between))

    def checksum(self) -> str:
        """Returns a checksum of the weights and of the head, by which a run recognises its reward model."""
        special = [number for number in (self._special.start, *self._special.ends) if number is not None]
        texts = [self._special.chat_template, *self._special.written]
        words = json.dumps([weights_hash(self.model.weights), self.head, special, *texts])
        return digest([], words)

    def _line_off(self, scores: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        words = np.array([word_count(text) for text in texts], np.float32)
        return scores - self.head["words_slope"] * (words - self.head["words_mean"])

    def _scores(self, encoded: Sequence[np.ndarray]) -> np.ndarray:
        longest = self.encoder.length
        size = max(1, min(ROWS, TOKENS // longest))
        scores = np.empty(len(encoded), np.float32)
        for start in range(0, len(encoded), size):
            chunk = encoded[start : start + size]
            width, wanted = NARROWEST, max(map(len, chunk))
            while width < wanted:
                width *= 2
            ids = np.zeros([size, min(longest, width)], np.int32)
            for row, tokens in zip(ids, chunk, strict=False):
                row[: len(tokens)] = tokens
            last = np.zeros(size, np.int32)
            last[: len(chunk)] = [len(tokens) - 1 for tokens in chunk]
            scores[start : start + size] = self._compiled(tf.constant(ids), tf.constant(last)).numpy()[: len(chunk)]
        return scores

    def _last_scores(self, ids: tf.Tensor, last: tf.Tensor) -> tf.Tensor:
        hidden = self._language_model.hidden_states(ids)  # [N, S, D]
        final = tf.gather(hidden, last, axis=1, batch_dims=1)  # [N, D]
        return tf.linalg.matvec(tf.cast(final, tf.float32), self._kernel) + self.head["bias"]

    def save(self, folder: Path, weights_dtype: Literal["float16", "float32"] = "float16") -> None:
        """Writes the model into a new folder, as a preset and `head.json`.

        Args:
          folder: Must not exist.
          weights_dtype: Precision of the saved weights of the language model.
        """
        save_preset(folder, self.model, self.tokenizer, weights_dtype, self._special)
        (folder / HEAD_FILE).write_text(json.dumps(self.head))

    @classmethod
    def load(cls, folder: Path) -> "RewardModel":
        """Loads a reward model that `save` wrote.

        Args:
          folder: Folder of the reward model, or of the run that trained it.

        Raises:
          UsageError: If the folder holds no reward model, or a damaged one.
        """
        inner = folder / run_folder.REWARD_MODEL
        folder = inner if (inner / HEAD_FILE).is_file() else folder
        path = folder / HEAD_FILE
        try:
            head = json.loads(path.read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise UsageError(
                f"{folder} is not the folder of a reward model ({HEAD_FILE} cannot be read: {one_line(error)}): make "
                "one with tfppo reward-model"
            ) from None
        model, tokenizer = load_preset(folder)
        width = as_language_model(model).hidden_dim
        if not _is_head(head, width):
            raise UsageError(
                f"{path} is damaged or belongs to another model; it must hold a kernel of {width} finite numbers and a "
                f"finite number for each of {', '.join(NUMBERS)}: make a reward model with tfppo reward-model"
            )
        return cls(model, tokenizer, head)


def _is_head(head: object, width: int) -> TypeGuard[Head]:
    """Returns True if the content of a JSON file is a head for hidden states of this width."""
    if not isinstance(head, dict) or not isinstance(kernel := head.get("kernel"), list) or len(kernel) != width:
        return False
    numbers = [*kernel, *(head.get(name) for name in NUMBERS)]
    length, system = head.get("max_length", LONGEST), head.get("system")
    return (
        all(isinstance(number, int | float) and abs(number) <= FLOAT32_MAX for number in numbers)
        and head.get("reads", "texts") in ("texts", "responses")
        and head.get("domain", None) in (None, *DOMAINS)
        and isinstance(length, int)
        and length >= 1
        and isinstance(system, str | None)
    )


@cache
def sentiment_reward() -> RewardModel:
    """Loads the included reward model; later calls return the same object."""
    return RewardModel.load(Path(str(resources.files("tfppo.assets").joinpath("movie-reward"))))
