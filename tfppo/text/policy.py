"""A policy for text: a language model, and a value for every token."""

from typing import NamedTuple

import keras
import tensorflow as tf

from tfppo.ppo.types import ActionEvaluation
from tfppo.text.models.language_model import LanguageModel
from tfppo.text.sampling import response_positions


class TokenInputs(NamedTuple):
    """What a policy evaluates responses in: whole sequences, and where their responses begin."""

    token_ids: tf.Tensor  # [N, S] int32, prompt, response, padding on the right
    prompt_lengths: tf.Tensor  # [N] int32


class TextPolicy:
    """Writes with a language model; values states by a linear head on the same trunk, or on a critic of its own.

    Args:
      model: the language model that acts.
      temperature: of sampling; log-probabilities are those of the tempered distribution everywhere.
      critic: a language model of its own for the values; None: they come from `model`'s hidden states.
    """

    def __init__(self, model: LanguageModel, temperature: float = 1.0, critic: LanguageModel | None = None):
        self.model = model
        self.temperature = temperature
        self.critic = critic
        trunk = model if critic is None else critic
        self.value_head = keras.layers.Dense(1, kernel_initializer="zeros", dtype="float32", name="value_head")
        self.value_head.build((None, trunk.hidden_dim))  # values start at 0 [Ziegler et al. 2019]

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """The weights of the language model, of the critic if there is one, and of the value head."""
        variables = list(self.model.trainable_variables)
        if self.critic is not None:
            variables += self.critic.trainable_variables
        return variables + self.value_head.trainable_variables

    def evaluate_actions(self, inputs: TokenInputs, actions: tf.Tensor) -> ActionEvaluation:
        """Log-probabilities and entropies [N, R] of the response tokens `actions` int [N, R], and values [N, R] of the
        states before them. What is padded gets numbers that mean nothing: the mask is the caller's."""
        length = actions.shape[1]
        hidden = response_states(self.model, inputs, length)  # [N, R, D]
        log_probs, entropies = token_log_probs(self.model.logits(hidden), actions, self.temperature)
        if self.critic is not None:
            hidden = response_states(self.critic, inputs, length)
        values = tf.squeeze(self.value_head(tf.cast(hidden, tf.float32)), axis=-1)
        return ActionEvaluation(log_probs, entropies, values, None)


def response_states(model: LanguageModel, inputs: TokenInputs, response_length: int) -> tf.Tensor:
    """The hidden states [N, R, D] that a response's tokens are drawn from.

    A token's logits come from the position BEFORE it, which is another one in each row, since prompts are ragged.
    """
    hidden = model.hidden_states(inputs.token_ids)  # [N, S, D]
    before = response_positions(inputs.prompt_lengths, response_length) - 1  # [N, R]
    return tf.gather(hidden, before, axis=1, batch_dims=1)


def token_log_probs(logits: tf.Tensor, tokens: tf.Tensor, temperature: float) -> tuple[tf.Tensor, tf.Tensor]:
    """log softmax(logits / temperature)[token] and the entropy of softmax(logits / temperature), in nats.

    Args:
      logits: float32 [..., V].
      tokens: int [...].
      temperature: above 0.

    Returns: ([...], [...]).
    """
    if temperature != 1.0:
        logits /= temperature
    log_probs = -tf.nn.sparse_softmax_cross_entropy_with_logits(labels=tokens, logits=logits)
    entropies = tf.nn.softmax_cross_entropy_with_logits(labels=tf.nn.softmax(logits), logits=logits)
    return log_probs, entropies


def response_log_probs(
    model: LanguageModel, inputs: TokenInputs, responses: tf.Tensor, temperature: float
) -> tf.Tensor:
    """Log-probabilities [N, R] of response tokens int [N, R] under a language model, in one full forward pass."""
    logits = model.logits(response_states(model, inputs, responses.shape[1]))
    if temperature != 1.0:
        logits /= temperature
    return -tf.nn.sparse_softmax_cross_entropy_with_logits(labels=responses, logits=logits)
