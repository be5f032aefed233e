"""Rewards that read each prompt and its response as one text."""


class ReadsTexts:
    """A reward that reads each prompt and its response as one text."""

    between = ""
    """Put before each response; a run sets it to that of its `PromptCodec`."""
    longest: int | None = None
    """Largest number of tokens that are read. None: there is no limit."""
