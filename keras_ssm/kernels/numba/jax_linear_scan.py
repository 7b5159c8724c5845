"""The linear scan as a kernel of JAX."""

from keras_ssm.kernels import jax_fused
from keras_ssm.kernels.numba.jax_binding import run, threads
from keras_ssm.kernels.numba.linear_frame import sizes


def linear_scan(*tensors, reverse):
    """The op on canonical tensors; see `keras_ssm.ops.linear_scan`."""
    return jax_fused.linear_scan(_KERNELS, reverse, tensors)


def _forward(*arguments, platform):
    x, x_imag, _, _, state, state_imag = arguments[:6]
    return _run("linear_forward", arguments, (x, x_imag, state, state_imag))


def _backward(*arguments, platform):
    like, a = arguments[:6], arguments[2]
    found = _run("linear_backward", arguments, like)
    if a.ndim > 1:
        return found
    # Kernels sum over the steps of a row only.
    present = [k for k, v in enumerate(like) if v is not None]
    return [
        v.sum(0) if k in (2, 3) else v
        for k, v in zip(present, found, strict=True)
    ]


def _run(name, arguments, like):
    """Results like these tensors, with rows; none for those absent."""
    *tensors, reverse = arguments
    x, a = tensors[0], tensors[2]
    shapes = [
        (0,) if v is None else v.shape if v.ndim > 1 else (len(x), *v.shape)
        for v in like
    ]
    results = run(
        name,
        sizes(x.shape, a.ndim == 1, threads(), reverse),
        tensors,
        shapes,
        x.size,
    )
    return [v for v, of in zip(results, like, strict=True) if of is not None]


_KERNELS = jax_fused.Fused(_forward, _backward)
