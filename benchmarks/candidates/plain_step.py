"""A step of Mamba and of attention as plain functions of the framework.

No layer, no check of shapes, no dispatch: what the framework itself costs. The
arithmetic of the first is that of `keras_ssm.layers.Mamba`.
"""

import dataclasses
import functools
from collections.abc import Callable

import frameworks
import keras


@dataclasses.dataclass
class _Functions:
    exp: Callable
    silu: Callable
    softplus: Callable
    concatenate: Callable
    sum: Callable
    cast: Callable


@functools.cache
def _functions():
    """What the step needs of the backend."""
    backend = keras.config.backend()
    if backend == "jax":
        import jax
        import jax.numpy as jnp

        nn, concatenate = jax.nn, jnp.concatenate
        return _Functions(
            jnp.exp, nn.silu, nn.softplus, concatenate, jnp.sum, jnp.astype
        )
    if backend == "tensorflow":
        import tensorflow as tf

        nn = tf.nn
        return _Functions(
            tf.exp, nn.silu, nn.softplus, tf.concat, tf.reduce_sum, tf.cast
        )
    import torch
    from torch.nn import functional as F

    return _Functions(
        *(torch.exp, F.silu, F.softplus, torch.cat, torch.sum),
        lambda v, dtype: v.to(dtype),
    )


def mamba_weights(layer):
    """The weights of a built `Mamba` as tensors, kernels in compute dtype."""
    kernels = [
        keras.ops.cast(dense.kernel, layer.compute_dtype)
        for dense in (
            *(layer.in_proj, layer.x_proj),
            *(layer.dt_proj, layer.out_proj),
        )
    ]
    others = [
        keras.ops.convert_to_tensor(v)
        for v in (
            *(layer.conv_kernel, layer.conv_bias),
            *(layer.A_log, layer.D, layer.dt_bias),
        )
    ]
    return (*kernels, *others)


def mamba_step(weights, x, state):
    """`layer.step` of a layer with these weights."""
    of, (conv_state, h) = _functions(), state
    in_proj, x_proj, dt_proj, out_proj = weights[:4]
    kernel, bias, A_log, D, dt_bias = weights[4:]
    (d, n), rank, dtype = A_log.shape, dt_proj.shape[0], x.dtype
    xz = x @ in_proj
    x, z = xz[:, :d], xz[:, d:]
    taps = of.concatenate([conv_state, of.cast(x, h.dtype)[:, None]], 1)
    u = of.silu(of.sum(taps * kernel, 1) + bias)
    maps = of.cast(u, dtype) @ x_proj
    dt = of.cast(maps[:, :rank] @ dt_proj, h.dtype)
    maps = of.cast(maps[:, None], h.dtype)
    B, C = maps[..., rank : rank + n], maps[..., rank + n :]
    dt = of.softplus(dt + dt_bias)
    h = of.exp(dt[..., None] * -of.exp(A_log)) * h + (dt * u)[..., None] * B
    y = (of.sum(h * C, -1) + D * u) * of.silu(of.cast(z, h.dtype))
    return of.cast(y, dtype) @ out_proj, (taps[:, 1:], h)


def mamba_products(weights, x, state):
    """The four matrix products of a step, and nothing else."""
    in_proj, x_proj, dt_proj, out_proj = weights[:4]
    u = (x @ in_proj)[:, : x_proj.shape[0]]
    dt = (u @ x_proj)[:, : dt_proj.shape[0]]
    return u @ out_proj, dt @ dt_proj


def attention_step(weights, x, state):
    """Causal attention to the keys and values in `state`, `(b, l, h, c)`.

    Returns the new key and value; writing them behind the others is not timed.
    """
    (in_proj, out_proj), (keys, values) = weights, state
    shape, width = (x.shape[0], 1, *keys.shape[2:]), x.shape[-1]
    qkv = x @ in_proj
    q, k, v = (
        keras.ops.reshape(qkv[:, i * width : (i + 1) * width], shape)
        for i in range(3)
    )
    y = frameworks.load().attend(q, keys, values, causal=False)
    return keras.ops.reshape(y, x.shape) @ out_proj, (k, v)
