"""The registry of tasks by their names."""

from tfppo.errors import UsageError, shown
from tfppo.text.tasks.definition.task import Task
from tfppo.training.user_modules import is_importable, load_named, name_of

PACKAGE = __name__.partition(".")[0]
_TASKS: dict[str, Task] = {}


def register_task(task: Task) -> Task:
    """Registers a task, so that its name can be used as the setting `task`.

    Args:
      task: The task. Registering the same object twice is allowed.

    Returns:
      The same task.

    Raises:
      UsageError: If another task has the same name.
    """
    if _TASKS.setdefault(task.name, task) is not task:
        raise UsageError(
            f"task name {task.name} is already used by another task ({_TASKS[task.name].description}): give another "
            "name"
        )
    return task


def get_task(name: str) -> Task:
    """Returns a task by its name.

    Args:
      name: Name of a registered task, or "package.module:NAME", which imports the module.

    Raises:
      UsageError: If no task has this name, the module cannot be imported, or the name stands for something else.
    """
    if ":" in name:
        found = load_named(name, "task", "task")
        if not isinstance(found, Task):
            raise UsageError(
                f"task {name!r} is {shown(found)} ({type(found).__name__}); it must be a tfppo.Task: name one"
            )
        return found
    if name not in _TASKS:
        raise UsageError(
            f"task is {name!r}; it must be one of {', '.join(task_names())}, or package.module:NAME for a task of your "
            "own"
        )
    return _TASKS[name]


def task_name(task: Task) -> str:
    """Returns the name by which `get_task` finds a task again.

    Args:
      task: Any task.

    Returns:
      The name of an included task, "package.module:NAME" of the user's own task, or else, if the task is registered,
      its name. A description in angle brackets if there is no such name.
    """
    is_registered = _TASKS.get(task.name) is task
    name = name_of(task, task.name)
    if is_registered and (name.startswith(f"{PACKAGE}.") or not is_importable(name)):
        return task.name
    return name


def task_names() -> tuple[str, ...]:
    """Returns the names of all registered tasks, sorted."""
    return tuple(sorted(_TASKS))
