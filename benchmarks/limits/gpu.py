"""The two rooflines of a scan on a GPU: memory, and the exponential.

A kernel reads its inputs and writes its outputs at least once, and computes
one exponential for each state and step in a forward pass, and at least one
more in a backward pass, which recomputes. The first takes bytes over the
bandwidth of a copy, measured here; the second, exponentials over what the
special function units do: 16 a clock on each multiprocessor of NVIDIA's
since 2017, at the highest clock.
"""

import ctypes
import functools

import frameworks
import keras
from candidates import FORWARD

ITEM_SIZE = {"float32": 4, "bfloat16": 2, "float16": 2}
A_CLOCK = 16
COPIED = 2**28  # float32 elements
_MULTIPROCESSORS, _CLOCK_KHZ = 16, 13  # CUdevice_attribute


def limits(op, what, case, dtype) -> dict[str, float]:
    """Seconds that an op needs at least on this machine's GPU, by reason."""
    if frameworks.load().device() == "cpu":
        return {}
    found = {"limit: memory": _bytes(op, what, case, dtype) / bandwidth()}
    if op == "selective_scan" and exponentials() is not None:
        passes = 1 if what == FORWARD else 2
        count = passes * case.b * case.l * case.d * case.n
        found["limit: exponentials"] = count / exponentials()
    return found


def _bytes(op, what, case, dtype):
    """Inputs and outputs that grow with the length, once each."""
    wide = {"selective_scan": 3, "linear_scan": 1 + case.z}  # x, dt, z; x, a
    small = 2 * case.n if op == "selective_scan" else 0  # B, C
    d = 2 * case.d if op == "linear_scan" and case.D else case.d  # complex
    inputs, output = wide.get(op, 1) * d + small, d
    moved = inputs + output
    if what != FORWARD:  # reads the inputs and dy, writes their gradients
        moved += inputs + output + inputs
    return moved * case.b * case.l * ITEM_SIZE[dtype]


@functools.cache
def bandwidth() -> float:
    """Bytes a second of a large copy, read and written ones counted."""
    framework = frameworks.load()
    copy = framework.inferring(lambda v: -v)
    v = keras.ops.ones((COPIED,), "float32")
    framework.wait(copy(v))
    seconds = min(framework.seconds(lambda: copy(v), 10) for _ in range(3))
    return 2 * 4 * COPIED / seconds


@functools.cache
def exponentials() -> float | None:
    """Exponentials a second, or `None` where there is no CUDA driver."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    value = ctypes.c_int()
    numbers = []
    for attribute in (_MULTIPROCESSORS, _CLOCK_KHZ):
        if cuda.cuInit(0) or cuda.cuDeviceGetAttribute(
            ctypes.byref(value), attribute, 0
        ):
            return None
        numbers.append(value.value)
    multiprocessors, kilohertz = numbers
    return A_CLOCK * multiprocessors * kilohertz * 1e3
