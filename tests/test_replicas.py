"""Several devices of one process train to the weights of one."""

import subprocess
import sys

import numpy as np
import pytest
import together

KINDS = ["cartpole", "gymnasium", "recurrent", "text"]


@pytest.fixture(scope="module")
def mirrored(preset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mirrored")
    command = [sys.executable, together.__file__, str(folder), str(preset), "mirrored", *KINDS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_two_devices_equal_one(kind, mirrored, preset):
    weights, rows = together.load(mirrored / f"{kind}.npz")
    expected, expected_rows = together.train(kind, preset)
    for a, b in zip(weights, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(rows, expected_rows, rtol=2e-3, atol=2e-4)
