"""Saving and loading of language models as KerasHub presets: folders with configs, tokenizer and weights."""

import contextlib
import json
import warnings
from importlib import resources
from pathlib import Path
from typing import Literal

import h5py
import keras
import keras_hub
import numpy as np

from tfppo.errors import UsageError
from tfppo.text.models.backbones import context_length
from tfppo.text.models.lstm import LSTMLanguageModel
from tfppo.text.models.vetting import vet_archive, vet_folder
from tfppo.training import run_folder

LSTM_FILE = "lstm.keras"
TOKENIZER_FILE = "tokenizer.json"
WEIGHTS_FILE = "model.weights.h5"
IN_RUNS = ("preset", run_folder.EXPORT)  # folders of presets in the folders of runs: of pretraining, and exports
LONGEST = 1024  # sequence length of KerasHub's preprocessor, for a model without a limit


def default_preset() -> Path:
    """Returns the folder of the included language model."""
    return Path(str(resources.files("tfppo.assets").joinpath("movie-gpt2")))


def save_preset(
    folder: Path,
    model: keras.Model,
    tokenizer: keras_hub.models.Tokenizer,
    weights_dtype: Literal["float16", "float32"] = "float16",
) -> None:
    """Writes a language model and its tokenizer into a new folder.

    Adapters are merged into the weights. The optimizer is not saved.

    Args:
      folder: Must not exist.
      model: A KerasHub CausalLM or an `LSTMLanguageModel`.
      tokenizer: Tokenizer of the model.
      weights_dtype: Precision of the saved weights of a KerasHub model; an LSTM is always saved in float32.

    Raises:
      FileExistsError: If the folder exists.
    """
    folder.mkdir(parents=True)
    if isinstance(model, LSTMLanguageModel):
        without_optimizer = LSTMLanguageModel.from_config(model.get_config())
        without_optimizer.set_weights(model.get_weights())
        without_optimizer.save(folder / LSTM_FILE)
        tokenizer.save_to_preset(str(folder))
        return
    preprocessor = model.preprocessor_cls(
        tokenizer,
        sequence_length=context_length(model) or LONGEST,
        add_start_token=False,  # KerasHub would put the end token first, where our models have never seen it
    )
    type(model)(model.backbone, preprocessor=preprocessor).save_to_preset(str(folder))
    if weights_dtype == "float16":
        halve_weights(folder / WEIGHTS_FILE)


def load_preset(folder: Path | str, dtype: str = "float32") -> tuple[keras.Model, keras_hub.models.Tokenizer]:
    """Loads a language model and its tokenizer from a folder.

    Code in the folder is not run (see the module `vetting`), and nothing is downloaded.

    Args:
      folder: Folder of the preset.
      dtype: Precision of the loaded model, "float32" or "mixed_bfloat16"; it does not depend on the saved precision.
        An LSTM supports only "float32".

    Returns:
      The model and its tokenizer.

    Raises:
      UsageError: If the folder is not a preset, is damaged, or holds an LSTM and another precision was requested.
    """
    folder = Path(folder).absolute()  # KerasHub downloads a model if a relative path is the name of a known preset
    if (folder / LSTM_FILE).exists() and dtype != "float32":
        raise UsageError(f"dtype is {dtype}; {folder} holds an LSTM, which supports only float32: leave dtype out")
    if not (folder / TOKENIZER_FILE).is_file():
        raise UsageError(f"{folder} is not the folder of a preset ({TOKENIZER_FILE} is missing): {_advice_for(folder)}")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Skipping nested container")  # Keras' warning about missing weights
            vet_folder(folder)
            return _load_lstm(folder) if (folder / LSTM_FILE).exists() else _load_causal_lm(folder, dtype)
    except Exception as error:  # for a damaged file Keras raises errors of many types
        raise UsageError(
            f"preset {folder} cannot be read ({' '.join(str(error).split())[:200]}); it is damaged or not a language "
            "model: make one with tfppo pretrain"
        ) from error


def _advice_for(folder: Path) -> str:
    """Returns what to do if a folder is not a preset. The user may have given the folder of a run."""
    for inner in (folder / name for name in IN_RUNS):
        if (inner / TOKENIZER_FILE).is_file():
            return f"give {inner}"
    with contextlib.suppress(UsageError):
        if run_folder.kind_of(folder) == "text":
            return f"it is a run, so write its preset with: tfppo export {run_folder.quoted(folder)}"
    return "make one with tfppo pretrain"


def halve_weights(path: Path) -> None:
    """Converts the float32 weights in an HDF5 file to float16; Keras converts them back when it loads them.

    Args:
      path: The file, which is replaced.
    """
    halved = path.with_name(path.name + ".tmp")
    with h5py.File(path) as source, h5py.File(halved, "w") as target:

        def copy(name: str, item: h5py.Group | h5py.Dataset) -> None:
            if isinstance(item, h5py.Group):
                new = target.require_group(name)
            else:
                value = item[()]
                value = value.astype(np.float16) if value.dtype == np.float32 else value
                new = target.create_dataset(name, data=value)
            for key, attribute in item.attrs.items():
                new.attrs[key] = attribute

        for key, attribute in source.attrs.items():
            target.attrs[key] = attribute
        source.visititems(copy)
    halved.replace(path)


def _load_causal_lm(folder: Path, dtype: str) -> tuple[keras.Model, keras_hub.models.Tokenizer]:
    tokenizer = keras_hub.models.Tokenizer.from_preset(str(folder))
    return keras_hub.models.CausalLM.from_preset(str(folder), preprocessor=None, dtype=dtype), tokenizer


def _load_lstm(folder: Path) -> tuple[keras.Model, keras_hub.models.Tokenizer]:
    """Loads an LSTM and its tokenizer without `from_preset`, which only loads KerasHub backbones."""
    vet_archive(folder / LSTM_FILE)
    model = keras.saving.load_model(folder / LSTM_FILE, compile=False, safe_mode=True)
    if not isinstance(model, LSTMLanguageModel):
        raise UsageError(f"{LSTM_FILE} holds a {type(model).__name__}; it must hold an LSTMLanguageModel")
    tokenizer = keras.saving.deserialize_keras_object(json.loads((folder / TOKENIZER_FILE).read_text()))
    tokenizer.load_preset_assets(str(folder))
    return model, tokenizer
