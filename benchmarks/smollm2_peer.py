"""Computes the logits of transformers' own reading of a GGUF file; started by smollm2.py.

Usage: python benchmarks/smollm2_peer.py GGUF_FILE FOLDER

FOLDER has rows.json, a list of lists of token ids. The logits [1, S, V] of row N are written to logits.npz under N.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM


def main() -> None:
    source, folder = Path(sys.argv[1]), Path(sys.argv[2])
    model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32).eval()
    rows = json.loads((folder / "rows.json").read_text())
    with torch.no_grad():
        logits = {str(number): model(torch.tensor([row])).logits.numpy() for number, row in enumerate(rows)}
    np.savez(folder / "logits.npz", **logits)


if __name__ == "__main__":
    main()
