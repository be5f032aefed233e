"""The model card of an exported language model: a README.md with the front matter that Hugging Face expects."""

import re
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import keras
import yaml

from tfppo.errors import UsageError, one_line
from tfppo.execution.variables import weights_hash
from tfppo.text.config import TextConfig, TextRunConfig
from tfppo.text.presets.fetching import HUGGING_FACE, folder_of
from tfppo.text.presets.folder import default_preset
from tfppo.training import run_folder

CARD_FILE, LICENSES = "README.md", "LICENSE*"
UNKNOWN = "unknown: see the base model"
LIBRARIES = {"keras": "keras-hub", "transformers": "transformers", "adapters": "peft"}


class Base(NamedTuple):
    """The model that a run has tuned."""

    name: str
    folder: Path | None  # None: the folder is not known any more


class Tuning(NamedTuple):
    """What a model card says about a run."""

    config: TextRunConfig
    iterations: int  # that the exported checkpoint has done
    evaluation: Mapping[str, Any] | None  # of the exported weights


def tuning_of(config: TextRunConfig, iterations: int, weights: Sequence[keras.Variable], folder: Path | None) -> Tuning:
    """Returns what a model card says about a checkpoint of a run.

    Args:
      config: Settings of the run.
      iterations: Iterations that the checkpoint has done.
      weights: Weights of the checkpoint. The evaluation of the run counts only if it is of the same weights.
      folder: Folder of the run. None: the run has none.
    """
    evaluation = None if folder is None else run_folder.read_evaluation(folder)
    if evaluation is not None and evaluation.get("weights") != weights_hash(weights):
        evaluation = None
    return Tuning(config, iterations, evaluation)


def base_of(text: TextConfig) -> Base:
    """Finds the model that a run has tuned. A run that started from another run has tuned the model of that one.

    Nothing is fetched: the model of the run itself was loaded before, and that of another run is not looked for.
    """
    is_of_another = text.init_from is not None
    try:
        while text.init_from is not None:
            text = run_folder.read_config(text.init_from, TextRunConfig).text
        if text.preset is None:
            return Base("the language model that tfppo includes", default_preset())
        if text.preset == Path(run_folder.OWN_MODEL):
            return Base("a model that was given in Python", None)
        is_missing = is_of_another and not Path(text.preset).is_dir()
        return Base(str(text.preset), None if is_missing else folder_of(text.preset))
    except UsageError:  # the folder was moved
        return Base(str(text.preset or text.init_from), None)


def write_card(folder: Path, form: str, base: Base, tuning: Tuning, load: str) -> None:
    """Writes the model card into the folder of an export, and copies the licence files of the base model.

    Args:
      folder: Folder of the export.
      form: A key of `LIBRARIES`.
      base: The model before tuning.
      tuning: The run.
      load: Lines of Python that load the model.
    """
    licence, said = _licence(base)
    for path in _licence_files(base):
        shutil.copyfile(path, folder / path.name)
    text = tuning.config.text
    front: dict[str, Any] = {"license": licence, "library_name": LIBRARIES[form], "pipeline_tag": "text-generation"}
    if base.name.startswith(HUGGING_FACE):
        front["base_model"] = base.name.removeprefix(HUGGING_FACE)
    front["tags"] = ["tfppo", "ppo", *(["lora"] if text.lora_rank else [])]
    what = "The adapters of a language model" if form == "adapters" else "A language model"
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {_title(base)}, tuned {f'for the task {text.task}' if text.task else f'on {_prompts(text)}'}",
        f"{what} that tfppo {version('tfppo')} has tuned by PPO.",
        f"- Base model: {base.name}\n- Licence of the base model: {said}",
        f"## Load it\n\n```python\n{load}\n```",
        f"## Training\n\n{_table(('setting', 'value'), _settings(tuning))}",
        f"## Results\n\n{_results(tuning)}",
    ]
    (folder / CARD_FILE).write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _title(base: Base) -> str:
    last = base.name.rstrip("/").split("/")[-1]
    return last if "/" in base.name else last[:1].upper() + last[1:]


