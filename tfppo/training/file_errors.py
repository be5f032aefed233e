"""Recognizes the errors that TensorFlow raises if it cannot write a file."""

import tensorflow as tf

FILE_ERRORS = (
    OSError,
    tf.errors.NotFoundError,  # a folder is missing
    tf.errors.PermissionDeniedError,  # a folder or its file system is read-only
    tf.errors.ResourceExhaustedError,  # the disk or the quota is full
    tf.errors.FailedPreconditionError,  # a file is in the place of a folder
    tf.errors.UnknownError,  # the disk fails
)
"""Types of these errors, and Python's own. TensorFlow also raises them for other reasons, see `is_file_error`."""


def is_file_error(error: Exception) -> bool:
    """Returns whether an error is one of a file. An error of `FILE_ERRORS` can also mean that the memory is full."""
    is_memory = isinstance(error, tf.errors.ResourceExhaustedError) and "OOM" in error.message
    return isinstance(error, FILE_ERRORS) and not is_memory
