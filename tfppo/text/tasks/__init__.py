"""Text tasks: prompts, a reward and a metric each. Importing this package registers its tasks and loads no model."""

from tfppo.text.tasks.classification import POLARITY, TOPIC
from tfppo.text.tasks.countries import COUNTRIES
from tfppo.text.tasks.definition.answers import answer_task
from tfppo.text.tasks.definition.beginnings import movie_prompts
from tfppo.text.tasks.definition.registry import get_task, register_task, task_names
from tfppo.text.tasks.definition.task import Task
from tfppo.text.tasks.docstrings import DOCSTRINGS
from tfppo.text.tasks.entities import ENTITIES
from tfppo.text.tasks.finance import FINANCE
from tfppo.text.tasks.keywords import KEYWORDS
from tfppo.text.tasks.length import LENGTH, length_task
from tfppo.text.tasks.music import MUSIC
from tfppo.text.tasks.recommendation import RECOMMENDATION
from tfppo.text.tasks.sentiment import SENTIMENT
from tfppo.text.tasks.support import SUPPORT
from tfppo.text.tasks.translation import MESSAGES, TRANSLATION

__all__ = [
    "COUNTRIES",
    "DOCSTRINGS",
    "ENTITIES",
    "FINANCE",
    "KEYWORDS",
    "LENGTH",
    "MESSAGES",
    "MUSIC",
    "POLARITY",
    "RECOMMENDATION",
    "SENTIMENT",
    "SUPPORT",
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
