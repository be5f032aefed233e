"""Text tasks: prompts, a reward and a metric each. Importing this package registers its tasks and loads no model."""

from tfppo.text.tasks.answers import answer_task
from tfppo.text.tasks.classification import POLARITY, TOPIC
from tfppo.text.tasks.countries import COUNTRIES
from tfppo.text.tasks.keywords import KEYWORDS
from tfppo.text.tasks.length import LENGTH, length_task
from tfppo.text.tasks.music import MUSIC
from tfppo.text.tasks.sentiment import SENTIMENT
from tfppo.text.tasks.task import Task, get_task, movie_prompts, register_task, task_names
from tfppo.text.tasks.translation import TRANSLATION

__all__ = [
    "COUNTRIES",
    "KEYWORDS",
    "LENGTH",
    "MUSIC",
    "POLARITY",
    "SENTIMENT",
    "TOPIC",
    "TRANSLATION",
    "Task",
    "answer_task",
    "get_task",
    "length_task",
    "movie_prompts",
    "register_task",
    "task_names",
]
