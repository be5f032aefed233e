"""The parts of a run of a reward model: records, a language model, and the examples made of both."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfppo.errors import UsageError
from tfppo.reporting.curves import plot_reliability
from tfppo.settings import check_unused, with_settings
from tfppo.text.data.metrics import word_count
from tfppo.text.reward_model.config import SHIPPED_LENGTH, SHIPPED_RATE, RewardModelConfig, RewardModelRunConfig
from tfppo.text.reward_model.evaluation import evaluate_comparisons, evaluate_ratings, length_line
from tfppo.text.reward_model.examples import Example, Examples, encode_records, has_pairs, layout
from tfppo.text.reward_model.records import SHIPPED_DOMAIN, Comparison, Rating, Record, ShippedRatings, shipped
from tfppo.text.reward_model.tuner import RewardNetwork, RewardTuner
from tfppo.text.rewards.encoding import TextEncoder
from tfppo.text.rewards.reward_model import HEAD_FILE, Head, RewardModel
from tfppo.text.supervised.batches import Batches, by_length
from tfppo.text.supervised.parts import LONGEST, TunedParts, fixed_length, load_base, recorded, with_adapters
from tfppo.text.supervised.records import Records
from tfppo.text.supervised.run import BYTES
from tfppo.text.supervised.training import Training
from tfppo.training import files, run_folder
from tfppo.training.loop import writing


@dataclass(frozen=True)
class RewardParts(TunedParts[RewardModelRunConfig, Record]):
    """The parts of a run of a reward model, see `supervised.run.Parts`."""

    train: Examples
    validation: Examples
    neutral: float | None  # rating of a text with the score 0; None: there is none

    title = "reward model"

    @property
    def noun(self) -> str:
        """What the examples are."""
        return "comparisons" if isinstance(self.train.records[0], Comparison) else "ratings"

    @property
    def subject(self) -> str:
        """The examples in words."""
        return f"{len(self.train.examples)} {self.noun}"

    def notices(self) -> list[str]:
        """Returns lines about examples that are cut, left out, or in both parts of the data."""
        lines = []
        for what, examples in (("training", self.train), ("validation", self.validation)):
            total = len(examples.examples) + examples.equal
            if examples.truncated:
                lines.append(
                    f"note: {examples.truncated} of {total} {what} examples are longer than {self.base.length} tokens; "
                    "their prompts lose the beginning, or texts without a prompt the end"
                )
            if examples.equal:
                lines.append(
                    f"warning: {examples.equal} of {total} {what} examples are left out, because their chosen and "
                    "rejected responses are equal"
                )
        lines += self.notices_of_validation(len(self.validation.examples))
        if self.validation.examples and not self._is_validated:
            lines.append(
                "note: no two validation examples of a batch have ratings that differ by more than "
                f"{self._settings.difference:g}, so that the training does not stop early"
            )
        return lines

    @property
    def _settings(self) -> RewardModelConfig:
        return self.config.reward_model

    @functools.cached_property
    def _is_validated(self) -> bool:
        """True if there is a validation loss, for which ratings must have a pair in a batch."""
        settings = self._settings
        return has_pairs(self._held_out, settings.batch_size, settings.difference, self.neutral)

    @functools.cached_property
    def _held_out(self) -> list[Example]:
        return by_length(self.validation.examples)

    def training(self) -> Training:
        """Makes the training. Adds adapters to the model if the run has any."""
        settings = self._settings
        model = with_adapters(self.model, self.config)
        width = fixed_length(model, self.train.examples, self.validation.examples)
        rows, size = layout(settings.difference, self.neutral, width), settings.batch_size
        train = Batches(self.train.examples, size, rows, self.config.run.seed)
        held_out = Batches(self._held_out, size, rows) if self._is_validated else None
        tuner = RewardTuner(RewardNetwork(model, self.config.run.seed, settings.rematerialize))
        return Training(tuner, model, train, held_out, settings)

    def save(self, folder: Path, training: Training) -> None:
        """Saves the reward model."""
        kernel, bias = (weight.numpy() for weight in training.tuner.new_weights)
        head: Head = {
            "kernel": kernel[:, 0].astype(float).tolist(),
            "bias": float(bias[0]),
            "words_slope": 0.0,
            "words_mean": 0.0,
            "reads": "texts" if _is_text(self.train.records[0]) else "responses",
            "domain": self.config.parts.domain,
            "max_length": self.base.length,
            "system": self._settings.system,
        }
        codec = self.base.codec
        special = codec.special if codec.chat is not None else codec.special._replace(chat_template=None)
        parts = (self.model, self.base.tokenizer)
        removes = self._settings.remove_length
        if self.config.parts.domain is not None if removes is None else removes:
            texts = self.validation.records or self.train.records
            scores = _scores(RewardModel(*parts, head, special), texts)
            head["words_slope"], head["words_mean"] = length_line(scores.ravel(), _words(texts).ravel())
        size = BYTES * self.model.count_params()
        with files.replacing(folder / run_folder.REWARD_MODEL, (HEAD_FILE,), size) as new:
            RewardModel(*parts, head, special).save(new, "float32")

    def evaluation(self, folder: Path, training: Training) -> dict[str, Any]:
        """Evaluates the saved reward model on the validation examples, and on the test split of the shipped ratings."""
        scorer = RewardModel.load(folder / run_folder.REWARD_MODEL)
        validation = None
        if self.validation.examples:
            validation = self._judge(scorer, self.validation.records) | _sizes(self.validation)
            validation["in_training_data"] = self.records.overlap
            validation["loss"] = training.validate().get("loss")
            validation["loss_before"] = training.progress.first_loss
        found: dict[str, Any] = {"validation": validation}
        if self.config.parts.domain is not None:
            found["test"] = self._judge(scorer, shipped("test"))
        bins = (found.get("test") or validation or {}).get("calibration")
        if bins:
            with writing(folder):
                plot_reliability(bins, folder / run_folder.RELIABILITY, "reward model: confidence and accuracy")
        return {**found, "train": _sizes(self.train), "padding": round(training.batches.padding(), 4)}

    def _judge(self, scorer: RewardModel, records: Sequence[Record]) -> dict[str, Any]:
        scores, words = _scores(scorer, records), _words(records)
        if isinstance(records[0], Comparison):
            return evaluate_comparisons(scores, words)
        ratings = np.array([record.rating for record in records if isinstance(record, Rating)])
        return evaluate_ratings(scores[:, 0], ratings, words[:, 0], self._settings.difference, self.neutral)

    def describe(self, folder: Path, evaluation: dict[str, Any]) -> str:
        """Formats an evaluation as one line, with the command that uses the reward model."""
        use = f"use it with: tfppo train text --reward-model {run_folder.quoted(folder)}"
        split = "test" if "test" in evaluation else "validation"
        found = evaluation[split]
        if found is None or "pairs" not in found:
            return use
        interval = found["interval"]
        ends = "" if interval is None else f" (95 % interval {interval[0]:.3f} to {interval[1]:.3f})"
        sign = f", accuracy of the sign {found['accuracy']:.3f}" if "accuracy" in found else ""
        length = f", correlation of score and length {found['length']:+.3f}" if np.isfinite(found["length"]) else ""
        return (
            f"accuracy {found['pair_accuracy']:.3f}{ends} of {found['pairs']:,} {split} pairs{sign}, calibration error "
            f"{found['calibration_error']:.3f}{length}; {use}"
        )


def load_parts(
    config: RewardModelRunConfig, records: Records[Record], given: object, folder: Path | None
) -> RewardParts:
    """Loads the language model of a run, and encodes its records. Sets the seed of Keras.

    Args:
      config: Settings of the run.
      records: Records of the run.
      given: A language model that is given in Python, as for `TextTrainer`. None: that of the settings.
      folder: Folder of the run, if the run exists already.

    Returns:
      The parts.

    Raises:
      UsageError: If the model cannot be loaded or tuned, the examples cannot be encoded or give no pairs, or the parts
        are not those that an existing run was made of.
    """
    is_shipped = isinstance(records, ShippedRatings) or config.parts.domain is not None
    settings = config.reward_model
    if folder is None:
        _check_kind(settings, records.train, is_shipped)
    _check_pairs(settings, records.train)
    if is_shipped and settings.learning_rate is None:
        config = with_settings(config, {"learning_rate": SHIPPED_RATE})
    domain, longest = (SHIPPED_DOMAIN, SHIPPED_LENGTH) if is_shipped else (None, LONGEST)
    base = load_base(config, given, folder, domain=domain, longest=longest)
    encoder = TextEncoder(base.codec, base.length)
    train, validation = (encode_records(part, encoder, settings.margin) for part in (records.train, records.validation))
    if not train.examples:
        raise UsageError(
            f"the chosen and rejected responses of all {train.equal} training examples are equal (at most {base.length}"
            " tokens are read); they must differ: correct them, or raise max_length"
        )
    neutral = settings.neutral_rating
    if neutral is None and isinstance(records.train[0], Rating):
        ratings = [example.value for example in train.examples]
        neutral = 0.0 if min(ratings) < 0 < max(ratings) else None
    return RewardParts(recorded(config, base, train.checksum()), records, base, train, validation, neutral)


def _check_kind(settings: RewardModelConfig, records: Sequence[Record], is_shipped: bool) -> None:
    """Checks that no setting is given that only examples of the other kind have."""
    is_comparison = isinstance(records[0], Comparison)
    names = ("difference", "neutral_rating") if is_comparison else ("margin",)
    kind, other = ("comparisons", "ratings") if is_comparison else ("ratings", "comparisons")
    check_unused(settings, names, f"the examples are {kind}; only {other} have it")
    if is_shipped:
        check_unused(settings, ["validation_share"], "the shipped ratings have a validation split")


def _check_pairs(settings: RewardModelConfig, records: Sequence[Record]) -> None:
    """Checks that ratings can form pairs."""
    ratings = [record.rating for record in records if isinstance(record, Rating)]
    if not ratings:
        return
    if settings.batch_size == 1:
        raise UsageError("batch_size is 1; ratings are compared within a batch: set it to at least 2, for example 32")
    if max(ratings) - min(ratings) <= settings.difference:
        raise UsageError(
            f"no two of the {len(ratings)} training examples have ratings that differ by more than "
            f"{settings.difference:g} (they are from {min(ratings):g} to {max(ratings):g}), so that there is no "
            "preference to learn: lower difference, or add ratings of other texts"
        )


def _is_text(record: Record) -> bool:
    return record.prompt is None


def _scores(scorer: RewardModel, records: Sequence[Record]) -> np.ndarray:
    """Scores records: the chosen and the rejected responses [N, 2], or the rated texts [N, 1]."""
    columns = [
        scorer.scores(texts)
        if _is_text(records[0])
        else scorer([record.prompt for record in records if record.prompt is not None], texts)
        for texts in _texts(records)
    ]
    return np.stack(columns, axis=1)


def _words(records: Sequence[Record]) -> np.ndarray:
    """Returns the numbers of words of the responses or texts, in the shape of `_scores`."""
    return np.array([[word_count(text) for text in texts] for texts in _texts(records)]).T


def _texts(records: Sequence[Record]) -> list[list[str]]:
    if isinstance(records[0], Comparison):
        comparisons = [record for record in records if isinstance(record, Comparison)]
        return [[record.chosen for record in comparisons], [record.rejected for record in comparisons]]
    return [[record.text for record in records if isinstance(record, Rating)]]


def _sizes(examples: Examples) -> dict[str, int]:
    return {"examples": len(examples.examples), "truncated": examples.truncated, "equal": examples.equal}
