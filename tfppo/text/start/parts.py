"""Recognises the parts that a text run was made of, by their checksums."""

import json
from pathlib import Path

import keras
import keras_hub
import numpy as np

from tfppo.errors import UsageError
from tfppo.execution.variables import digest, weights_hash
from tfppo.text.config import TextParts
from tfppo.text.data.corpus import Domain
from tfppo.text.data.prompts import labels_of
from tfppo.text.data.special_tokens import SpecialTokens, special_tokens_of
from tfppo.text.models.weights import frozen_paths
from tfppo.text.start.prompts import TrainingPrompts
from tfppo.training import run_folder

OWN_MODEL = Path(run_folder.OWN_MODEL)  # as the setting `preset`: the run's folder keeps the model that it started from
PROBE = "The film's 1st half, in 2026: très bien!\n 你好 🙂 return x[0] += 1;"  # many kinds of characters
SHOWN = 12  # digits of a checksum in a message


def fingerprints(
    model: keras.Model,
    tokenizer: keras_hub.tokenizers.Tokenizer,
    prompts: TrainingPrompts | None,
    domain: Domain | None,
    special: SpecialTokens | None = None,
    reward_model: str | None = None,
) -> TextParts:
    """Computes the checksums of a run's parts.

    Args:
      model: Language model before tuning, without adapters. Its frozen weights are listed, too.
      tokenizer: Tokenizer of the model.
      prompts: The training prompts. None: they are not known.
      domain: Domain of the control token before each prompt.
      special: Start token and end tokens. None: those of the tokenizer.
      reward_model: Checksum of the reward model. None: there is none, or it is not known.

    Returns:
      The checksums.
    """
    vocabulary = "\n".join(sorted(map(str, tokenizer.get_vocabulary())))
    pieces = [np.array([int(token) for token in tokenizer([PROBE])[0]], np.int64)]
    start, ends, template, written = special_tokens_of(tokenizer) if special is None else special
    if start is not None or len(ends) > 1:
        pieces.append(np.array([-1 if start is None else start, *ends], np.int64))
    if template is not None:
        vocabulary += template
    vocabulary += "".join(written)
    return TextParts(
        model_sha256=weights_hash(model.weights),
        tokenizer_sha256=digest(pieces, vocabulary),
        prompts_sha256=None if prompts is None else _prompts_digest(prompts),
        reward_model_sha256=reward_model,
        frozen=frozen_paths(model),
        domain=domain,
    )


def _prompts_digest(prompts: TrainingPrompts) -> str:
    """Returns a checksum of training prompts as tokens, and of their labels."""
    labels = labels_of(prompts.texts)
    return digest([prompts.token_ids, prompts.lengths], json.dumps(labels, sort_keys=True) if labels else "")


def check_parts(recorded: TextParts, found: TextParts, preset: Path | str | None) -> None:
    """Checks that a run goes on with the parts that it was made of.

    Args:
      recorded: Checksums in the run's `config.yaml`; those that are None are not checked.
      found: Checksums of the parts that were loaded; those that are None are not checked.
      preset: Folder, name or handle of the preset that was loaded. None: the included model, or one that was given in
        Python.

    Raises:
      UsageError: If a part differs.
    """
    model = "the given language model" if preset is None else f"the language model in {preset}"
    remedies = {
        "model_sha256": (model, "give the model that the run started from, with tfppo.resume(..., model=...)"),
        "tokenizer_sha256": (f"the tokenizer of {model}", "give the tokenizer that the run started with"),
        "prompts_sha256": ("the list of training prompts", "give the task that the run started with, unchanged"),
        "pretraining_sha256": ("the pretraining data in the run's folder", "restore the file from a copy"),
        "reward_model_sha256": ("the reward model", "give the reward model that the run started with, unchanged"),
    }
    for name, (what, remedy) in remedies.items():
        was, now = getattr(recorded, name), getattr(found, name)
        if None not in (was, now) and was != now:
            raise UsageError(
                f"{what} has the checksum {now[:SHOWN]}; the run started with {was[:SHOWN]}: {remedy}, or start a new "
                "run"
            )
