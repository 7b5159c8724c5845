"""The dual form of Mamba-2 in kernels, forward and backward.

Chunks of time are products of matrices, all of them at once; only the states
between chunks take turns. `ssd_forward.py` and `ssd_backward.py` have the
kernels.
"""

import torch
import triton

from keras_ssm.kernels import torch_calls, torch_ssd_operators
from keras_ssm.kernels.triton import ssd_tiles
from keras_ssm.kernels.triton.launch import (
    contiguous,
    processors,
    readable,
    run,
    strides,
    unsupported,
)
from keras_ssm.kernels.triton.ssd_backward import inputs_kernel, maps_kernel
from keras_ssm.kernels.triton.ssd_forward import (
    outputs_kernel,
    passing_kernel,
    states_kernel,
    sums_kernel,
)

__all__ = ["ssd", "unsupported"]

# Numbers of a state that a program carries from chunk to chunk, and chunks that
# it asks for at once.
_CARRIED, _AHEAD = 512, 4
# Programs of the kernel of B and C for each multiprocessor, if there are as
# many: more of them have more to add up in the end.
_ENOUGH = 4
# Heads of which a program sums up exponents.
_HEADS = 8
# Warps of a program that multiplies matrices.
_WARPS = 4


def _results(*arguments):
    """Uninitialised: y, the state, and the states before each chunk."""
    x, _, _, B, C, _, _, state, *_, chunk_size, keep = arguments
    starts = state.new_empty(0)
    if keep:
        starts = _states(x, state, ssd_tiles.choose(x, B, C, chunk_size).steps)
    return x.new_empty(x.shape), state.new_empty(state.shape), starts


def _states(x, state, steps):
    """Room for a state for each chunk, and for one more.

    Never 1, so that a compiled program serves all lengths.
    """
    b, l = x.shape[:2]
    count = (l + steps - 1) // steps + 1
    return state.new_empty((b, count, *state.shape[1:]))


def _forward(*arguments):
    *given, softplus, reverse, chunk_size, keep = arguments
    tensors = _readable(*given)
    x, _, _, B, C, D, _, state, mask, _ = tensors
    y, end = x.new_empty(x.shape), torch.empty_like(state)
    plan = Plan(tensors, softplus, reverse, chunk_size)
    sums = plan.sum_exponents(tensors)
    starts = plan.pass_states(x, B, mask, sums, state, end, adjoint=False)
    plan.run(
        outputs_kernel,
        plan.chunks * plan.heads * plan.blocks_of_p,
        *(x, B, C, D, mask, sums, starts, y),
        *strides(x, B, C),
        *plan.sizes,
    )
    return y, end, starts if keep else state.new_empty(0)


def _backward(*arguments):
    *given, dy, dend, starts, softplus, reverse, chunk_size = arguments
    tensors = _readable(*given)
    x, dt, A, B, C, D, dt_bias, state, mask, _ = tensors
    dy, dend = readable(dy, together=2), contiguous(dend)
    plan = Plan(tensors, softplus, reverse, chunk_size)
    sums, dstate = plan.sum_exponents(tensors), torch.empty_like(state)
    after = plan.pass_states(dy, C, mask, sums, dend, dstate, adjoint=True)
    dx, ddt = x.new_empty(x.shape), dt.new_empty(dt.shape)
    of_chunks = A.new_empty((3, len(x), plan.chunks, plan.heads))
    plan.run(
        inputs_kernel,
        plan.chunks * plan.heads,
        *(x, dt, A, B, C, D, dt_bias, mask, sums, starts, dy, after),
        *(dx, ddt, *of_chunks),
        *strides(x, dt, B, C, dy),
        *plan.sizes,
        N=plan.tiles.few_states,
        SOFTPLUS=softplus,
    )
    dA, dD, dbias = (v.sum((0, 1)) for v in of_chunks)
    dB = plan.gradient_of_maps(B, x, dy, C, mask, sums, after, of_B=True)
    dC = plan.gradient_of_maps(C, dy, x, B, mask, sums, starts, of_B=False)
    return dx, ddt, dA, dB, dC, dD, dbias, dstate


torch_ssd_operators.register("triton", _results, _forward, _backward)


def ssd(*tensors, dt_softplus, reverse, chunk_size):
    """The op on canonical tensors; see `keras_ssm.ops.ssd`."""
    keep = torch.is_grad_enabled()
    y, state, _ = torch_calls.call(
        *(torch_ssd_operators.Ssd, "triton", *tensors),
        *(dt_softplus, reverse, chunk_size, keep),
    )
    return y, state


