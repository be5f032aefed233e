"""Fixtures of all tests, fewer messages of TensorFlow, and the `gpu` mark."""

import functools
import gc
import importlib
import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the command line has it for language models

import keras
import pytest
import tensorflow as tf
from support.representatives import mark_slow_cases

from tfppo.reporting.metrics import METRICS


def pytest_collection_finish():
    """Keeps the garbage collector from reading all modules while TensorFlow traces: some percent of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out tests by their marks
def pytest_collection_modifyitems(items):
    mark_slow_cases(items)
    if not tf.config.list_physical_devices("GPU"):
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no GPU"))


def make_preset(kind, folder):
    """Writes a preset as `tfppo pretrain` does: a tiny language model, and a tokenizer trained on the corpus."""
    from tfppo.text.config import NewModelConfig
    from tfppo.text.data.corpus import sentences
    from tfppo.text.data.tokenizer import train_tokenizer
    from tfppo.text.models.lstm import make_lstm
    from tfppo.text.models.transformer import make_transformer
    from tfppo.text.presets.folder import save_preset

    keras.utils.set_random_seed(1)
    config = NewModelConfig(vocabulary_size=512, num_layers=1, num_heads=2, hidden_dim=16, context_length=64)
    tokenizer = train_tokenizer([s.text for s in sentences("validation")], config.vocabulary_size)
    make = make_lstm if kind == "lstm" else make_transformer
    save_preset(folder, make(tokenizer.vocabulary_size(), config), tokenizer)
    return folder


@pytest.fixture(scope="session")
def presets(tmp_path_factory):
    """Returns `presets(kind)`, which returns the folder of a tiny language model. It is made once per session."""
    return functools.cache(lambda kind: make_preset(kind, tmp_path_factory.mktemp(kind) / "preset"))


@pytest.fixture(scope="session")
def preset(presets):
    return presets("gpt2")


@pytest.fixture(scope="session", params=["gpt2", pytest.param("lstm", marks=pytest.mark.slow)])
def any_preset(request, presets):
    return presets(request.param)


@pytest.fixture(scope="session")
def control_metrics():
    """Returns the names of the documented metrics that a control run writes."""
    of_others = (
        "text/",
        "reward/",
        "validation/",
        "info/",
        "sft/",
        "reward_model/",
        "loss/pretraining",
        "time/tokens_per_s",
    )
    return [name for name in METRICS if not name.startswith(of_others)]


@pytest.fixture
def heard_ctrl_c():
    """Enables Ctrl-C as in a terminal. A shell starts background processes with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def extension(monkeypatch):
    """`extension(name)` imports a module of docs/extensions."""
    folder = Path(__file__).parents[1] / "docs" / "extensions"
    monkeypatch.syspath_prepend(folder)
    yield importlib.import_module
    for path in folder.glob("*.py"):
        sys.modules.pop(path.stem, None)