def _licence_files(base: Base) -> list[Path]:
    if base.folder is None:
        return []
    is_included = base.folder == default_preset()
    return [base.folder.with_name("NOTICE")] if is_included else sorted(base.folder.glob(LICENSES))


def _licence(base: Base) -> tuple[str, str]:
    """Returns the identifier of a licence, and what the card says about it."""
    if base.folder is None:
        return "unknown", UNKNOWN
    if base.folder == default_preset():
        return "mit", "MIT, see NOTICE"
    front = _front_matter(base.folder / CARD_FILE)
    if isinstance(front.get("license"), str):
        name, link = front.get("license_name"), front.get("license_link")
        return front["license"], ", ".join(str(part) for part in (front["license"], name, link) if part)
    files = _licence_files(base)
    return ("other", f"see the file {files[0].name}") if files else ("unknown", UNKNOWN)


def _front_matter(path: Path) -> dict[str, Any]:
    try:
        found = re.match(r"---\n(.*?)\n---", path.read_text(encoding="utf-8"), re.DOTALL)
        front = yaml.safe_load(found[1]) if found else None
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return front if isinstance(front, dict) else {}


def _settings(tuning: Tuning) -> list[tuple[str, str]]:
    text, ppo = tuning.config.text, tuning.config.ppo
    controller = f", adapted to a target of {ppo.adaptive_kl_target:g} nats" if ppo.kl_controller != "fixed" else ""
    lora = f"rank {text.lora_rank}, alpha {text.lora_alpha or text.lora_rank:g}, layers {text.lora_targets}"
    weights = f", with the weights {', '.join(f'{x:g}' for x in text.reward_weights)}" if text.reward_weights else ""
    return [
        ("task", text.task or "none"),
        *([("prompts", _prompts(text))] if text.prompts or not text.task else []),
        ("reward", (text.reward or "of the task") + weights),
        *([("system message", one_line(text.system))] if text.system else []),
        ("iterations", f"{tuning.iterations} of {text.iterations}"),
        ("responses in an iteration", str(text.batch_size)),
        *([("responses to each prompt", str(text.responses_per_prompt))] if text.responses_per_prompt > 1 else []),
        *([("advantages", text.advantages)] if not text.has_values else []),
        ("learning rate", f"{ppo.learning_rate:g}"),
        ("KL coefficient", f"{ppo.kl_coeff:g} at the start{controller}" if controller else f"{ppo.kl_coeff:g}"),
        ("LoRA", lora if text.lora_rank else "no"),
        ("sampling temperature", f"{text.temperature:g}"),
        ("seed", str(tuning.config.run.seed)),
    ]


def _prompts(text: TextConfig) -> str:
    return f"prompts of {text.prompts.name if text.prompts else 'Python'}"


def _results(tuning: Tuning) -> str:
    evaluation = tuning.evaluation
    if evaluation is None:
        return "These weights were not evaluated."
    rows = []
    for name, value in evaluation.items():
        if isinstance(value, Mapping) and {"reference", "policy"} <= value.keys():
            rows.append((name, _number(value["reference"]), _number(value["policy"])))
    divergence = f"KL divergence to the base model: {_number(evaluation.get('kl'))} nats for a response."
    table = _table(("measure", "before", "after"), rows)
    kind = "training" if evaluation.get("split") == "train" else "held-out"
    return f"On {evaluation.get('prompts')} {kind} prompts:\n\n{table}\n\n{divergence}"


def _number(value: object) -> str:
    if isinstance(value, Mapping):
        value = value.get("mean")
    return f"{value:.3f}" if isinstance(value, (int, float)) else "not a number"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    def line(cells: tuple[str, ...]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    return "\n".join([line(head), f"|{'---|' * len(head)}", *map(line, rows)])
