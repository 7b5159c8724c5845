"""Spreads the tasks of a frame over threads.

numba's own threads abort a forked child, or a process that enters from two
threads. These are plain Python threads, which hold no lock while a kernel
runs. The caller works too and waits only for helpers that have begun, so that
it needs no helper to come to its end; a forked child starts helpers of its
own.
"""

import concurrent.futures
import ctypes
import os

_pool = None
_size = 0


def run(kernel, frame, tensors, threads: int) -> None:
    """Runs a kernel on a frame.

    Args:
        kernel: From `compiled.kernel`.
        frame: The frame, a contiguous NumPy array.
        tensors: What the frame points to.
        threads: How many threads may work on it.
    """
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(kernel.address)
    helpers = _start((function, frame, tensors), threads - 1)
    _work(function, frame, tensors)
    for helper in helpers:
        if not helper.cancel():
            helper.result()


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
    global _pool, _size
    _pool, _size = None, 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
