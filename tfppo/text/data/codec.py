"""Encodes prompts as padded tokens, and decodes tokens to text."""

import re
from collections.abc import Collection, Iterable, Sequence

import keras_hub
import numpy as np

from tfppo.errors import UsageError
from tfppo.text.config import TextConfig
from tfppo.text.data.chat import MARK, ChatTemplate, mark_special, split_special
from tfppo.text.data.prompts import Prompt, joined
from tfppo.text.data.special_tokens import SpecialTokens, special_tokens_of, unsplittable_tokens_of, vocabulary_of
from tfppo.text.data.stop_condition import StopCondition
from tfppo.text.data.tokenizer import control_token

NAMES = {"bos": "start_token", "eos": "end_token", "pad": "pad_token"}  # names in templates, and of KerasHub
SPELLED = re.compile(r"<[^<>\s]+>|\[/?[A-Z_]+\]")  # texts in a template that may be special tokens
SPACE = "\u2581"  # how SentencePiece writes a space
NOT_UTF8 = re.compile(r"[\ud800-\udfff]")  # Python's form of bytes that are not UTF-8


def token_ids(tokenizer: keras_hub.tokenizers.Tokenizer) -> Collection[int]:
    """Returns the ids of all tokens of a tokenizer. The ids of a byte-pair tokenizer may have gaps."""
    vocabulary = getattr(tokenizer, "vocabulary", None)
    ids = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary_of(tokenizer)))
    return frozenset(ids)


def check_tokenizer(tokenizer: keras_hub.tokenizers.Tokenizer, embeddings: int) -> None:
    """Checks that a tokenizer returns the plain tokens of a text, and that the model has an embedding for every token.

    The model may have more embeddings than the tokenizer has tokens. Some models round their vocabulary up.

    Args:
      tokenizer: A KerasHub tokenizer.
      embeddings: Number of embeddings of its language model.

    Raises:
      UsageError: If the tokenizer pads, appends an end token, returns no numbers, or has a token that is too large.
    """
    if tokenizer.compute_dtype == "string":
        raise UsageError("the tokenizer returns strings; it must return numbers: make it with dtype='int32'")
    for name in ("sequence_length", "add_eos"):  # a response would follow the padding or the end token
        if value := getattr(tokenizer, name, None):
            raise UsageError(
                f"the tokenizer has {name} {value}; it must return only the tokens of a text: make it without {name}"
            )
    needed = 1 + max(token_ids(tokenizer), default=0)
    if needed > embeddings:
        raise UsageError(
            f"the tokenizer has {needed} tokens, but the model has embeddings for only {embeddings}; the "
            "model must have at least as many: give the tokenizer with which the model was trained"
        )


