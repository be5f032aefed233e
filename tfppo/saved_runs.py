"""Uses existing runs of any kind from Python: resumes, evaluates and exports them, and generates with them.

A run whose task, reward or language model is a Python object needs the object again, unless the run's folder keeps it
or its settings name it.

This module imports TensorFlow only in a call, so that TensorFlow gets the library for matrices that the run used.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfppo.errors import UsageError
from tfppo.execution.onednn import choose_onednn
from tfppo.settings import check_value
from tfppo.training import run_folder

if TYPE_CHECKING:
    import keras

    from tfppo.control.envs.registration import MakeEnvironment
    from tfppo.control.trained_policy import TrainedPolicy
    from tfppo.text.rewards.callables import Reward
    from tfppo.text.supervised.run import Method
    from tfppo.text.tasks import Task
    from tfppo.training.trainer import Application, Evaluation

Folder = Path | str
PARTS: Mapping[str, tuple[str, ...]] = {
    "text": ("task", "reward", "model"),
    "control": ("env", "wrappers"),
    **dict.fromkeys(run_folder.WITHOUT_POLICY, ()),
}
"""Parts of a run that a user may give again, by kind of run."""


def resume(
    folder: Folder,
    *,
    task: "Task | str | None" = None,
    reward: "Reward | keras.Model | Path | str | None" = None,
    model: "tuple[keras.Model, Any] | None" = None,
    env: "str | MakeEnvironment | None" = None,
    wrappers: Sequence[str] = (),
    import_seconds: float = 0.0,
) -> Path | None:
    """Resumes a run from its latest checkpoint. A finished run is only evaluated again.

    Args:
      folder: Folder of the run.
      task: Text: the run's task, if it is your own: the object, or "package.module:NAME".
      reward: Text: the run's reward, if it is your own: the object, or "package.module:function". A reward model that
        has moved: its folder.
      model: Text: the language model that the run started from, and its tokenizer, if the folder does not keep them.
      env: Control: the run's environment, if it is "module:ID" or a function: its name, or the function.
      wrappers: Control: the run's wrappers that are "module:Class".
      import_seconds: Seconds that the process spent on imports, for `evaluation.json`.

    Returns:
      The folder of the run, or None in a worker that is not the chief.

    Raises:
      UsageError: If the folder is not a run or is in use, a part is missing or is not that of the run, or the latest
        checkpoint is damaged.
    """
    parts = {"task": task, "reward": reward, "model": model, "env": env, "wrappers": tuple(wrappers) or None}
    kind = run_folder.kind_of(Path(folder))
    if kind in run_folder.WITHOUT_POLICY:
        _given(folder, kind, parts)
        choose_onednn(run_folder.onednn_of(Path(folder)))
        from tfppo.text.supervised import run

        return run.resume(_method_of(kind), Path(folder))
    application, given = _chosen(folder, **parts)
    from tfppo.training import driver

    return driver.resume(application, Path(folder), import_seconds, given)


def _method_of(kind: str) -> "Method[Any]":
    """Returns the method of a kind of supervised training; importing it imports TensorFlow."""
    if kind == "sft":
        from tfppo.text.sft.run import METHOD as SFT

        return SFT
    if kind == "pretrain":
        from tfppo.text.pretrain.run import METHOD as PRETRAIN

        return PRETRAIN
    from tfppo.text.reward_model.run import METHOD as REWARD_MODEL

    return REWARD_MODEL


def evaluate(
    folder: Folder,
    *,
    prompts: int = 200,
    episodes: int = 100,
    eval_max_steps: int | None = None,
    seed: int | None = None,
    checkpoint: str | int = "latest",
    task: "Task | str | None" = None,
    reward: "Reward | keras.Model | Path | str | None" = None,
    model: "tuple[keras.Model, Any] | None" = None,
    env: "str | MakeEnvironment | None" = None,
    wrappers: Sequence[str] = (),
) -> "Evaluation":
    """Evaluates a checkpoint of a run.

    Args:
      folder: Folder of the run.
      prompts: Text: number of held-out prompts.
      episodes: Control: number of episodes.
      eval_max_steps: Control: time limit of an episode, in steps. None: that of the run.
      seed: Seed of the samples or episodes. None: the seed of the run.
      checkpoint: "latest", "best" or the number of an iteration.
      task: As for `resume`.
      reward: As for `resume`.
      model: As for `resume`.
      env: As for `resume`.
      wrappers: As for `resume`.

    Returns:
      The numbers, as in `evaluation.json`.

    Raises:
      UsageError: If the folder is not a run, a part is missing or is not that of the run, or the checkpoint cannot be
        read.
    """
    application, given = _chosen(
        folder, task=task, reward=reward, model=model, env=env, wrappers=tuple(wrappers) or None
    )
    name, size = ("prompts", prompts) if application.kind == "text" else ("episodes", episodes)
    check_value(name, size, "at least 1", lambda size: size >= 1)
    settings: dict[str, object] = {} if application.kind == "text" else {"video_episodes": 0}
    if application.kind != "text" and eval_max_steps is not None:
        settings["eval_max_steps"] = eval_max_steps
    from tfppo.training import driver

    return driver.evaluate(application, Path(folder), size, seed, str(checkpoint), given, **settings)[0]


def load_policy(
    path: Folder,
    *,
    checkpoint: str | int = "latest",
    env: "str | MakeEnvironment | None" = None,
    wrappers: Sequence[str] = (),
) -> "TrainedPolicy":
    """Loads a trained policy for control, with everything between observations and actions.

    Args:
      path: A folder that `ControlTrainer.save` wrote, or the folder of a control run.
      checkpoint: Of a run: "latest", "best" or the number of an iteration.
      env: Of a run: its environment, if it is "module:ID" or a function: its name, or the function.
      wrappers: Of a run: its wrappers that are "module:Class".

    Returns:
      The policy; `predict` chooses actions.

    Raises:
      UsageError: If the folder is neither, a file in it cannot be read, or the checkpoint does not exist.
    """
    from tfppo.control.trained_policy import RECORD, read_policy

    folder = Path(path)
    if (folder / RECORD).exists():
        return read_policy(folder)
    if not (folder / run_folder.CONFIG).exists():
        raise UsageError(
            f"{folder} holds neither {RECORD} nor {run_folder.CONFIG}; it must be a folder that ControlTrainer.save "
            "wrote, or the folder of a control run"
        )
    application, given = _chosen(folder, env=env, wrappers=tuple(wrappers) or None)
    if application.kind != "control":
        raise UsageError(f"{folder} is a {application.kind} run; load_policy needs a control run: use tfppo.generate")
    from tfppo.control.trainer import ControlTrainer
    from tfppo.training import driver

    with driver.opened(application, folder, str(checkpoint), given) as trainer:
        assert isinstance(trainer, ControlTrainer)
        return trainer.trained_policy()


def generate(
    folder: Folder,
    prompts: Sequence[str],
    *,
    temperature: float | None = None,
    max_new_tokens: int | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    samples: int = 1,
    checkpoint: str | int = "latest",
    reference: bool = False,
    strip_prompt: bool = True,
    task: "Task | str | None" = None,
    reward: "Reward | keras.Model | Path | str | None" = None,
    model: "tuple[keras.Model, Any] | None" = None,
) -> list[str]:
    """Generates responses to prompts with the policy of a text run.

    Args:
      folder: Folder of the run.
      prompts: Texts to respond to, or conversations as lists of messages.
      temperature: Divides the logits; 0 always takes the most probable token. None uses the temperature of the run.
      max_new_tokens: Largest number of tokens of a response. None uses the response_length of the run.
      top_k: Samples from the k most probable tokens; None samples from all.
      top_p: Samples from the most probable tokens whose probabilities sum to p; None samples from all.
      seed: Seed of the sampling noise.
      samples: Number of responses to each prompt.
      checkpoint: "latest", "best" or the number of an iteration.
      reference: True generates with the reference policy, which is the model before tuning.
      strip_prompt: False puts each response behind its prompt, with a space in a conversation.
      task: As for `resume`; not needed.
      reward: As for `resume`; not needed.
      model: As for `resume`.

    Returns:
      The responses, `samples` of them in a row for each prompt.

    Raises:
      UsageError: If the folder is not a text run, its checkpoint cannot be read, or a prompt is empty or too long.
    """
    application, given = _chosen(folder, task=task, reward=reward, model=model)
    if application.kind != "text":
        raise UsageError(f"{folder} is a control run; generate needs a text run: give the folder of one")
    from tfppo.text.trainer import TextTrainer
    from tfppo.training import driver

    with driver.opened(application, Path(folder), str(checkpoint), given) as trainer:
        assert isinstance(trainer, TextTrainer)
        return trainer.generate(
            prompts,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            samples=samples,
            reference=reference,
            strip_prompt=strip_prompt,
        )


def export(
    folder: Folder,
    *,
    format: str | None = None,
    adapters_only: bool = False,
    checkpoint: str | int = "latest",
    task: "Task | str | None" = None,
    reward: "Reward | keras.Model | Path | str | None" = None,
    model: "tuple[keras.Model, Any] | None" = None,
    env: "str | MakeEnvironment | None" = None,
    wrappers: Sequence[str] = (),
) -> Path:
    """Writes the policy of a run into its folder `export`: a SavedModel (control) or a language model (text).

    Args:
      folder: Folder of the run.
      format: Text: "keras" for a preset of KerasHub, or "transformers" for a folder that transformers loads.
        None: "keras".
      adapters_only: Text: True writes only the adapters of a run with `lora_rank`, as PEFT loads them.
      checkpoint: "latest", "best" or the number of an iteration.
      task: As for `resume`; not needed.
      reward: As for `resume`; not needed.
      model: As for `resume`.
      env: As for `resume`.
      wrappers: As for `resume`.

    Returns:
      The folder of the export.

    Raises:
      UsageError: If the folder is not a run, its checkpoint cannot be read, the folder cannot be written to, or the
        model has no such form.
    """
    application, given = _chosen(
        folder, task=task, reward=reward, model=model, env=env, wrappers=tuple(wrappers) or None
    )
    if application.kind != "text" and (format is not None or adapters_only):
        raise UsageError(f"{folder} is a control run, which has one form of export: leave format and adapters_only out")
    if adapters_only and format == "keras":
        raise UsageError(
            "format is keras and adapters_only is True; adapters alone have the form of PEFT: leave one out"
        )
    from tfppo.training import driver

    return driver.export(application, Path(folder), str(checkpoint), given, "adapters" if adapters_only else format)


def _chosen(folder: Folder, **given: object) -> tuple["Application[Any]", dict[str, object]]:
    """Returns the application of a run, and the parts that were given.

    Raises:
      UsageError: If the folder is not a run, or has no part of a given name.
    """
    kind = run_folder.refuse_without_policy(Path(folder))
    choose_onednn(run_folder.onednn_of(Path(folder)))
    return application_of(kind), _given(folder, kind, given)


def _given(folder: Folder, kind: str, parts: Mapping[str, object]) -> dict[str, object]:
    """Returns the parts that are given, and checks that a run of the kind has them."""
    given = {name: value for name, value in parts.items() if value is not None}
    for name in given:
        if name not in PARTS[kind]:
            raise UsageError(f"{folder} is a {run_folder.command_of(kind)} run, which has no {name}: leave {name} out")
    return given


def application_of(kind: str) -> "Application[Any]":
    """Returns the application of a kind of run, "control" or "text". The other application is not imported."""
    if kind == "text":
        from tfppo.text.trainer import TEXT

        return TEXT
    from tfppo.control.trainer import CONTROL

    return CONTROL
