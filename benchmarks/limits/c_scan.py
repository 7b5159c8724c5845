"""The forward scan in C (`scan_limit.c`), as the limit of this processor."""

import ctypes
import functools
import pathlib
import shutil
import subprocess
import tempfile

import numpy as np

SOURCE = pathlib.Path(__file__).with_name("scan_limit.c")
COMPILERS = ("gcc", "clang", "cc")
FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")


def unavailable() -> str | None:
    """Why there is no limit here, or `None`."""
    if _compiler() is None:
        return "no C compiler is installed"
    return None


def prepare(x, dt, A, B, C):
    """A function without arguments that runs the scan and returns y.

    Args:
        x: Input, `(b, l, d)`.
        dt: Step sizes, `(b, l, d)`.
        A: Decay rates, `(d, n)`, with n up to 64.
        B: Input maps, `(b, l, n)`.
        C: Output maps, `(b, l, n)`.

    Raises:
        NotImplementedError: If there is no compiler, or the shapes are not
            those that the kernel is written for.
    """
    library = _library()
    (b, l, d), n, lanes = x.shape, A.shape[1], library.scan_lanes()
    if d % lanes or n > 64:
        raise NotImplementedError(
            f"the C limit needs channels in multiples of {lanes} and at most "
            f"64 states. Received: d={d}, n={n}"
        )
    arrays = [np.ascontiguousarray(v, np.float32) for v in (x, dt, A.T, B, C)]
    y = np.empty((b, l, d), np.float32)
    pointers = [v.ctypes.data_as(ctypes.c_void_p) for v in (*arrays, y)]
    sizes = [ctypes.c_int64(size) for size in (b, l, d, n)]

    def run():
        library.scan(*pointers, *sizes)
        return y

    # The pointers do not keep what they point to.
    run.arrays = arrays
    return run


@functools.cache
def _library():
    reason = unavailable()
    if reason is not None:
        raise NotImplementedError(reason)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "scan_limit.so"
        command = [_compiler(), *FLAGS, "-o", str(path), str(SOURCE)]
        built = subprocess.run(command, capture_output=True, text=True)
        if built.returncode:
            raise NotImplementedError(
                f"the C limit does not compile here: {built.stderr.strip()}"
            )
        return ctypes.CDLL(str(path))


def _compiler():
    return next((name for name in COMPILERS if shutil.which(name)), None)
