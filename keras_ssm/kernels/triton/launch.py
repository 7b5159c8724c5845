"""What the kernels of every op need from their surroundings."""

import contextlib

import torch
import triton

from keras_ssm.kernels import platforms

# Further apart, offsets between the steps of a segment would not fit into 32
# bits.
_FAR = 2**31 // 256

# Lanes of a warp where Triton's interpreter plays a GPU.
_LANES = 32


def unsupported(x, *others, **options):
    """Why these kernels cannot be used for `x`, or `None`."""
    if platforms.exporting():
        return "it cannot be exported"
    if x.device.type != "cuda" and not interpreting():
        return "needs CUDA tensors"
    if x.dtype == torch.float64:
        return "computes in float32"
    return None


@torch.compiler.assume_constant_result
def interpreting() -> bool:
    """Whether Triton runs kernels on the CPU, for tests."""
    return triton.knobs.runtime.interpret


def readable(v, together: int = 1):
    """A tensor as kernels read it, if possible without a copy.

    Args:
        v: Tensor `(b, l, ...)`, or `None`.
        together: How many axes, the last, belong to one step. They have to
            lie together; rows and steps may lie anywhere.
    """
    if v is None:
        return None
    near, size = v.stride(1) < _FAR, 1
    for axis in range(-1, -1 - together, -1):
        near = near and (v.stride(axis) == size or v.shape[axis] == 1)
        size *= v.shape[axis]
    return v if near else v.contiguous()


def contiguous(v):
    """A tensor that lies together, booleans as bytes."""
    if v is None:
        return None
    v = v.contiguous()
    return v.view(torch.uint8) if v.dtype == torch.bool else v


def strides(*tensors):
    """How far rows, and how far steps lie apart; 0 in absent tensors."""
    rows = tuple(0 if v is None else v.stride(0) for v in tensors)
    steps = tuple(0 if v is None else v.stride(1) for v in tensors)
    return rows, steps


def lanes(device) -> int:
    """How many lanes a warp has."""
    if device.type != "cuda":
        return _LANES
    return torch.cuda.get_device_properties(device).warp_size


def processors(device) -> int:
    """How many multiprocessors there are."""
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


def precisions(device) -> tuple[str, ...]:
    """What units for products of matrices take, beside float16.

    Where they take parts of float32 (tf32), three products of parts are as
    good as one of float32, and faster.
    """
    if device.type != "cuda":
        return ("bfloat16", "tf32", "tf32x3")
    if torch.version.hip is not None:
        return ("bfloat16",)
    if torch.cuda.get_device_capability(device) < (8, 0):
        return ()
    return ("bfloat16", "tf32", "tf32x3")


def limits_registers(device) -> bool:
    """Whether more programs at once are worth registers that spill.

    They are on an H100; elsewhere nobody has measured it.
    """
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device) >= (9, 0)


def run(
    kernel,
    programs: int,
    *arguments,
    warps: int = 1,
    registers: int | None = None,
    **constants,
):
    """Runs a kernel on the device of its first argument.

    Args:
        kernel: The kernel.
        programs: How many programs there are.
        *arguments: Its arguments.
        warps: Warps of a program.
        registers: The most registers of a lane, where `limits_registers`.
        **constants: Its compile-time arguments.
    """
    device = arguments[0].device
    if registers is not None and limits_registers(device):
        constants["maxnreg"] = registers
    place = contextlib.nullcontext()
    if device.type == "cuda" and device.index != torch.cuda.current_device():
        place = torch.cuda.device(device)
    with place:
        kernel[(programs,)](
            *arguments,
            **constants,
            num_warps=warps,
            num_stages=1,
            enable_fp_fusion=True,
        )
