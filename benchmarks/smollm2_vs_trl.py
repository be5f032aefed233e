"""Compares PPO on SmolLM2-135M with adapters with TRL's PPOTrainer and peft, in float32 on the CPU.

Usage: python benchmarks/smollm2_vs_trl.py --peer-python .venv/peers/bin/python [--rounds 3] [--preset FOLDER]

Both sides load the folder that `make smollm2` makes. An iteration has 16 prompts of 16 tokens, 24 sampled tokens for
each, and 4 epochs of 2 minibatches with an optimizer step after each. Queries and values have adapters of rank 16.

The side "shared", the default of tfppo, computes the values with a head on the policy. The side "separate" has a second
model for the values, all of whose weights are trained; that of TRL has adapters. The side "rloo" has no value function,
and answers 4 prompts 4 times. The reward of tfppo is a Python function; TRL takes only a model, and gets a tiny one.
The sides take turns, each in a process of its own. The script prints one JSON line per run, and last the ratios of the
response tokens per second and of the peak memory of the process. For tfppo `peaks_mb` has the peak memory after the
imports and after the trainer was made.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from shared import peak_bytes, spread

BATCH, PROMPT, RESPONSE, RANK = 16, 16, 24, 16
OURS = ("shared", "separate", "rloo")
PEER = Path(__file__).with_name("trl_iteration.py")


def run_tfppo(preset: Path, side: str, iterations: int, warmup: int, options: dict) -> dict[str, object]:
    """Trains as a user would, and returns the seconds and the response tokens of each iteration."""
    from tfppo.cli.startup import import_tensorflow

    import_tensorflow(language_model=True)
    import keras_hub  # noqa: F401

    from tfppo import TextTrainer, make_text_config

    peaks = {"imports": peak_mb()}
    config = make_text_config(
        preset=preset,
        chat_template="none",
        lora_rank=RANK,
        separate_critic=side == "separate",
        **({"advantages": "rloo", "responses_per_prompt": 4} if side == "rloo" else {}),
        batch_size=BATCH,
        minibatch_size=BATCH // 2,
        num_epochs=4,
        prompt_length=PROMPT,
        response_length=RESPONSE,
        iterations=warmup + iterations,
        learning_rate=3e-6,
        entropy_coeff=0.0,
        kl_in="reward",
        normalize_scores=False,
        **options,
    )
    prompts = [" ".join(["film"] * PROMPT)] * 4 * BATCH  # each word is one token

    def distinct(prompts: list[str], responses: list[str]) -> list[float]:
        return [float(len({*response.split()})) for response in responses]

    trainer = TextTrainer(config, prompts=prompts, reward=distinct)
    peaks["trainer"] = peak_mb()
    seconds, tokens = [], []
    began = time.perf_counter()
    for _, metrics in trainer.iterations():
        seconds.append(round(time.perf_counter() - began, 3))
        tokens.append(BATCH * metrics["text/response_tokens_mean"])
        began = time.perf_counter()
    speeds = [count / each for count, each in zip(tokens, seconds, strict=True)][warmup:]
    return {
        "first_seconds": seconds[0],
        "seconds": seconds[warmup:],
        "tokens_per_s": round(statistics.median(speeds), 1),
        "peaks_mb": peaks,
        "peak_mb": peak_mb(),
    }


def peak_mb() -> float:
    """Returns the largest memory that this process has had, in MB."""
    return round(peak_bytes() / 2**20, 1)


def measure(arguments: argparse.Namespace, side: str) -> dict[str, object]:
    """Runs one side in a new process."""
    counts = ["--iterations", str(arguments.iterations), "--warmup", str(arguments.warmup)]
    if side == "trl":
        sizes = ["--batch", str(BATCH), "--prompt", str(PROMPT), "--response", str(RESPONSE)]
        command = [arguments.peer_python, str(PEER), "--lora-rank", str(RANK), "--step-every", "minibatch", *sizes]
    else:
        command = [sys.executable, __file__, "--child", side, "--compile", arguments.compile]
        command += ["--rematerialize"] if arguments.rematerialize else []
    command += ["--preset", str(arguments.preset), *counts]
    environment = os.environ | {"TF_ENABLE_ONEDNN_OPTS": str(int(arguments.onednn))}
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout
    own = {} if side == "trl" else {name: getattr(arguments, name) for name in ("compile", "rematerialize")}
    return {"side": side, "onednn": arguments.onednn, **own, **json.loads(output.strip().splitlines()[-1])}


def main() -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", type=Path, default=Path("models/smollm2-135m-instruct"))
    parser.add_argument("--sides", nargs="+", choices=OURS, default=OURS[:2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=4, help="measured iterations per run")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument(
        "--onednn", action=argparse.BooleanOptionalAction, default=True, help="TensorFlow's matrices by oneDNN"
    )
    parser.add_argument("--compile", choices=("auto", "graph", "xla"), default="auto", help="of tfppo")
    parser.add_argument("--rematerialize", action="store_true", help="tfppo computes activations twice")
    parser.add_argument("--peer-python", help="Python with TRL and peft; without it, only tfppo is measured")
    parser.add_argument("--child", choices=OURS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.preset.is_dir():
        parser.error(f"there is no folder {arguments.preset}: make smollm2 makes it")
    if arguments.child:
        options = {"compile_rollout": arguments.compile, "compile_update": arguments.compile}
        options["rematerialize"] = arguments.rematerialize
        counts = arguments.iterations, arguments.warmup
        print(json.dumps(run_tfppo(arguments.preset, arguments.child, *counts, options)))
        return
    runs = []
    for _ in range(arguments.rounds):
        for side in (*arguments.sides, *(["trl"] if arguments.peer_python else [])):
            runs.append(measure(arguments, side))
            print(json.dumps(runs[-1]), flush=True)
    if arguments.peer_python:
        for side in arguments.sides:
            for name in ("tokens_per_s", "peak_mb"):
                pair = [[run[name] for run in runs if run["side"] == which] for which in (side, "trl")]
                ratios = spread([round(own / peer, 2) for own, peer in zip(*pair, strict=True)])
                print(json.dumps({"ratio": name, "side": side, **ratios, "rounds": arguments.rounds}))


if __name__ == "__main__":
    main()
