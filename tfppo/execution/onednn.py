"""The choice between the two libraries with which TensorFlow multiplies matrices on a CPU: oneDNN and Eigen.

TensorFlow reads an environment variable when it is imported. So the choice is made before, without TensorFlow.
"""

import os
import sys

VARIABLE = "TF_ENABLE_ONEDNN_OPTS"


def choose_onednn(setting: bool | None, language_model: bool = False) -> None:
    """Sets the environment variable that TensorFlow reads during its import. Does nothing after the import.

    Without the variable TensorFlow uses oneDNN only on processors with certain instructions. Elsewhere a large language
    model takes twice the time, but small networks are a little faster without oneDNN.

    Args:
      setting: True for oneDNN, False for Eigen. None keeps the variable, if it is set.
      language_model: With None and without the variable: True for oneDNN, False for TensorFlow's own choice.
    """
    if "tensorflow" in sys.modules:
        return
    if setting is not None:
        os.environ[VARIABLE] = str(int(setting))
    elif language_model:
        os.environ.setdefault(VARIABLE, "1")
