"""Records the results and the interfaces of a checkout of tfppo, so that two checkouts can be compared.

    python tests/support/record.py --out FILE.json [--only weights|surface] [--checkout FOLDER]
    python tests/support/record.py --compare OLD.json NEW.json [--only weights|surface]

`weights` records hashes of the weights, the metrics and the evaluations of small runs. Compare them on one machine
only: another processor has other kernels, which add in another order. `surface` records options, settings, columns,
tags, files, names and tests.

The script uses only the command line of the checkout, in separate processes, so it does not depend on the names of
modules and classes. With --checkout it records another checkout than its own, for example an older version.
"""

import argparse
import contextlib
import csv
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve()
VERSION_0_1 = HERE.parents[1] / "data" / "version_0_1"  # runs of version 0.1, and small presets in `presets`
EVENTS = "events.out.tfevents."

CPU = ["--seed", "3", "--device", "cpu", "--threads", "2"]
GRAPH = ["--compile-rollout", "graph", "--compile-update", "graph"]
XLA = ["--compile-rollout", "xla", "--compile-update", "xla"]
EAGER = ["--compile-rollout", "eager", "--compile-update", "eager"]
SHAPE = ["--num-envs", "4", "--rollout-length", "16", "--total-steps", "192", "--hidden-units", "8"]
LEARNING = ["--minibatch-size", "32", "--num-epochs", "2", "--learning-rate", "0.01"]
JUDGED = ["--eval-episodes", "1", "--video-episodes", "0"]
CARTPOLE = ["train", "cartpole", *CPU, *SHAPE, *LEARNING, *JUDGED]
CONTROL = ["train", "control", *CPU, *SHAPE, *LEARNING, *JUDGED]
STEPPED = [*GRAPH, "--backend", "gymnasium", "--vectorization"]
NORMALIZED = ["--normalize-observations", "True", "--normalize-rewards", "True"]
PENDULUM = [*CONTROL, "--env", "Pendulum-v1", "--box-policy", "gsde", *NORMALIZED]
MASKED = "examples.cartpole_variants:MaskedCartPole-v0"
TEXT = [
    *("train", "text", *CPU, "--iterations", "3", "--batch-size", "8", "--minibatch-size", "4", "--num-epochs", "2"),
    *("--response-length", "6", "--learning-rate", "3e-3", "--eval-prompts", "4", "--sample-interval", "2"),
]
LENGTH = [*TEXT, *GRAPH, "--task", "length", "--preset", "{presets}/gpt2"]
SPLIT = ["--distribute", "mirrored", *GRAPH]

RUNS = {
    "cartpole, xla": [*CARTPOLE, *XLA],
    "cartpole, graph": [*CARTPOLE, *GRAPH],
    "cartpole, eager": [*CARTPOLE, *EAGER],
    "cartpole, fused": [*CARTPOLE, "--fused", "True", "--compile-update", "xla", "--log-interval", "2"],
    "cartpole, gymnasium sync": [*CARTPOLE, *STEPPED, "sync"],
    "cartpole, gymnasium native": [*CARTPOLE, *STEPPED, "native"],
    "cartpole, gymnasium async": [*CARTPOLE, *STEPPED, "async", "--double-buffer", "True"],
    "cartpole, shared trunk": [*CARTPOLE, *GRAPH, "--shared-trunk", "True", "--recompute-advantages", "True"],
    "cartpole, adaptive KL": [*CARTPOLE, *GRAPH, "--kl-coeff", "0.1", "--kl-rule", "schulman", "--target-kl", "0.003"],
    "pendulum, gSDE, graph": [*PENDULUM, *GRAPH],
    "pendulum, gSDE, gymnasium sync": [*PENDULUM, *STEPPED, "sync"],
    "pendulum, squashed, graph": [*CONTROL, "--env", "Pendulum-v1", "--box-policy", "squashed", *GRAPH],
    "lstm, graph": [*CARTPOLE, *GRAPH, "--lstm-units", "4"],
    "lstm, gymnasium sync": [*CARTPOLE, *STEPPED, "sync", "--lstm-units", "4", *NORMALIZED],
    "masks, graph": [*CONTROL, *GRAPH, "--env", MASKED],
    "text, KL in the reward": LENGTH,
    "text, KL in the loss": [*LENGTH, "--kl-in", "loss", "--kl-rule", "fixed"],
    "text, LoRA": [*LENGTH, "--lora-rank", "2", "--separate-critic", "True"],
    "text, LSTM": [*TEXT, *GRAPH, "--task", "keywords", "--preset", "{presets}/lstm"],
    "text, xla": [*TEXT, *XLA, "--task", "length", "--preset", "{presets}/gpt2", "--num-micro-batches", "2"],
    "text, reward model": [
        *TEXT,
        *GRAPH,
        "--task",
        "sentiment",
        "--preset",
        "{presets}/gpt2",
        "--whiten-rewards",
        "True",
    ],
    "cartpole, two devices": [*CARTPOLE, *SPLIT, *NORMALIZED],
    "text, two devices": [*LENGTH, *SPLIT],
}  # runs for the record of weights, by name
ASKED = {
    "cartpole, graph": ["evaluate", "{run}", "--episodes", "2", "--seed", "5"],
    "pendulum, gSDE, gymnasium sync": ["evaluate", "{run}", "--episodes", "1", "--checkpoint", "best"],
    "text, KL in the reward": ["evaluate", "{run}", "--prompts", "4", "--seed", "5"],
    "text, LSTM": ["generate", "{run}", "--prompt", "This film", "--samples", "2", "--seed", "5", "--top-k", "20"],
}  # commands on some of these runs after training
RESUMED = ["control", "gymnasium", "text"]  # unfinished runs of version 0.1

