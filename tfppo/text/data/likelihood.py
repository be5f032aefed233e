"""Batches of tokens from the corpus, and the loss of a language model on it."""

from collections.abc import Sequence

import keras
import keras_hub
import numpy as np
import tensorflow as tf

from tfppo.text.data.corpus import Sentence
from tfppo.text.data.tokenizer import END, control_token
from tfppo.text.models.language_model import context_length

LENGTHS = (16, 24, 32, 40, 48, 64)  # limits of the length buckets, in tokens; similar lengths need little padding
TEMPERATURES = np.arange(80, 152, 2) / 100
IGNORED = -1  # next token at a padded position; no token has this id


def encode(
    tokenizer: keras_hub.models.GPT2Tokenizer, corpus: Sequence[Sentence], length: int | None = None
) -> list[np.ndarray]:
    """Encodes sentences as the control token of their domain, their tokens and the end token.

    Args:
      tokenizer: A tokenizer with the control tokens.
      corpus: The sentences.
      length: Context length of the model, in tokens; longer sentences are cut to `length + 1` tokens, because the
        model predicts one more. None cuts nothing.

    Returns:
      One int32 array [at most length + 1] for each sentence.
    """
    end = tokenizer.token_to_id(END)
    limit = None if length is None else length + 1
    tokens = tokenizer([sentence.text for sentence in corpus])
    return [
        np.array([tokenizer.token_to_id(control_token(sentence.domain)), *ids, end], np.int32)[:limit]
        for sentence, ids in zip(corpus, tokens, strict=True)
    ]


def make_dataset(encoded: Sequence[np.ndarray], batch_size: int, seed: int | None = None) -> tf.data.Dataset:
    """Makes batches for the training of a language model. A batch has sentences of similar length.

    Args:
      encoded: N sentences, int32 arrays of at least 2 tokens.
      batch_size: B; the last batch of each length bucket may be smaller.
      seed: Shuffles with this seed, differently in every epoch; None keeps the order.

    Returns:
      A dataset of pairs (inputs, next tokens). The inputs are a dict of "token_ids" and "padding_mask". All tensors are
      int32 [B, S] and padded on the right, the inputs with 0 and the next tokens with `IGNORED`.
    """
    lengths = [len(ids) for ids in encoded]
    padded = keras.utils.pad_sequences(encoded, padding="post")  # [N, longest]
    dataset = tf.data.Dataset.from_tensor_slices((padded, lengths)).map(lambda ids, length: ids[:length])
    if seed is not None:
        dataset = dataset.shuffle(len(encoded), seed=seed, reshuffle_each_iteration=True)
    dataset = dataset.bucket_by_sequence_length(
        tf.size, LENGTHS, [batch_size] * (len(LENGTHS) + 1), padded_shapes=[None], padding_values=IGNORED
    )  # [B, S + 1]

    def split(ids: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        inputs = ids[:, :-1]
        is_token = inputs != IGNORED
        return {"token_ids": tf.where(is_token, inputs, 0), "padding_mask": tf.cast(is_token, tf.int32)}, ids[:, 1:]

    buckets = np.bincount(np.searchsorted(LENGTHS, lengths, side="right"))
    batches = int(np.sum(-(-buckets // batch_size)))  # tf.data cannot compute it, and Keras needs it
    return dataset.map(split).apply(tf.data.experimental.assert_cardinality(batches)).prefetch(2)


def nats_per_character(
    model: keras.Model, tokenizer: keras_hub.models.GPT2Tokenizer, corpus: Sequence[Sentence], batch_size: int = 64
) -> tuple[float, float]:
    """Computes the loss of a language model on sentences.

    The loss is the negative log-likelihood of all tokens, including the end token, given the control token of the
    domain. A sentence that is longer than the context is cut, and only the same share of its characters counts.

    Args:
      model: A Keras language model.
      tokenizer: Tokenizer of the model.
      corpus: The sentences.
      batch_size: Sentences in a forward pass; does not change the result.

    Returns:
      The loss in nats per character, and in nats per token.
    """
    whole = encode(tokenizer, corpus)
    context = context_length(model)
    kept = [ids if context is None else ids[: context + 1] for ids in whole]
    dataset = make_dataset(kept, batch_size)

    @tf.function(input_signature=dataset.element_spec, autograph=False)
    def nats(inputs: dict[str, tf.Tensor], targets: tf.Tensor) -> tf.Tensor:
        mask, logits = targets != IGNORED, model(inputs, training=False)
        losses = keras.losses.sparse_categorical_crossentropy(tf.where(mask, targets, 0), logits, from_logits=True)
        return tf.reduce_sum(losses * tf.cast(mask, losses.dtype))

    total = sum(float(nats(*batch)) for batch in dataset)
    tokens = sum(len(ids) - 1 for ids in kept)
    characters = sum(
        len(sentence.text) * (len(part) - 1) / (len(ids) - 1)
        for sentence, part, ids in zip(corpus, kept, whole, strict=True)
    )
    return total / characters, total / tokens


def best_temperature(model: keras.Model, batches: tf.data.Dataset) -> float:
    """Finds the temperature that gives the lowest loss, if the logits are divided by it.

    Args:
      model: A Keras language model.
      batches: A dataset of `make_dataset`.

    Returns:
      One of TEMPERATURES.
    """

    @tf.function(input_signature=batches.element_spec, autograph=False)
    def losses(inputs: dict[str, tf.Tensor], targets: tf.Tensor) -> tf.Tensor:
        logits = model(inputs, training=False)  # [B, S, V]
        mask = tf.cast(targets != IGNORED, tf.float32)
        tokens = tf.where(targets != IGNORED, targets, 0)

        def loss(temperature: tf.Tensor) -> tf.Tensor:
            each = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=tokens, logits=logits / temperature)
            return tf.reduce_sum(each * mask)

        return tf.map_fn(loss, tf.constant(TEMPERATURES, tf.float32))

    totals = sum(losses(*batch).numpy().astype(float) for batch in batches)
    return float(TEMPERATURES[np.argmin(totals)])
