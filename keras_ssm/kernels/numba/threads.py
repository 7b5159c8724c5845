"""Spreads the tasks of a frame over the threads that PyTorch works with.

numba's own threads abort a forked child, or a process that enters from two
threads. So a kernel is a plain function that takes tasks until there are none,
and whoever calls it helps.

PyTorch's matrix products run on OpenMP's threads, which keep their cores busy
for a while after each. Threads of our own would have to share those cores with
them; a kernel in between therefore runs on OpenMP's threads, too.

OpenMP does not survive a fork. A forked child, and a process without OpenMP,
uses plain Python threads, which hold no lock while a kernel runs. The caller
works too and waits only for helpers that have begun.
"""

import concurrent.futures
import ctypes
import functools
import os

_pool = None
_size = 0
_forked = False


def run(kernel, frame, tensors, threads: int) -> None:
    """Runs a kernel on a frame.

    Args:
        kernel: From `compiled.kernel`.
        frame: The frame, a contiguous NumPy array.
        tensors: What the frame points to.
        threads: How many threads may work on it.
    """
    in_team = None if threads == 1 or _forked else _openmp()
    if in_team is not None:
        flags = 0
        in_team(kernel.address, frame.ctypes.data, threads, flags)
        return
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(kernel.address)
    helpers = _start((function, frame, tensors), threads - 1)
    _work(function, frame, tensors)
    for helper in helpers:
        if not helper.cancel():
            helper.result()


@functools.cache
def _openmp():
    """OpenMP's function that calls another in every thread, or `None`.

    GNU's and LLVM's libraries have it; PyTorch loads one for everybody to see.
    """
    try:
        parallel = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):
        return None
    parallel.argtypes = [
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_uint,
        ctypes.c_uint,
    ]
    parallel.restype = None
    return parallel


def _work(function, frame, tensors):
    """Its arguments keep the memory while a helper works on it.

    The caller may be interrupted while it waits.
    """
    function(frame.ctypes.data)


def _start(work, count):
    if count < 1:
        return []
    try:
        pool = _helpers(count)
        return [pool.submit(_work, *work) for _ in range(count)]
    except RuntimeError:
        # The interpreter is shutting down: no new threads.
        return []


def _helpers(count):
    global _pool, _size
    if _size < count:
        # A smaller one ends with the last call that works with it.
        _pool = concurrent.futures.ThreadPoolExecutor(count, "keras_ssm")
        _size = count
    return _pool


def _forget():
    global _pool, _size, _forked
    _pool, _size, _forked = None, 0, True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
