"""Measures the peak memory of one update of a text run: over the vocabulary, and over the length of the sequences.

An update is the forward and the backward pass of one minibatch and a step of Adam, as a compiled graph on the CPU. Each
point is a process of its own. Its memory is the peak of the process minus its peak before the update, when the model
and the optimizer exist and the program is traced. The picture has two panels:

- vocabulary: 8 responses of 32 tokens, 2 layers of width 16, so that the logits need most of the memory. All logits at
  once are compared with logits in chunks, which is what tfppo does.
- length: 4 responses, 8 layers of width 128, 2,048 tokens in the vocabulary. Layers that keep their activations are
  compared with `rematerialize`.

The script prints one JSON line per point, and writes benchmarks/results/memory.png. With --speed it measures the
seconds of updates instead, in turns with all logits at once and in chunks. Their model has the vocabulary and the width
of SmolLM2-135M.

    python benchmarks/memory.py
    python benchmarks/memory.py --speed
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tfppo.cli.startup import import_tensorflow

import_tensorflow(language_model=True)

import keras_hub  # noqa: E402
import tensorflow as tf  # noqa: E402
from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from shared import peak_bytes, spread  # noqa: E402

from tfppo import PPOConfig, PPOLearner  # noqa: E402
from tfppo.ppo.types import Batch  # noqa: E402
from tfppo.text.models import vocabulary  # noqa: E402
from tfppo.text.models.language_model import LanguageModel  # noqa: E402
from tfppo.text.models.reference import as_language_model  # noqa: E402
from tfppo.text.policy import TextPolicy, TokenInputs  # noqa: E402

PICTURE = Path(__file__).parent / "results" / "memory.png"
VOCABULARIES = (2_048, 8_192, 32_768, 131_072, 262_144)
LENGTHS = (64, 128, 256, 512)
AT_ONCE = 2**40  # logits, more than any update has
PROMPT = 8


def make_batch(model: LanguageModel, responses: int, length: int) -> Batch[TokenInputs]:
    """Makes random prompts and responses, in which all tokens count."""
    tokens = tf.random.stateless_uniform([responses, PROMPT + length], [1, 2], 0, model.vocabulary_size, tf.int32)
    numbers = tf.random.stateless_normal([3, responses, length], [3, 4])
    return Batch(
        inputs=TokenInputs(tokens, tf.fill([responses], PROMPT)),
        actions=tokens[:, PROMPT:],
        old_log_probs=-tf.abs(numbers[0]),
        old_values=numbers[1],
        advantages=numbers[2],
        returns=numbers[1] + numbers[2],
        mask=tf.fill([responses, length], True),
    )


def make_learner(model: LanguageModel, responses: int) -> PPOLearner[Any, TokenInputs]:
    ppo = PPOConfig(num_epochs=1, minibatch_size=responses, entropy_coeff=0.01)
    return PPOLearner(TextPolicy(model), ppo, 1_000, mode="graph")


def measure(point: dict[str, Any]) -> dict[str, Any]:
    """Returns the memory of one update."""
    layers, width, responses = (2, 16, 8) if point["panel"] == "vocabulary" else (8, 128, 4)
    length = point["length"]
    backbone = keras_hub.models.GPT2Backbone(
        point["vocabulary"], layers, 4, width, 4 * width, dropout=0.0, max_sequence_length=PROMPT + length
    )
    model = as_language_model(keras_hub.models.GPT2CausalLM(backbone))
    if not point["chunks"]:
        vocabulary.MAX_LOGITS = AT_ONCE
    if point["rematerialize"]:
        model.rematerialize()
    learner, batch = make_learner(model, responses), make_batch(model, responses, length)
    learner.update.get_concrete_function(batch)
    before = peak_bytes()
    learner.update(batch)
    return point | {"megabytes": round((peak_bytes() - before) / 1e6)}


def measure_speed(rounds: int) -> None:
    """Measures the seconds of updates in turns, with the vocabulary and the width of SmolLM2-135M and one layer."""
    kept = vocabulary.MAX_LOGITS
    backbone = keras_hub.models.GPT2Backbone(49_152, 1, 9, 576, 1_536, dropout=0.0, max_sequence_length=64)
    model = as_language_model(keras_hub.models.GPT2CausalLM(backbone))
    learners, batch = {}, make_batch(model, 8, 48)
    for name, largest in (("at once", AT_ONCE), ("in chunks", kept)):
        vocabulary.MAX_LOGITS = largest
        learners[name] = make_learner(model, 8)
        learners[name].update(batch)  # traces
    seconds: dict[str, list[float]] = {name: [] for name in learners}
    used: dict[str, list[float]] = {name: [] for name in learners}
    for _ in range(rounds):
        for name, learner in learners.items():
            began, before = time.perf_counter(), time.process_time()
            learner.update(batch)["loss/total"].numpy()
            seconds[name].append(time.perf_counter() - began)
            used[name].append(time.process_time() - before)
    for name in learners:
        rows = ({key: round(value, 2) for key, value in spread(each[name]).items()} for each in (seconds, used))
        print(json.dumps({"logits": name} | dict(zip(("seconds", "cpu_seconds"), rows, strict=True))), flush=True)


def draw(points: list[dict[str, Any]]) -> None:
    figure = Figure(figsize=(9, 3.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    settings = (
        ("vocabulary", "chunks", ("logits at once", "logits in chunks"), VOCABULARIES, "tokens in the vocabulary"),
        ("length", "rematerialize", ("layers kept", "rematerialize"), LENGTHS, "tokens of a response"),
    )
    for axes, (panel, switch, names, values, label) in zip(panels, settings, strict=True):
        for is_on, name, color in zip((False, True), names, ("#888888", "#e8710a"), strict=True):
            own = [point for point in points if point["panel"] == panel and point[switch] == is_on]
            axes.plot(
                [point[panel] for point in own], [point["megabytes"] for point in own], "o-", color=color, label=name
            )
        axes.set(xscale="log", ylim=(0, None), xlabel=label)
        axes.set_xticks(values, [f"{value:,}" for value in values], rotation=45)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    panels[0].set_ylabel("peak memory of an update, MB")
    figure.savefig(PICTURE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speed", action="store_true", help="measure seconds")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--point", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.point is not None:
        print(json.dumps(measure(json.loads(given.point))))
        return
    if given.speed:
        measure_speed(given.rounds)
        return
    wanted = [
        {"panel": "vocabulary", "vocabulary": size, "length": 32, "chunks": chunks, "rematerialize": False}
        for size in VOCABULARIES
        for chunks in (False, True)
    ] + [
        {"panel": "length", "vocabulary": 2_048, "length": length, "chunks": True, "rematerialize": rematerialize}
        for length in LENGTHS
        for rematerialize in (False, True)
    ]
    points = []
    for point in wanted:
        command = [sys.executable, __file__, "--point", json.dumps(point)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        points.append(json.loads(output.splitlines()[-1]))
        print(json.dumps(points[-1]), flush=True)
    draw(points)


if __name__ == "__main__":
    main()
