"""Measures what a language model forgets while PPO tunes it, with and without pretraining data in the loss (PPO-ptx).

Usage: python benchmarks/forgetting.py [--coeffs 0,0.1,0.5] [--iterations 80] [--seed 1]

It tunes the included language model to write positive film reviews, once for each coefficient of the pretraining data,
which are the shipped sentences of all domains, and prints one JSON line for each:

- `coeff`: the coefficient of the pretraining data; 0: there are none
- `gain`: gain of the score over the model before tuning, in standard deviations of the reward, and `kl` in nats
- `loss`: negative log-likelihood of held-out sentences of all four domains, in nats per token, and `loss_before`
- `seconds`: seconds of the training
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

import tfppo
from tfppo.text.data.corpus import sentences
from tfppo.text.models.language_model import LanguageModel
from tfppo.text.policy import TokenInputs, response_log_probs
from tfppo.text.start.pretraining import PretrainingTexts, load_pretraining

LENGTH = 64  # tokens of a row of held-out text
ROWS = 64


def write_texts(path: Path, split: str) -> Path:
    """Writes the sentences of a split, one JSON object a line."""
    path.write_text("".join(json.dumps({"text": sentence.text}) + "\n" for sentence in sentences(split)))
    return path


def mean_loss(model: LanguageModel, texts: PretrainingTexts) -> float:
    """Returns the negative log-likelihood of the counted tokens, in nats per token."""
    total = 0.0
    for start in range(0, len(texts.token_ids), ROWS):
        ids, counts = (array[start : start + ROWS] for array in texts[:2])
        inputs = TokenInputs(tf.constant(ids), tf.ones(len(ids), tf.int32))
        log_probs = response_log_probs(model, inputs, tf.constant(ids[:, 1:]), 1.0).numpy()
        total -= log_probs[counts[:, 1:]].sum()
    return float(total / np.count_nonzero(texts.counts[:, 1:]))


def main() -> None:
    """Runs the coefficients one after another."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--coeffs", default="0,0.1,0.5")
    parser.add_argument("--iterations", type=int, default=80)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data, held_out = (write_texts(Path(folder) / f"{split}.jsonl", split) for split in ("train", "test"))
        for coeff in map(float, arguments.coeffs.split(",")):
            mixed = {"pretraining_data": data, "pretraining_coeff": coeff} if coeff else {}
            settings = {"iterations": arguments.iterations, "seed": arguments.seed, "eval_prompts": 200}
            trainer = tfppo.TextTrainer(tfppo.make_text_config(**settings, **mixed))
            began = time.perf_counter()
            for _ in trainer.iterations():
                pass
            seconds = time.perf_counter() - began
            texts = load_pretraining(tfppo.TextConfig(pretraining_data=held_out), None, trainer.codec, LENGTH)
            assert texts is not None
            found = trainer.evaluate(prompts=200)
            line = {"coeff": coeff, "gain": found["gain"], "kl": found["kl"]}
            line |= {"loss": mean_loss(trainer.policy.model, texts), "loss_before": mean_loss(trainer.reference, texts)}
            print(json.dumps(line | {"seconds": round(seconds, 1), "seed": arguments.seed}), flush=True)


if __name__ == "__main__":
    main()