KEPT = ["--checkpoint-interval", "2", "--keep-checkpoints", "2"]
SURFACE_RUNS = {
    "control": [*CARTPOLE, *GRAPH, *KEPT, "--video-episodes", "1"],
    "gymnasium": [*PENDULUM, *STEPPED, "sync", *KEPT],
    "text": [*LENGTH, *KEPT],
}  # runs for the record of folders
COMMANDS = [
    *([], ["train"], ["train", "cartpole"], ["train", "text"], ["pretrain"], ["reward-model"], ["generate"]),
    *(["resume"], ["evaluate"], ["plot"], ["export"], ["bench"], ["bench", "--env", "Acrobot-v1"]),
    *(["train", "text", "--task", task] for task in ("sentiment", "length", "keywords")),
]
ENVIRONMENTS = [
    *("CartPole-v1", "Acrobot-v1", "Pendulum-v1", "MountainCar-v0", "MountainCarContinuous-v0", "LunarLander-v3"),
    *("HalfCheetah-v5", "Hopper-v5", "Unknown-v0"),
]  # environments with a recipe, and one without
DEFAULT_RUNS = {
    "cartpole": ["train", "cartpole"],
    "control": ["train", "control"],
    "Acrobot-v1": ["train", "control", "--env", "Acrobot-v1"],
    "Pendulum-v1": ["train", "control", "--env", "Pendulum-v1"],
    "text": ["train", "text"],
    "text, length": ["train", "text", "--task", "length"],
}  # runs for the record of config.yaml; they are not trained

DESCRIBE_PUBLIC_NAMES = """
import inspect, json, tfppo
def describe(x):
    if not callable(x):
        return type(x).__name__
    plain = (bool, int, float, str, tuple, type(None))
    def show(p):
        default = "" if p.default is p.empty else f"={p.default!r}" if isinstance(p.default, plain) else "=..."
        return {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "") + p.name + default
    return f"({', '.join(map(show, inspect.signature(x).parameters.values()))})"
print(json.dumps({name: describe(getattr(tfppo, name)) for name in sorted(tfppo.__all__)}))
"""


