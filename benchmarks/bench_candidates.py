"""What `bench_mamba.py` times: ours and peers, one function a backend.

Every candidate is a function without arguments that returns when its result is
there. Those of the op get the same inputs, and are checked against the float64
reference before they are handed out.
"""

from functools import partial

import cases
import harness
import keras
import numpy as np
import oracle
from compare import as_array

import keras_ssm


def make(backend, case_name, width):
    """The candidates of a backend, by name."""
    inputs = _Inputs(case_name)
    case = cases.named(case_name)
    sequence = np.random.default_rng(2).normal(size=(case.b, case.l, width))
    sequence = sequence.astype("float32")
    function = {"jax": _jax, "tensorflow": _tensorflow, "torch": _torch}
    return function[backend](inputs, sequence)


class _Inputs:
    """The bare recurrence of a case: arrays, cotangent and expected result."""

    def __init__(self, case_name):
        arrays, _ = cases.make_inputs("selective_scan", cases.named(case_name))
        names = ("x", "dt", "A", "B", "C")
        arrays = {name: arrays[name] for name in names}
        arrays["dt"] = np.logaddexp(arrays["dt"], 0)
        self.arrays = arrays
        cotangents = cases.make_cotangents(
            "selective_scan", cases.named(case_name)
        )
        self.cotangents = (cotangents[0], np.zeros_like(cotangents[1]))
        self.expected = oracle.solve(
            "selective_scan",
            arrays,
            {"dt_softplus": False, "reverse": False},
            self.cotangents,
        )

    def tensors(self):
        """x, dt, A, B, C and the gradient with respect to y."""
        return [
            harness.tensor(v)
            for v in (*self.arrays.values(), self.cotangents[0])
        ]

    def check(self, y, gradients=()):
        """Refuses to go on with a wrong candidate."""
        pairs = [(y, self.expected.y, 2e-6)] + [
            (gradient, self.expected.gradients[name], 1e-5)
            for name, gradient in zip(self.arrays, gradients, strict=False)
        ]
        for actual, expected, tolerance in pairs:
            error = np.linalg.norm(as_array(actual) - expected)
            if not error <= tolerance * np.linalg.norm(expected):
                raise SystemExit(f"wrong result: error {error}")


def _jax(inputs, sequence):
    import jax
    import jax.numpy as jnp

    *arguments, dy = inputs.tensors()

    def associative(x, dt, A, B, C):
        def compose(first, second):
            return first[0] * second[0], second[0] * first[1] + second[1]

        a = jnp.exp(dt[..., None] * A)
        u = (dt * x)[..., None] * B[:, :, None]
        _, h = jax.lax.associative_scan(compose, (a, u), axis=1)
        return jnp.einsum("bldn,bln->bld", h, C)

    def scan(x, dt, A, B, C):
        def step(h, inputs):
            x, dt, B, C = inputs
            h = jnp.exp(dt[..., None] * A) * h
            h = h + (dt * x)[..., None] * B[:, None]
            return h, (h * C[:, None]).sum(-1)

        over_time = [jnp.swapaxes(v, 0, 1) for v in (x, dt, B, C)]
        h = jnp.zeros((x.shape[0], *A.shape))
        return jnp.swapaxes(jax.lax.scan(step, h, over_time)[1], 0, 1)

    def with_gradients(function):
        def run(arguments, dy):
            y, adjoint = jax.vjp(function, *arguments)
            return y, adjoint(dy)

        return jax.jit(run)

    forward = {
        "jax scan forward, keras_ssm": keras_ssm.ops.selective_scan,
        "jax scan forward, keras_ssm numba": _with_numba,
        "jax scan forward, jax.lax.associative_scan": associative,
        "jax scan forward, jax.lax.scan": scan,
    }
    both = {
        "jax scan forward+backward, keras_ssm": keras_ssm.ops.selective_scan,
        "jax scan forward+backward, keras_ssm numba": _with_numba,
        "jax scan forward+backward, autodiff of jax.lax.scan": scan,
    }
    candidates = {}
    for name, function in forward.items():
        function = jax.jit(function)
        inputs.check(function(*arguments))
        candidates[name] = _blocking(function, *arguments)
    for name, function in both.items():
        function = with_gradients(function)
        inputs.check(*function(arguments, dy))
        candidates[name] = _blocking(function, arguments, dy)
    candidates.update(_jax_layers(sequence))
    return candidates


def _with_numba(*arguments):
    return keras_ssm.ops.selective_scan(*arguments, implementation="numba")


