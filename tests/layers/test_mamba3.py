"""Mamba-3 is what its paper says, with one input at a time and with several."""

import keras
import numpy as np
import pytest
from layer_harness import (
    BACKEND,
    BATCH,
    WIDTH,
    as_array,
    assert_close,
    layer_gradients,
    make,
    needs_gradients,
    sequences,
    value,
)
from test_layer_outsiders import silu, slopes, weights_of

from keras_ssm.layers import Mamba3

SISO = {"rank": 1, "groups": 1}
# JAX and TensorFlow compile what a test calls: for `make test-all` alone there.
if_quick = () if BACKEND in ("torch", "numpy") else pytest.mark.slow
MIMO = {"rank": 3, "groups": 2, "use_output_norm": True}


def mamba3(w, x, groups, epsilon=1e-5, **options):
    """A layer of Mamba-3 in NumPy.

    Lahoti et al., 2026 (https://arxiv.org/abs/2603.15569), section 3: the
    complex state as a real one whose B and C are turned by the sum of all
    angles so far.

    Args:
        w: Weights in float64, by name.
        x: Input, `(b, l, m)`.
        groups: How many B and C there are.
        epsilon: Of the norms.
        **options: Others that the weights tell.
    """
    b, l, _ = x.shape
    (r, h, n), d = w["B_bias"].shape, len(w["out_proj/kernel"])
    maps = r * groups * n
    sizes = np.cumsum([d, d, maps, maps, h, h, h])
    v = np.split(x @ w["in_proj/kernel"], sizes, axis=-1)
    z, u = (part.reshape(b, l, 1, h, d // h) for part in v[:2])
    B, C = (part.reshape(b, l, r, groups, n) for part in v[2:4])
    dt, rate, lam, theta = v[4:]
    dt = np.log1p(np.exp(dt + w["dt_bias"]))
    rate = np.where(rate > 0, 1 + rate, 1 / (1 - np.minimum(rate, 0)))
    lam = 1 / (1 + np.exp(-lam))
    angle = dt[..., None] * (np.pi * np.tanh(theta))[:, :, None]
    angle = np.cumsum(angle, axis=1)[:, :, None]
    B, C = (
        turned(
            np.repeat(rms(m, epsilon) * w[f"{name}_norm_scale"], h // groups, 3)
            + w[f"{name}_bias"],
            angle,
        )
        for name, m in (("B", B), ("C", C))
    )
    z, u = z * w.get("mimo_z", 1), u * w.get("mimo_x", 1)
    inputs = np.einsum("blrhp,blrhn->blhpn", u, B)
    state, y = np.zeros(inputs[:, 0].shape), np.zeros(u.shape)
    for t in range(l):
        alpha = np.exp(-dt[:, t] * rate[:, t])
        beta, gamma = (1 - lam[:, t]) * dt[:, t] * alpha, lam[:, t] * dt[:, t]
        alpha, beta, gamma = (c[..., None, None] for c in (alpha, beta, gamma))
        previous = inputs[:, t - 1] if t else 0
        state = alpha * state + beta * previous + gamma * inputs[:, t]
        y[:, t] = np.einsum("bhpn,brhn->brhp", state, C[:, t])
    y = y + w["D"][:, None] * u
    if "norm_scale" in w:
        y = rms(y, epsilon) * w["norm_scale"].reshape(h, -1)
    y = (y * silu(z) * w.get("mimo_out", 1)).sum(2)
    return y.reshape(b, l, d) @ w["out_proj/kernel"]


def rms(v, epsilon):
    return v / np.sqrt((v**2).mean(-1, keepdims=True) + epsilon)


def turned(v, angle):
    """Each pair of numbers `j` and `a + j`, turned by its angle."""
    a = angle.shape[-1]
    real, imag = v[..., :a], v[..., a : 2 * a]
    cos, sin = np.cos(angle), np.sin(angle)
    turned = [real * cos - imag * sin, real * sin + imag * cos]
    return np.concatenate([*turned, v[..., 2 * a :]], axis=-1)


@pytest.mark.parametrize(
    "options",
    [
        SISO,
        pytest.param(MIMO, marks=if_quick),
        pytest.param({**SISO, "rotary_dim": 4, "epsilon": 0.1}, marks=if_quick),
    ],
)
def test_layer_computes_the_formulas_of_the_paper(options):
    layer, x = make(Mamba3, **options), sequences()
    expected = mamba3(weights_of(layer), x.astype("float64"), **options)
    assert_close(layer(x), expected, "float32")


@needs_gradients
def test_gradients_are_slopes_of_the_formulas_of_the_paper():
    layer = make(Mamba3, **MIMO)
    x, cotangent = sequences(5), sequences(5, seed=5)
    y, gradients = layer_gradients(layer, x, cotangent)
    point = {**weights_of(layer), "x": x.astype("float64")}

    def loss(point):
        point = dict(point)
        return (mamba3(point, point.pop("x"), **MIMO) * cotangent).sum()

    assert_close(y, mamba3(point, x.astype("float64"), **MIMO), "float32")
    for path, gradient in gradients.items():
        name = path.removeprefix(f"{layer.name}/")
        expected = slopes(loss, point, name)
        assert_close(gradient, expected, "float32", "gradient", name)


@pytest.mark.parametrize(
    ("activation", "rate"), (("heavy_tail", 1.0), ("softplus", np.log(2)))
)
def test_a_state_fades_by_the_activation_of_the_decay(activation, rate):
    layer = make(Mamba3, decay_activation=activation)
    layer.in_proj.kernel.assign(0 * value(layer.in_proj.kernel))
    h, x, B = layer.get_initial_state(BATCH)
    _, (after, _, _) = layer.step(np.ones((BATCH, WIDTH)), (h + 1, x, B))
    dt = np.logaddexp(value(layer.dt_bias).astype("float64"), 0)
    expected = np.exp(-dt * rate)[:, None, None] + np.zeros(h.shape)
    assert_close(after, expected, "float32")


@pytest.mark.parametrize("rank", (pytest.param(4, marks=if_quick),))
def test_several_inputs_begin_as_one(rank):
    """Where all ranks have the B and C of one, they are that one."""
    keras.utils.set_random_seed(3)
    layers = [
        Mamba3(state_dim=4, head_dim=2, rank=r, kernel_initializer="zeros")
        for r in (1, rank)
    ]
    x, outputs = sequences(), []
    rng = np.random.default_rng(4)
    for layer in layers:
        layer.build((None, None, WIDTH))
    one, several = layers
    several.dt_bias.assign(value(one.dt_bias))
    kernel = rng.normal(size=one.in_proj.kernel.shape).astype("float32")
    z_x, B, C, rest = np.split(kernel, (24, 28, 32), axis=1)
    parts = [z_x, np.tile(B, rank), np.tile(C, rank), rest]
    one.in_proj.kernel.assign(kernel)
    several.in_proj.kernel.assign(np.concatenate(parts, axis=1))
    kernel = rng.normal(size=one.out_proj.kernel.shape).astype("float32")
    for layer in layers:
        layer.out_proj.kernel.assign(kernel)
        # Each rank has a quarter of the skip.
        layer.D.assign(0 * value(layer.D))
        outputs.append(as_array(layer(x)))
    assert_close(outputs[1], outputs[0].astype("float64"), "float32")


@pytest.mark.parametrize(
    "options", ({"rotary_dim": 3}, {"rotary_dim": 6}, {"state_dim": 1})
)
def test_pairs_of_a_state_turn(options):
    with pytest.raises(ValueError, match="`rotary_dim` must be even, and at"):
        Mamba3(**{"state_dim": 4, **options})


def test_activation_of_the_decay_is_known():
    expected = "`decay_activation` must be one of .'heavy_tail', 'softplus'."
    with pytest.raises(ValueError, match=expected):
        Mamba3(decay_activation="exp")