class Checkout:
    """A checkout of tfppo and its command line.

    Args:
      folder: folder of the checkout.
      presets: folder of the small language models.
      work: folder for runs.
    """

    def __init__(self, folder: Path, presets: Path, work: Path):
        self.folder = folder
        self.work = work
        self._presets = presets
        ours = {"PYTHONPATH": str(folder), "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "COLUMNS": "120"}
        foreign = ("TF_", "TFPPO_", "PYTEST_", "XLA_")  # settings of the caller's shell that could change results
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(foreign)} | ours
        self.environment |= {"TFPPO_XLA_CACHE": "off"}

    def python(self, *arguments: object) -> str:
        """Runs Python in the folder of the checkout and returns its output."""
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout

    def train(self, name: str, arguments: list[str]) -> Path:
        """Trains a run and returns its folder."""
        program = [HERE, "--on-two-devices"] if "mirrored" in arguments else ["-m", "tfppo"]
        self.python(*program, *self._filled(arguments), "--runs-dir", self.work, "--name", self._plain(name))
        return self.work / self._plain(name)

    def copy(self, run: Path) -> Path:
        """Copies the folder of a run and sets its preset to the current path. Returns the copy."""
        folder = Path(shutil.copytree(run, self.work / run.name))
        path = folder / "config.yaml"
        path.write_text(
            re.sub(r"(?<=  preset: ).*/(?=\w+$)", f"{self._presets}/", path.read_text(), flags=re.MULTILINE)
        )
        return folder

    def ask(self, folder: Path, arguments: list[str]) -> list[str]:
        """Runs a command on a run and returns the lines that it prints."""
        printed = self.python("-m", "tfppo", *[part.format(run=folder) for part in arguments])
        return printed.replace(str(folder), "RUN").splitlines()

    def begin(self, name: str, arguments: list[str]) -> Path:
        """Starts a run and ends it as soon as its config.yaml exists. Returns its folder."""
        folder = self.work / self._plain(name)
        options = ["--threads", "2", "--runs-dir", str(self.work), "--name", folder.name]
        process = subprocess.Popen(
            [sys.executable, "-m", "tfppo", *self._filled(arguments), *options],
            **{"cwd": self.folder, "env": self.environment, "start_new_session": True},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + 900
            while not (folder / "config.yaml").exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"{' '.join(arguments)} did not write config.yaml")
                time.sleep(0.1)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return folder

    def without_paths(self, text: str) -> str:
        """Replaces the folders of this recording in a text by fixed names."""
        return text.replace(str(self.work), "RUNS").replace(str(self._presets), "PRESETS")

    def _filled(self, arguments: list[str]) -> list[str]:
        return [part.format(presets=self._presets) for part in arguments]

    @staticmethod
    def _plain(name: str) -> str:
        return re.sub(r"[^A-Za-z0-9]+", "-", name)


def metrics_of(folder: Path) -> dict[str, str]:
    """Returns the columns of a run's metrics.csv without times, each as one line of its values."""
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: " ".join(row[name] for row in rows) for name in rows[0] if not name.startswith("time/")}


def evaluation_of(folder: Path) -> dict:
    """Returns the evaluation of a run without times."""
    evaluation = json.loads((folder / "evaluation.json").read_text())
    return {name: value for name, value in evaluation.items() if name != "seconds"}


def record_weights(checkout: Checkout) -> dict:
    """Records the results of small runs, by name."""
    record = {}
    for name, arguments in RUNS.items():
        with telling(name):
            folder = checkout.train(name, arguments)
            record[name] = {"evaluation": evaluation_of(folder), "metrics": metrics_of(folder)}
            samples = folder / "samples.jsonl"
            if samples.exists():
                record[name]["samples"] = hashlib.sha256(samples.read_bytes()).hexdigest()
            if name in ASKED:
                record[name][ASKED[name][0]] = checkout.ask(folder, ASKED[name])
            shutil.rmtree(folder)
    for name in RESUMED:
        with telling(f"resumed: {name} of version 0.1"):
            folder = checkout.copy(VERSION_0_1 / name)
            checkout.python("-m", "tfppo", "resume", folder)
            record[f"resumed, {name}"] = {"evaluation": evaluation_of(folder), "metrics": metrics_of(folder)}
    return record


