"""The models that a text run starts with: those of a preset, or those of another run.

A run that starts from another run keeps its start in its own folder: the presets `model` and `reference`, and
`start.npz` with the weights that no preset holds. So it can be resumed without the other run.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import keras
import keras_hub
import numpy as np

from tfppo.errors import UsageError, kind_and_text, one_line
from tfppo.execution.variables import weights_hash
from tfppo.settings import with_settings
from tfppo.text.config import TextConfig, TextRunConfig
from tfppo.text.data.chat import read_template
from tfppo.text.data.special_tokens import SpecialTokens, special_tokens_of
from tfppo.text.models.adapters import adapter_variables, add_adapters, base_copy, merged_copy
from tfppo.text.models.reference import as_language_model, copy_of
from tfppo.text.models.weights import fixed_weights, freeze_paths
from tfppo.text.policy import TextPolicy
from tfppo.text.presets.configs import TOKENIZER_FILE
from tfppo.text.presets.fetching import folder_of
from tfppo.text.presets.folder import default_preset, load_preset, save_preset
from tfppo.text.start.given import given_model, given_special_tokens
from tfppo.text.start.parts import SHOWN
from tfppo.training import run_folder
from tfppo.training.checkpoints import Checkpoints

MODEL, REFERENCE, START = run_folder.OWN_MODEL, run_folder.OWN_REFERENCE, run_folder.START


class Start(NamedTuple):
    """The models that a text run starts with."""

    model: keras.Model  # of the policy, without adapters
    tokenizer: keras_hub.tokenizers.Tokenizer
    reference: keras.Model | None = None  # None: the policy's model, without adapters
    weights: Mapping[str, list[np.ndarray]] = {}  # values for some of the parts `parts_of(policy)`; the others are new
    checkpoint: str | None = None  # iteration of the other run; None if the start was not read from another run
    note: str = ""  # one line about the other run
    special: SpecialTokens | None = None  # start token and end tokens; None: those of the tokenizer

    @property
    def is_tuned(self) -> bool:
        """True if the policy differs from its reference policy."""
        return self.reference is not None or "adapters" in self.weights


def initial_model(
    text: TextConfig,
    folder: Path | None = None,
    given: object = None,
    replicas: int = 1,
) -> Start:
    """Loads the models that a text run starts with.

    They are, in this order: the model that is given in Python, those in the folder of the run, those of the run
    `init_from`, and the model of the preset.

    Args:
      text: Settings of the run.
      folder: Folder of the run; None for a new run.
      given: A language model that is given in Python, see `given_model`. None: no model is given.
      replicas: As for `given_model`.

    Returns:
      The start of the run.

    Raises:
      UsageError: If the given model cannot be tuned, a preset, the other run or its checkpoint cannot be read, or the
        settings of the two runs do not fit together.
    """
    if given is not None and text.init_from is not None and folder is None:
        raise UsageError(f"init_from is {text.init_from} and a model is given, but a run has one start: leave one out")
    if given is not None:
        return Start(*given_model(given, text.dtype, replicas), special=given_special_tokens(given))
    if folder is not None and ((folder / MODEL).is_dir() or text.preset == Path(MODEL)):
        model, tokenizer = load_preset(_kept_model(folder), text.dtype)
        reference = load_preset(folder / REFERENCE, text.dtype)[0] if (folder / REFERENCE).is_dir() else None
        return Start(model, tokenizer, reference, _read_weights(folder / START))
    if text.init_from is not None:
        return _from_run(text, text.init_from)
    preset = text.preset or default_preset()
    return Start(*load_preset(preset if folder is None else folder_of(preset, fetches=False), text.dtype))


def parts_of(policy: TextPolicy) -> dict[str, list[keras.Variable]]:
    """Returns the variables of a policy that a preset of its language model does not hold, by part."""
    parts = {"adapters": adapter_variables(policy.model.model)}
    if policy.value_head is not None:
        parts["value_head"] = policy.value_head.weights
    if policy.critic is not None:
        parts["critic"] = policy.critic.model.weights
    return parts


def assign_parts(policy: TextPolicy, weights: Mapping[str, list[np.ndarray]]) -> None:
    """Assigns values to some of the parts `parts_of(policy)`."""
    parts = parts_of(policy)
    for name, arrays in weights.items():
        for variable, array in zip(parts[name], arrays, strict=True):
            variable.assign(array)


def keep_start(folder: Path, start: Start) -> str | None:
    """Writes the start of a new run into its folder as `write_start` does.

    Args:
      folder: Folder of the run.
      start: The start of the run.

    Returns:
      None, or a line that says why the folder cannot keep it. A model of the user's own class may fail in any way.

    Raises:
      OSError: If the files cannot be written.
    """
    try:
        write_start(folder, start)
    except OSError:
        raise
    except Exception as error:
        return (
            f"the run's folder cannot keep the language model ({kind_and_text(error)}): to resume or evaluate the run, "
            "give the model again, as in tfppo.resume(folder, model=(model, tokenizer))"
        )
    return None


def write_start(folder: Path, start: Start) -> None:
    """Writes the start of a run into its folder, from where `initial_model` reads it.

    Args:
      folder: Folder of the run.
      start: The start of the run. Its models may have new adapters, but must not be trained yet.
    """
    has_tuned_adapters = "adapters" in start.weights
    model = base_copy(as_language_model(start.model)).model if has_tuned_adapters else start.model
    # New adapters change nothing when they are merged.
    save_preset(folder / MODEL, model, start.tokenizer, "float32", start.special)
    if start.reference is not None:
        save_preset(folder / REFERENCE, start.reference, start.tokenizer, "float32")
    named = {f"{part}/{index}": x for part, arrays in start.weights.items() for index, x in enumerate(arrays)}
    if named:
        np.savez(folder / START, allow_pickle=False, **named)


def _kept_model(folder: Path) -> Path:
    """Returns the preset in a run's folder.

    Raises:
      UsageError: If the folder keeps none, although the run started from a model that was given in Python.
    """
    if not (folder / MODEL / TOKENIZER_FILE).is_file():
        raise UsageError(
            f"{folder} keeps no language model, and its run started from one that was given in Python: give it again, "
            f"as in tfppo.resume({str(folder)!r}, model=(model, tokenizer))"
        )
    return folder / MODEL


def _from_run(text: TextConfig, folder: Path) -> Start:
    """Loads the tuned policy of another run."""
    if run_folder.kind_of(folder) != "text":
        raise UsageError(
            f"init_from is {folder}, which is a {run_folder.kind_of(folder)} run; it must be the folder of a text run"
        )
    config = with_settings(run_folder.read_config(folder, TextRunConfig), {"dtype": text.dtype})
    other = config.text
    keeps_adapters = text.init_reference == "run" and text.lora_rank > 0
    for name in ("lora_rank", "lora_alpha", "lora_targets") if keeps_adapters else ():
        mine, its = getattr(text, name), getattr(other, name)
        if mine != its:
            raise UsageError(
                f"init_reference is run, {name} is {mine}, and {folder} has {name} {its}; the adapters must be of the "
                f"same form, because the reference policy is the model without them: set {name} to {its}, or "
                "init_reference to start"
            )
    before = initial_model(other, folder)
    base = as_language_model(before.model)
    critic = copy_of(base) if other.separate_critic else None
    tuned = TextPolicy(copy_of(base), critic=critic, has_values=other.has_values)
    freeze_paths(tuned.model.model, config.parts.frozen)
    if other.lora_rank:
        add_adapters(tuned.model.model, other.lora_rank, alpha=other.lora_alpha, targets=other.lora_targets)
    fixed = _checked_fixed_weights(tuned.model.model, before.model, folder, config.parts.model_sha256)
    checkpoints = Checkpoints(folder / run_folder.CHECKPOINTS, fixed=fixed, **tuned.models)
    checkpoint = checkpoints.restore_part(text.init_checkpoint)
    merged, done = merged_copy(tuned.model).model, str(int(checkpoint.name))
    freeze_paths(merged, config.parts.frozen)
    weights, note = _continued(tuned, merged, text)
    note = f"the run starts from the policy of {folder} after iteration {done}; {note}"
    special = _special_tokens(before, folder, other.chat_template)
    if keeps_adapters:
        return Start(before.model, before.tokenizer, None, weights, done, note, special)
    del weights["adapters"]
    untuned = before.model if before.reference is None else before.reference
    reference = untuned if text.init_reference == "run" else None
    return Start(merged, before.tokenizer, reference, weights, done, note, special)


def _special_tokens(before: Start, folder: Path, chat_template: str) -> SpecialTokens:
    """Returns the special tokens of another run, with the chat template that its user gave as a file, or with none."""
    special = special_tokens_of(before.tokenizer) if before.special is None else before.special
    if chat_template == "none":
        return special._replace(chat_template=None)
    template = folder / run_folder.TEMPLATE
    if not template.is_file():
        return special
    return special._replace(chat_template=read_template(template, ": restore it from a copy"))


def _checked_fixed_weights(
    tuned: keras.Model, before: keras.Model, folder: Path, checksum: str | None
) -> list[keras.Variable]:
    """Returns the weights that the checkpoints of another run may lack.

    Args:
      tuned: Language model of the other run, with its adapters and its frozen weights.
      before: The model that the other run started with, as it is loaded now.
      folder: Folder of the other run.
      checksum: Checksum of the model that the other run started with. None: its version was 0.2 or older, and its
        checkpoints hold all weights.

    Raises:
      UsageError: If there are such weights, and the model is not the one that the other run started with.
    """
    if checksum is None or not (fixed := fixed_weights(tuned)):
        return []
    if (found := weights_hash(before.weights)) != checksum:
        raise UsageError(
            f"the language model that {folder} started from has changed: its checksum is {found[:SHOWN]}, and was "
            f"{checksum[:SHOWN]}; the checkpoints of that run hold only the weights that it trained: restore the model "
            "from a copy, or start from another run"
        )
    return fixed


def _continued(tuned: TextPolicy, merged: keras.Model, text: TextConfig) -> tuple[dict[str, list[np.ndarray]], str]:
    """Chooses what a new run takes over from the policy of another run, besides its language model.

    Args:
      tuned: Policy of the other run.
      merged: Its language model with the adapters merged.
      text: Settings of the new run.

    Returns:
      Weights by part, and a few words about the value head and the critic.
    """
    weights = {name: [x.numpy() for x in variables] for name, variables in parts_of(tuned).items()}
    if not text.has_values:
        return {"adapters": weights["adapters"]}, "this run has no value function"
    if tuned.value_head is None:
        if text.separate_critic:
            weights["critic"] = merged.get_weights()
        return weights, "the value head is new, because that run has no value function"
    if tuned.critic is not None and text.separate_critic:
        return weights, "its value head and its critic continue"
    if tuned.critic is not None:  # its value head does not fit the hidden states of the policy
        del weights["critic"], weights["value_head"]
        return weights, "the value head is new, because that run has a separate critic"
    if text.separate_critic:
        weights["critic"] = merged.get_weights()
        return weights, "its value head continues, and the critic is a copy of the policy"
    return weights, "its value head continues"


def _read_weights(path: Path) -> dict[str, list[np.ndarray]]:
    """Reads the file `START`, if there is one."""
    if not path.exists():
        return {}
    weights: dict[str, list[np.ndarray]] = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            for name in file.files:
                weights.setdefault(name.partition("/")[0], []).append(file[name])
    except Exception as error:  # a damaged file can make the reader raise almost anything
        raise UsageError(f"{path} cannot be read ({one_line(error)}): restore it from a copy") from None
    return weights
