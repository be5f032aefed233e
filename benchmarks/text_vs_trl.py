"""Compares whole PPO iterations on a language model with TRL's PPOTrainer, in float32 on the CPU.

Both sides have a GPT-2 with random weights (4 layers x 256, 4 heads, 5,000 tokens), 64 prompts of 16 tokens, 32 sampled
tokens per prompt, and 4 epochs of 2 minibatches with an optimizer step after each. The side "four" has the same models
as TRL: policy, reference, critic and reward model, each a separate network. The side "shared", the default of tfppo,
computes the values with a head on the policy, and has no reward model. The libraries alternate. The script prints one
JSON line per run, and last the ratios of the response tokens per second.

    python benchmarks/text_vs_trl.py --rounds 3 --peer-python .venv/peers/bin/python

TRL does not clip gradients and has no entropy bonus. It is set to one optimizer step per minibatch, as in tfppo.
`benchmarks/trl_iteration.py` is the TRL side, and explains how to install TRL.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

BATCH, PROMPT, RESPONSE, VOCABULARY = 64, 16, 32, 5_000


def run_tfppo(carry: str, iterations: int, warmup: int, sampling: str, mode: str) -> dict[str, object]:
    """Returns the seconds of each iteration. It uses the same parts as `TextTrainer`."""
    from tfppo.cli.startup import import_tensorflow

    import_tensorflow(language_model=True)
    import keras_hub
    import numpy as np
    import tensorflow as tf

    from tfppo import PPOConfig, PPOLearner, TextConfig
    from tfppo.text.models.reference import as_language_model, copy_of, freeze
    from tfppo.text.policy import TextPolicy
    from tfppo.text.rollouts.batch import to_batch
    from tfppo.text.rollouts.rollout import TextCollector
    from tfppo.text.rollouts.sampling import StopCondition
    from tfppo.training.loop import train_iterations
    from tfppo.training.pipeline import prompt_dataset

    def make_model():
        backbone = keras_hub.models.GPT2Backbone(VOCABULARY, 4, 4, 256, 1024, dropout=0.0, max_sequence_length=128)
        return as_language_model(keras_hub.models.GPT2CausalLM(backbone))

    text = TextConfig(batch_size=BATCH, response_length=RESPONSE)
    ppo = PPOConfig(
        learning_rate=3e-6, kl_in="reward", kl_coeff=0.05, entropy_coeff=0.0, value_clip=0.2, value_coeff=0.1,
        gamma=1.0, gae_lambda=0.95, num_epochs=4, minibatch_size=BATCH // 2, max_grad_norm=None,
    )  # fmt: skip
    model, reward_model = make_model(), make_model()
    policy = TextPolicy(model, critic=copy_of(model) if carry == "four" else None)
    head = tf.random.normal([256])

    @tf.function(autograph=False)
    def reward(token_ids):
        return tf.linalg.matvec(reward_model.hidden_states(token_ids)[:, -1], head)

    prompts = np.random.default_rng(0).integers(0, VOCABULARY, [4 * BATCH, PROMPT]).astype(np.int32)

    def score(prompt_indices, responses, mask, rows):
        if carry == "shared":
            scores = np.array([len(set(response)) for response in responses.tolist()], np.float32)
        else:
            scores = reward(tf.constant(np.concatenate([prompts[prompt_indices], responses], axis=1))).numpy()
        return [scores, scores, np.zeros([]), np.zeros([])]  # no text metrics, because there are no texts

    # No token ends a response, so every response has the full length.
    total = warmup + iterations
    learner = PPOLearner(policy, ppo, total, prepare=lambda rollout: to_batch(rollout, text, ppo), mode=mode)
    collector = TextCollector(
        policy,
        freeze(copy_of(model)),
        score,
        text,
        kl_coeff=learner.kl_coeff,
        stop_condition=StopCondition(VOCABULARY),
        chunk=BATCH // 2,
        sampling_mode=sampling,
        mode=mode,
    )
    source = prompt_dataset(prompts, np.full(len(prompts), PROMPT, np.int32), BATCH, seed=0)
    began = time.perf_counter()
    seconds = []
    for iteration in train_iterations(collector, learner, total, "/CPU:0", source):
        now = time.perf_counter()
        seconds.append(round(now - began, 3))
        began = now
        assert iteration.metrics["text/response_tokens_mean"] == RESPONSE
    return {"first_seconds": seconds[0], "seconds": seconds[warmup:]}


def measure(arguments: argparse.Namespace, side: str) -> dict[str, object]:
    """Runs one side in a new process."""
    counts = ["--iterations", str(arguments.iterations), "--warmup", str(arguments.warmup)]
    if side == "trl":
        command = [
            arguments.peer_python,
            str(Path(__file__).with_name("trl_iteration.py")),
            "--step-every",
            "minibatch",
        ]
    else:
        command = [
            sys.executable,
            __file__,
            "--child",
            side,
            "--sampling",
            arguments.sampling,
            "--mode",
            arguments.mode,
        ]
    output = subprocess.run(command + counts, capture_output=True, text=True, check=True).stdout
    child = json.loads(output.strip().splitlines()[-1])
    median = statistics.median(child["seconds"])
    return {"side": side, "tokens_per_s": round(BATCH * RESPONSE / median, 1), **child}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=5, help="measured iterations per run")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--sampling", choices=("xla", "graph"), default="xla")
    parser.add_argument("--mode", choices=("xla", "graph"), default="xla", help="of forward passes and updates")
    parser.add_argument("--peer-python", help="Python with TRL; without it, only tfppo is measured")
    parser.add_argument("--child", choices=("four", "shared"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        counts = arguments.iterations, arguments.warmup
        print(json.dumps(run_tfppo(arguments.child, *counts, arguments.sampling, arguments.mode)))
        return
    runs = []
    for _ in range(arguments.rounds):
        for side in ("four", "shared", *(["trl"] if arguments.peer_python else [])):
            runs.append(measure(arguments, side))
            print(json.dumps(runs[-1]), flush=True)
    speeds = {side: sorted(r["tokens_per_s"] for r in runs if r["side"] == side) for side in ("four", "shared", "trl")}
    spans = {k: {"min": v[0], "median": statistics.median(v), "max": v[-1]} for k, v in speeds.items() if v}
    if "trl" in spans:
        ratios = {side: round(spans[side]["median"] / spans["trl"]["median"], 2) for side in ("four", "shared")}
        print(json.dumps({"ratio": ratios["four"], "ours": spans["four"], "peer": spans["trl"], "runs": len(runs)}))
        print(json.dumps({"ratio": ratios["shared"], "ours": spans["shared"], "peer": spans["trl"], "runs": len(runs)}))


if __name__ == "__main__":
    main()