class Plan:
    """How a call is cut into programs, and the kernels that run twice.

    Args:
        tensors: Canonical tensors.
        softplus: Whether step sizes pass through softplus.
        reverse: Whether the scan runs from the end.
        chunk_size: What the caller wants of a chunk.
    """

    def __init__(self, tensors, softplus, reverse, chunk_size):
        x, _, _, B, C, *_ = tensors
        (self._batch, l, self.heads, p), (groups, n) = x.shape, B.shape[2:]
        self.tiles = tiles = ssd_tiles.choose(x, B, C, chunk_size)
        self.chunks = triton.cdiv(l, tiles.steps)
        self.sizes = l, self.chunks, self.heads, groups
        self._softplus, self._state = softplus, p * n
        self._order = dict(Q=tiles.steps, REVERSE=reverse)
        self._constants = dict(
            p=p,
            n=n,
            P=tiles.channels,
            N=tiles.states,
            PRECISION=tiles.precision,
            **self._order,
        )
        self.blocks_of_p = triton.cdiv(p, tiles.channels)
        self._blocks_of_n = triton.cdiv(n, tiles.states)
        wanted = _ENOUGH * processors(x.device)
        programs = self._batch * self.chunks * groups * self._blocks_of_n
        self._splits = min(self.heads // groups, triton.cdiv(wanted, programs))

    def run(self, kernel, programs, *arguments, **constants):
        """Runs a kernel that has so many programs for each row."""
        run(
            kernel,
            self._batch * programs,
            *arguments,
            warps=_WARPS,
            **{**self._constants, **constants},
        )

    def sum_exponents(self, tensors):
        """What `sums_kernel` writes."""
        _, dt, A, _, _, _, dt_bias, _, mask, resets = tensors
        l, chunks, heads, _ = self.sizes
        sums = A.new_empty((self._batch, heads, 3, chunks * self.tiles.steps))
        run(
            sums_kernel,
            self._batch * chunks * triton.cdiv(heads, _HEADS),
            *(dt, A, dt_bias, mask, resets, sums),
            *(dt.stride(0), dt.stride(1), l, chunks, heads),
            H=_HEADS,
            SOFTPLUS=self._softplus,
            **self._order,
        )
        return sums

    def pass_states(self, v, maps, mask, sums, state, end, adjoint):
        """The states before chunks, or their gradients behind them.

        Args:
            v: The input `x`, or with `adjoint` the gradient of y.
            maps: B, or with `adjoint` C.
            mask: Canonical tensor.
            sums: Of exponents.
            state: The state before the first chunk, or with `adjoint` the
                gradient of that behind the last.
            end: Written: the state behind the last chunk, or with `adjoint`
                the gradient of that before the first.
            adjoint: Whether gradients are what is passed.
        """
        states = _states(v, state, self.tiles.steps)
        decays = sums.new_empty((self._batch, self.chunks, self.heads))
        self.run(
            states_kernel,
            self.chunks * self.heads * self.blocks_of_p * self._blocks_of_n,
            *(v, maps, mask, sums, states, decays),
            *strides(v, maps),
            *self.sizes,
            ADJOINT=adjoint,
        )
        run(
            passing_kernel,
            self._batch * self.heads * triton.cdiv(self._state, _CARRIED),
            *(state, states, decays, end, self.chunks, self.heads),
            size=self._state,
            BLOCK=_CARRIED,
            AHEAD=_AHEAD,
            ADJOINT=adjoint,
        )
        return states

    def gradient_of_maps(self, like, v, others, maps, mask, sums, states, of_B):
        """The gradient of `like`, B or C; see `maps_kernel`."""
        dtype = like.dtype if self._splits == 1 else torch.float32
        found = like.new_empty((self._splits, *like.shape), dtype=dtype)
        self.run(
            maps_kernel,
            self.chunks * self.sizes[3] * self._blocks_of_n * self._splits,
            *(v, others, maps, mask, sums, states, found),
            *strides(v, others, maps),
            *(*self.sizes, self._batch, self._splits),
            OF_B=of_B,
        )
        return found[0] if self._splits == 1 else found.sum(0).to(like.dtype)


def _readable(x, dt, A, B, C, D, dt_bias, state, mask, resets):
    x, B, C = (readable(v, together=2) for v in (x, B, C))
    others = (A, D, dt_bias, state, mask, resets)
    A, D, dt_bias, state, mask, resets = (contiguous(v) for v in others)
    return x, readable(dt), A, B, C, D, dt_bias, state, mask, resets