def record_surface(checkout: Checkout) -> dict:
    """Records the interfaces of the package: options, settings, files in a run's folder, public names, tests."""
    record: dict = {}
    with telling("options"):
        commands = [*COMMANDS, *(["train", "control", "--env", env] for env in ENVIRONMENTS)]
        helps = {" ".join(command): checkout.python("-m", "tfppo", *command, "--help") for command in commands}
        record["options"] = {name or "tfppo": options_in(text) for name, text in helps.items()}
    with telling("settings"):
        record["settings"] = {}
        for name, arguments in DEFAULT_RUNS.items():
            text = (checkout.begin(f"default {name}", arguments) / "config.yaml").read_text()
            record["settings"][name] = checkout.without_paths(text).splitlines()
    record["folders"] = {}
    for name, arguments in SURFACE_RUNS.items():
        with telling(f"folder of {name}"):
            folder = checkout.train(f"surface {name}", arguments)
            exported = checkout.ask(folder, ["export", "{run}"])
            record["folders"][name] = describe_folder(folder) | {"export says": exported}
    with telling("public names"):
        record["public"] = json.loads(checkout.python("-c", DESCRIBE_PUBLIC_NAMES))
    with telling("tests"):
        record["tests"] = record_tests(checkout)
    return record


def options_in(text: str) -> dict[str, str]:
    """Returns the options and positional arguments in a command's help, with their types and defaults.

    For a command with subcommands it returns the names of the subcommands.
    """
    lines = [line.rstrip().removesuffix("│").rstrip() for line in text.splitlines()]
    starts = re.compile(r"│ ((?:-\w, )?--[a-z][a-z-]*|[A-Z\[]\S*$|[A-Z\[{][A-Z\[\].| {}]*(?=  |$))(.*)")
    options, name = {}, ""
    for line in lines:
        start = starts.match(line)
        if start:
            name = start[1].strip()
            options[name] = start[2]
        elif name and line.startswith("│  "):
            options[name] += "  " + line[1:].strip()
        else:
            name = ""
            if command := re.match(r"│   • (\S+)", line):
                options[command[1]] = " command"
    return {name: _takes(rest) for name, rest in sorted(options.items())}


def _takes(rest: str) -> str:
    """Returns the type and the default of an option from the text after its name in the help."""
    takes = rest.strip().split("  ")[0] if rest.startswith(" ") and not rest.startswith("  ") else ""
    default = re.findall(r"\((default: .*?|required|repeatable)\)(?=\s*(?:\(|$))", " ".join(rest.split()))
    return "; ".join(part for part in (takes, *default) if part)


def describe_folder(folder: Path) -> dict:
    """Describes a run's folder: files, columns of metrics, tags of TensorBoard, arrays of a checkpoint, keys."""
    import numpy as np
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    paths = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    files = sorted({re.sub(re.escape(EVENTS) + r"\S+", EVENTS + "*", path) for path in paths})
    with (folder / "metrics.csv").open(newline="") as file:
        columns = next(csv.reader(file))
    events = EventAccumulator(str(folder), size_guidance={"scalars": 1, "images": 1, "tensors": 1})
    events.Reload()
    tags = {kind: sorted(names) if isinstance(names, list) else names for kind, names in events.Tags().items()}
    checkpoint = max((folder / "checkpoints").iterdir())
    with np.load(checkpoint / "state.npz") as arrays:
        state = {name: f"{arrays[name].dtype} {list(arrays[name].shape)}" for name in arrays.files}
    evaluation = json.loads((folder / "evaluation.json").read_text())
    progress = sorted(json.loads((checkpoint / "progress.json").read_text()))
    return {
        **{"files": files, "metrics": columns, "tags": tags, "state": state, "progress": progress},
        "evaluation": {name: sorted(value) if isinstance(value, dict) else "" for name, value in evaluation.items()},
    }


