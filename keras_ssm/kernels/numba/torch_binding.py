"""How PyTorch calls a kernel: frames from tensors."""

import numpy as np
import torch

from keras_ssm.kernels import platforms
from keras_ssm.kernels.numba import compiled, threads
from keras_ssm.kernels.numba.frames import SIZES, TENSORS, WORDS

# Below this many numbers, waking another thread costs more than it saves.
SERIAL = 1 << 16


def unsupported(x, *others, **options):
    """Why PyTorch cannot use these kernels for `x`, or `None`."""
    if platforms.exporting():
        return "it cannot be exported"
    if x.device.type not in ("cpu", "meta"):
        return "needs CPU tensors"
    return None


def wide(dtype):
    """The dtype that kernels compute in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def readable(v, dtype, strided):
    """As a kernel reads it.

    Args:
        v: Tensor, or `None`.
        dtype: What floating tensors are cast to.
        strided: Whether steps may lie anywhere; what belongs to a step lies
            together.
    """
    if v is None:
        return None
    v = v if v.dtype == torch.bool else v.to(dtype)
    inner = v.stride()[2:]
    if strided and inner in ((1,), (v.shape[-1], 1)):
        return v
    return v.contiguous()


def run(name: str, sizes, tensors, work: int) -> None:
    """Runs a kernel.

    Args:
        name: Its name in `compiled.entries`.
        sizes: Sizes and flags of the frame.
        tensors: The tensors of the frame, in their order; absent ones are
            `None`.
        work: How many numbers it computes, roughly.
    """
    frame = np.zeros(WORDS, np.int64)
    frame[SIZES : SIZES + len(sizes)] = sizes
    words = []
    for v in tensors:
        if v is None:
            words += (0, 0, 0)
        else:
            steps = v.stride(1) if v.dim() > 1 else 0
            words += (v.data_ptr(), v.stride(0), steps)
    frame[TENSORS : TENSORS + len(words)] = words
    kernel = compiled.kernel(name, tensors[0].dtype == torch.float64)
    count = 1 if work < SERIAL else torch.get_num_threads()
    threads.run(kernel, frame, tensors, count)
