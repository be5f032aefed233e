"""Settings that KerasHub (0.32) leaves out of the files of a preset, and that are needed to load it again.

These are `tie_word_embeddings` of Llama, the special tokens of the Llama 3 tokenizer, and attributes of layers that
were changed after the model was built, such as the epsilon of the normalization layers.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import keras
import keras_hub

from tfppo.text.data.special_tokens import SpecialTokens
from tfppo.text.models.copying import Plain, complete_config
from tfppo.text.models.weights import layers_by_path

MODEL_FILE, TASK_FILE, TOKENIZER_FILE = "config.json", "task.json", "tokenizer.json"
LAYERS_FILE = "layers.json"
PREPROCESSOR_FILE, GENERATION_FILE = "preprocessor.json", "generation_config.json"
WRITTEN_FILE = "text_tokens.json"
CHAT_FILE, TOKENIZER_CONFIG = "chat_template.jinja", "tokenizer_config.json"
MISC = "misc_special_tokens"  # a set, which JSON cannot hold; a preset has a list
TIED = {"tie_word_embeddings": True}
Config = dict[str, Any]


def add_settings(folder: Path, backbone: keras_hub.models.Backbone, settings: Config) -> None:
    """Adds settings of a model to the files that KerasHub has written.

    Args:
      folder: Folder of the preset.
      backbone: The backbone of the saved model.
      settings: Arguments of the backbone, in addition to those of `complete_config`.
    """
    known = backbone.get_config()
    new = {name: value for name, value in complete_config(backbone).items() if name not in known} | settings
    if new:
        model, task = read_json(folder / MODEL_FILE), read_json(folder / TASK_FILE)
        model["config"] |= new
        task["config"]["backbone"]["config"] |= new
        write_json(folder / MODEL_FILE, model)
        write_json(folder / TASK_FILE, task)


def settings_for(backbone: keras_hub.models.Backbone, changes: Iterable[tuple[str, Plain, Plain]]) -> Config:
    """Finds the settings of a model that stand for changed attributes of its layers.

    Args:
      backbone: The backbone of the model.
      changes: Names of attributes, their values in the model, and the values that its config gives them.

    Returns:
      The settings: those whose name ends with the name of the attribute and that have the value of the config, for
      example `layer_norm_epsilon` for `epsilon`.
    """
    config = complete_config(backbone)
    return {
        setting: value
        for attribute, value, old in changes
        for setting, current in config.items()
        if setting.endswith(attribute) and current == old
    }


def add_layer_settings(
    folder: Path, loaded: keras.Model, changes: Iterable[tuple[keras.Layer, str, Plain, Plain]]
) -> None:
    """Writes numbers of layers that no setting of the model describes, such as the epsilon of Qwen3's keys.

    KerasHub does not read the file, `load_preset` does.

    Args:
      folder: Folder of the preset.
      loaded: The model as it is loaded now.
      changes: Layers of it, with the names of their attributes, the values of the saved model, and the loaded values.
    """
    paths = {id(layer): path for path, layer in layers_by_path(loaded).items()}
    numbers: dict[str, dict[str, Plain]] = {}
    for layer, name, value, old in changes:
        if _is_number(value) and _is_number(old):
            numbers.setdefault(paths[id(layer)], {})[name] = value
    if numbers:
        write_json(folder / LAYERS_FILE, numbers)


def apply_layer_settings(folder: Path, model: keras.Model) -> None:
    """Sets the numbers of layers that `add_layer_settings` has written.

    Args:
      folder: Folder of the preset.
      model: The loaded model.

    Raises:
      ValueError: If the model has no such layer, or the layer has no such number.
    """
    if not (folder / LAYERS_FILE).is_file():
        return
    layers = layers_by_path(model)
    for path, numbers in read_json(folder / LAYERS_FILE).items():
        for name, value in numbers.items():
            if path not in layers or not _is_number(vars(layers[path]).get(name)) or not _is_number(value):
                raise ValueError(f"{LAYERS_FILE} has {name} of a layer {path}, which is no number of the model")
            setattr(layers[path], name, value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def add_special_tokens(folder: Path, tokenizer: keras_hub.models.Tokenizer) -> None:
    """Adds the special tokens of a Llama 3 tokenizer to the file that KerasHub has written.

    Args:
      folder: Folder of the preset.
      tokenizer: The saved tokenizer; any other tokenizer than that of Llama 3 keeps its file.
    """
    if not isinstance(tokenizer, keras_hub.models.Llama3Tokenizer):
        return
    start, end = tokenizer.start_token, tokenizer.end_token
    default = keras_hub.models.Llama3Tokenizer()
    if (start, end, {*tokenizer.special_tokens}) != (default.start_token, default.end_token, {*default.special_tokens}):
        config = read_json(folder / TOKENIZER_FILE)
        others = sorted({*tokenizer.special_tokens} - {start, end})
        config["config"] |= {"bos_token": start, "eos_token": end, MISC: others}
        write_json(folder / TOKENIZER_FILE, config)


def tokenizer_arguments(folder: Path) -> Config:
    """Returns the arguments of a tokenizer that JSON cannot hold, from the folder of a preset."""
    config = read_json(folder / TOKENIZER_FILE).get("config", {})
    return {MISC: set(config[MISC])} if isinstance(config, dict) and isinstance(config.get(MISC), list) else {}


def add_end_tokens(folder: Path, special: SpecialTokens) -> None:
    """Writes the tokens that end a response as Hugging Face does, if there are several."""
    if len(special.ends) > 1:
        write_json(folder / GENERATION_FILE, {"eos_token_id": list(special.ends)})


def add_written_tokens(folder: Path, special: SpecialTokens) -> None:
    """Writes the tokens that are never split and yet are text, if there are any."""
    if special.written:
        write_json(folder / WRITTEN_FILE, list(special.written))


def written_tokens(folder: Path) -> list[str]:
    """Returns the tokens that `add_written_tokens` has written."""
    path = folder / WRITTEN_FILE
    return list(read_json(path)) if path.is_file() else []


def add_chat_template(folder: Path, special: SpecialTokens) -> None:
    """Writes the chat template as Hugging Face does, if there is one."""
    if special.chat_template is not None:
        (folder / CHAT_FILE).write_text(special.chat_template, encoding="utf-8")


def chat_template(folder: Path) -> str | None:
    """Returns the chat template of a model, from a file of its own or from the settings of the tokenizer.

    If the folder has several templates, it is the one for a conversation without tools, which has the name "default".
    """
    if (folder / CHAT_FILE).is_file():
        return (folder / CHAT_FILE).read_text(encoding="utf-8")
    if not (folder / TOKENIZER_CONFIG).is_file():
        return None
    found = read_json(folder / TOKENIZER_CONFIG).get("chat_template")
    if isinstance(found, list):
        found = {each["name"]: each["template"] for each in found}.get("default")
    return found if isinstance(found, str) else None


def end_tokens(folder: Path) -> list[int]:
    """Returns the tokens that end a response, from a file of Hugging Face or of `add_end_tokens`, if there is one."""
    if not (folder / GENERATION_FILE).is_file():
        return []
    ends = read_json(folder / GENERATION_FILE).get("eos_token_id")
    return [ends] if isinstance(ends, int) else list(ends or [])


def adds_start_token(folder: Path) -> bool | None:
    """Returns whether the preprocessor in a preset of KerasHub puts the start token before prompts; None: unknown."""
    if not (folder / PREPROCESSOR_FILE).is_file():
        return None
    return read_json(folder / PREPROCESSOR_FILE).get("config", {}).get("add_start_token")


def may_be_tied(folder: Path) -> bool:
    """Returns True if the preset is one of KerasHub and its config does not say whether embeddings are tied."""
    config = read_json(folder / MODEL_FILE)
    return "class_name" in config and not TIED.keys() & config["config"].keys()


def causal_lm_of(backbone: keras_hub.models.Backbone) -> keras_hub.models.CausalLM:
    """Makes the CausalLM of a backbone, without a preprocessor."""

    def kinds(kind: type[keras_hub.models.CausalLM]) -> Iterator[type[keras_hub.models.CausalLM]]:
        for part in kind.__subclasses__():
            yield part
            yield from kinds(part)

    kind = next(kind for kind in kinds(keras_hub.models.CausalLM) if kind.backbone_cls is type(backbone))
    return kind(backbone=backbone, preprocessor=None)


def read_json(path: Path) -> Config:
    """Reads a JSON file of a preset."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, config: object) -> None:
    """Writes a JSON file of a preset."""
    path.write_text(json.dumps(config, indent=4), encoding="utf-8")
