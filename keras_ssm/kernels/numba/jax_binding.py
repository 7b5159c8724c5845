"""How JAX calls a kernel: through XLA's foreign function interface."""

import ctypes
import functools
import os
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np

from keras_ssm.kernels.numba import compiled, ffi

# Below this many numbers, waking another thread costs more than it saves.
SERIAL = 1 << 16


def unsupported(*tensors, **options):
    """Why these tensors cannot go through these kernels, or `None`."""
    if os.name != "posix":
        return "needs Linux or macOS"
    if _api_version() not in ffi.API_VERSIONS:
        return "does not know the interface of this version of XLA"
    shapes = [v.shape for v in tensors if v is not None]
    if not all(isinstance(size, int) for shape in shapes for size in shape):
        return "needs known sizes"
    return None


@functools.cache
def _api_version():
    header = pathlib.Path(jax.ffi.include_dir(), "xla/ffi/api/c_api.h")
    found = dict(re.findall(r"XLA_FFI_API_(M\w+) (\d+)", header.read_text()))
    return int(found["MAJOR"]), int(found["MINOR"])


def wide(dtype):
    """The dtype that kernels compute in."""
    return jnp.float64 if dtype == jnp.float64 else jnp.float32


def widen(tensors):
    """Floating tensors in the dtype that a kernel computes in."""
    dtype = wide(tensors[0].dtype)
    return [
        v if v is None or v.dtype == jnp.bool_ else v.astype(dtype)
        for v in tensors
    ]


def threads() -> int:
    """How many threads a kernel may have work for."""
    return os.cpu_count() or 1


def run(name: str, sizes, inputs, results, work: int):
    """Calls a kernel where its tensors are; returns its results.

    Args:
        name: Its name in `compiled.entries`.
        sizes: Sizes and flags of the frame.
        inputs: The first tensors of the frame; absent ones are `None`.
        results: The shapes of the others.
        work: How many numbers it computes, roughly.
    """
    dtype = inputs[0].dtype
    # An empty array stands for none; like x it may vary over devices.
    none = inputs[0].reshape(-1)[:0]
    call = jax.ffi.ffi_call(
        _target(name, dtype == jnp.float64),
        [jax.ShapeDtypeStruct(shape, dtype) for shape in results],
    )
    count = 1 if work < SERIAL else threads()
    inputs = [none if v is None else v for v in inputs]
    return call(*inputs, words=np.array([count, *sizes], np.int64))


@functools.cache
def _target(name, double):
    """Makes a kernel known to XLA; its name there."""
    function = ctypes.CFUNCTYPE(None)(compiled.handler(name, double).address)
    target = f"keras_ssm_{name}_{'float64' if double else 'float32'}"
    capsule = jax.ffi.pycapsule(function)
    jax.ffi.register_ffi_target(target, capsule, platform="cpu")
    return target
