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

from tfppo.errors import UsageError, one_line
from tfppo.text.data.special_tokens import SpecialTokens, keep_special_tokens, special_tokens_of
from tfppo.text.models.adapters import has_adapters
from tfppo.text.models.copying import (
    ModelsDiffer,
    Plain,
    changed_attributes,
    check_same,
    copy_weights,
    default_policy,
    rebuilt,
)
from tfppo.text.models.language_model import context_length
from tfppo.text.models.lstm import LSTMLanguageModel
from tfppo.text.models.reference import as_language_model
from tfppo.text.presets.configs import (
    TIED,
    TOKENIZER_FILE,
    add_chat_template,
    add_end_tokens,
    add_layer_settings,
    add_settings,
    add_special_tokens,
    add_written_tokens,
    adds_start_token,
    apply_layer_settings,
    causal_lm_of,
    chat_template,
    end_tokens,
    may_be_tied,
    settings_for,
    tokenizer_arguments,
    written_tokens,
)
from tfppo.text.presets.fetching import folder_of
from tfppo.text.presets.hugging_face import is_hugging_face, load_hugging_face
from tfppo.text.presets.vetting import vet_archive, vet_folder
from tfppo.text.presets.word_splitting import add_word_splitting, apply_word_splitting
from tfppo.training import run_folder

LSTM_FILE = "lstm.keras"
WEIGHTS_FILE = "model.weights.h5"
IN_RUNS = ("preset", run_folder.EXPORT)  # folders of presets in the folders of runs: of pretraining, and exports
TEXT = "It's 1999.\n\nA film -- caf\u00e9!"  # a saved tokenizer must encode it as before
LONGEST = 1024  # sequence length of KerasHub's preprocessor, for a model without a limit


def default_preset() -> Path:
    """Returns the folder of the included language model."""
    return Path(str(resources.files("tfppo.assets").joinpath("movie-gpt2")))


def save_preset(
    folder: Path,
    model: keras.Model,
    tokenizer: keras_hub.models.Tokenizer,
    weights_dtype: Literal["float16", "float32"] = "float16",
    special: SpecialTokens | None = None,
) -> None:
    """Writes a language model and its tokenizer into a new folder.

    Adapters are merged into the weights. The optimizer is not saved. A KerasHub model is loaded again and compared,
    because a preset may lack settings of a model (see the module `configs`).

    Args:
      folder: Must not exist.
      model: A KerasHub CausalLM or an `LSTMLanguageModel`.
      tokenizer: Tokenizer of the model.
      weights_dtype: Precision of the saved weights of a KerasHub model; an LSTM is always saved in float32.
      special: Start token and end tokens. None: those of the tokenizer.

    Raises:
      FileExistsError: If the folder exists.
      UsageError: If the preset would load as something else.
    """
    folder = folder.absolute()  # KerasHub takes a relative path for the name of a known preset, and fetches that
    folder.mkdir(parents=True)
    special = special_tokens_of(tokenizer) if special is None else special
    if isinstance(model, LSTMLanguageModel):
        without_optimizer = rebuilt(model)
        copy_weights(model, without_optimizer)
        without_optimizer.save(folder / LSTM_FILE)
        tokenizer.save_to_preset(str(folder))
        _add_tokens(folder, special)
        return
    preprocessor = model.preprocessor_cls(
        tokenizer,
        sequence_length=context_length(model) or LONGEST,
        add_start_token=special.start is not None,
    )
    type(model)(backbone=model.backbone, preprocessor=preprocessor).save_to_preset(str(folder))
    _complete(folder, model, tokenizer, special)
    if weights_dtype == "float16":
        halve_weights(folder / WEIGHTS_FILE)


