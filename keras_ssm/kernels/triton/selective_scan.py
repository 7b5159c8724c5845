"""The selective scan, all of it in one kernel, forward and backward.

`scan_forward.py` and `scan_backward.py` take rows and blocks of channels
through time side by side. Where these are too few to fill the GPU,
`scan_chunks.py` splits time as well.
"""

import functools

import torch
import triton

from keras_ssm.kernels import torch_calls, torch_operators
from keras_ssm.kernels.triton import scan_blocks
from keras_ssm.kernels.triton.launch import (
    contiguous,
    lanes,
    processors,
    readable,
    run,
    strides,
    unsupported,
)
from keras_ssm.kernels.triton.scan_backward import backward_kernel
from keras_ssm.kernels.triton.scan_chunks import carry_kernel, ends_kernel
from keras_ssm.kernels.triton.scan_forward import forward_kernel

__all__ = ["selective_scan", "unsupported"]

# States that a program carries from chunk to chunk.
_CARRIED = 128


def _results(x, n, keep):
    """Uninitialised: y, the state, and the states before each segment."""
    b, l, d = x.shape
    # Never 1, so that a compiled program serves all lengths.
    segments = l // scan_blocks.EVERY + 2 if keep else 0
    return (
        x.new_empty((b, l, d)),
        x.new_empty((b, d, n), dtype=torch.float32),
        x.new_empty((b, segments, d, n), dtype=torch.float32),
    )


def _forward(*arguments):
    *given, softplus, reverse, keep = arguments
    tensors = _readable(*given)
    x, dt, A, B, C, D, z, dt_bias, state, mask, resets = tensors
    y, end, saved = _results(x, A.shape[1], keep)
    plan = Plan(scan_blocks.forward_blocks, x, B, softplus, reverse)
    start, start_strides = plan.start(
        *(x, dt, A, B, None, dt_bias, state, mask, resets), adjoint=False
    )
    run(
        forward_kernel,
        plan.programs,
        *(x, dt, A, B, C, D, z, dt_bias, mask, resets, start),
        *(y, end, saved if keep else None),
        *strides(x, dt, B, C, z),
        *start_strides,
        *(*plan.sizes, saved.shape[1]),
        EVERY=scan_blocks.EVERY,
        registers=plan.registers,
        **plan.constants,
    )
    return y, end, saved


def _backward(*arguments):
    *given, dy, dend, saved, softplus, reverse = arguments
    tensors = _readable(*given)
    x, dt, A, B, C, D, z, dt_bias, state, mask, resets = tensors
    dy, dend = readable(dy), dend.contiguous()
    plan = Plan(scan_blocks.backward_blocks, x, B, softplus, reverse)
    after, after_strides = plan.start(
        *(dy, dt, A, C, z, dt_bias, dend, mask, resets), adjoint=True
    )
    (b, l, d), (g, n) = x.shape, B.shape[2:]
    dx, ddt = x.new_empty((b, l, d)), dt.new_empty((b, l, d))
    dz = None if z is None else z.new_empty((b, l, d))
    dA = _float32(x, b, plan.chunks, d, n)
    dD, dbias = (_float32(x, b, plan.chunks, d) for _ in range(2))
    dmaps = _float32(x, plan.blocks, b, g, l, 2 * n)
    dstate = torch.empty_like(state)
    run(
        backward_kernel,
        plan.programs,
        *(x, dt, A, B, C, D, z, dt_bias, mask, resets, saved, dy, after),
        _float32(
            x, plan.programs, scan_blocks.EVERY // plan.steps, plan.states
        ),
        *(dx, ddt, dA, dmaps, dD, dz, dbias, dstate),
        *strides(x, dt, B, C, z, dy),
        *after_strides,
        *(*plan.sizes, saved.shape[1]),
        EVERY=scan_blocks.EVERY,
        registers=plan.registers,
        **plan.constants,
    )
    dB, dC = (half.sum(0) for half in dmaps.split(n, dim=-1))
    dB, dC = (v.transpose(1, 2).contiguous() for v in (dB, dC))
    return (
        *(dx, ddt, dA.sum((0, 1))),
        *(dB.to(B.dtype), dC.to(C.dtype)),
        *(dD.sum((0, 1)), dz, dbias.sum((0, 1)), dstate),
    )


