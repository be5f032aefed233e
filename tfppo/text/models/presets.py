"""Language models on disk: KerasHub presets, which `from_preset(folder)` loads. Weights may be halved."""

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

LSTM_FILE = "lstm.keras"
TOKENIZER_FILE = "tokenizer.json"
WEIGHTS_FILE = "model.weights.h5"
LONGEST = 1024  # tokens that KerasHub's `generate` may write with a model that has no limit of its own


def default_preset() -> Path:
    """The folder of the language model that is shipped."""
    return Path(str(resources.files("tfppo.assets").joinpath("movie-gpt2")))


def save_preset(
    folder: Path,
    model: keras.Model,
    tokenizer: keras_hub.models.Tokenizer,
    weights_dtype: Literal["float16", "float32"] = "float16",
) -> None:
    """Writes a language model and its tokenizer into a new folder, which must not exist yet.

    The weights of a KerasHub model are kept in `weights_dtype`; the LSTM's in float32. Adapters are merged into the
    weights that they adapt. Optimizers stay out.
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
        add_start_token=False,  # KerasHub would begin texts with the end token, which ours never saw there
    )
    type(model)(model.backbone, preprocessor=preprocessor).save_to_preset(str(folder))
    if weights_dtype == "float16":
        halve_weights(folder / WEIGHTS_FILE)


def load_preset(folder: Path | str, dtype: str = "float32") -> tuple[keras.Model, keras_hub.models.Tokenizer]:
    """A language model and its tokenizer from a folder. No code that the folder may hold is run (see `vetting`), and
    nothing is fetched from elsewhere.

    Args:
      folder: of the preset.
      dtype: "float32" or "mixed_bfloat16", whatever the weights are kept in; an LSTM is float32.

    Raises:
      UsageError: if the folder is no preset, or damaged, or an LSTM for which another precision is asked.
    """
    folder = Path(folder).absolute()  # KerasHub takes a relative one for a model to download where it knows the name
    if (folder / LSTM_FILE).exists() and dtype != "float32":
        raise UsageError(f"dtype is {dtype}, but {folder} holds an LSTM, which computes in float32: leave dtype out")
    if not (folder / TOKENIZER_FILE).is_file():
        raise UsageError(
            f"{folder} is not the folder of a preset: it has no {TOKENIZER_FILE}; make one: tfppo pretrain"
        )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Skipping nested container")  # weights are missing, Keras would say
            vet_folder(folder)
            return _load_lstm(folder) if (folder / LSTM_FILE).exists() else _load_causal_lm(folder, dtype)
    except Exception as error:  # Keras answers damage with whatever its readers stumble over
        raise UsageError(
            f"preset {folder} cannot be read ({' '.join(str(error).split())[:200]}): it is damaged, or no language "
            "model; make one: tfppo pretrain"
        ) from error


def halve_weights(path: Path) -> None:
    """Rewrites the float32 weights of an HDF5 file in float16; Keras casts them back when it loads them."""
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
    """As KerasHub would, which wants a backbone of its own beside a tokenizer."""
    vet_archive(folder / LSTM_FILE)
    model = keras.saving.load_model(folder / LSTM_FILE, compile=False, safe_mode=True)
    if not isinstance(model, LSTMLanguageModel):
        raise UsageError(f"{LSTM_FILE} holds a {type(model).__name__}, not an LSTMLanguageModel")
    tokenizer = keras.saving.deserialize_keras_object(json.loads((folder / TOKENIZER_FILE).read_text()))
    tokenizer.load_preset_assets(str(folder))
    return model, tokenizer
