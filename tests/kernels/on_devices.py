"""Runs kernels on eight simulated devices; tests call it.

    python on_devices.py numba
    python on_devices.py pallas gpu

Arrays are split by batch, by channel and by both. The gradients have to be
those of one device, and the compiled program must gather nothing.
"""

import contextlib
import importlib
import sys

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from keras_ssm.kernels import platforms
from keras_ssm.kernels.pallas.interpreter import interpreted

MESH = Mesh(np.array(jax.devices()).reshape(4, 2), ("rows", "channels"))
NAME, *PLATFORM = sys.argv[1:]
B, L, D, N, K = 4, 64, 64, 4 if PLATFORM else 16, 4


def kernel(op):
    module = importlib.import_module(f"keras_ssm.kernels.{NAME}.{op}")
    return getattr(module, op)


def scan_loss(*given):
    y, state = kernel("selective_scan")(
        *given, None, None, dt_softplus=True, reverse=False
    )
    return (y**2).sum() + (state**2).sum()


def conv_loss(x, weight, bias, state):
    y = kernel("causal_conv1d")(
        x, weight, bias, state, None, activation="silu", reverse=True
    )
    return (y**2).sum()


def linear_loss(x, x_imag, a, a_imag, state, state_imag):
    outputs = kernel("linear_scan")(
        *(x, x_imag, a, a_imag, state, state_imag, None, None), reverse=False
    )
    return sum((v**2).sum() for v in outputs)


def dual_loss(*given):
    y, state = kernel("ssd")(
        *given, None, None, dt_softplus=True, reverse=False, chunk_size=32
    )
    return (y**2).sum() + (state**2).sum()


def scan_specs(b, d):
    maps, steps = P(b), P(b, None, d)
    parameter, state = P(d), P(b, d)
    return [
        steps,
        steps,
        parameter,
        maps,
        maps,
        parameter,
        steps,
        parameter,
    ] + [state]


def dual_specs(b, d):
    steps, parameter = P(b, None, d), P(d)
    return [steps, steps, parameter, P(b), P(b), parameter, parameter, P(b, d)]


def linear_specs(b, d):
    return [P(b, None, d)] * 2 + [P(d)] * 2 + [P(b, d)] * 2


def conv_specs(b, d):
    return [P(b, None, d), P(None, d), P(d), P(b, None, d)]


def random_arrays(shapes):
    random = np.random.default_rng(0)
    return [random.normal(size=shape).astype(np.float32) for shape in shapes]


def check(loss, given, specs):
    grad = jax.jit(jax.value_and_grad(loss, argnums=tuple(range(len(given)))))
    wanted = grad(*given)
    split = [
        jax.device_put(v, NamedSharding(MESH, spec))
        for v, spec in zip(given, specs, strict=True)
    ]
    program = grad.lower(*split).compile().as_text()
    assert "all-gather" not in program and "all-to-all" not in program
    compare(grad(*split), wanted)


def check_shard_map(given):
    specs = tuple(scan_specs("rows", None))

    def of_rows(*given):
        loss = scan_loss(*platforms._vary_alike(given))
        return jax.lax.psum(loss, ("rows",))

    whole = jax.shard_map(
        of_rows,
        mesh=MESH,
        in_specs=specs,
        out_specs=P(),
        # Pallas' interpreter does not know what varies over devices.
        check_vma=not PLATFORM,
    )
    places = tuple(range(len(given)))
    found = jax.jit(jax.value_and_grad(whole, argnums=places))(*given)
    compare(found, jax.value_and_grad(scan_loss, argnums=places)(*given))


def compare(found, wanted):
    for a, b in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert np.abs(a - b).max() <= 1e-5 * np.abs(b).max()


def main():
    steps, maps = (B, L, D), (B, L, 1, N)
    scan = random_arrays(
        [steps, steps, (D, N), maps, maps, (D,), steps, (D,), (B, D, N)]
    )
    scan[2] = -np.exp(scan[2])
    conv = random_arrays([steps, (K, D), (D,), (B, K - 1, D)])
    linear = random_arrays([steps, steps, (D,), (D,), (B, D), (B, D)])
    linear[2:4] = (0.1 * v for v in linear[2:4])
    splits = (("rows", "channels"), ("rows", None), (None, "channels"))
    # What is interpreted takes long to compile.
    for b, d in splits[:1] if PLATFORM else splits:
        check(scan_loss, scan, scan_specs(b, d))
        check(conv_loss, conv, conv_specs(b, d))
        check(linear_loss, linear, linear_specs(b, d))
    if PLATFORM:
        check(dual_loss, dual_inputs(), dual_specs("rows", "channels"))
    check_shard_map(scan)


def dual_inputs():
    h, p = 4, 3
    x, maps = (B, L, h, p), (B, L, 1, N)
    given = random_arrays(
        [x, x[:3], (h,), maps, maps, (h,), (h,), (B, h, p, N)]
    )
    given[2] = -np.exp(given[2])
    return given


if __name__ == "__main__":
    with interpreted(*PLATFORM) if PLATFORM else contextlib.nullcontext():
        main()
