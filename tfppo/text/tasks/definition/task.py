"""The class `Task`: prompts, a reward and a metric under one name."""

import functools
import importlib.util
import inspect
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfppo.errors import UsageError, kind_and_text, one_line, shown
from tfppo.text.data.archives import Archive
from tfppo.text.data.corpus import DOMAINS, Domain, Split
from tfppo.text.data.prompts import Prompt, as_prompts
from tfppo.text.rewards.callables import Reward, as_reward
from tfppo.text.rewards.signature import call_with_texts, check_signature

RESERVED = (  # keys of evaluation.json that a task's metric must not replace
    *("prompts", "score", "judge", "kl", "distinct_2", "length", "domain", "perplexity", "gain", "failed"),
    *("task", "seed", "split", "weights", "seconds"),
    *("score_mean", "response_length_mean"),  # names of curves of the validation
)


@dataclass(frozen=True)
class Task:
    """A task for a language model: prompts, a reward for the responses, and a metric."""

    name: str
    """Name on the command line and in the names of runs: letters, digits, `-` and `_`."""
    description: str
    """One line for the list of tasks."""
    prompts: Callable[[Split], Any]
    """Returns the prompts of a split: "train", "validation" or "test". They are a list of texts, of conversations or of
    dictionaries with labels, or any other form that `as_prompts` takes."""
    make_reward: Callable[[], Callable[..., Sequence[float] | np.ndarray]] | None = None
    """Makes the reward function. If the reward needs a model, it is loaded here and not before. None: a run of the task
    must have a reward of its own."""
    measure: Callable[..., float] | None = None
    """Computes the metric of the task from prompts and responses: a mean over at least one response. As a reward, it
    gets the labels that its parameters name. None: the task has no metric."""
    metric: str | None = None
    """Name of the metric in `evaluation.json`. None: the task has no metric."""
    target: float | None = None
    """Value that the metric should reach after training."""
    domain: Domain | None = "movie"
    """Domain of the control token before each prompt; None: no control token."""
    defaults: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Settings of this task (by field name) that differ from the text defaults."""
    examples: Callable[[Split], Any] | None = None
    """Returns examples of a split for `tfppo sft --task`, in a form that `tfppo.sft` takes. None: the task has none."""
    sft_defaults: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Settings of supervised fine-tuning (by field name) for the examples of this task."""
    baselines: Mapping[str, Callable[[Sequence[Prompt]], Sequence[str]]] = field(default_factory=dict, hash=False)
    """Answers to prompts without a language model, by name, which the results of a run are compared with."""
    judges: Mapping[str, Callable[..., float]] = field(default_factory=dict, hash=False)
    """Other metrics by name, functions as `measure`, that no reward optimizes: benchmarks/tasks.py shows them, too."""
    needs: Sequence[str] = ()
    """Modules that the task imports and that tfppo does not need, such as `("num2words",)`."""
    archives: Sequence[Archive] = ()
    """Packages whose data are read in place; they are fetched once."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", self.name):
            raise UsageError(
                f"task name is {self.name!r}; it must consist of letters, digits, - and _, and start with a letter or "
                "a digit"
            )
        if self.domain is not None and self.domain not in DOMAINS:
            raise UsageError(
                f"domain of task {self.name} is {self.domain!r}; it must be one of {', '.join(DOMAINS)}, or None"
            )
        if (self.metric is None) != (self.measure is None):
            raise UsageError(
                f"task {self.name} has metric {shown(self.metric)} and measure {shown(self.measure)}; a task has both "
                "or none: give both"
            )
        is_name = isinstance(self.metric, str) and self.metric.isprintable() and self.metric not in ("", *RESERVED)
        if self.metric is not None and not is_name:
            raise UsageError(
                f"metric of task {self.name} is {shown(self.metric)}; it must be a name that evaluation.json does not "
                f"use already ({', '.join(RESERVED)}): choose another name"
            )
        self._check_callable("prompts", 1, "a function of the split (train, validation or test)", "lambda split: [...]")
        if self.make_reward is not None:
            self._check_make_reward()
        if self.measure is not None:
            wanted = "a function of (prompts, responses)"
            self._check_callable("measure", None, wanted, "lambda prompts, responses: ...")
            check_signature(self.measure, f"measure of task {self.name}")

    def _check_make_reward(self) -> None:
        if callable(self.make_reward) and not _takes(self.make_reward, 0) and _takes(self.make_reward, 2):
            raise UsageError(
                f"make_reward of task {self.name} takes two arguments, as a reward does; it must be a function without "
                f"arguments that returns the reward: give make_reward=lambda: {_called(self.make_reward)}"
            )
        self._check_callable("make_reward", 0, "a function without arguments that returns the reward", "lambda: reward")

    def _check_callable(self, name: str, count: int | None, wanted: str, example: str) -> None:
        value = getattr(self, name)
        if not callable(value) or (count is not None and not _takes(value, count)):
            raise UsageError(
                f"{name} of task {self.name} is {shown(value)} ({type(value).__name__}); it must be {wanted}: give "
                f"for example {name}={example}"
            )

    def checked_prompts(self, split: Split) -> list[Prompt]:
        """Returns the prompts of a split, and checks that they are prompts.

        Args:
          split: "train", "validation" or "test".

        Raises:
          UsageError: If the task's function fails, or returns anything but prompts.
        """
        found = self._call("prompts", lambda: self.prompts(split))
        try:
            return as_prompts(found, f"the prompts of task {self.name} for the split {split}")
        except UsageError as error:
            raise UsageError(f"{error}; fix the task") from None

    def checked_reward(self) -> Reward:
        """Makes the reward, and checks that it is one.

        Raises:
          UsageError: If the task has no reward, its function fails, or it returns no reward.
        """
        if self.make_reward is None:
            raise UsageError(
                f"task {self.name} ({self.description}) has no reward; a run needs one: give --reward "
                "package.module:function, or reward= in Python"
            )
        return as_reward(self._call("make_reward", self.make_reward))

    def checked_measure(self, prompts: Sequence[str], responses: Sequence[str]) -> float | None:
        """Computes the metric, and checks that it is one finite number.

        Args:
          prompts: N prompts, N at least 1.
          responses: N responses.

        Returns:
          The metric, or None if the task has none.

        Raises:
          UsageError: If the task's function fails, or does not return one finite number.
        """
        measure = self.measure
        if measure is None:
            return None
        value = self._call("measure", lambda: call_with_texts(measure, prompts, responses))
        try:  # NumPy's numbers, and arrays of one number, are numbers, too; a text is none
            number = math.nan if isinstance(value, str | bytes) else float(np.asarray(value, np.float64).reshape([]))
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise UsageError(
                f"measure of task {self.name} returned {one_line(shown(value))} ({type(value).__name__}) for "
                f"{len(responses)} responses; it must return one finite number, a mean over them: fix the task"
            )
        return number

    def checked_examples(self, split: Split) -> Any:
        """Returns the examples of a split for supervised fine-tuning.

        Args:
          split: "train" or "validation".

        Raises:
          UsageError: If the task has no examples, or its function fails.
        """
        examples = self.examples
        if examples is None:
            raise UsageError(
                f"task {self.name} has no examples for supervised fine-tuning; it must have some: give another task, "
                "or --data FILE"
            )
        return self._call("examples", lambda: examples(split))

    def judged_baselines(self, split: Split) -> dict[str, float]:
        """Computes the metric of each baseline on the prompts of a split.

        Args:
          split: "train", "validation" or "test".

        Raises:
          UsageError: If a function of the task fails.
        """
        prompts = self.checked_prompts(split) if self.baselines else []
        values = {}
        for name, answer in self.baselines.items():
            value = self.checked_measure(prompts, self._call(name, functools.partial(answer, prompts)))
            if value is not None:
                values[name] = value
        return values

    def _missing(self, package: str | None) -> UsageError:
        return UsageError(
            f"task {self.name} needs the package {package}, which is not installed: run make setup EXTRAS=tasks, or "
            f"pip install {' '.join(self.needs)}"
        )

    def _call(self, name: str, function: Callable[[], Any]) -> Any:
        for package in self.needs:  # before an hour of training and not after it
            if sys.modules.get(package) is None and importlib.util.find_spec(package) is None:
                raise self._missing(package)
        try:
            return function()
        except (Exception, SystemExit) as error:  # the user's function may raise anything; its traceback is kept
            if isinstance(error, ModuleNotFoundError) and error.name in self.needs:
                raise self._missing(error.name) from None
            if isinstance(error, UsageError) and self.archives:
                raise  # an archive that cannot be fetched
            raise UsageError(f"{name} of task {self.name} raised {kind_and_text(error)}: fix the task") from error


def _takes(function: Callable[..., Any], count: int) -> bool:
    """Returns False if a function cannot be called with this number of positional arguments."""
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # a builtin function without a signature
        return True
    return True


def _called(function: object) -> str:
    return str(getattr(function, "__name__", "reward"))