class PromptCodec:
    """A tokenizer with its special tokens: those before each prompt, those that end a response, and padding.

    Padding is known by its position, so any token may be the padding, also the end token. A special token that a prompt
    spells out, such as `<|im_end|>`, stays text.

    Args:
      tokenizer: A KerasHub tokenizer with an end token.
      domain: Puts the control token of this domain before each prompt, if the tokenizer has it; None puts no token.
      special: Start token and end tokens. None: those of the tokenizer.
      template: Chat template that renders each prompt. It also puts the start token, and it ends answers with its own
        end token. None: prompts are not rendered.
      system: Text of a system message before each prompt that has none; needs a template. None: no message is added.

    `between` is a space if it separates a prompt from a response and belongs to neither: in a conversation, and where
    the tokenizer itself puts a space before each text. Otherwise it is empty, and a response begins with its space.

    Raises:
      UsageError: If the tokenizer has no end token, or the template is not valid.
    """

    def __init__(
        self,
        tokenizer: keras_hub.tokenizers.Tokenizer,
        domain: str | None = None,
        special: SpecialTokens | None = None,
        template: str | None = None,
        system: str | None = None,
    ):
        self.tokenizer, self.domain = tokenizer, domain
        vocabulary = vocabulary_of(tokenizer)
        # KerasHub's tokenizers differ in their special tokens. No other module depends on that.
        self.special = special_tokens_of(tokenizer) if special is None else special
        start, ends, _, written = self.special
        tokens = {*vocabulary} - {*written}
        named = [token for token in unsplittable_tokens_of(tokenizer) if token in tokens]
        in_text = [*named, *map(tokenizer.id_to_token, ends if start is None else (start, *ends))]
        self.chat: ChatTemplate | None = None
        turn: list[int] = []
        if template is not None:
            names = {f"{name}_token": getattr(tokenizer, attribute, None) for name, attribute in NAMES.items()}
            self.chat = ChatTemplate(template, {name: token for name, token in names.items() if token}, system)
            in_text += [token for token in SPELLED.findall(template) if token in tokens]
        self._in_text = list(dict.fromkeys(token for token in map(str, in_text) if token))
        if self.chat is not None:
            behind = split_special(self.chat.end_of_answer(), self._in_text)
            turn = [int(tokenizer.token_to_id(token)) for token, is_special in behind if is_special]
            self.special = SpecialTokens(start, tuple(dict.fromkeys([*ends, *turn[:1]])), template, written)
        self.ends = self.special.ends
        self.end = self.ends[0]
        self.answer_end = turn[0] if turn else self.end
        self.between = " " if self.chat is not None or _adds_space(tokenizer) else ""
        self._known = token_ids(tokenizer)
        pad = getattr(tokenizer, "pad_token_id", 0)
        self.pad = self.end if pad is None else int(pad)
        starts = [] if start is None else [start]
        self._special = {*starts, *self.ends, *map(tokenizer.token_to_id, self._in_text)}
        controls = [] if domain is None else [control_token(domain)]
        put = starts + [int(tokenizer.token_to_id(token)) for token in controls if token in vocabulary]
        self.before = put if self.chat is None else []

    def for_texts(self, domain: str | None = None) -> "PromptCodec":
        """Returns the codec of whole texts, which no template renders, with the same special tokens.

        Args:
          domain: Puts the control token of this domain before each text, if the tokenizer has it.
        """
        return PromptCodec(self.tokenizer, domain, self.special._replace(chat_template=None))

    def stop_condition(self, text: TextConfig) -> StopCondition:
        """Makes the stop condition from the settings `stop_token` and `stop_after`.

        Args:
          text: Settings of the run.

        Returns:
          The stop condition.

        Raises:
          UsageError: If `stop_token` is not exactly one token.
        """
        end = self.end if len(self.ends) == 1 else self.ends
        if text.stop_token is None:
            return StopCondition(end)
        ids = [int(token) for token in self.tokenizer.tokenize([text.stop_token])[0]]
        if len(ids) != 1:
            raise UsageError(
                f"stop_token {text.stop_token!r} is {len(ids)} tokens; it must be one token of this tokenizer: give "
                "for example '.'"
            )
        return StopCondition(end, ids[0], text.stop_after)

    def encode(
        self, prompts: Sequence[str], room: int | None = None, limit: str = "response_length"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Encodes prompts, with the tokens `before` before each, or rendered by the chat template.

        Args:
          prompts: N texts.
          room: Largest number of tokens of a prompt; None allows any.
          limit: Name of the setting that limits the length of the responses, for the error.

        Returns:
          Token ids int32 [N, P], padded on the right, and lengths int32 [N].

        Raises:
          UsageError: If a prompt is empty, not a text, not valid UTF-8, or longer than `room` tokens.
        """
        rows = self.encode_prompts(prompts)
        lengths = np.array([len(row) for row in rows], np.int32)
        longest = int(lengths.argmax())
        if room is not None and lengths[longest] > room:
            raise UsageError(
                f"{_name_of(prompts, longest)} ({prompts[longest][:40]!r} ...) has {lengths[longest]} tokens; the "
                f"context has room for {room} besides the response: shorten the prompt, or lower {limit}"
            )
        padded = np.full([len(rows), lengths[longest]], self.pad, np.int32)
        for row, ids in zip(padded, rows, strict=True):
            row[: len(ids)] = ids
        return padded, lengths

    def encode_prompts(self, prompts: Sequence[str]) -> list[list[int]]:
        """Encodes prompts as `encode`, without padding and without a limit of their length.

        Args:
          prompts: N texts, at least one.

        Returns:
          N rows of token ids.

        Raises:
          UsageError: If a prompt is empty, not a text, or not valid UTF-8, or messages are given without a template.
        """
        if not prompts:
            raise UsageError("no prompt is given: give at least one")
        for number, prompt in enumerate(prompts):
            if not isinstance(prompt, str):
                raise UsageError(f"prompt {number} is {prompt!r}; it must be a string")
            if self.chat is None and isinstance(prompt, Prompt) and prompt.messages is not None:
                raise UsageError(
                    f"{prompt.origin} is a list of messages, and the run has no chat template; messages need one: give "
                    "--chat-template FILE, or prompts that are texts"
                )
            if not prompt.strip():
                raise UsageError(f"prompt {number} is empty; it must have at least one word")
        if self.chat is None:
            rendered = [mark_special(prompt, self._in_text) for prompt in prompts]
        else:
            rendered = [self.chat.render(prompt, self._in_text) for prompt in prompts]
        return [[*self.before, *row] for row in self._tokens(rendered, prompts)]

    def encode_answers(self, answers: Sequence[str]) -> list[list[int]]:
        """Encodes answers as the policy would sample them: their tokens, and the token that ends an answer.

        A special token that an answer spells out stays text. Decoding gives the answer again, except that the space
        `between` is left out at its beginning.

        Args:
          answers: N texts.

        Returns:
          N rows of token ids.

        Raises:
          UsageError: If an answer is not valid UTF-8.
        """
        texts = [answer.removeprefix(self.between) for answer in answers]
        rows = self._tokens([mark_special(text, self._in_text) for text in texts], answers)
        return [[*row, self.answer_end] for row in rows]

    def spells_special(self, text: str) -> bool:
        """Returns True if a text spells out a special token, which stays text."""
        return MARK in mark_special(text, self._in_text)

    def _tokens(self, rendered: Sequence[str], prompts: Sequence[str]) -> list[list[int]]:
        """Encodes texts piece by piece. The tokenizer gets all pieces at once, without the special tokens.

        Args:
          rendered: N texts with special tokens.
          prompts: The N texts from which they were made, for errors.
        """
        for number, text in enumerate(rendered):
            if NOT_UTF8.search(text):
                what = f"{_name_of(prompts, number)} ({prompts[number][:40]!r})"
                raise UsageError(f"{what} has bytes that are not UTF-8: encode it in UTF-8")
        rows = [split_special(text, self._in_text) for text in rendered]
        texts = list(dict.fromkeys(piece for pieces in rows for piece, is_special in pieces if not is_special))
        encoded = dict(zip(texts, self.tokenizer.tokenize(texts), strict=True)) if texts else {}

        def ids_of(piece: str, is_special: bool) -> Iterable[int]:
            return [self.tokenizer.token_to_id(piece)] if is_special else encoded[piece]

        return [[int(id) for piece in pieces for id in ids_of(*piece)] for pieces in rows]

    def join(self, prompts: Sequence[str], responses: Sequence[str]) -> list[str]:
        """Joins prompts and responses to texts, with `between` where it is needed."""
        return joined(prompts, responses, self.between)

    def decode(self, tokens: Iterable[Sequence[int] | np.ndarray]) -> list[str]:
        """Decodes rows of tokens, without their special tokens.

        A language model may have a larger vocabulary than its tokenizer. Tokens that the tokenizer does not know are
        left out.

        Args:
          tokens: Rows of token ids, without padding.

        Returns:
          One text for each row; an empty text for a row without other tokens.
        """
        rows = [[int(id) for id in row if id in self._known and id not in self._special] for row in tokens]
        texts = iter(self.tokenizer.detokenize([row for row in rows if row] or [[self.end]]))
        return [str(next(texts)) if row else "" for row in rows]

    def decode_masked(self, tokens: np.ndarray, mask: np.ndarray) -> list[str]:
        """Decodes responses.

        Args:
          tokens: int [N, R].
          mask: bool [N, R], True for the tokens of each response.

        Returns:
          N texts.
        """
        return self.decode(row[kept] for row, kept in zip(tokens, mask, strict=True))


def _adds_space(tokenizer: keras_hub.tokenizers.Tokenizer) -> bool:
    """Returns True if the tokenizer puts a space before each text, as that of Llama 2 and Mistral does."""
    return isinstance(tokenizer, keras_hub.tokenizers.SentencePieceTokenizer) and str(
        tokenizer.id_to_token(int(tokenizer.tokenize(["a"])[0][0]))
    ).startswith(SPACE)


def _name_of(prompts: Sequence[str], number: int) -> str:
    """Returns where a prompt is from, for an error."""
    prompt = prompts[number]
    return prompt.origin if isinstance(prompt, Prompt) else f"prompt {number}"
