"""Compiles kernels for this machine, once: numba keeps them on disk."""

import functools
import hashlib
import pathlib

import numpy as np
from llvmlite.binding import add_symbol
from numba import cfunc, types

from keras_ssm.kernels.numba import conv_loops, ffi, linear_loops
from keras_ssm.kernels.numba.scan_backward import backward
from keras_ssm.kernels.numba.scan_forward import forward

_SIGNATURE = types.void(types.CPointer(types.int64))
_HANDLER_SIGNATURE = types.int64(types.CPointer(types.int64))
_HELPER = "keras_ssm_helper"


@functools.cache
def kernel(name: str, double: bool):
    """A kernel as a C function that takes the address of a frame.

    Args:
        name: Of `entries`, for example "scan_forward".
        double: Whether it computes in float64, not in float32.
    """
    zero = np.float64(0) if double else np.float32(0)
    return compile_cached(entries(zero, source())[name], _SIGNATURE)


@functools.cache
def handler(name: str, double: bool):
    """The C function by which XLA calls a kernel."""
    symbol = f"keras_ssm_{name}_{'float64' if double else 'float32'}"
    add_symbol(symbol, kernel(name, double).address)
    add_symbol(_HELPER, _helper().address)
    entry = ffi.handler_entry(symbol, _HELPER, source())
    return compile_cached(entry, _HANDLER_SIGNATURE)


@functools.cache
def _helper():
    return compile_cached(ffi.helper_entry(source()), _SIGNATURE)


def entries(zero, source: str) -> dict:
    """What numba compiles to C functions of a frame.

    Args:
        zero: A number of the type to compute in.
        source: Stands for the source code behind them. As a variable of the
            functions, it becomes part of their key in numba's cache.
    """

    def scan_forward(frame):
        source  # noqa: B018
        forward(frame, zero)

    def scan_backward(frame):
        source  # noqa: B018
        backward(frame, zero)

    def conv_forward(frame):
        source  # noqa: B018
        conv_loops.forward(frame, zero)

    def conv_backward(frame):
        source  # noqa: B018
        conv_loops.backward(frame, zero)

    def linear_forward(frame):
        source  # noqa: B018
        linear_loops.forward(frame, zero)

    def linear_backward(frame):
        source  # noqa: B018
        linear_loops.backward(frame, zero)

    functions = (
        *(scan_forward, scan_backward, conv_forward, conv_backward),
        *(linear_forward, linear_backward),
    )
    return {function.__name__: function for function in functions}


def compile_cached(function, signature):
    """A C function; numba's cache is used if there is a place for it."""
    options = dict(nopython=True, error_model="numpy")
    try:
        return cfunc(signature, cache=True, **options)(function)
    except (RuntimeError, OSError):
        return cfunc(signature, **options)(function)


@functools.cache
def source():
    """Changes with every file that kernels consist of.

    numba itself looks only at the file that it compiles a function from.
    """
    folder = pathlib.Path(__file__).parent
    hashed = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        hashed.update(path.read_bytes())
    return hashed.hexdigest()
