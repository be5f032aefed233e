"""Detects common training problems from the metrics of a run, and prints one line for each problem."""

import math
from collections.abc import Iterator, Mapping

from tfppo.errors import see
from tfppo.ppo.config import PPOConfig
from tfppo.ppo.guard import Guard

KL_FACTOR = 10.0  # the largest normal KL, as a multiple of its target
RATIO = 10.0  # the largest normal ratio in the first minibatch, where new and old policy should be equal
ENTROPY_SHARE = 0.01  # the smallest normal entropy, as a share of the entropy in the first row
EXPLAINED_VARIANCE, POOR_ROWS = -1.0, 20
CONSTANT_ROWS = 20
ENDED = 0.5  # the smallest normal share of answers that end by themselves
WORDS = "text/response_length_mean"


class DiagnosisWriter:
    """Prints a diagnosis when a row of metrics shows a problem, each kind of problem once.

    The problems are: skipped updates, a KL far above its target, a first ratio far from 1, a collapsed entropy, a very
    negative explained variance over many rows, a score that never changes, responses that are all empty or all left
    out of the loss, and answers of which most are cut.

    Args:
      ppo: Config with the targets of the KL.
      kl: Name of the metric that `ppo.adaptive_kl_target` applies to.
      score: Name of the metric that measures the policy's performance. It is expected to change.
      has_choices: True if actions are discrete. Only then does an entropy near 0 mean that the policy no longer
        explores.
      guard: Guard of the learner. It knows which updates were skipped, and why.
      should_end: True if responses should end by themselves, as answers of a conversation do.
    """

    def __init__(self, ppo: PPOConfig, kl: str, score: str, has_choices: bool, guard: Guard, should_end: bool = False):
        self._targets = {}
        if ppo.kl_controller != "fixed":
            self._targets[kl] = ("adaptive_kl_target", ppo.adaptive_kl_target)
        if ppo.target_kl is not None:
            self._targets["policy/approx_kl"] = ("target_kl", ppo.target_kl)
        self._score = score
        self._has_choices = has_choices
        self._guard = guard
        self._should_end = should_end
        self._skipped = float(guard.skipped.numpy())
        self._told: set[str] = set()
        self._entropy: float | None = None  # the first finite entropy
        self._poor = 0  # number of consecutive rows with a poor explained variance
        self._scores: list[float] = []  # the first scores, until two of them differ

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Prints the problems that the row shows and that were not printed before.

        Args:
          iteration: Number of the iteration, from 0.
          metrics: Values by metric name.
        """
        for kind, line in self._diagnoses(metrics):
            if kind not in self._told:
                self._told.add(kind)
                print(f"iteration {iteration + 1}: {line}", flush=True)

    def flush(self) -> None:
        """Does nothing: diagnoses are printed at once."""

    def close(self) -> None:
        """Does nothing: no resource is open."""

    def _diagnoses(self, row: Mapping[str, float]) -> Iterator[tuple[str, str]]:
        is_skipped = row["guard/skipped_updates"] > self._skipped
        if is_skipped:
            self._skipped = row["guard/skipped_updates"]
            culprit = self._guard.culprit
            what = "something in an earlier update was" if culprit is None else f"{culprit} {culprit.verb}"
            yield (
                what,
                f"{what} not finite, so the update was skipped; guard/skipped_updates counts these updates "
                f"{see('an-update-was-skipped')}",
            )
        for metric, (name, target) in self._targets.items():
            if row[metric] > KL_FACTOR * target:
                advice = "lower learning_rate" if name == "target_kl" else "lower learning_rate or raise kl_coeff"
                yield (
                    metric,
                    f"{metric} is {row[metric]:.3g}, more than {KL_FACTOR:g} times {name} = {target:g}: {advice} "
                    f"{see('the-kl-is-far-above-its-target')}",
                )
        if row["policy/first_ratio_max"] > RATIO:
            yield (
                "ratio",
                f"policy/first_ratio_max is {row['policy/first_ratio_max']:.3g}, expected 1: the sampler and the "
                f"learner disagree {see('the-first-ratio-is-not-1')}",
            )
        yield from self._of_entropy(row["policy/entropy"])
        # A run without a value function has no such metric.
        self._poor = self._poor + 1 if row.get("value/explained_variance", 0.0) < EXPLAINED_VARIANCE else 0
        if self._poor >= POOR_ROWS:
            yield (
                "value",
                f"value/explained_variance was below {EXPLAINED_VARIANCE:g} in {POOR_ROWS} rows in a row, so the "
                "values predict worse than a constant: scale the rewards down or raise num_epochs "
                f"{see('the-values-predict-worse-than-a-constant')}",
            )
        yield from self._of_score(row[self._score])
        if not is_skipped and math.isnan(row["policy/entropy"]) and row.get("text/eos_fraction") == 0.0:
            yield (
                "masked",
                "no response ended within response_length, and mask_truncated leaves all of them out of the loss, so "
                "nothing is trained: raise response_length, set stop_token, or leave mask_truncated out "
                f"{see('no-response-is-left-in-the-loss')}",
            )
        if self._should_end and row["text/eos_fraction"] < ENDED:
            yield (
                "cut",
                f"{row['text/eos_fraction']:.0%} of the answers ended within response_length; the others were cut, and "
                "the reward reads them as if they had ended: raise response_length, or set missing_end_penalty "
                f"{see('most-answers-are-cut')}",
            )
        # A response without words that is one token long, its end. A run of control has no such metrics.
        if row.get("text/response_tokens_mean") == row.get("text/eos_fraction") == 1.0 and row[WORDS] == 0.0:
            yield (
                "empty",
                f"every response is empty, because the policy ends it at once: read samples.jsonl, and raise kl_coeff "
                f"or the score of longer responses {see('every-response-is-empty')}",
            )

    def _of_entropy(self, entropy: float) -> Iterator[tuple[str, str]]:
        if self._entropy is None and math.isfinite(entropy):
            self._entropy = entropy
        if self._has_choices and self._entropy is not None and entropy < ENTROPY_SHARE * self._entropy:
            yield (
                "entropy",
                f"policy/entropy has collapsed from {self._entropy:.3g} to {entropy:.2g}, so the policy hardly "
                f"explores: raise entropy_coeff or lower learning_rate {see('the-entropy-collapses')}",
            )

    def _of_score(self, score: float) -> Iterator[tuple[str, str]]:
        """Yields a diagnosis if the score was the same in all rows so far. It stops checking after a change."""
        if math.isfinite(score) and len(set(self._scores)) < 2:
            self._scores.append(score)
            if len(self._scores) >= CONSTANT_ROWS and len(set(self._scores)) == 1:
                yield (
                    "constant",
                    f"{self._score} was {score:g} in all {len(self._scores)} rows, and PPO cannot learn from equal "
                    f"rewards: explore more or shape the reward {see('the-score-never-changes')}",
                )
