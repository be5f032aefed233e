"""Compares the logits of tiny random Hugging Face models in transformers and in tfppo, on the way in and out.

Usage: python benchmarks/hugging_face.py --peer-python PYTHON

PYTHON has transformers, peft, torch, tokenizers and sentencepiece. It writes one folder for each architecture, with the
logits of transformers. This process then loads each folder with `tfppo.load_preset`, saves it as a preset, loads that,
and writes what `tfppo export --format transformers` and `--adapters-only` write. PYTHON loads these. One JSON line for
each architecture, and one for the language model that tfppo includes, has the largest differences.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

TEXTS = ["It is a joy.", "the film and a joy", "Not good, not bad", " bad films\nand good 1999 films"]

PEER = Path(__file__).with_name("hugging_face_peer.py")
INCLUDED = "movie-gpt2"


def compute(model: Any, ids: np.ndarray) -> np.ndarray:
    """Computes the logits [B, S, V] of tokens [B, S]."""
    return model({"token_ids": ids, "padding_mask": np.ones_like(ids)}, training=False).numpy()


def compare_loading(folder: Path) -> dict[str, Any]:
    """Loads a folder of transformers, saves it as a preset and loads that; returns the differences of the logits."""
    from tfppo import load_preset
    from tfppo.text.presets import save_preset

    reference = np.load(folder / "logits.npz")
    model, tokenizer = load_preset(folder)
    logits = compute(model, reference["ids"])
    save_preset(folder / "saved", model, tokenizer, "float32")
    saved = compute(load_preset(folder / "saved")[0], reference["ids"])
    return {
        "architecture": folder.name,
        "model": type(model).__name__,
        "difference": float(np.abs(logits - reference["logits"]).max()),
        "largest_logit": float(np.abs(logits).max()),
        "saved_difference": float(np.abs(saved - logits).max()),
    }


def write_exports(preset: Path, folder: Path) -> dict[str, Any]:
    """Exports a model for transformers, and its adapters for PEFT, with the tokens and logits to expect.

    Args:
      preset: The model.
      folder: Gets the folders "exported" and "adapters", each if the family of the model has this form.

    Returns:
      The difference of the logits after the export is loaded again by tfppo, if there is one.
    """
    from tfppo import UsageError, load_preset
    from tfppo.text.data.special_tokens import special_tokens_of
    from tfppo.text.models.adapters import adapter_variables, add_adapters
    from tfppo.text.presets.hugging_face_export import write_hugging_face
    from tfppo.text.presets.peft import write_adapters

    model, tokenizer = load_preset(preset)
    special = special_tokens_of(tokenizer)
    ids = np.random.default_rng(2).integers(3, 250, [2, 12])
    logits = compute(model, ids)
    start = [] if special.start is None else [special.start]
    try:
        write_hugging_face(folder / "exported", model, tokenizer, special)
    except UsageError:
        return {}
    tokens = [start + [int(token) for token in tokenizer([text])[0]] for text in TEXTS]
    (folder / "exported" / "tokens.json").write_text(json.dumps(tokens))
    np.savez(folder / "exported" / "logits.npz", ids=ids, logits=logits)
    again = compute(load_preset(folder / "exported")[0], ids)
    add_adapters(model, rank=2, alpha=3.0, targets="all")
    for number, variable in enumerate(adapter_variables(model)):
        variable.assign(np.random.default_rng(number).normal(0.0, 0.3, variable.shape))
    with contextlib.suppress(UsageError):
        write_adapters(folder / "adapters", model, str(folder / "exported"))
        np.savez(folder / "adapters" / "logits.npz", ids=ids, logits=compute(model, ids))
    return {"again_difference": float(np.abs(again - logits).max())}


def main() -> None:
    """Runs the comparison. Exits with 1 if the logits of a folder differ by more than 1e-4, or tokens differ."""
    parser = argparse.ArgumentParser(description="compare logits with transformers")
    parser.add_argument("--peer-python", type=Path, required=True, help="Python with transformers, peft and torch")
    arguments = parser.parse_args()
    from tfppo.text.presets import default_preset

    with tempfile.TemporaryDirectory() as made:
        subprocess.run([arguments.peer_python, PEER, "make", made], check=True, stderr=subprocess.DEVNULL)
        rows = {}
        for folder in sorted(Path(made).iterdir()):
            rows[folder.name] = compare_loading(folder) | write_exports(folder, folder)
        included = Path(made) / INCLUDED
        included.mkdir()
        row = {"architecture": INCLUDED, "model": "GPT2CausalLM"}
        rows[INCLUDED] = row | write_exports(default_preset(), included)
        subprocess.run([arguments.peer_python, PEER, "check", made], check=True, stderr=subprocess.DEVNULL)
        differences: list[float] = []
        for name, row in rows.items():
            found = Path(made) / name / "found.json"
            row |= json.loads(found.read_text()) if found.is_file() else {}
            differences += [value for key, value in row.items() if key.endswith("difference")]
            print(json.dumps(row), flush=True)
    sys.exit(max(differences) > 1e-4 or not all(row.get("same_tokens", True) for row in rows.values()))


if __name__ == "__main__":
    main()
