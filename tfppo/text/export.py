"""Export of a tuned language model as a preset, for use with KerasHub or for further tuning."""

from pathlib import Path

import keras

from tfppo.text.data.codec import PromptCodec
from tfppo.text.presets.folder import LSTM_FILE, TOKENIZER_FILE, save_preset
from tfppo.training.files import replacing
from tfppo.training.run_folder import quoted


def export_preset(folder: Path, model: keras.Model, codec: PromptCodec, temperature: float) -> str:
    """Writes a language model into a folder as a preset, and replaces an earlier preset there.

    The weights are float32, and adapters are merged into them. Load the preset with `preprocessor=None`, and pass
    tokens to `generate`: with its preprocessor KerasHub (release 0.32) puts the end token before each prompt, even if
    the preset says `add_start_token: false`, and the model has never seen it there.

    Args:
      folder: Folder of the preset.
      model: Language model.
      codec: Holds the tokenizer, and the control token before prompts.
      temperature: Temperature at which the model was tuned.

    Returns:
      A line that says how to load the preset.

    Raises:
      UsageError: If the folder holds something else or cannot be written to.
    """
    tokenizer = codec.tokenizer
    with replacing(folder, TOKENIZER_FILE, 4 * model.count_params()) as new:
        save_preset(new, model, tokenizer, "float32", codec.special)
    keras_hub_line = f'keras_hub.models.CausalLM.from_preset("{folder}", preprocessor=None)'
    load = f'tfppo.load_preset("{folder}")' if (folder / LSTM_FILE).exists() else keras_hub_line
    notes = [f"with other tools, start prompts with {tokenizer.id_to_token(token)}" for token in codec.before]
    notes += [f"it was tuned at temperature {temperature}"] if temperature != 1.0 else []
    return f"{folder} holds a preset; load it with {load}, or tune it further with: " + "; ".join(
        [f"tfppo train text --preset {quoted(folder)}", *notes]
    )
