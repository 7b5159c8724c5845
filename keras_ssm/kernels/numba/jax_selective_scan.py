"""The selective scan as a kernel of JAX."""

import functools

import jax

from keras_ssm.kernels.lax import selective_scan as plain
from keras_ssm.kernels.numba.jax_binding import narrow, run, threads, widen
from keras_ssm.kernels.numba.jax_primitive import Kernel
from keras_ssm.kernels.numba.scan_frame import chunk_of, parts_of, sizes

# The axes of tensors and of their gradients; c counts chunks.
_FLOATING = "b l d, b l d, d n, b l g n, b l g n, d, b l d, d, b d n"
_INPUTS = tuple(f"{_FLOATING}, b l, b l".split(", "))
_OUTPUTS = ("b l d", "b d n", "b c n d")


def selective_scan(*tensors, dt_softplus, reverse):
    """The op on canonical tensors; see `keras_ssm.ops.selective_scan`."""
    return _scan(dt_softplus, reverse, *tensors)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _scan(dt_softplus, reverse, *tensors):
    y, end = _run(dt_softplus, reverse, tensors, keep=False)
    return y, end


def _forward(dt_softplus, reverse, *tensors):
    y, end, starts = _run(dt_softplus, reverse, tensors, keep=True)
    return (y, end), (tensors, starts)


def _run(dt_softplus, reverse, tensors, keep):
    x, B = tensors[0], tensors[3]
    kernel = Kernel(
        direct=_forward_kernel,
        exported=_forward_plain,
        options=(dt_softplus, reverse, keep),
        inputs=_INPUTS,
        outputs=_OUTPUTS if keep else _OUTPUTS[:2],
        split=_split(B),
        sizes=(("c", -(-x.shape[1] // chunk_of(B.shape[3]))),),
    )
    y, *others = kernel(*widen(tensors))
    return y.astype(x.dtype), *others


def _backward(dt_softplus, reverse, residuals, gradients):
    tensors, starts = residuals
    floating = _FLOATING.split(", ")
    kernel = Kernel(
        direct=_backward_kernel,
        exported=_backward_plain,
        options=(dt_softplus, reverse),
        inputs=(*_INPUTS, *_OUTPUTS),
        outputs=tuple(
            axes
            for axes, v in zip(floating, tensors, strict=False)
            if v is not None
        ),
        split=_split(tensors[3]),
    )
    found = kernel(*widen([*tensors, *gradients, starts]))
    return (*narrow(found, tensors[: len(floating)]), None, None)


_scan.defvjp(_forward, _backward)


def _split(B):
    """Channels of several groups stay together, as their B and C do."""
    return ("b", "d") if B.shape[2] == 1 else ("b",)


def _forward_kernel(*arguments):
    *tensors, dt_softplus, reverse, keep = arguments
    x, B = tensors[0], tensors[3]
    (b, l, d), n = x.shape, B.shape[3]
    chunks = -(-l // chunk_of(n)) if keep else 0
    results = run(
        "scan_forward",
        sizes(x.shape, B.shape, 1, dt_softplus, reverse),
        tensors,
        [x.shape, (b, d, n), (b, chunks, n, d)],
        x.size * n,
    )
    return results if keep else results[:2]


def _backward_kernel(*arguments):
    *tensors, dt_softplus, reverse = arguments
    x, z, state, B = tensors[0], tensors[6], tensors[8], tensors[3]
    (b, _, d), (g, n) = x.shape, B.shape[2:]
    parts = parts_of(x.shape, g, threads())
    maps = (parts, *B.shape)
    shapes = [x.shape, x.shape, (b, n, d), maps, maps, (b, d)]
    shapes += [(0,) if z is None else x.shape, (b, d), state.shape]
    dx, ddt, dA, dB, dC, dD, dz, dbias, dstate = run(
        "scan_backward",
        sizes(x.shape, B.shape, parts, dt_softplus, reverse),
        tensors,
        shapes,
        x.size * n,
    )
    sums = dx, ddt, dA.sum(0).T, dB.sum(0), dC.sum(0), dD.sum(0), dz
    sums += dbias.sum(0), dstate
    return [v for v, of in zip(sums, tensors, strict=False) if of is not None]


def _forward_plain(*arguments):
    *tensors, dt_softplus, reverse, keep = arguments
    results = plain.selective_scan(
        *tensors, dt_softplus=dt_softplus, reverse=reverse
    )
    if not keep:
        return list(results)
    # `_backward_plain` needs no states.
    x, A = tensors[0], tensors[2]
    chunks = -(-x.shape[1] // chunk_of(A.shape[1]))
    shape = (x.shape[0], chunks, *A.shape[::-1])
    return [*results, jax.numpy.zeros(shape, x.dtype)]


def _backward_plain(*arguments):
    *tensors, dy, dend, _, dt_softplus, reverse = arguments

    def scan(*floating):
        return plain.selective_scan(
            *floating, *tensors[9:], dt_softplus=dt_softplus, reverse=reverse
        )

    _, adjoint = jax.vjp(scan, *tensors[:9])
    return [v for v in adjoint((dy, dend)) if v is not None]
