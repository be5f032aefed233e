"""A language model as a preset, for use elsewhere."""

from pathlib import Path

import keras

from tfppo.text.data.codec import PromptCodec
from tfppo.text.models.presets import LSTM_FILE, TOKENIZER_FILE, save_preset
from tfppo.training.files import replacing
from tfppo.training.run_folder import quoted


def export_preset(folder: Path, model: keras.Model, codec: PromptCodec, temperature: float) -> str:
    """Writes a language model into a folder as a preset, in place of an earlier one; returns how to load it.

    The weights are in full precision, and adapters are merged into them. KerasHub's own `generate` puts the end token
    before a prompt, which the model has never seen there, whatever the preset's add_start_token says (release 0.32):
    load it with preprocessor=None, and give it tokens.

    Args:
      folder: of the preset.
      model: the language model.
      codec: its tokenizer, and what stands before its prompts.
      temperature: that it was tuned at.

    Raises:
      UsageError: if the folder holds something else or cannot be written to.
    """
    tokenizer = codec.tokenizer
    with replacing(folder, TOKENIZER_FILE, 4 * model.count_params()) as new:
        save_preset(new, model, tokenizer, "float32")
    load = "tfppo.load_preset" if (folder / LSTM_FILE).exists() else "keras_hub.models.CausalLM.from_preset"
    notes = [f"outside of tfppo begin prompts with {tokenizer.id_to_token(token)}" for token in codec.before]
    notes += [f"it was tuned at temperature {temperature}"] if temperature != 1.0 else []
    return f'{folder} holds a preset; load it with {load}("{folder}"), or go on with it: ' + "; ".join(
        [f"tfppo train text --preset {quoted(folder)}", *notes]
    )
