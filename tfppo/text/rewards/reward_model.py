"""The reward model: scores the sentiment of sentences, trained on human ratings."""

import json
import sys
import time
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, TypedDict, TypeGuard

import keras
import keras_hub
import numpy as np
import tensorflow as tf

from tfppo.errors import UsageError, one_line
from tfppo.execution.compilation import compiled
from tfppo.settings import FLOAT32_MAX
from tfppo.text.config import RewardModelConfig
from tfppo.text.data.corpus import Sentence, sentences
from tfppo.text.data.likelihood import encode
from tfppo.text.data.metrics import word_count
from tfppo.text.data.tokenizer import check_control_tokens
from tfppo.text.models.reference import as_language_model
from tfppo.text.presets.folder import default_preset, load_preset, save_preset
from tfppo.text.pretrain import fitting, refuse_divergence
from tfppo.training import new_folder, run_folder
from tfppo.training.config import RunConfig

HEAD_FILE = "head.json"
NUMBERS = ("bias", "words_slope", "words_mean")  # the numbers in this file, besides the kernel
ROWS = 64  # sentences in a forward pass
WIDTHS = (32, 64, 128)  # padded lengths in tokens; few of them, because each is compiled


class Head(TypedDict):
    """The linear head, and the line over the number of words that is subtracted from its scores; saved as JSON."""

    kernel: list[float]  # [D]
    bias: float
    words_slope: float
    words_mean: float


def pair_loss(ratings: tf.Tensor, scores: tf.Tensor, difference: float = 1.0) -> tf.Tensor:
    """Computes the pairwise loss of a reward model.

    The loss is the mean of `-log sigmoid(r_a - r_b)` over all pairs in which sentence `a` was rated higher than
    sentence `b` by more than `difference`. One more sentence with rating 0 and score 0 is added, so that a score of 0
    means neutral.

    Source: Bradley and Terry 1952; as the loss of a reward model: Stiennon et al. 2020, section 3.4. Ziegler et al.
    2019 used a softmax over four responses instead.

    Args:
      ratings: Mean human ratings, float [N].
      scores: `r`, float [N] or [N, 1].
      difference: Smallest difference of the ratings of a pair, exclusive.

    Returns:
      The loss, a scalar; 0 if there is no such pair.
    """
    ratings, scores = (tf.pad(tf.reshape(x, [-1]), [[0, 1]]) for x in (ratings, scores))  # [N + 1]
    is_pair = ratings[:, None] - ratings[None, :] > difference  # [N + 1, N + 1]
    losses = tf.nn.softplus(scores[None, :] - scores[:, None])
    count = tf.reduce_sum(tf.cast(is_pair, losses.dtype))
    return tf.reduce_sum(tf.where(is_pair, losses, 0.0)) / tf.maximum(count, 1.0)


