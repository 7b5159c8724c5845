"""The selective scan as a kernel of JAX."""

from keras_ssm.kernels import jax_fused
from keras_ssm.kernels.numba.jax_binding import run, threads, widen
from keras_ssm.kernels.numba.scan_frame import STEPS, parts_of, sizes


def selective_scan(*tensors, dt_softplus, reverse):
    """The op on canonical tensors; see `keras_ssm.ops.selective_scan`."""
    return jax_fused.selective_scan(_KERNELS, dt_softplus, reverse, *tensors)


def _forward(*arguments, platform):
    *tensors, dt_softplus, reverse, keep = arguments
    x, B = tensors[0], tensors[3]
    (b, l, d), n = x.shape, B.shape[3]
    chunks = -(-l // STEPS) if keep else 0
    y, *states = run(
        "scan_forward",
        sizes(x.shape, B.shape, 1, dt_softplus, reverse),
        widen(tensors),
        [x.shape, (b, d, n), (b, chunks, n, d)],
        x.size * n,
    )
    return [y.astype(x.dtype), *(states if keep else states[:1])]


def _backward(*arguments, platform):
    *tensors, dt_softplus, reverse = arguments
    x, dt, z, state, B = (tensors[k] for k in (0, 1, 6, 8, 3))
    (b, _, d), (g, n) = x.shape, B.shape[2:]
    parts = parts_of(x.shape, g, threads())
    maps = (parts, *B.shape)
    shapes = [x.shape, x.shape, (b, n, d), maps, maps, (b, d)]
    shapes += [(0,) if z is None else x.shape, (b, d), state.shape]
    dx, ddt, dA, dB, dC, dD, dz, dbias, dstate = run(
        "scan_backward",
        sizes(x.shape, B.shape, parts, dt_softplus, reverse),
        widen(tensors),
        shapes,
        x.size * n,
    )
    dz = dz if z is None else dz.astype(z.dtype)
    sums = dx.astype(x.dtype), ddt.astype(dt.dtype), dA.sum(0).T
    sums += dB.sum(0), dC.sum(0), dD.sum(0), dz, dbias.sum(0), dstate
    return [v for v, of in zip(sums, tensors, strict=False) if of is not None]


_KERNELS = jax_fused.Fused(_forward, _backward, lambda n: STEPS)
