"""What is raised when the user can mend it."""


class UsageError(ValueError):
    """Something that was given cannot be used. Its text is one line: what was given, what is wanted, what to do.

    The command line prints the line and exits with code 2; every other exception is a defect, and keeps its trace.
    """
