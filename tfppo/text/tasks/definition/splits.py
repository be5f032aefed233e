"""The split of a row of a task."""

import zlib

from tfppo.text.data.corpus import Split


def split_by(key: str, *, validation: int, test: int) -> Split:
    """Chooses a split by a checksum of a key, so that it is the same on every machine.

    Args:
      key: Id of a row, or its text.
      validation: Percentage of the keys that are for validation.
      test: Percentage that are for the test. The others are for training.
    """
    bucket = zlib.crc32(key.encode()) % 100
    return "validation" if bucket < validation else "test" if bucket < validation + test else "train"
