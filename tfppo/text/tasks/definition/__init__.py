"""What a task is: the class, the registry, prompts from sentences, and tasks with right answers."""
