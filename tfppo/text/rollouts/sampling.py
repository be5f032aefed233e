"""Sampling from a language model: one `tf.while_loop` over tokens, which can be compiled."""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tfppo.ops.random import fold_in, gumbel
from tfppo.text.data.stop_condition import StopCondition
from tfppo.text.models.language_model import LanguageModel, State

Noise = Callable[[tf.Tensor], tf.Tensor]
"""A function from a column of the token buffer (int32 scalar) to the Gumbel noise [B, V] of the next token."""


class Samples(NamedTuple):
    """B prompts and their responses of at most R tokens."""

    token_ids: tf.Tensor  # [B, P + R] int32: prompt, response, padding
    responses: tf.Tensor  # [B, R] int32, padded on the right
    log_probs: tf.Tensor  # [B, R] computed by the sampler, 0 outside the mask
    mask: tf.Tensor  # [B, R] bool, True up to and including the token that ends the response


def gumbel_noise(seed: tf.Tensor, rows: int, vocabulary_size: int) -> Noise:
    """Makes noise that depends only on the seed and the column.

    Args:
      seed: int32 [2].
      rows: B.
      vocabulary_size: V.

    Returns:
      A function from a column to Gumbel noise [B, V].
    """
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
    """Samples a response to every prompt, until its end or `response_length` tokens.

    A token is drawn by the Gumbel-max trick: the `argmax` over `a` of `log pi(a) + g_a`, with Gumbel noise `g`, is a
    sample of `pi` (Maddison et al. 2014). The article's Gumbel-softmax replaces the argmax by a softmax. Its samples
    are mixtures of tokens, which have no probability under the policy, so that PPO would have no ratio. It serves to
    differentiate through a sample, which PPO does not do (see `distributions.gumbel_softmax`).

    Use `top_k` and `top_p` for evaluation only. PPO needs samples of the full distribution: the log-probabilities are
    always those of the full distribution, and with truncated samples the estimate of the KL to a reference policy can
    be negative.

    Args:
      model: Language model to sample from.
      prompts: int32 [B, P], of different lengths, padded on the right.
      prompt_lengths: int32 [B], each at least 1.
      response_length: R, the largest number of tokens of a response.
      noise: Gumbel noise, see `gumbel_noise`; not used if the temperature is 0.
      stop_condition: Decides which token ends a response.
      pad: Token id for the padding.
      temperature: Divides the logits, for sampling and for the log-probabilities. With 0 the most probable token is
        taken and the log-probabilities are those at temperature 1.
      top_k: Samples only from the k most probable tokens; None samples from all.
      top_p: Samples only from the most probable tokens whose probabilities sum to at least p (Holtzman et al. 2020);
        None samples from all.

    Returns:
      The prompts and responses with the sampler's log-probabilities.
    """
    batch, prompt_width = prompts.shape
    total = prompt_width + response_length
    token_ids = tf.pad(prompts, [[0, 0], [0, response_length]], constant_values=pad)  # [B, P + R]
    first, state = model.begin(token_ids, prompt_lengths)
    last = prompt_lengths + response_length - 1  # [B] largest index of a response token
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
        is_prompt = column + 1 < prompt_lengths  # the next token is part of the prompt, which stays as it is
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
    """Computes the columns of the response tokens in the token buffer; each response follows its prompt directly.

    Args:
      prompt_lengths: int32 [B].
      response_length: R.

    Returns:
      Columns int32 [B, R].
    """
    return prompt_lengths[:, None] + tf.range(response_length)


def response_mask(responses: tf.Tensor, stop_condition: StopCondition) -> tf.Tensor:
    """Computes the mask of response tokens.

    Args:
      responses: int32 [B, R].
      stop_condition: Decides which token ends a response.

    Returns:
      A bool mask [B, R], True up to and including the first token that ends the response. A row without such a token
      is all True.
    """
    ends = tf.cast(stop_condition(responses, tf.range(responses.shape[1])), tf.int32)
    return tf.cumsum(ends, axis=1, exclusive=True) == 0


def _keep_top_k(logits: tf.Tensor, k: int) -> tf.Tensor:
    kth = tf.math.top_k(logits, min(k, logits.shape[-1])).values[:, -1:]  # [B, 1]
    return tf.where(logits >= kth, logits, -1e9)


def _keep_top_p(logits: tf.Tensor, p: float) -> tf.Tensor:
    ordered = tf.sort(logits, axis=-1, direction="DESCENDING")
    before = tf.cumsum(tf.nn.softmax(ordered), axis=-1, exclusive=True)  # total probability of the likelier tokens
    smallest = tf.reduce_min(tf.where(before < p, ordered, float("inf")), axis=-1, keepdims=True)  # [B, 1]
    return tf.where(logits >= smallest, logits, -1e9)
