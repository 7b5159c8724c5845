"""What JAX users write without a kernel."""

import jax
import jax.numpy as jnp

from candidates import BOTH, FORWARD
from candidates.op_peers import Peer, compose, maps


def peers(problem):
    if problem.op == "causal_conv1d":
        return {"jax.lax.conv_general_dilated": Peer(_convolution(problem))}
    if problem.op == "linear_scan":
        return {
            "jax.lax.associative_scan": Peer(_associative_linear_scan),
            "jax.lax.scan": Peer(_linear_scan),
        }
    if not problem.bare:
        return {}
    return {
        "jax.lax.associative_scan": Peer(
            _associative_scan, wide=(FORWARD, BOTH)
        ),
        "jax.lax.scan": Peer(_scan, wide=(BOTH,)),
    }


def _associative_scan(x, dt, A, B, C):
    _, h = jax.lax.associative_scan(compose, maps(x, dt, A, B), axis=1)
    return jnp.einsum("bldn,bln->bld", h, C)


def _scan(x, dt, A, B, C):
    def step(h, inputs):
        x, dt, B, C = inputs
        h = jnp.exp(dt[..., None] * A) * h + (dt * x)[..., None] * B[:, None]
        return h, (h * C[:, None]).sum(-1)

    over_time = [jnp.swapaxes(v, 0, 1) for v in (x, dt, B, C)]
    h = jnp.zeros((x.shape[0], *A.shape), jnp.result_type(x, A))
    y = jax.lax.scan(step, h, over_time)[1]
    return jnp.swapaxes(y, 0, 1).astype(x.dtype)


def _associative_linear_scan(a, x):
    pair = isinstance(x, tuple)
    a, x = (jax.lax.complex(*v) if pair else v for v in (a, x))
    maps = jnp.broadcast_to(a, x.shape), x
    _, y = jax.lax.associative_scan(compose, maps, axis=1)
    return (y.real, y.imag) if pair else y


def _linear_scan(a, x):
    pair = isinstance(x, tuple)
    a, x = (jax.lax.complex(*v) if pair else v for v in (a, x))

    def step(h, inputs):
        a, x = inputs
        h = a * h + x
        return h, h

    over_time = [
        jnp.swapaxes(v, 0, 1) for v in (jnp.broadcast_to(a, x.shape), x)
    ]
    y = jax.lax.scan(step, jnp.zeros_like(x[:, 0]), over_time)[1]
    y = jnp.swapaxes(y, 0, 1)
    return (y.real, y.imag) if pair else y


def _convolution(problem):
    activation = problem.options["activation"]

    def function(x, weight, bias=None):
        k, d = weight.shape
        y = jax.lax.conv_general_dilated(
            x,
            weight[:, None].astype(x.dtype),
            window_strides=(1,),
            padding=((k - 1, 0),),
            dimension_numbers=("NHC", "HIO", "NHC"),
            feature_group_count=d,
        )
        y = y if bias is None else y + bias.astype(x.dtype)
        return y if activation is None else jax.nn.silu(y)

    return function
