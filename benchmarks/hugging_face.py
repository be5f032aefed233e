"""Compares the logits of tiny random Hugging Face models in transformers and in tfppo.

Usage: python benchmarks/hugging_face.py --peer-python PYTHON

PYTHON has transformers, torch, tokenizers and sentencepiece. It writes one folder for each architecture, with the
logits of transformers. This process then loads each folder with `tfppo.load_preset`, saves it as a preset, loads that,
and prints one JSON line for each architecture with the largest differences.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

MAKE = Path(__file__).with_name("hugging_face_peer.py")


def main() -> None:
    """Runs the comparison. Exits with 1 if the logits of a folder differ by more than 1e-4."""
    parser = argparse.ArgumentParser(description="compare logits with transformers")
    parser.add_argument("--peer-python", type=Path, required=True, help="Python with transformers and torch")
    arguments = parser.parse_args()
    import numpy as np

    from tfppo import load_preset
    from tfppo.text.presets import save_preset

    worst = 0.0
    with tempfile.TemporaryDirectory() as made:
        subprocess.run([arguments.peer_python, MAKE, made], check=True, stderr=subprocess.DEVNULL)
        for folder in sorted(path for path in Path(made).iterdir()):
            reference = np.load(folder / "logits.npz")
            inputs = {"token_ids": reference["ids"], "padding_mask": np.ones_like(reference["ids"])}
            model, tokenizer = load_preset(folder)
            logits = model(inputs, training=False).numpy()
            save_preset(folder / "saved", model, tokenizer, "float32")
            saved = load_preset(folder / "saved")[0](inputs, training=False).numpy()
            row = {
                "architecture": folder.name,
                "model": type(model).__name__,
                "difference": float(np.abs(logits - reference["logits"]).max()),
                "largest_logit": float(np.abs(logits).max()),
                "saved_difference": float(np.abs(saved - logits).max()),
            }
            print(json.dumps(row), flush=True)
            worst = max(worst, row["difference"], row["saved_difference"])
    sys.exit(worst > 1e-4)


if __name__ == "__main__":
    main()