def _blocking(function, *arguments):
    import jax

    return lambda: jax.block_until_ready(function(*arguments))


def _jax_layers(sequence):
    import jax

    candidates = {}
    for title, layer in _keras_layers().items():
        layer.build(sequence.shape)
        weights = [v.value for v in layer.trainable_variables]
        others = [v.value for v in layer.non_trainable_variables]

        def loss(weights, x, layer=layer, others=others):
            y, _ = layer.stateless_call(weights, others, x)
            return (y * y).sum()

        run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
        name = f"jax layer forward+backward, {title}"
        candidates[name] = _blocking(run, weights, sequence)
    return candidates


def _keras_layers():
    return {
        "keras_ssm Mamba": keras_ssm.layers.Mamba(),
        "keras LSTM of as many units": keras.layers.LSTM(
            768, return_sequences=True
        ),
    }


def _tensorflow(inputs, sequence):
    import tensorflow as tf

    *arguments, dy = inputs.tensors()

    def both(implementation, *arguments):
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            y = keras_ssm.ops.selective_scan(
                *arguments, implementation=implementation
            )
        return y, tape.gradient(y, arguments, output_gradients=dy)

    candidates = {}
    for implementation in ("xla", "xla_associative"):
        for compiled in (True, False):
            title = f"{implementation}, {'jit' if compiled else 'graph'}"
            forward = tf.function(
                lambda *v, implementation=implementation: (
                    keras_ssm.ops.selective_scan(
                        *v, implementation=implementation
                    )
                ),
                jit_compile=compiled,
            )
            run = tf.function(
                lambda *v, implementation=implementation: both(
                    implementation, *v
                ),
                jit_compile=compiled,
            )
            inputs.check(forward(*arguments))
            inputs.check(*run(*arguments))
            candidates[f"tensorflow scan forward, {title}"] = (
                lambda forward=forward: forward(*arguments).numpy()
            )
            candidates[f"tensorflow scan forward+backward, {title}"] = (
                lambda run=run: run(*arguments)[0].numpy()
            )
    candidates.update(_tensorflow_layers(sequence))
    return candidates


def _tensorflow_layers(sequence):
    import tensorflow as tf

    candidates = {}
    for title, layer in _keras_layers().items():
        layer.build(sequence.shape)

        @tf.function(jit_compile=True)
        def run(x, layer=layer):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x)
                loss = tf.reduce_sum(y * y)
            variables = [v.value for v in layer.trainable_variables]
            return tape.gradient(loss, [x, *variables])

        x = tf.constant(sequence)
        candidates[f"tensorflow layer forward+backward, {title}"] = (
            lambda run=run, x=x: run(x)[0].numpy()
        )
    return candidates


def _torch(inputs, sequence):
    import torch

    *arguments, dy = inputs.tensors()

    def forward(scan):
        with torch.no_grad():
            return scan(*arguments)

    def both(scan):
        leaves = [v.detach().requires_grad_() for v in arguments]
        y = scan(*leaves)
        return y.detach(), torch.autograd.grad(y, leaves, dy)

    candidates = {}
    for title, scan in {
        "keras_ssm": keras_ssm.ops.selective_scan,
        "keras_ssm numba": _with_numba,
    }.items():
        inputs.check(forward(scan))
        inputs.check(*both(scan))
        candidates |= {
            f"torch scan forward, {title}": partial(forward, scan),
            f"torch scan forward+backward, {title}": partial(both, scan),
        }
    return candidates | _torch_layers(sequence)


def _torch_layers(sequence):
    import torch
    from mambapy.mamba import MambaBlock, MambaConfig

    width = sequence.shape[-1]
    mamba = keras_ssm.layers.Mamba()
    mamba.build(sequence.shape)
    layers = {
        "keras_ssm Mamba": mamba,
        "mambapy": MambaBlock(MambaConfig(d_model=width, n_layers=1)),
        "torch.nn.LSTM of as many units": torch.nn.LSTM(
            width, 2 * width, batch_first=True
        ),
        "torch.nn.TransformerEncoderLayer": torch.nn.TransformerEncoderLayer(
            width, 6, 4 * width, batch_first=True, dropout=0.0
        ),
    }
    x = torch.tensor(sequence)

    def train(layer):
        for parameter in layer.parameters():
            parameter.grad = None
        leaf = x.detach().requires_grad_()
        y = layer(leaf)
        y = y[0] if isinstance(y, tuple) else y
        (y * y).sum().backward()

    return {
        f"torch layer forward+backward, {title}": (
            lambda layer=layer: train(layer)
        )
        for title, layer in layers.items()
    }
