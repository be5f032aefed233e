"""How a reward model reads texts: with the tokens that it was trained on, and with its last token at the end."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tfppo.text.data.codec import PromptCodec


class Encoded(NamedTuple):
    """Texts as tokens."""

    rows: list[np.ndarray]  # int32 [at most length], one for each text
    cut: np.ndarray  # bool [N], True for texts that were longer


class TextEncoder:
    """Encodes texts, or prompts with responses, with the token that ends an answer.

    A prompt and a response that are too long lose the beginning of the prompt, because the end of a conversation says
    more about the response than its beginning; the start token stays. A text, or a response that is too long even
    without its prompt, loses its end.

    Args:
      codec: Encodes prompts and responses.
      length: Largest number of tokens.
    """

    def __init__(self, codec: PromptCodec, length: int):
        self.codec, self.length = codec, length
        self._plain = codec.for_texts(codec.domain)

    def texts(self, texts: Sequence[str]) -> Encoded:
        """Encodes N texts that have no prompt, with the start token before each."""
        answers = self._plain.encode_answers(texts)
        return self._shortened([[]] * len(texts), [[*self._plain.before, *answer] for answer in answers])

    def responses(self, prompts: Sequence[str], responses: Sequence[str]) -> Encoded:
        """Encodes N responses behind their prompts, as PPO does. A chat template renders the prompts."""
        before = self.codec.encode_prompts(prompts) if prompts else []
        return self._shortened(before, self.codec.encode_answers(responses))

    def _shortened(self, prompts: Sequence[list[int]], responses: Sequence[list[int]]) -> Encoded:
        rows, cut = [], []
        for prompt, response in zip(prompts, responses, strict=True):
            cut.append(len(prompt) + len(response) > self.length)
            if cut[-1]:
                starts = prompt[:1] if prompt[:1] == [self.codec.special.start] else []
                room = max(0, self.length - len(response) - len(starts))
                prompt = [*starts, *prompt[len(prompt) - room :]] if room else []
            rows.append(np.array([*prompt, *response][: self.length], np.int32))
        return Encoded(rows, np.array(cut, bool))
