"""The policy of text runs: a language model, with a value head if the run has a value function."""

import functools
from typing import NamedTuple

import keras
import tensorflow as tf

from tfppo.ppo.types import ActionEvaluation
from tfppo.text.models.language_model import LanguageModel
from tfppo.text.models.vocabulary import measure_tokens
from tfppo.text.rollouts.sampling import response_positions


class TokenInputs(NamedTuple):
    """N token sequences, and the lengths of their prompts; the responses follow the prompts directly."""

    token_ids: tf.Tensor  # [N, S] int32: prompt, response, padding on the right
    prompt_lengths: tf.Tensor  # [N] int32


class TextPolicy:
    """A language model as policy, with a linear value head on its hidden states or on those of a separate critic.

    Args:
      model: Language model of the policy.
      temperature: Divides the logits, in sampling and in all log-probabilities.
      critic: Language model whose hidden states give the values; None uses those of `model`.
      has_values: False: there is no value head, and evaluations have no values. Then there is no critic.
    """

    def __init__(
        self,
        model: LanguageModel,
        temperature: float = 1.0,
        critic: LanguageModel | None = None,
        has_values: bool = True,
    ):
        self.model = model
        self.temperature = temperature
        self.critic = critic
        self.value_head: keras.layers.Dense | None = None
        if not has_values:
            return
        trunk = model if critic is None else critic
        self.value_head = keras.layers.Dense(1, kernel_initializer="zeros", dtype="float32", name="value_head")
        self.value_head.build((None, trunk.hidden_dim))  # all values are 0 at first (Ziegler et al. 2019)

    @property
    def models(self) -> dict[str, keras.Layer]:
        """The models by name: the language model, and the value head and the critic if there are any."""
        models = {"model": self.model.model, "value_head": self.value_head}
        models["critic"] = None if self.critic is None else self.critic.model
        return {name: model for name, model in models.items() if model is not None}

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """Trainable weights of the language model, and of the critic and the value head if there are any."""
        variables = list(self.model.trainable_variables)
        if self.critic is not None:
            variables += self.critic.trainable_variables
        return variables if self.value_head is None else variables + self.value_head.trainable_variables

    def evaluate_actions(self, inputs: TokenInputs, actions: tf.Tensor) -> ActionEvaluation:
        """Evaluates responses in a full forward pass.

        Numbers at padded positions have no meaning; the caller must mask them.

        Args:
          inputs: N sequences.
          actions: Response tokens, int [N, R].

        Returns:
          Log-probabilities and entropies of the tokens, and values of the states before them, [N, R] each. Without a
          value head the values are None.
        """
        length = actions.shape[1]
        hidden = response_states(self.model, inputs, length)  # [N, R, D]
        measure = functools.partial(token_log_probs, temperature=self.temperature)
        log_probs, entropies = measure_tokens(self.model, hidden, actions, measure, outputs=2)
        if self.value_head is None:
            return ActionEvaluation(log_probs, entropies, None, None)
        if self.critic is not None:
            hidden = response_states(self.critic, inputs, length)
        values = tf.squeeze(self.value_head(tf.cast(hidden, tf.float32)), axis=-1)
        return ActionEvaluation(log_probs, entropies, values, None)


def response_states(model: LanguageModel, inputs: TokenInputs, response_length: int) -> tf.Tensor:
    """Computes the hidden states from which the logits of the response tokens are computed.

    These are the states one position before each token. The position differs from row to row, because prompts have
    different lengths.

    Args:
      model: Language model.
      inputs: N sequences.
      response_length: R.

    Returns:
      Hidden states [N, R, D].
    """
    hidden = model.hidden_states(inputs.token_ids)  # [N, S, D]
    before = response_positions(inputs.prompt_lengths, response_length) - 1  # [N, R]
    return tf.gather(hidden, before, axis=1, batch_dims=1)


def token_log_probs(logits: tf.Tensor, tokens: tf.Tensor, temperature: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes log-probabilities of tokens and entropies, both of `softmax(logits / temperature)` and in nats.

    Args:
      logits: float32 [..., V].
      tokens: int [...].
      temperature: Above 0.

    Returns:
      Log-probabilities [...] and entropies [...].
    """
    if temperature != 1.0:
        logits /= temperature
    log_probs = -tf.nn.sparse_softmax_cross_entropy_with_logits(labels=tokens, logits=logits)
    entropies = tf.nn.softmax_cross_entropy_with_logits(labels=tf.nn.softmax(logits), logits=logits)
    return log_probs, entropies


def response_log_probs(
    model: LanguageModel, inputs: TokenInputs, responses: tf.Tensor, temperature: float
) -> tf.Tensor:
    """Computes log-probabilities of response tokens in one full forward pass.

    Args:
      model: Language model.
      inputs: N sequences.
      responses: Response tokens, int [N, R].
      temperature: Divides the logits; above 0.

    Returns:
      Log-probabilities float32 [N, R].
    """

    def measure(logits: tf.Tensor, tokens: tf.Tensor) -> tuple[tf.Tensor]:
        if temperature != 1.0:
            logits /= temperature
        return (-tf.nn.sparse_softmax_cross_entropy_with_logits(labels=tokens, logits=logits),)

    hidden = response_states(model, inputs, responses.shape[1])  # [N, R, D]
    return measure_tokens(model, hidden, responses, measure, outputs=1)[0]
