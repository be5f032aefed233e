"""Writes language models and tokenizers as folders in the form of Hugging Face, which transformers loads.

What goes out comes back: a folder is loaded again by `load_hugging_face` and compared with the model.
"""

import shutil
from pathlib import Path

import keras
import keras_hub
import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from tfppo.errors import UsageError, one_line
from tfppo.text.data.special_tokens import SpecialTokens, special_tokens_of, unsplittable_tokens_of, vocabulary_of
from tfppo.text.data.tokenizer import WORDS
from tfppo.text.models.adapters import has_adapters
from tfppo.text.models.copying import ModelsDiffer, check_same
from tfppo.text.models.reference import as_language_model
from tfppo.text.presets.configs import (
    GENERATION_FILE,
    MODEL_FILE,
    TOKENIZER_FILE,
    Config,
    add_chat_template,
    read_json,
    write_json,
)
from tfppo.text.presets.hugging_face import TOKENIZER_CONFIG, is_hugging_face, load_hugging_face
from tfppo.text.presets.hugging_face_weights import CONVERTERS, kind_of, settings_of, weights_of

WEIGHTS_FILE, SENTENCE_PIECES = "model.safetensors", "tokenizer.model"
TOKENIZER_FILES = (  # a folder in the form of Hugging Face keeps its own, because tuning does not change the tokenizer
    *(TOKENIZER_FILE, TOKENIZER_CONFIG, SENTENCE_PIECES, "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "tekken.json", "chat_template.jinja", "chat_template.json"),
)
DIGITS = {"qwen2": r"\p{N}", "qwen3": r"\p{N}"}  # Qwen splits numbers into digits, Llama 3 into groups of up to three
ROUNDING = 1e-4  # largest relative difference of a logit after weights changed their layout or adapters were merged


def write_hugging_face(
    folder: Path,
    model: keras.Model,
    tokenizer: keras_hub.models.Tokenizer,
    special: SpecialTokens,
    source: Path | None = None,
) -> None:
    """Writes a language model and its tokenizer into a new folder, with adapters merged and weights in float32.

    Args:
      folder: Must not exist.
      model: A model of one of `hugging_face_weights.KINDS`.
      tokenizer: Tokenizer of the model.
      special: Start token and end tokens.
      source: Folder from which the model was loaded, if there is one. If it has the form of Hugging Face, the files of
        its tokenizer are copied.

    Raises:
      FileExistsError: If the folder exists.
      UsageError: If the family of the model or its tokenizer has no such form, or the folder would be loaded as another
        model.
    """
    kind = kind_of(model)
    _check_tokenizer_class(tokenizer, kind)
    folder.mkdir(parents=True)
    config = settings_of(model, kind) | _token_ids(tokenizer, special)
    if source is not None and is_hugging_face(source):
        known = read_json(source / MODEL_FILE)
        config |= {name: known[name] for name in ("max_position_embeddings",) if name in known}
        for name in TOKENIZER_FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
    else:
        write_tokenizer(folder, tokenizer, special, kind)
    add_chat_template(folder, special)
    write_json(folder / MODEL_FILE, config)
    write_json(folder / GENERATION_FILE, _token_ids(tokenizer, special) | {"eos_token_id": list(special.ends)})
    save_weights(weights_of(model, kind), folder / WEIGHTS_FILE)
    _check(folder, model, tokenizer, special)


def save_weights(weights: dict[str, np.ndarray], path: Path) -> None:
    """Writes weights into a new file in the form safetensors, readable like other new files."""
    path.touch()
    mode = path.stat().st_mode
    save_file(weights, path, metadata={"format": "pt"})
    path.chmod(mode)  # the package makes a file that only its owner may read


def _token_ids(tokenizer: keras_hub.models.Tokenizer, special: SpecialTokens) -> Config:
    pad, start, end = getattr(tokenizer, "pad_token_id", None), special.start, special.ends[0]
    return {"bos_token_id": start, "eos_token_id": end, "pad_token_id": end if pad is None else int(pad)}


def _check_tokenizer_class(tokenizer: keras_hub.models.Tokenizer, kind: str) -> None:
    """Checks that a model of a kind comes back with a tokenizer of the same class."""
    backbone = CONVERTERS[kind].backbone_cls
    if getattr(type(tokenizer), "backbone_cls", None) is not backbone:
        raise UsageError(
            f"the tokenizer is a {type(tokenizer).__name__}; written for transformers, a {kind} must have a tokenizer "
            f"that KerasHub makes for {backbone.__name__}: export it with --format keras"
        )


def write_tokenizer(folder: Path, tokenizer: keras_hub.models.Tokenizer, special: SpecialTokens, kind: str) -> None:
    """Writes the files of a tokenizer: tokenizer.json for byte pairs, tokenizer.model for pieces of sentences.

    Args:
      folder: An existing folder.
      tokenizer: A KerasHub tokenizer.
      special: Start token and end tokens.
      kind: `model_type` of its model.
    """
    start = None if special.start is None else str(tokenizer.id_to_token(special.start))
    end = str(tokenizer.id_to_token(special.ends[0]))
    pad = getattr(tokenizer, "pad_token_id", None)
    tokens: Config = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # takes all rules from the file
        "bos_token": start or getattr(tokenizer, "start_token", None),
        "eos_token": end,
        "pad_token": end if pad is None else str(tokenizer.id_to_token(int(pad))),
        "add_bos_token": start is not None,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
    }
    if isinstance(tokenizer, keras_hub.tokenizers.SentencePieceTokenizer):
        tokenizer.save_assets(str(folder))
        (folder / "vocabulary.spm").rename(folder / SENTENCE_PIECES)
        tokens["unk_token"] = "<unk>"
    else:
        _byte_pairs(tokenizer, kind, start, special).save(str(folder / TOKENIZER_FILE))
    write_json(folder / TOKENIZER_CONFIG, tokens)