def load_preset(preset: Path | str, dtype: str = "float32") -> tuple[keras.Model, keras_hub.models.Tokenizer]:
    """Loads a language model and its tokenizer from a folder of KerasHub, or from one in the form of Hugging Face.

    Code in the folder is not run (see the module `vetting`). Only what a name or a handle asks for is fetched (see the
    module `fetching`).

    Args:
      preset: A folder, the name of a KerasHub preset such as "gpt2_base_en", or a handle such as "hf://USER/MODEL" or
        "kaggle://USER/MODEL/keras/VARIATION". A name of a folder that exists is the folder.
      dtype: Precision of the loaded model, "float32" or "mixed_bfloat16"; it does not depend on the saved precision.
        An LSTM supports only "float32".

    Returns:
      The model and its tokenizer.

    Raises:
      UsageError: If the folder is not a preset, is damaged, or holds an LSTM and another precision was requested, or if
        the preset is not a folder and cannot be fetched.
    """
    folder = folder_of(preset)
    named = folder if Path(preset).is_dir() else f"{preset} ({folder})"
    is_converted = is_hugging_face(folder)
    if (folder / LSTM_FILE).exists() and dtype != "float32":
        raise UsageError(f"dtype is {dtype}; {named} holds an LSTM, which supports only float32: leave dtype out")
    if not is_converted and not (folder / TOKENIZER_FILE).is_file():
        raise UsageError(f"{named} is not the folder of a preset ({TOKENIZER_FILE} is missing): {_advice_for(folder)}")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Skipping nested container")  # Keras' warning about missing weights
            if is_converted:
                return load_hugging_face(folder, dtype)
            vet_folder(folder)
            return _load_lstm(folder) if (folder / LSTM_FILE).exists() else _load_causal_lm(folder, dtype)
    except Exception as error:  # for a damaged file Keras raises errors of many types
        if is_converted and isinstance(error, UsageError):
            raise UsageError(f"{named}: {error}") from None
        raise UsageError(
            f"preset {named} cannot be read ({' '.join(str(error).split())[:200]}); it is damaged or not a language "
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


def _complete(
    folder: Path, model: keras_hub.models.CausalLM, tokenizer: keras_hub.models.Tokenizer, special: SpecialTokens
) -> None:
    """Adds what KerasHub leaves out of the files of a preset, loads it, and compares it with the saved model.

    Raises:
      UsageError: If the loaded model or tokenizer still differs.
    """
    original, policy = as_language_model(model), model.dtype_policy.name
    add_settings(folder, model.backbone, {})
    add_special_tokens(folder, tokenizer)
    add_word_splitting(folder, tokenizer)
    _add_tokens(folder, special)
    try:
        loaded_tokenizer = _load_tokenizer(folder)
        if not _same_tokenizer(tokenizer, loaded_tokenizer) or special_tokens_of(loaded_tokenizer) != special:
            raise ModelsDiffer(f"its {type(tokenizer).__name__} would be loaded with other tokens")
        loaded = as_language_model(_load_model(folder, policy))
        if changes := _changes(model, loaded.model):
            settings = settings_for(model.backbone, changes)
            add_settings(folder, model.backbone, settings)
            loaded = as_language_model(_load_model(folder, policy))
            add_layer_settings(folder, loaded.model, changed_attributes(model, loaded.model))
            apply_layer_settings(folder, loaded.model)  # as the next load does
            for name, value, other in _changes(model, loaded.model):
                if name not in settings:  # a layer may keep the former setting, which it used when it was made
                    raise ModelsDiffer(f"a layer has {name} {value}, and would be loaded with {other}")
        merged = 2e-2 if policy != "float32" else 1e-4  # the rounding of adapters that are added to their weights
        check_same(original, loaded, merged if has_adapters(model) else 0.0)
    except (ModelsDiffer, AttributeError, KeyError, TypeError, ValueError) as error:  # Keras raises many types
        raise UsageError(
            f"{type(model).__name__} cannot be saved as a preset, because it would be loaded as something else "
            f"({one_line(error)}): save its weights with model.save_weights"
        ) from error


def _add_tokens(folder: Path, special: SpecialTokens) -> None:
    """Writes what a folder says about the tokens that end a response, the chat template, and tokens that are text."""
    add_end_tokens(folder, special)
    add_chat_template(folder, special)
    add_written_tokens(folder, special)


def _keep_tokens(folder: Path, tokenizer: keras_hub.models.Tokenizer) -> None:
    more = end_tokens(folder), chat_template(folder), written_tokens(folder)
    keep_special_tokens(tokenizer, adds_start_token(folder), *more)


def _changes(model: keras.Model, loaded: keras.Model) -> list[tuple[str, Plain, Plain]]:
    return [change[1:] for change in changed_attributes(model, loaded)]


def _same_tokenizer(tokenizer: keras_hub.models.Tokenizer, loaded: keras_hub.models.Tokenizer) -> bool:
    """Returns True if two tokenizers have the same tokens, and encode a text in the same way."""

    def properties(of: keras_hub.models.Tokenizer) -> list[object]:
        names = ("start_token", "end_token", "pad_token_id", "unsplittable_tokens")
        return [
            *(getattr(of, name, None) for name in names),
            list(of.get_vocabulary()),
            list(map(int, of([TEXT])[0])),
        ]

    return properties(tokenizer) == properties(loaded)


def _load_causal_lm(folder: Path, dtype: str) -> tuple[keras.Model, keras_hub.models.Tokenizer]:
    tokenizer = _load_tokenizer(folder)
    return _load_model(folder, dtype), tokenizer


def _load_tokenizer(folder: Path) -> keras_hub.models.Tokenizer:
    tokenizer = keras_hub.models.Tokenizer.from_preset(str(folder), **tokenizer_arguments(folder))
    apply_word_splitting(folder, tokenizer)
    _keep_tokens(folder, tokenizer)
    return tokenizer


def _load_model(folder: Path, dtype: str) -> keras_hub.models.CausalLM:
    with default_policy(dtype):
        try:
            model = keras_hub.models.CausalLM.from_preset(str(folder), preprocessor=None, dtype=dtype)
        except (ValueError, UserWarning):
            if not may_be_tied(folder):
                raise
            backbone = keras_hub.models.Backbone.from_preset(str(folder), dtype=dtype, **TIED)
            model = causal_lm_of(backbone)
    apply_layer_settings(folder, model)
    return model


def _load_lstm(folder: Path) -> tuple[keras.Model, keras_hub.models.Tokenizer]:
    """Loads an LSTM and its tokenizer without `from_preset`, which only loads KerasHub backbones."""
    vet_archive(folder / LSTM_FILE)
    model = keras.saving.load_model(folder / LSTM_FILE, compile=False, safe_mode=True)
    if not isinstance(model, LSTMLanguageModel):
        raise UsageError(f"{LSTM_FILE} holds a {type(model).__name__}; it must hold an LSTMLanguageModel")
    tokenizer = keras.saving.deserialize_keras_object(json.loads((folder / TOKENIZER_FILE).read_text()))
    tokenizer.load_preset_assets(str(folder))
    _keep_tokens(folder, tokenizer)
    return model, tokenizer
