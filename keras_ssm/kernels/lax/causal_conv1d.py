"""The causal convolution as k shifted products, which XLA fuses into one pass.

With `p[t] = bias + sum_j weight[j] * history[t + j]` and `y = act(p)`, where
`history` is the input behind the state (reversed: before it, with reversed
taps), and `g = dy * act'(p)`, recomputed:

    dhistory[s] = sum_j weight[j] * g[s - j]
    dweight[j] = sum_{b,t} g[t] * history[t + j]        dbias = sum_{b,t} g[t]
"""

import functools

import jax
import jax.numpy as jnp

# Up to this width the products are written out; wider, they are looped over.
UNROLLED = 16


def unsupported(*tensors, **options):
    """Nothing: it runs wherever JAX does."""
    return None


def causal_conv1d(x, weight, bias, state, resets, *, activation, reverse):
    """The op on canonical tensors; see `keras_ssm.ops.causal_conv1d`."""
    history = x.astype(state.dtype)
    if reverse:
        history = jnp.concatenate([history, state[:, ::-1]], axis=1)
        weight = weight[::-1]
    else:
        history = jnp.concatenate([state, history], axis=1)
    segments = _segments(resets, weight.shape[0] - 1, reverse)
    y = _convolve(history, weight, bias, segments, activation, reverse)
    return y.astype(x.dtype)


def _segments(resets, taps, reverse):
    """Numbers the segments of each row of the history, (b, l + k - 1)."""
    if resets is None:
        return None
    count = jnp.cumsum(resets[:, ::-1] if reverse else resets, axis=1)
    count = jnp.pad(count, ((0, 0), (taps, 0)))
    return count[:, ::-1] if reverse else count


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _convolve(history, weight, bias, segments, activation, reverse):
    p = _products(history, weight, segments, reverse)
    p = p if bias is None else p + bias
    return jax.nn.silu(p) if activation == "silu" else p


def _forward(history, weight, bias, segments, activation, reverse):
    y = _convolve(history, weight, bias, segments, activation, reverse)
    return y, (history, weight, bias, segments)


def _backward(activation, reverse, residuals, g):
    history, weight, bias, segments = residuals
    k, length = weight.shape[0], g.shape[1]
    if activation == "silu":
        p = _products(history, weight, segments, reverse)
        p = p if bias is None else p + bias
        gate = jax.nn.sigmoid(p)
        g = g * gate * (1 + p * (1 - gate))

    def tap(j, sums):
        dhistory, dweight = sums
        seen = _seen(g, segments, j, k, reverse)
        dhistory = jax.lax.dynamic_update_slice_in_dim(
            dhistory,
            _shift(dhistory, j, length) + seen * weight[j],
            j,
            axis=1,
        )
        product = (seen * _shift(history, j, length)).sum((0, 1))
        return dhistory, dweight.at[j].set(product)

    sums = (jnp.zeros_like(history), jnp.zeros_like(weight))
    dhistory, dweight = _over_taps(k, tap, sums)
    dbias = None if bias is None else g.sum((0, 1))
    return dhistory, dweight, dbias, None


_convolve.defvjp(_forward, _backward)


def _products(history, weight, segments, reverse):
    k = weight.shape[0]
    length = history.shape[1] - (k - 1)

    def tap(j, total):
        shifted = _shift(history, j, length)
        return total + _seen(shifted, segments, j, k, reverse) * weight[j]

    return _over_taps(k, tap, jnp.zeros_like(_shift(history, 0, length)))


def _over_taps(k, tap, sums):
    if k > UNROLLED:
        return jax.lax.fori_loop(0, k, tap, sums)
    for j in range(k):
        sums = tap(j, sums)
    return sums


def _shift(history, j, length):
    return jax.lax.dynamic_slice_in_dim(history, j, length, axis=1)


def _seen(v, segments, j, k, reverse):
    """`v` where tap j lies in the segment of the step it is seen from."""
    if segments is None:
        return v
    length = segments.shape[1] - (k - 1)
    current = _shift(segments, 0 if reverse else k - 1, length)
    same = _shift(segments, j, length) == current
    return jnp.where(same[..., None], v, 0)
