"""Export of a tuned language model: for KerasHub and tfppo, for transformers, or its adapters for PEFT."""

from pathlib import Path
from typing import Literal, get_args

import keras

from tfppo.errors import UsageError, shown
from tfppo.text.data.codec import PromptCodec
from tfppo.text.models.lstm import LSTMLanguageModel
from tfppo.text.presets.fetching import HUGGING_FACE
from tfppo.text.presets.folder import TOKENIZER_FILE, save_preset
from tfppo.text.presets.hugging_face import TOKENIZER_CONFIG, is_hugging_face
from tfppo.text.presets.hugging_face_export import write_hugging_face
from tfppo.text.presets.model_card import Tuning, base_of, write_card
from tfppo.text.presets.peft import CONFIG_FILE, write_adapters
from tfppo.training.files import replacing
from tfppo.training.run_folder import quoted

Form = Literal["keras", "transformers", "adapters"]
MARKS = (TOKENIZER_FILE, TOKENIZER_CONFIG, CONFIG_FILE)  # each export has one of these files
TRANSFORMERS = """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")"""
PEFT = """from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, "{folder}")"""


def export_model(folder: Path, form: str, model: keras.Model, codec: PromptCodec, tuning: Tuning) -> str:
    """Writes a language model and its model card into a folder, and replaces an earlier export there.

    The weights are float32. Except in the form "adapters", adapters are merged into them. Load a preset of KerasHub
    with `preprocessor=None`, and pass tokens to `generate`: with its preprocessor KerasHub (release 0.32) puts the end
    token before each prompt, even if the preset says `add_start_token: false`, and the model has never seen it there.

    Args:
      folder: Folder of the export.
      form: "keras" for a preset of KerasHub, "transformers" for a folder that transformers loads, or "adapters" for a
        folder that PEFT loads.
      model: Language model.
      codec: Holds the tokenizer, and the control token before prompts.
      tuning: The run, for the model card.

    Returns:
      A line that says how to load the export.

    Raises:
      UsageError: If the folder holds something else or cannot be written to, or the model has no such form.
    """
    if form not in get_args(Form):
        raise UsageError(f"format is {shown(form)}; it must be keras or transformers")
    if isinstance(model, LSTMLanguageModel) and form != "keras":
        raise UsageError("the model is an LSTM, which transformers does not have: export it with --format keras")
    base, text = base_of(tuning.config.text), tuning.config.text
    notes = [f"with other tools, start prompts with {codec.tokenizer.id_to_token(token)}" for token in codec.before]
    notes += [f"it was tuned at temperature {text.temperature}"] if text.temperature != 1.0 else []
    with replacing(folder, MARKS, 4 * model.count_params() if form != "adapters" else 0) as new:
        if form == "adapters":
            is_known = base.folder is not None and is_hugging_face(base.folder)
            name = base.name.removeprefix(HUGGING_FACE) if is_known else ""
            write_adapters(new, model, name)
            load, line = _adapters(folder, name)
        elif form == "transformers":
            write_hugging_face(new, model, codec.tokenizer, codec.special, base.folder)
            load, line = _transformers(folder)
        else:
            save_preset(new, model, codec.tokenizer, "float32", codec.special)
            load, line = _keras(folder, model)
        write_card(new, form, base, tuning, "\n".join([load, *(f"# {note}" for note in notes)]))
    return "; ".join([line, *notes])


def _adapters(folder: Path, base: str) -> tuple[str, str]:
    """Returns lines of Python that load adapters, and a line about them."""
    load = PEFT.format(base=base or "FOLDER OF THE BASE MODEL FOR TRANSFORMERS", folder=folder.name)
    return load, f'{folder} holds adapters; load them with peft: PeftModel.from_pretrained(base, "{folder}")'


def _transformers(folder: Path) -> tuple[str, str]:
    """Returns lines of Python that load a model of transformers, and a line about it."""
    line = f'{folder} holds a model for transformers; load it with AutoModelForCausalLM.from_pretrained("{folder}")'
    return TRANSFORMERS.format(folder=folder.name), f"{line}, or {_further(folder)}"


def _keras(folder: Path, model: keras.Model) -> tuple[str, str]:
    """Returns lines of Python that load a preset of KerasHub or tfppo, and a line about it."""
    package, call = "keras_hub", 'keras_hub.models.CausalLM.from_preset("{}", preprocessor=None)'
    if isinstance(model, LSTMLanguageModel):
        package, call = "tfppo", 'tfppo.load_preset("{}")'
    line = f"{folder} holds a preset; load it with {call.format(folder)}, or {_further(folder)}"
    return f"import {package}\n\nmodel = {call.format(folder.name)}", line


def _further(folder: Path) -> str:
    return f"tune it further with: tfppo train text --preset {quoted(folder)}"