torch_operators.register_scan("triton", _results, _forward, _backward)


def selective_scan(*tensors, dt_softplus, reverse):
    """The op on canonical tensors; see `keras_ssm.ops.selective_scan`."""
    keep = torch.is_grad_enabled()
    y, state, _ = torch_calls.call(
        *(torch_operators.Scan, "triton", *tensors, dt_softplus, reverse, keep)
    )
    return y, state


class Plan:
    """How a call is cut into programs.

    Args:
        blocks: The function that chooses the sizes of the kernel.
        x: Canonical tensor.
        B: Canonical tensor.
        softplus: Whether step sizes pass through softplus.
        reverse: Whether the scan runs from the end.
    """

    def __init__(self, blocks, x, B, softplus, reverse):
        (b, l, d), (g, n) = x.shape, B.shape[2:]
        warp = lanes(x.device)
        choice = functools.partial(blocks, d // g, n, warp)
        count = processors(x.device)
        sizes = choice()
        programs = b * g * -(-d // (g * sizes.channels))
        of_chunk = scan_blocks.chunk_steps(l, programs, count)
        if of_chunk == l:
            sizes = choice(b * g, scan_blocks.ENOUGH * count)
        self.steps, self.registers = sizes.steps, sizes.registers
        self.blocks = -(-d // (g * sizes.channels))
        programs = b * g * self.blocks
        self.chunks = -(-l // of_chunk)
        self.programs = programs * self.chunks
        self.sizes = b, l, d, g, of_chunk
        self.constants = dict(
            **sizes.constants(n, warp), SOFTPLUS=softplus, REVERSE=reverse
        )
        self.states = self.constants["N"] * sizes.channels

    def start(self, v, dt, A, maps, z, dt_bias, state, *marks, adjoint):
        """The state that each chunk starts from, and its strides.

        Args:
            v: The input `x`, or with `adjoint` the gradient of y.
            dt: Canonical tensor.
            A: Canonical tensor.
            maps: B, or with `adjoint` C.
            z: With `adjoint`, the gate.
            dt_bias: Canonical tensor.
            state: State before the first chunk, or with `adjoint` the
                gradient of the state after the last.
            *marks: Mask and resets.
            adjoint: Whether the gradient is what is carried.
        """
        if self.chunks == 1:
            return state, (state.stride(0), 0)
        b, _, d, _, _ = self.sizes
        n = A.shape[1]
        ends = _float32(v, b, self.chunks, d, n)
        sums = _float32(v, b, self.chunks, d)
        broken = None
        if marks[1] is not None:
            broken = torch.empty_like(sums, dtype=torch.uint8)
        run(
            ends_kernel,
            self.programs,
            *(v, dt, A, maps, z, dt_bias, *marks, ends, sums, broken),
            *strides(v, dt, maps, z),
            *self.sizes,
            ADJOINT=adjoint,
            **self.constants,
        )
        run(
            carry_kernel,
            b * triton.cdiv(d * n, _CARRIED),
            *(ends, sums, broken, A, state, self.chunks, d, n),
            SIZE=_CARRIED,
            ADJOINT=adjoint,
        )
        return ends, ends.stride()[:2]


def _readable(x, dt, A, B, C, D, z, dt_bias, state, mask, resets):
    x, dt, z = (readable(v) for v in (x, dt, z))
    B, C = readable(B, together=2), readable(C, together=2)
    others = (A, D, dt_bias, state, mask, resets)
    A, D, dt_bias, state, mask, resets = (contiguous(v) for v in others)
    return x, dt, A, B, C, D, z, dt_bias, state, mask, resets


def _float32(x, *shape):
    return x.new_empty(shape, dtype=torch.float32)
