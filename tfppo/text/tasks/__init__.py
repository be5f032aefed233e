"""Text tasks. Importing this registers those that come with the package, and loads no model."""

from tfppo.text.tasks.keywords import KEYWORDS
from tfppo.text.tasks.length import LENGTH, length_task
from tfppo.text.tasks.sentiment import SENTIMENT
from tfppo.text.tasks.task import Task, get_task, movie_prompts, register_task, task_names

__all__ = [
    "KEYWORDS",
    "LENGTH",
    "SENTIMENT",
    "Task",
    "get_task",
    "length_task",
    "movie_prompts",
    "register_task",
    "task_names",
]