def _byte_pairs(
    tokenizer: keras_hub.tokenizers.BytePairTokenizer, kind: str, start: str | None, special: SpecialTokens
) -> Tokenizer:
    """Makes a tokenizer of the package `tokenizers` that splits texts as transformers does for the family."""
    merges = [tuple(merge.split(" ")) for merge in tokenizer.merges if not merge.startswith("#version:")]  # a comment
    made = Tokenizer(models.BPE({str(token): id for token, id in tokenizer.vocabulary.items()}, merges))
    if kind == "gpt2":
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    else:
        words = Regex(WORDS.replace(r"\p{N}{1,3}", DIGITS.get(kind, r"\p{N}{1,3}")))
        split = pre_tokenizers.Split(words, behavior="isolated")
        plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        made.pre_tokenizer = pre_tokenizers.Sequence([split, plain])
    if kind.startswith("qwen"):
        made.normalizer = normalizers.NFC()
    made.decoder = decoders.ByteLevel()
    vocabulary = vocabulary_of(tokenizer)
    named = [token for token in unsplittable_tokens_of(tokenizer) if token in vocabulary]
    ends = [str(token) for token, id in tokenizer.vocabulary.items() if id in special.ends]  # an end may be no token
    names = sorted({*named, *ends, *([] if start is None else [start])}, key=tokenizer.token_to_id)
    for name in names:
        is_text = name in special.written
        add = made.add_tokens if is_text else made.add_special_tokens
        add([AddedToken(name, special=not is_text, normalized=False)])
    if start is not None:
        made.post_processor = processors.TemplateProcessing(
            single=f"{start} $A", pair=f"{start} $A {start} $B", special_tokens=[(start, special.start)]
        )
    return made


def _check(folder: Path, model: keras.Model, tokenizer: keras_hub.models.Tokenizer, special: SpecialTokens) -> None:
    """Loads a folder again, and compares it with the model and the tokenizer that were written.

    Raises:
      UsageError: If they differ.
    """
    try:
        loaded, again = load_hugging_face(folder, model.dtype_policy.name)
        if special_tokens_of(again) != special or list(vocabulary_of(again)) != list(vocabulary_of(tokenizer)):
            raise ModelsDiffer(f"its {type(tokenizer).__name__} would be loaded with other tokens")
        merged = 2e-2 if model.compute_dtype == "bfloat16" and has_adapters(model) else ROUNDING
        check_same(as_language_model(model), as_language_model(loaded), merged)
    except (ModelsDiffer, UsageError, KeyError, ValueError) as error:
        raise UsageError(
            f"{type(model).__name__} cannot be written for transformers, because it would be loaded as something else "
            f"({one_line(error)}): export it with --format keras"
        ) from error
