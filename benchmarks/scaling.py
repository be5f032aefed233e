"""Measures the speed over the number of environments and over the width of the networks, on CartPole-v1.

Each point is a separate trainer with the in-graph environment, 4 epochs x 4 minibatches, two networks of two hidden
layers, and the compilation that "auto" chooses for a long run. The points alternate over the rounds. In the picture, a
constant cost per step is a horizontal line. The dashed line is a cost that grows with the square of the width, as that
of a hidden layer does. The script prints one JSON line per point, and writes benchmarks/results/scaling.png.

    python benchmarks/scaling.py
"""

import argparse
import json
import statistics
import time
from pathlib import Path

from tfppo.cli.startup import import_tensorflow

import_tensorflow()

from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from tfppo import ControlConfig, ControlRunConfig, ControlTrainer, PPOConfig, RunConfig  # noqa: E402

PICTURE = Path(__file__).parent / "results" / "scaling.png"
NUM_ENVS = (8, 32, 128, 512, 2048, 8192, 16384)
WIDTHS = (16, 32, 64, 128, 256, 512)
WIDTH, ENVS, LENGTH = 64, 256, 32  # fixed values: WIDTH while NUM_ENVS varies, ENVS while WIDTHS vary


def iterations(num_envs: int, width: int):
    """Returns the infinite iterations of a trainer on the device that "auto" chooses."""
    batch_size = num_envs * LENGTH
    control = ControlConfig(
        num_envs=num_envs, rollout_length=LENGTH, hidden_units=(width, width), total_steps=100_000 * batch_size
    )
    ppo = PPOConfig(num_epochs=4, minibatch_size=batch_size // 4)
    return ControlTrainer(ControlRunConfig(RunConfig(), control, ppo)).iterations()


def measure(points: list[tuple[int, int]], rounds: int, seconds: float) -> dict[tuple[int, int], list[float]]:
    """Returns the environment steps per second of each point in each round."""
    loops = {point: iterations(*point) for point in points}
    speeds: dict[tuple[int, int], list[float]] = {point: [] for point in points}
    for loop in loops.values():
        next(loop)  # compiles
    for _ in range(rounds):
        for (num_envs, width), loop in loops.items():
            count, began = 0, time.perf_counter()
            while time.perf_counter() - began < seconds or count < 2:
                next(loop)
                count += 1
            speeds[num_envs, width].append(count * num_envs * LENGTH / (time.perf_counter() - began))
    return speeds


def draw(speeds: dict[tuple[int, int], list[float]]) -> None:
    figure = Figure(figsize=(9, 3.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    series = ([(n, WIDTH) for n in NUM_ENVS], [(ENVS, w) for w in WIDTHS])
    titles = (f"networks of 2 x {WIDTH}", f"{ENVS} environments")
    labels = ("environments, side by side", "width of the hidden layers")
    for axes, points, title, label, values in zip(panels, series, titles, labels, (NUM_ENVS, WIDTHS), strict=True):
        middle = [statistics.median(speeds[point]) for point in points]
        spread = [[m - min(speeds[p]) for m, p in zip(middle, points, strict=True)]]
        spread += [[max(speeds[p]) - m for m, p in zip(middle, points, strict=True)]]
        axes.errorbar(values, middle, spread, marker="o", color="#e8710a", capsize=3)
        axes.set(xscale="log", yscale="log", title=f"CartPole-v1, {title}", xlabel=label)
        axes.set_xticks(values, [str(value) for value in values], rotation=45)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    last = statistics.median(speeds[ENVS, WIDTHS[-1]])
    square = [last * (WIDTHS[-1] / width) ** 2 for width in WIDTHS[2:]]
    panels[1].plot(WIDTHS[2:], square, "--", color="#888888", label="1 / width$^2$")
    panels[1].legend(frameon=False)
    panels[0].set_ylabel("environment steps per second")
    figure.savefig(PICTURE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5, help="minimum time per point and round")
    arguments = parser.parse_args()
    points = list(dict.fromkeys([*((n, WIDTH) for n in NUM_ENVS), *((ENVS, w) for w in WIDTHS)]))
    speeds = measure(points, arguments.rounds, arguments.seconds)
    for (num_envs, width), values in speeds.items():
        row = {"min": round(min(values)), "median": round(statistics.median(values)), "max": round(max(values))}
        print(json.dumps({"num_envs": num_envs, "width": width, "env_steps_per_s": row}), flush=True)
    draw(speeds)


if __name__ == "__main__":
    main()
