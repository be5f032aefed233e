"""Language models that are given in Python: their forms, and the states in which they can be trained."""

import keras
import keras_hub

from tfppo.errors import UsageError
from tfppo.text.config import TextConfig
from tfppo.text.data.special_tokens import SpecialTokens, special_tokens_of
from tfppo.text.models.adapters import has_adapters
from tfppo.text.models.lstm import LSTMLanguageModel

FORMS = "give model=(causal_lm, tokenizer), model=(causal_lm, preprocessor), or a CausalLM that has a preprocessor"
PRECISIONS = ("float32", "mixed_bfloat16")
DEFAULT_PRECISION = TextConfig().dtype


def given_model(model: object, dtype: str, replicas: int = 1) -> tuple[keras.Model, keras_hub.models.Tokenizer]:
    """Checks a language model that the user gives, and finds its tokenizer.

    Args:
      model: A pair of a language model (a KerasHub CausalLM or an `LSTMLanguageModel`) and a KerasHub tokenizer or
        preprocessor, or a CausalLM alone that has a preprocessor.
      dtype: The setting `dtype`. It must be the dtype policy of the model, or the default of the setting.
      replicas: Number of replicas that train the weights of the model.

    Returns:
      The model and its tokenizer.

    Raises:
      UsageError: If it is something else, has adapters already, or has weights or a precision that cannot be trained.
    """
    keras_model, tokenizer = _parts(model)
    if has_adapters(keras_model):
        raise UsageError(
            "the given model has LoRA adapters (enable_lora was called); it must have none, because a run adds its "
            "own: merge them with model.save_to_preset(folder) and tokenizer.save_to_preset(folder), then train with "
            "preset=folder and lora_rank"
        )
    _check_precision(keras_model, dtype)
    if replicas > 1:  # its variables exist, but each replica needs a copy
        raise UsageError(
            f"the weights of a given model exist once, but {replicas} replicas train them; each replica needs a copy: "
            "set distribute to none, set lora_rank, or save the model as a preset and give preset=folder"
        )
    return keras_model, tokenizer


def given_special_tokens(model: object) -> SpecialTokens:
    """Returns the special tokens of a given model. If it comes with a preprocessor, that decides about the start token.

    Args:
      model: As for `given_model`, which accepts it.
    """
    _, tokenizer = _parts(model)
    preprocessor = model[1] if isinstance(model, tuple) else getattr(model, "preprocessor", None)
    adds_start = getattr(preprocessor, "add_start_token", None)  # a tokenizer has no such attribute
    known = special_tokens_of(tokenizer)  # of its folder, if `load_preset` loaded it
    return known if adds_start is None else special_tokens_of(tokenizer, adds_start, *known[1:])


def _parts(model: object) -> tuple[keras.Model, keras_hub.models.Tokenizer]:
    if _is_language_model(model):
        tokenizer = getattr(getattr(model, "preprocessor", None), "tokenizer", None)
        if not isinstance(tokenizer, keras_hub.models.Tokenizer):
            raise UsageError(
                f"model is a {type(model).__name__} alone, and it has no preprocessor with a tokenizer; a run needs a "
                f"tokenizer: {FORMS}"
            )
        return model, tokenizer
    if not isinstance(model, tuple) or len(model) != 2:
        what = f"a tuple of {len(model)}" if isinstance(model, tuple) else f"a {_kind(model)}"
        raise UsageError(f"model is {what}; it must be a language model with its tokenizer: {FORMS}")
    first, second = model
    if not _is_language_model(first):
        problem = "the language model must be the first" if _is_language_model(second) else "none is a language model"
        raise UsageError(f"model is a pair of a {_kind(first)} and a {_kind(second)}; {problem}: {FORMS}")
    tokenizer = second.tokenizer if isinstance(second, keras_hub.models.Preprocessor) else second
    if not isinstance(tokenizer, keras_hub.models.Tokenizer):
        raise UsageError(
            f"the tokenizer of model=(causal_lm, tokenizer) is a {_kind(tokenizer)}; it must be a KerasHub tokenizer, "
            "such as keras_hub.models.GPT2Tokenizer: load one from the folder of a Hugging Face model or of a preset "
            "with keras_hub.models.Tokenizer.from_preset(folder)"
        )
    return first, tokenizer


def _check_precision(model: keras.Model, dtype: str) -> None:
    policy = model.dtype_policy.name
    quantized = [layer.quantization_mode for layer in model._flatten_layers() if layer.quantization_mode]
    if quantized:
        raise UsageError(
            f"the given model is quantized ({quantized[0]}); only float32 weights can be trained: load it without "
            "quantization"
        )
    for weight in model.weights:
        if keras.backend.is_float_dtype(weight.dtype) and weight.dtype != "float32":
            raise UsageError(
                f"the weights of the given model are {weight.dtype}; they must be float32, because updates that are "
                "smaller than the precision get lost: load the model with dtype='mixed_bfloat16', which computes in "
                "bfloat16 and keeps float32 weights"
            )
    if policy not in PRECISIONS:
        raise UsageError(
            f"the given model has the dtype policy {policy}; it must be {' or '.join(PRECISIONS)}: load it with one of "
            "these as dtype"
        )
    if isinstance(model, LSTMLanguageModel) and policy != "float32":
        raise UsageError(f"the given LSTM has the dtype policy {policy}; it must be float32: make it with this policy")
    if dtype not in (DEFAULT_PRECISION, policy):
        raise UsageError(
            f"dtype is {dtype}; it must be the dtype policy of the given model, which is {policy}: leave dtype out, or "
            f"load the model with dtype={dtype!r}"
        )


def _is_language_model(thing: object) -> bool:
    is_decoder = isinstance(thing, keras_hub.models.CausalLM) and not isinstance(thing, keras_hub.models.Seq2SeqLM)
    return is_decoder or isinstance(thing, LSTMLanguageModel)


def _kind(thing: object) -> str:
    """Returns the package and the class of an object, for example `tokenizers.Tokenizer`."""
    package, name = type(thing).__module__.split(".")[0], type(thing).__name__
    return name if package == "builtins" else f"{package}.{name}"