class RewardModel:
    """Scores texts with a language model and a linear head on the hidden state of the last token.

    A line over the number of words is subtracted from the scores. It was fitted on human sentences, so that longer
    texts do not score higher for their length.

    Args:
      model: Keras language model.
      tokenizer: Tokenizer of the model.
      head: Weights of the linear head and of the line.
    """

    def __init__(self, model: keras.Model, tokenizer: keras_hub.tokenizers.Tokenizer, head: Head):
        self.model = model
        self.tokenizer = tokenizer
        self.head = head
        self._language_model = as_language_model(model)
        self._kernel = tf.constant(head["kernel"], tf.float32)
        self._compiled = compiled(self._last_scores, "graph")

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """Scores texts.

        Args:
          texts: N texts; only the first 128 tokens (or the model's context, if it is shorter) are read.

        Returns:
          Scores float32 [N]; higher is more positive.
        """
        longest = min(self._language_model.context_length or max(WIDTHS), max(WIDTHS))
        rows = encode(self.tokenizer, [Sentence("movie", "", "test", 0.0, text) for text in texts], longest - 1)
        scores = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), ROWS):
            chunk = rows[start : start + ROWS]
            wanted = max(map(len, chunk))
            ids = np.zeros([ROWS, min(longest, next(width for width in WIDTHS if width >= wanted))], np.int32)
            for row, tokens in zip(ids, chunk, strict=False):
                row[: len(tokens)] = tokens
            last = np.zeros(ROWS, np.int32)
            last[: len(chunk)] = [len(tokens) - 1 for tokens in chunk]
            scores[start : start + ROWS] = self._compiled(tf.constant(ids), tf.constant(last)).numpy()[: len(chunk)]
        words = np.array([word_count(text) for text in texts], np.float32)
        return scores - self.head["words_slope"] * (words - self.head["words_mean"])

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Scores prompts joined with their responses, as a reward function does.

        Args:
          prompts: N prompts.
          responses: N responses.

        Returns:
          Scores float32 [N].
        """
        return self.scores([prompt + response for prompt, response in zip(prompts, responses, strict=True)])

    def _last_scores(self, ids: tf.Tensor, last: tf.Tensor) -> tf.Tensor:
        hidden = self._language_model.hidden_states(ids)  # [N, S, D]
        final = _at(hidden, last)
        return tf.linalg.matvec(tf.cast(final, tf.float32), self._kernel) + self.head["bias"]

    def save(self, folder: Path) -> None:
        """Writes the model into a new folder, as a preset and `head.json`.

        Args:
          folder: Must not exist.
        """
        save_preset(folder, self.model, self.tokenizer)
        (folder / HEAD_FILE).write_text(json.dumps(self.head))

    @classmethod
    def load(cls, folder: Path) -> "RewardModel":
        """Loads a reward model that `save` wrote.

        Args:
          folder: Folder of the reward model.

        Raises:
          UsageError: If the folder holds no reward model, or a damaged one.
        """
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


def _at(hidden: tf.Tensor, last: tf.Tensor) -> tf.Tensor:
    """Takes the hidden states of the last tokens: [N, S, D] and indices [N] give [N, D]."""
    return tf.gather(hidden, last, axis=1, batch_dims=1)


def _is_head(head: object, width: int) -> TypeGuard[Head]:
    """Returns True if the content of a JSON file is a head for hidden states of this width."""
    if not isinstance(head, dict) or not isinstance(kernel := head.get("kernel"), list) or len(kernel) != width:
        return False
    numbers = [*kernel, *(head.get(name) for name in NUMBERS)]
    return all(isinstance(number, int | float) and abs(number) <= FLOAT32_MAX for number in numbers)


@cache
def sentiment_reward() -> RewardModel:
    """Loads the included reward model; later calls return the same object."""
    return RewardModel.load(Path(str(resources.files("tfppo.assets").joinpath("movie-reward"))))


def train_reward_model(config: RewardModelConfig, preset: Path | str, verbose: int = 1) -> RewardModel:
    """Trains a reward model on the ratings of the movie sentences, starting from a pretrained language model.

    Args:
      config: Settings of the training.
      preset: Folder, name or handle of the language model, as for `load_preset`.
      verbose: As in Keras: 0 is silent, 1 shows a progress bar, 2 prints a line per epoch.

    Returns:
      The reward model. Its line over the number of words is fitted on the validation split.

    Raises:
      UsageError: If the preset cannot be loaded, or training diverges.
    """
    keras.utils.set_random_seed(config.seed)
    language_model, tokenizer = _load_base(preset)
    dense = keras.layers.Dense(
        1,  # initial kernel N(0, 1 / (D + 1)) and bias 0 (Ziegler et al. 2019, section 2.1)
        kernel_initializer=keras.initializers.RandomNormal(
            stddev=(language_model.backbone.hidden_dim + 1) ** -0.5, seed=config.seed
        ),
    )
    _fit(language_model, dense, tokenizer, config, verbose)
    kernel, bias = dense.get_weights()
    refuse_divergence(kernel, config.learning_rate)
    weights = kernel[:, 0].astype(float).tolist()
    head: Head = {"kernel": weights, "bias": float(bias[0]), "words_slope": 0.0, "words_mean": 0.0}
    model = RewardModel(language_model, tokenizer, head)
    texts = [sentence.text for sentence in sentences("validation", "movie")]
    words = np.array([word_count(text) for text in texts])
    slope = float(np.polyfit(words, model.scores(texts), 1)[0])
    return RewardModel(language_model, tokenizer, {**head, "words_slope": slope, "words_mean": float(words.mean())})


def _load_base(preset: Path | str) -> tuple[keras.Model, keras_hub.models.Tokenizer]:
    """Loads the language model from which a reward model is trained, and its tokenizer."""
    model, tokenizer = load_preset(preset)
    check_control_tokens(tokenizer, preset)
    if not isinstance(model, keras_hub.models.CausalLM):
        raise UsageError(
            f"preset {preset} holds a {type(model).__name__}; a reward model must be made from a KerasHub CausalLM: "
            "give another preset"
        )
    return model, tokenizer


def _fit(
    language_model: keras.Model,
    dense: keras.layers.Dense,
    tokenizer: keras_hub.tokenizers.Tokenizer,
    config: RewardModelConfig,
    verbose: int,
) -> None:
    """Trains a language model, and a layer on its last hidden state, on pairs of movie sentences."""
    inputs = language_model.input
    last = keras.Input((), dtype="int32", name="last")
    hidden = language_model.backbone(inputs)
    final = keras.layers.Lambda(lambda both: _at(*both), output_shape=(hidden.shape[-1],))([hidden, last])
    scorer = keras.Model({**inputs, "last": last}, dense(final))
    train = _rated(tokenizer, sentences("train", "movie"), config)
    validation = _rated(tokenizer, sentences("validation", "movie"), config)
    steps = config.epochs * int(train.cardinality())
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps - steps // 10, warmup_target=config.learning_rate, warmup_steps=steps // 10
    )
    scorer.compile(
        keras.optimizers.AdamW(schedule, weight_decay=config.weight_decay, global_clipnorm=1.0),
        loss=lambda ratings, scores: pair_loss(ratings, scores, config.difference),
        jit_compile=False,
    )
    scorer.fit(
        train,
        validation_data=validation,
        epochs=config.epochs,
        verbose=verbose,
        shuffle=False,
        callbacks=[keras.callbacks.TerminateOnNaN()],
    )


def reward_model_run(config: RewardModelConfig, preset: Path | str | None, name: str | None, runs_dir: Path) -> Path:
    """Trains a reward model in a new run, and evaluates it.

    Args:
      config: Settings of the training.
      preset: Folder, name or handle of the language model to start from; None uses the included one.
      name: Name of the run's folder; None makes one from the seed.
      runs_dir: Folder of all runs.

    Returns:
      The folder of the run, with the model in `reward-model`.

    Raises:
      UsageError: If the preset cannot be loaded, training diverges, or the folder cannot be used.
    """
    began = time.perf_counter()
    source = default_preset() if preset is None else preset
    language_model, _ = _load_base(source)  # may raise UsageError, so before anything is written
    run = RunConfig(seed=config.seed, name=name, runs_dir=runs_dir)
    with new_folder.new_run_folder(run, "reward-model", config, print) as folder:
        print(f"reward model from {source}, seed {config.seed}, {config.epochs} epochs -> {folder}", flush=True)
        with fitting(folder, 4 * language_model.count_params()):
            model = train_reward_model(config, source, verbose=1 if sys.stdout.isatty() else 2)
            model.save(folder / "reward-model")
        evaluation: dict[str, Any] = {"seed": config.seed} | judge(RewardModel.load(folder / "reward-model"))
        evaluation["seconds"] = {"total": round(time.perf_counter() - began, 3)}
        run_folder.write_evaluation(folder, evaluation)
    print(
        f"{evaluation['sentences']} movie sentences of the test split: accuracy of the sign "
        f"{evaluation['accuracy']:.3f}, accuracy of pairs {evaluation['pair_accuracy']:.3f}, correlation of score and "
        f"length {evaluation['length']:+.3f}"
    )
    return folder


def judge(model: RewardModel) -> dict[str, Any]:
    """Evaluates a reward model on the movie sentences of the test split.

    Args:
      model: The reward model.

    Returns:
      The number of `sentences`, `accuracy` and `pair_accuracy` (see the functions of these names), and `length`, the
      correlation of the scores with the numbers of words.
    """
    rated = sentences("test", "movie")
    texts = [sentence.text for sentence in rated]
    scores, ratings = model.scores(texts), np.array([sentence.rating for sentence in rated])
    return {
        "sentences": len(rated),
        "accuracy": accuracy(scores, ratings),
        "pair_accuracy": pair_accuracy(scores, ratings),
        "length": float(np.corrcoef(scores, [word_count(text) for text in texts])[0, 1]),
    }


def accuracy(scores: np.ndarray, ratings: np.ndarray) -> float:
    """Computes the share of sentences with a score of the same sign as their rating.

    Sentences with a rating of exactly 0 are left out.

    Args:
      scores: float [N].
      ratings: float [N].
    """
    return float(np.mean((scores > 0)[ratings != 0] == (ratings > 0)[ratings != 0]))


def pair_accuracy(scores: np.ndarray, ratings: np.ndarray, difference: float = 1.0) -> float:
    """Computes the share of pairs that the scores put in the same order as the ratings.

    Args:
      scores: float [N].
      ratings: float [N].
      difference: Only pairs with ratings that differ by more than this count.
    """
    is_pair = ratings[:, None] - ratings[None, :] > difference
    return float((scores[:, None] > scores[None, :])[is_pair].mean())


def _rated(
    tokenizer: keras_hub.tokenizers.Tokenizer, rated: Sequence[Sentence], config: RewardModelConfig
) -> tf.data.Dataset:
    """Makes shuffled batches of ({"token_ids", "padding_mask", "last"}, ratings [B])."""
    rows = encode(tokenizer, rated, config.length - 1)
    ids = keras.utils.pad_sequences(rows, padding="post")
    lengths = np.array([len(row) for row in rows], np.int32)
    ratings = np.array([sentence.rating for sentence in rated], np.float32)
    dataset = tf.data.Dataset.from_tensor_slices((ids, lengths, ratings))
    dataset = dataset.shuffle(len(rows), seed=config.seed, reshuffle_each_iteration=True)

    def split_up(ids: tf.Tensor, lengths: tf.Tensor, ratings: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        ids = ids[:, : tf.reduce_max(lengths)]
        inputs = {"token_ids": ids, "padding_mask": tf.ones_like(ids), "last": lengths - 1}
        return inputs, ratings

    return dataset.batch(config.batch_size).map(split_up).prefetch(2)
