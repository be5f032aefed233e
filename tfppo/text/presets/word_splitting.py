"""How a tokenizer of byte pairs splits a text into words, as the folder of its model says.

Byte pairs do not cross words. KerasHub (0.32) ignores the words of a Hugging Face folder. It wants Llama 3's for all
models, but passes their pattern as a literal text, so that it does not split at all. This module gives the tokenizer
the words of the folder, and keeps them in a file of their own when the tokenizer is saved in a preset of KerasHub.
"""

import json
from pathlib import Path

import keras_hub
from tokenizers import Tokenizer

from tfppo.text.presets.configs import Config, read_json, write_json

FILE = "word_splitting.json"  # in a preset; KerasHub does not read it, `load_preset` does
PARTS = ("normalizer", "pre_tokenizer")  # of tokenizer.json
ATTRIBUTE = "tfppo_word_splitting"  # of a tokenizer


def apply_word_splitting(folder: Path, tokenizer: keras_hub.models.Tokenizer, name: str = FILE) -> None:
    """Lets a tokenizer of byte pairs split texts as a file of its folder says; without the file nothing changes.

    A program of tf.data still splits as KerasHub does. tfppo encodes outside of such programs.

    Args:
      folder: Folder of the model.
      tokenizer: Tokenizer that was loaded from the folder.
      name: Name of the file: of a preset, or `tokenizer.json` of a Hugging Face folder.

    Raises:
      Exception: What tokenizers raises for a damaged file.
    """
    if not isinstance(tokenizer, keras_hub.tokenizers.BytePairTokenizer) or not (folder / name).is_file():
        return
    found = read_json(folder / name)
    parts = {part: found[part] for part in PARTS if found.get(part)}
    if "pre_tokenizer" not in parts:
        return
    model = {"type": "BPE", "vocab": {}, "merges": []}
    made = Tokenizer.from_str(json.dumps({"version": "1.0", "added_tokens": [], "model": model} | parts))
    for part in parts:
        setattr(tokenizer._tokenizer, part, getattr(made, part))
    setattr(tokenizer, ATTRIBUTE, parts)


def add_word_splitting(folder: Path, tokenizer: keras_hub.models.Tokenizer) -> None:
    """Writes how a tokenizer splits texts into its preset, if `apply_word_splitting` has changed it."""
    parts: Config | None = getattr(tokenizer, ATTRIBUTE, None)
    if parts is not None:
        write_json(folder / FILE, parts)