def record_tests(checkout: Checkout) -> dict:
    """Records the names and numbers of the fast and slow tests that pytest collects."""
    counts: dict = {}
    names: dict = {"quick": {}, "slow": {}}
    for kind, marks in (("quick", "not slow"), ("slow", "slow")):
        printed = checkout.python("-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "-m", marks)
        for line in sorted(line for line in printed.splitlines() if re.match(r"\S+\.py::", line)):
            path, _, name = line.partition("::")
            counts.setdefault(path, {"quick": 0, "slow": 0})[kind] += 1
            names[kind].setdefault(path, []).append(name)
    return {"counts": dict(sorted(counts.items()))} | names


def about(checkout: Checkout) -> dict:
    """Describes the checkout and the machine of a record."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    values = dict(re.findall(r"^(model name|flags|Features)\s*: (.*)$", info, re.MULTILINE))
    flags = values.get("flags", values.get("Features", ""))
    packages = ("tensorflow", "keras", "keras-hub", "gymnasium", "numpy", "tyro")
    return {
        "note": "weights can be compared on one machine only: other processors have other kernels",
        "tfppo": checkout.python("-c", "import tfppo; print(tfppo.__version__)").strip(),
        "processor": values.get("model name", platform.machine()),
        "instructions": hashlib.sha256(" ".join(sorted(flags.split())).encode()).hexdigest()[:12],
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
    }


def differences(old: object, new: object, where: str = "") -> list[str]:
    """Returns the differences between two records, one line each."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines = []
        for name in dict.fromkeys([*old, *new]):
            path = f"{where} > {name}" if where else name
            if name not in new:
                lines.append(f"{path}: gone, was {_short(old[name])}")
            elif name not in old:
                lines.append(f"{path}: new, {_short(new[name])}")
            else:
                lines += differences(old[name], new[name], path)
        if not lines and list(old) != list(new):
            lines.append(f"{where}: in another order, {_short(list(old))} -> {_short(list(new))}")
        return lines
    if isinstance(old, list) and isinstance(new, list):
        gone, more = [x for x in old if x not in new], [x for x in new if x not in old]
        lines = [f"{where}: gone, was {_short(x)}" for x in gone] + [f"{where}: new, {_short(x)}" for x in more]
        return lines or ([f"{where}: in another order or number"] if old != new else [])
    return [] if old == new else [f"{where}: {_short(old)} -> {_short(new)}"]


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else f"{text[:200]} ..."


def compare(old: dict, new: dict, parts: list[str]) -> int:
    """Prints the differences between two records. Returns the exit code, 1 if there is a difference."""
    for name in ("processor", "instructions", "python", "packages"):
        if old["about"][name] != new["about"][name]:
            print(f"note: {name} was {_short(old['about'][name])} and is {_short(new['about'][name])}")
    missing = [
        f"{part}: not in the {which} record"
        for part in parts
        for which, record in (("old", old), ("new", new))
        if part not in record
    ]
    lines = missing or differences(*({part: record[part] for part in parts} for record in (old, new)))
    print("\n".join([*lines, f"{len(lines)} difference{'s' * (len(lines) != 1)} in {' and '.join(parts)}"]))
    return 1 if lines else 0


@contextlib.contextmanager
def telling(name: str):
    """Prints to stderr what is being recorded, and how long it took."""
    began = time.monotonic()
    print(f"{name} ...", end=" ", file=sys.stderr, flush=True)
    yield
    print(f"{time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)


def main_on_two_devices(arguments: list[str]) -> int:
    """Runs the command line of tfppo with the processor as two devices."""
    import tensorflow as tf

    from tfppo.cli import main

    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    return main(arguments)


def main() -> int:
    """Records or compares, depending on the command line."""
    parser = argparse.ArgumentParser(description="record what a checkout of tfppo computes and offers, or compare two")
    parser.add_argument("--out", type=Path, help="the record that is written")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("OLD", "NEW"), help="two records")
    parser.add_argument("--only", choices=["weights", "surface"], help="one part of the record; without it both")
    parser.add_argument("--checkout", type=Path, default=HERE.parents[2], help="folder of the checkout; its own")
    parser.add_argument(
        "--preset-dir", type=Path, default=VERSION_0_1 / "presets", help="folder of the tiny presets gpt2 and lstm"
    )
    options = parser.parse_args()
    parts = [options.only] if options.only else ["weights", "surface"]
    if options.compare:
        return compare(*(json.loads(path.read_text()) for path in options.compare), parts)
    if options.out is None:
        parser.error("give --out or --compare")
    with tempfile.TemporaryDirectory(prefix="tfppo-record-") as work:
        checkout = Checkout(options.checkout.resolve(), options.preset_dir.resolve(), Path(work))
        functions = {"weights": record_weights, "surface": record_surface}
        record = {"about": about(checkout)}
        for part in parts:
            record[part] = functions[part](checkout)
            options.out.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    two_devices = sys.argv[1:2] == ["--on-two-devices"]
    sys.exit(main_on_two_devices(sys.argv[2:]) if two_devices else main())
