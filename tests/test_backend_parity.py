"""One model, three backends: outputs, gradients and training agree.

Keras fixes the backend of a process, so each runs in a process of its own,
on files that were saved in processes of every backend.
"""

import importlib.util
import itertools
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from compare import assert_close

import keras_ssm

BACKENDS = ("jax", "tensorflow", "torch")
PAIRS = list(itertools.combinations(BACKENDS, 2))
WORKER = pathlib.Path(__file__).with_name("backend_worker.py")
PACKAGE = pathlib.Path(keras_ssm.__file__).parents[1]
KINDS = {
    "output": "forward",
    "state": "forward",
    "gradient": "gradient",
    "sgd": "gradient",
    "adam": "gradient",
}


def work(backend, job, folder):
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "PYTHONPATH": str(PACKAGE),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, str(WORKER), job, str(folder)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{backend} {job}:\n{done.stderr[-4000:]}"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each installed backend computes, by its name."""
    folder = tmp_path_factory.mktemp("parity")
    installed = [b for b in BACKENDS if importlib.util.find_spec(b)]
    for job in ("save", "run"):
        for backend in installed:
            work(backend, job, folder)
    return {b: dict(np.load(folder / f"{b}.npz")) for b in installed}


def needed(results, *backends):
    for backend in backends:
        if backend not in results:
            pytest.skip(f"{backend} is not installed")
    return [results[backend] for backend in backends]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_backends_agree(results, pair, kind):
    first, second = needed(results, *pair)
    names = [name for name in first if name.startswith(f"{kind}/")]
    assert names
    for name in names:
        assert np.abs(first[name]).max() > 0, name
        assert_close(second[name], first[name], "float32", KINDS[kind], name)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_training_step_moves_every_weight(results, optimizer):
    for backend, found in results.items():
        for name, before in found.items():
            kind, path = name.split("/", 1)
            if kind == "before":
                moved = np.abs(found[f"{optimizer}/{path}"] - before).max()
                assert moved > 1e-3, f"{backend}: {path}"


@pytest.mark.parametrize("saved_on", BACKENDS)
@pytest.mark.parametrize("loaded_on", BACKENDS)
def test_files_of_each_backend_load_on_the_others(results, saved_on, loaded_on):
    _, loaded = needed(results, saved_on, loaded_on)
    own = loaded[f"output/{loaded_on}"]
    assert np.array_equal(loaded[f"output/{saved_on}"], own)
