"""Default settings for the language model at hand, where the usual defaults belong to the included model.

This module does not import TensorFlow, so that the command line starts fast. It reads the size of a model from the
files of its folder.
"""

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from tfppo.settings import with_settings
from tfppo.text.config import TEXT_PPO, TextConfig, TextRunConfig

INCLUDED_PARAMETERS = 3.7e6  # of the included model, for which the usual defaults were found
UNKNOWN_PARAMETERS = 500_000_000  # assumed for a preset that must be fetched first
SMALL = 10e6  # models of at most this many parameters keep the usual defaults
LORA_FACTOR = 10.0
KL_PER_TOKEN = 0.25  # nats
HORIZONS = 17  # horizons of the KL controller in a run
NAMES = ("learning_rate", "adaptive_kl_target", "kl_horizon")
DEPENDS_ON = ("lora_rank", "response_length", "iterations", "batch_size")  # settings that `defaults_for` reads


WITHOUT_VALUES: Mapping[str, object] = {"normalize_advantages": False, "value_coeff": 0.0}
"""Defaults of a run without a value function. Its advantages are relative to a group, as the papers state them, and a
minibatch does not whiten them again."""


class Defaults(NamedTuple):
    """Settings that depend on the language model, the length of the responses and the length of the run."""

    learning_rate: float
    adaptive_kl_target: float
    kl_horizon: int


def defaults_for(parameters: float, text: TextConfig) -> Defaults:
    """Chooses settings for a language model.

    - `learning_rate`: 2e-4 for the included model of 3.7 million parameters, and in inverse proportion to the square
      root of the size. This gives 3.5e-5 for 124 million parameters, 1.4e-5 for 774 million (Ziegler et al. 2019 used
      1.77e-5), 1.1e-5 for 1.3 billion and 4.7e-6 for 6.7 billion (Stiennon et al. 2020 used 1.5e-5 and 7e-6). With
      adapters it is ten times as high ("LoRA Without Regret", Schulman et al. 2025).
    - `adaptive_kl_target`: a quarter of a nat for each token of a response, as in the included tasks, and about as in
      Ziegler et al. 2019 (6 nats for 24 tokens).
    - `kl_horizon`: a 17th of the responses of the run.

    Args:
      parameters: Number of parameters of the language model.
      text: The other settings of the run.

    Returns:
      The settings. They replace the usual defaults for a model of more than 10 million parameters.
    """
    rate = TEXT_PPO.learning_rate * math.sqrt(INCLUDED_PARAMETERS / parameters) * (LORA_FACTOR if text.lora_rank else 1)
    return Defaults(
        learning_rate=float(f"{rate:.1e}"),
        adaptive_kl_target=KL_PER_TOKEN * text.response_length,
        kl_horizon=max(1, round(text.iterations * text.batch_size / HORIZONS)),
    )


def make_text_config(model: object = None, **settings: object) -> TextRunConfig:
    """Makes the config of a text run from defaults and some settings.

    The defaults are those of the included model and, for a larger model, those of `defaults_for`. With `advantages`
    other than gae they are `WITHOUT_VALUES`.

    Args:
      model: The language model that will be given to `train_text`, in the same form. None: that of the settings.
      **settings: Values by field name, of `RunConfig`, `TextConfig` or `PPOConfig`.

    Returns:
      The config.

    Raises:
      UsageError: If no setting has such a name, or a value is invalid.
    """
    chosen = {**defaults_of_advantages(settings.get("advantages")), **settings}
    return with_model_defaults(with_settings(TextRunConfig(), chosen), {}, model, settings)


def defaults_of_advantages(advantages: object) -> Mapping[str, object]:
    """Returns the defaults that depend on the setting `advantages`; None: it is not given."""
    return {} if advantages in (None, TextConfig().advantages) else WITHOUT_VALUES


def with_model_defaults(
    config: TextRunConfig, changes: Mapping[str, int], model: object = None, given: Collection[str] = ()
) -> TextRunConfig:
    """Returns settings with the defaults of a larger model; see `defaults_for`.

    Args:
      config: Settings of a run.
      changes: Values of the settings `DEPENDS_ON` that will replace those of the config.
      model: As for `make_text_config`.
      given: Names of settings that stay as they are.
    """
    parameters = _size_of(model, config.text)
    if parameters is None or parameters <= SMALL:
        return config
    chosen = defaults_for(parameters, replace(config.text, **dict[str, Any](changes)))._asdict()
    return with_settings(config, {name: value for name, value in chosen.items() if name not in given})


def _size_of(model: object, text: TextConfig) -> int | None:
    if model is not None:
        count = getattr(model[0] if isinstance(model, tuple) and model else model, "count_params", None)
        return int(count()) if callable(count) else None
    if text.preset is None:
        return None
    folder = Path(text.preset)
    return parameters_of(folder) if folder.exists() else UNKNOWN_PARAMETERS


def describe_defaults(parameters: float, text: TextConfig, settings: Mapping[str, object]) -> str | None:
    """Says which settings of a run are those that `defaults_for` chooses, and why.

    Args:
      parameters: Number of parameters of the language model.
      text: Settings of the run.
      settings: All settings of the run by name.

    Returns:
      One line, or None if there are none or the model is small.
    """
    if parameters <= SMALL:
        return None
    chosen = defaults_for(parameters, text)._asdict()
    reasons = {
        "learning_rate": f"{parameters / 1e6:.0f}M parameters, {'adapters' if text.lora_rank else 'all weights'}",
        "adaptive_kl_target": f"{KL_PER_TOKEN} nats for each of {text.response_length} tokens",
        "kl_horizon": f"1/{HORIZONS} of {text.iterations * text.batch_size:,} responses",
    }
    names = NAMES[:1] if settings["kl_controller"] == "fixed" else NAMES  # a fixed coefficient has no target
    used = [f"{name} {chosen[name]:g} ({reasons[name]})" for name in names if settings[name] == chosen[name]]
    return f"defaults for this language model: {', '.join(used)}" if used else None


def parameters_of(folder: Path) -> int | None:
    """Returns the number of parameters of the language model in a folder, from the shapes in its files of weights.

    Args:
      folder: A preset of KerasHub, or a folder in the form of Hugging Face.

    Returns:
      The number, or None if it cannot be found; then loading the model says why.
    """
    try:
        files = sorted(folder.glob("*.safetensors"))
        return sum(map(_in_safetensors, files)) if files else _in_hdf5(folder / "model.weights.h5")
    except Exception:  # damaged files can make the readers raise almost anything
        return None


def _in_safetensors(path: Path) -> int:
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def _in_hdf5(path: Path) -> int:
    import h5py  # here, because most commands need no weights

    sizes: list[int] = []

    def add(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            sizes.append(math.prod(item.shape))

    with h5py.File(path) as file:
        file.visititems(add)
    return sum(sizes)
