"""Validation during training: the policy responds to fixed prompts that it is not trained on."""

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfppo.errors import UsageError
from tfppo.text.config import TextConfig
from tfppo.text.data.codec import PromptCodec
from tfppo.text.data.metrics import mean_words
from tfppo.text.evaluate import SEED_OFFSET, Responder
from tfppo.text.models.language_model import LanguageModel
from tfppo.text.rewards.callables import Reward, checked_scores
from tfppo.text.start.assembly import Parts
from tfppo.text.tasks import Task

SCORE = "validation/score_mean"
VALUES = 4  # score, KL, length, and the metric of the task; NaN if there is none


class Validation:
    """Measures a policy on the same prompts, with the same noise, again and again during a run.

    Args:
      prompts: N prompts.
      encoded: The prompts as token ids int32 [N, P], and their lengths int32 [N].
      policy: The policy that is trained.
      reference: Reference policy, to which the KL is measured.
      codec: Decodes for both.
      task: Gives the metric.
      reward: Scores the responses.
      text: Length and temperature of the responses.
      seed: Seed of the run.
      latest: Gets the values, float64 [VALUES]. It is a variable of the trainer, so that a checkpoint holds the values
        and a resumed run repeats them.
    """

    def __init__(
        self,
        prompts: Sequence[str],
        encoded: tuple[np.ndarray, np.ndarray],
        *,
        policy: LanguageModel,
        reference: LanguageModel,
        codec: PromptCodec,
        task: Task,
        reward: Reward,
        text: TextConfig,
        seed: int,
        latest: tf.Variable,
    ):
        self._prompts = list(prompts)
        self._encoded = encoded
        self._policy = Responder(policy, codec, text)
        self._reference = Responder(reference, codec, text)
        self._task = task
        self._reward = reward
        self._temperature = text.temperature
        self._seed = (seed + SEED_OFFSET) % 2**31
        metric = [] if task.metric is None else [f"validation/{task.metric}"]
        self.names = (SCORE, "validation/kl", "validation/response_length_mean", *metric)
        self.latest = latest

    @property
    def metrics(self) -> dict[str, float]:
        """The latest values by name. NaN: not measured yet."""
        return dict(zip(self.names, map(float, self.latest.numpy()), strict=False))

    def measure(self) -> None:
        """Measures the policy.

        Raises:
          UsageError: If the reward or the metric fails.
        """
        given = self._policy.respond(self._encoded, self._seed)
        own, other = (who.total_log_probs(given, self._temperature) for who in (self._policy, self._reference))
        scores = checked_scores(self._reward, self._prompts, given.texts, must_be_finite=False)
        metric = self._task.checked_measure(self._prompts, given.texts)
        finite = scores[np.isfinite(scores)]  # as in the evaluation, others are left out
        score = float(finite.mean()) if len(finite) else math.nan
        values = [score, float(np.mean(own - other)), mean_words(given.texts)]
        self.latest.assign([*values, math.nan if metric is None else metric])


def make_validation(parts: Parts, policy: LanguageModel, reference: LanguageModel, latest: tf.Variable) -> Validation:
    """Makes the validation of a run.

    The choice of the prompts, at most `num_validation_prompts`, does not depend on the seed.

    Args:
      parts: Parts of the run.
      policy: As for `Validation`.
      reference: As for `Validation`.
      latest: As for `Validation`.

    Returns:
      The validation.

    Raises:
      UsageError: If there are no validation prompts, or one is too long.
    """
    text, task = parts.config.text, parts.task
    are_held_out = parts.own_prompts is None or parts.own_prompts.used_for("validation") == "validation"
    prompts = task.checked_prompts("validation") if are_held_out else []
    if not prompts:
        raise UsageError(
            f"validation_interval is {text.validation_interval}, and there are no validation prompts: give "
            "--validation-prompts FILE or --validation-share 0.1, or leave validation_interval out"
        )
    order = np.random.default_rng(0).permutation(len(prompts))
    chosen = [prompts[index] for index in order[: text.num_validation_prompts]]
    return Validation(
        chosen,
        parts.encode(chosen),
        policy=policy,
        reference=reference,
        codec=parts.codec,
        task=task,
        reward=parts.reward,
        text=text,
        seed=parts.config.run.seed,
        latest=latest,
    )
