"""Sampling from a language model, token by token, as one compiled program."""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tfppo.ops.random import fold_in, gumbel
from tfppo.text.models.language_model import LanguageModel, State

Noise = Callable[[tf.Tensor], tf.Tensor]
"""Gumbel noise [B, V] for the tokens drawn from a column (int32 scalar) of the token buffer."""


class Samples(NamedTuple):
    """B prompts and their responses of at most R tokens."""

    token_ids: tf.Tensor  # [B, P + R] int32: prompt, response up to its end, padding
    responses: tf.Tensor  # [B, R] int32, padded
    log_probs: tf.Tensor  # [B, R] as sampled, 0 outside the mask
    mask: tf.Tensor  # [B, R] bool: up to and including the end of the text


class StopCondition(NamedTuple):
    """What ends a response; the token that does belongs to it still."""

    end: int
    """The token that ends a text."""
    stop: int | None = None
    """Another token that ends a response, like the full stop [Ziegler et al. 2019, section 2.3]; None: none does."""
    stop_after: int = 0
    """The first index at which it does."""

    def __call__(self, tokens: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        """bool, the shape of both: whether tokens at an index of their response end it."""
        is_end = tokens == self.end
        if self.stop is not None:
            is_end |= (tokens == self.stop) & (index >= self.stop_after)
        return is_end


def gumbel_noise(seed: tf.Tensor, rows: int, vocabulary_size: int) -> Noise:
    """Noise [rows, vocabulary_size] that depends on the seed (int [2]) and the column alone."""
    return lambda column: gumbel([rows, vocabulary_size], fold_in(seed, column))


def sample(
    model: LanguageModel,
    prompts: tf.Tensor,
    prompt_lengths: tf.Tensor,
    response_length: int,
    noise: Noise,
    *,
    stop_condition: StopCondition,
    pad: int = 0,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Samples:
    """Draws a response for every prompt, until its end or `response_length` tokens.

    A token is drawn by the Gumbel-max trick: argmax_a (log pi(a) + g_a) is a sample of pi [Maddison et al. 2014]. The
    article's Gumbel-softmax relaxes the argmax to a softmax; its samples are points between tokens, to which the
    policy gives no probability, so PPO would have no ratio. It is for differentiating through a sample, which PPO
    never does (`distributions.gumbel_softmax`).

    PPO wants the full distribution: with `top_k` or `top_p`, which are for evaluation, the log-probabilities are those
    of the full distribution still, and the estimate of the KL to a reference could be negative.

    Args:
      model: whose tokens are drawn.
      prompts: int32 [B, P], ragged, padded on the right.
      prompt_lengths: int32 [B], each at least 1.
      response_length: R.
      noise: see `gumbel_noise`; unused where the temperature is 0.
      stop_condition: what ends a response.
      pad: token that fills what is behind the end.
      temperature: logits are divided by it, for the draw and the log-probabilities alike; 0: the most probable token.
      top_k: draw among the k most probable tokens only.
      top_p: draw among the most probable tokens that together have this probability (Holtzman et al. 2020).
    """
    batch, prompt_width = prompts.shape
    total = prompt_width + response_length
    token_ids = tf.pad(prompts, [[0, 0], [0, response_length]], constant_values=pad)  # [B, P + R]
    first, state = model.begin(token_ids, prompt_lengths)
    last = prompt_lengths + response_length - 1  # [B] index of the last token that may be drawn
    columns = tf.range(total)

    def proceed(
        column: tf.Tensor, token_ids: tf.Tensor, log_probs: tf.Tensor, done: tf.Tensor, state: State
    ) -> tf.Tensor:
        return (column < total - 1) & ~tf.reduce_all(done)

    def draw(
        column: tf.Tensor, token_ids: tf.Tensor, log_probs: tf.Tensor, done: tf.Tensor, state: State
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor, State]:
        logits, state = model.step(tf.gather(token_ids, column, axis=1), column, state)  # [B, V]
        if temperature > 0:
            logits /= temperature
        chosen = logits
        if top_k is not None:
            chosen = _keep_top_k(chosen, top_k)
        if top_p is not None:
            chosen = _keep_top_p(chosen, top_p)
        if temperature > 0:
            chosen += noise(column)
        drawn = tf.argmax(chosen, axis=-1, output_type=tf.int32)  # [B]
        log_prob = tf.gather(logits, drawn, axis=1, batch_dims=1) - tf.reduce_logsumexp(logits, axis=-1)
        is_prompt = column + 1 < prompt_lengths  # there the prompt says what comes next
        is_drawn = ~is_prompt & ~done
        here = columns == column + 1  # [P + R]
        token_ids = tf.where(here & is_drawn[:, None], drawn[:, None], token_ids)
        log_probs = tf.where(here & is_drawn[:, None], log_prob[:, None], log_probs)
        done |= is_drawn & (stop_condition(drawn, column + 1 - prompt_lengths) | (column + 1 >= last))
        return column + 1, token_ids, log_probs, done, state

    _, token_ids, log_probs, _, _ = tf.while_loop(
        proceed, draw, (first, token_ids, tf.zeros([batch, total]), tf.zeros([batch], tf.bool), state)
    )
    positions = response_positions(prompt_lengths, response_length)  # [B, R]
    responses = tf.gather(token_ids, positions, axis=1, batch_dims=1)
    mask = response_mask(responses, stop_condition)
    return Samples(
        token_ids,
        tf.where(mask, responses, pad),
        tf.where(mask, tf.gather(log_probs, positions, axis=1, batch_dims=1), 0.0),
        mask,
    )


def response_positions(prompt_lengths: tf.Tensor, response_length: int) -> tf.Tensor:
    """Where each row's response lies behind its prompt, int [B, R]: prompts are ragged."""
    return prompt_lengths[:, None] + tf.range(response_length)


def response_mask(responses: tf.Tensor, stop_condition: StopCondition) -> tf.Tensor:
    """bool [B, R], true up to and including the first token that ends a response; all true where there is none."""
    ends = tf.cast(stop_condition(responses, tf.range(responses.shape[1])), tf.int32)
    return tf.cumsum(ends, axis=1, exclusive=True) == 0


def _keep_top_k(logits: tf.Tensor, k: int) -> tf.Tensor:
    kth = tf.math.top_k(logits, min(k, logits.shape[-1])).values[:, -1:]  # [B, 1]
    return tf.where(logits >= kth, logits, -1e9)


def _keep_top_p(logits: tf.Tensor, p: float) -> tf.Tensor:
    ordered = tf.sort(logits, axis=-1, direction="DESCENDING")
    before = tf.cumsum(tf.nn.softmax(ordered), axis=-1, exclusive=True)  # probability of all that is likelier
    smallest = tf.reduce_min(tf.where(before < p, ordered, float("inf")), axis=-1, keepdims=True)  # [B, 1]
    return tf.where(logits >= smallest, logits, -1e9)
