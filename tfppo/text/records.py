"""What a text run says about itself, and the pictures that it draws."""

import shlex
import textwrap
from collections.abc import Sequence
from pathlib import Path

import keras
import tensorflow as tf

from tfppo.reporting.curves import plot_curve, plot_frontier
from tfppo.reporting.tensorboard import TensorBoardWriter
from tfppo.text.config import TextConfig
from tfppo.text.policy import TextPolicy
from tfppo.text.stop_rules import KL, SCORE
from tfppo.text.tasks import Task
from tfppo.text.validation import SCORE as VALIDATION_SCORE
from tfppo.training import run_folder
from tfppo.training.loop import Iteration
from tfppo.training.trainer import Display

LONGEST_EXAMPLE = 60  # characters of a prompt in a command


def subject_of(task: Task, text: TextConfig, policy: TextPolicy) -> str:
    """Describes a run in one line: its task, its model and its batch size.

    Args:
      task: Task of the run.
      text: Settings of the run.
      policy: The policy that is trained.
    """
    model: keras.Model = policy.model.model
    variables: list[tf.Variable] = policy.trainable_variables
    trained = sum(variable.shape.num_elements() for variable in variables)
    rewards = [str(reward) for reward in (text.reward, text.reward_model) if reward is not None]
    reward = f" with reward {' and '.join(rewards)}" if rewards else ""
    critic = "" if policy.critic is None else ", with the critic"
    each = f", {text.responses_per_prompt} to each prompt" if text.responses_per_prompt > 1 else ""
    return (
        f"task {task.name} ({task.description}){reward}, {type(model).__name__} of "
        f"{model.count_params() / 1e6:.2f}M parameters ({trained / 1e6:.2f}M trained{critic}), "
        f"{text.batch_size} responses per iteration{each}"
    )


def display_of(text: TextConfig, is_conversation: bool, has_validation: bool) -> Display:
    """Returns the metrics that the console and TensorBoard show.

    Args:
      text: Settings of the run.
      is_conversation: True if a chat template renders the prompts.
      has_validation: True if the run has a validation.
    """
    columns = {SCORE: "score", KL: "KL", "text/response_length_mean": "words", "time/tokens_per_s": "tokens/s"}
    best = VALIDATION_SCORE if has_validation else "text/reward_mean"
    is_handled = text.mask_truncated or text.missing_end_penalty > 0
    should_end = is_conversation and not is_handled
    return Display(columns, None, [SCORE, KL], SCORE, KL, best, has_choices=True, should_end=should_end)


def metrics_of(iteration: Iteration, text: TextConfig) -> dict[str, float]:
    """Returns the metrics of an iteration that follow from its other metrics.

    Args:
      iteration: The iteration.
      text: Settings of the run.
    """
    metrics = iteration.metrics
    coefficient = metrics["schedule/kl_coeff"]
    penalty = text.missing_end_penalty * (1.0 - metrics["text/eos_fraction"])
    tokens = metrics["text/response_tokens_mean"] * text.batch_size
    return {
        "text/kl_coeff": coefficient,
        "text/reward_mean": metrics["text/scaled_score_mean"] - penalty - coefficient * metrics["text/kl"],
        "time/tokens_per_s": tokens / iteration.seconds,
    }


def draw_pictures(folder: Path, task: Task, step: int) -> None:
    """Draws the learning curve and the frontier (score against KL) into the run's folder and for TensorBoard.

    Args:
      folder: Folder of the run.
      task: Task of the run.
      step: Step of the picture on TensorBoard.
    """
    metrics, frontier = folder / run_folder.METRICS, folder / run_folder.FRONTIER
    title = f"{task.name}, {folder.name}"
    plot_curve(metrics, folder / run_folder.CURVE, "iteration", [SCORE, KL], title)
    plot_frontier(metrics, frontier, KL, SCORE, title)
    writer = TensorBoardWriter(folder)
    writer.write_image("text/score_against_kl", frontier.read_bytes(), step)
    writer.close()


def farewell_of(folder: Path, prompts: Sequence[str]) -> str:
    """Lists the files of a finished run and the commands that use them.

    Args:
      folder: Folder of the run.
      prompts: Prompts of the run; the beginning of the first one is the example.
    """
    example = textwrap.shorten(prompts[0], LONGEST_EXAMPLE, placeholder="") if prompts else ""
    prompt = shlex.quote(example or "This film")
    return (
        f"{folder} holds {run_folder.SAMPLES}, {run_folder.CURVE}, {run_folder.METRICS} and the other results; "
        f"view the metrics and samples with: tensorboard --logdir {run_folder.quoted(folder.parent)}\n"
        f"generate responses with: tfppo generate {run_folder.quoted(folder)} --prompt {prompt}"
    )
