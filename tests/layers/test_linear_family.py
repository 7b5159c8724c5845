"""S5, LRU, RG-LRU and Griffin: their papers in NumPy, and a peer."""

import contextlib

import numpy as np
import pytest
from layer_harness import (
    BACKEND,
    BATCH,
    WIDTH,
    as_array,
    assert_close,
    each,
    layer_gradients,
    make,
    needs_gradients,
    random_states,
    randomize,
    sequences,
    value,
)
from test_layer_outsiders import slopes, weights_of

from keras_ssm.layers import (
    LRU,
    RGLRU,
    S5,
    Griffin,
    GriffinBlock,
    LRUBlock,
    RGLRUBlock,
    S5Block,
)


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def gelu(v):
    return v / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3)))


def half_glu(w, y):
    return y * sigmoid(gelu(y) @ w["out_proj/kernel"] + w["out_proj/bias"])


def glu(w, y):
    y = gelu(y) @ w["out_proj/kernel"] + w["out_proj/bias"]
    y, gate = np.split(y, 2, axis=-1)
    return y * sigmoid(gate)


def linear_system(w, a, B, x):
    """`C h` of `h[t] = a h[t-1] + B x[t]`, complex, step by step."""
    C, h, y = w["C_real"] + 1j * w["C_imag"], 0, []
    for t in range(x.shape[1]):
        h = a * h + x[:, t] @ B.T
        y.append(h @ C.T)
    return np.stack(y, axis=1)


def s5(w, x, rate=1.0):
    """S5 in NumPy.

    Smith et al., 2022 (https://arxiv.org/abs/2208.04933), equations 2, 3 and
    6, and the activation that the released code uses for most tasks.
    """
    A = -np.exp(w["A_log"]) + 1j * w["A_imag"]
    a = np.exp(rate * np.exp(w["log_dt"]) * A)
    B = ((a - 1) / A)[:, None] * (w["B_real"] + 1j * w["B_imag"])
    return half_glu(w, 2 * linear_system(w, a, B, x).real + w["D"] * x)


def lru(w, x):
    """LRU in NumPy.

    Orvieto et al., 2023 (https://arxiv.org/abs/2303.06349), section 3.4.
    """
    a = np.exp(-np.exp(w["nu_log"]) + 1j * np.exp(w["theta_log"]))
    B = np.exp(w["gamma_log"])[:, None] * (w["B_real"] + 1j * w["B_imag"])
    return linear_system(w, a, B, x).real + w["D"] * x


def rg_lru(w, x, h=0.0):
    """RG-LRU in NumPy.

    De et al., 2024 (https://arxiv.org/abs/2402.19427), equations 1 to 4.
    """
    heads, size, _ = w["gate_kernel"].shape
    parts = x.reshape(*x.shape[:-1], heads, size)
    gates = np.einsum("blhi,hij->blhj", parts, w["gate_kernel"])
    gates = sigmoid(gates + w["gate_bias"])
    r, i = (v.reshape(x.shape) for v in np.split(gates, 2, axis=-1))
    a = np.exp(-8 * r * np.logaddexp(w["decay"], 0))
    y = []
    for t in range(x.shape[1]):
        h = a[:, t] * h + np.sqrt(1 - a[:, t] ** 2) * i[:, t] * x[:, t]
        y.append(h)
    return np.stack(y, axis=1)


def griffin(w, x):
    """Griffin's recurrent block in NumPy, section 2.3 of the same paper."""
    x, z = np.split(x @ w["in_proj/kernel"] + w["in_proj/bias"], 2, axis=-1)
    (b, l, d), k = x.shape, len(w["conv_kernel"])
    padded = np.concatenate([np.zeros((b, k - 1, d)), x], axis=1)
    windows = np.stack([padded[:, t : t + k] for t in range(l)], axis=1)
    x = (windows * w["conv_kernel"]).sum(2) + w["conv_bias"]
    y = rg_lru(within(w, "rg_lru/"), x) * gelu(z)
    return y @ w["out_proj/kernel"] + w["out_proj/bias"]


def within(w, prefix):
    return {
        name.removeprefix(prefix): v
        for name, v in w.items()
        if name.startswith(prefix)
    }


def layer_norm(w, x):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
    return x * w["norm/gamma"] + w["norm/beta"]


def rms_norm(w, x):
    scale = np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
    return x / scale * w["norm/scale"]


def block(norm, mixer, activation=None):
    """A residual block in NumPy."""

    def formula(w, x):
        inner = within(w, "mixer/")
        y = mixer(inner, norm(w, x))
        return x + (y if activation is None else activation(inner, y))

    return formula


FORMULAS = {
    S5: s5,
    LRU: lru,
    RGLRU: rg_lru,
    Griffin: griffin,
    S5Block: block(layer_norm, s5),
    LRUBlock: block(layer_norm, lru, glu),
    RGLRUBlock: block(rms_norm, rg_lru),
    GriffinBlock: block(rms_norm, griffin),
}


@each("layer_class", FORMULAS)
def test_layer_computes_the_formulas_of_the_paper(layer_class):
    layer = make(layer_class)
    x = sequences()
    expected = FORMULAS[layer_class](weights_of(layer), x.astype("float64"))
    assert_close(layer(x), expected, "float32")


@needs_gradients
@each("layer_class", [S5, LRU, Griffin])
def test_gradients_are_slopes_of_the_formulas_of_the_paper(layer_class):
    layer = make(layer_class)
    x, cotangent = sequences(), sequences(seed=5)
    _, gradients = layer_gradients(layer, x, cotangent)
    gradients = {
        p.removeprefix(f"{layer.name}/"): v for p, v in gradients.items()
    }
    point = {**weights_of(layer), "x": x.astype("float64")}
    assert gradients.keys() == point.keys()

    def loss(point):
        point = dict(point)
        y = FORMULAS[layer_class](point, point.pop("x"))
        return (y * cotangent).sum()

    for name, gradient in gradients.items():
        expected = slopes(loss, point, name)
        assert_close(gradient, expected, "float32", "gradient", name)


@contextlib.contextmanager
def float64():
    """JAX computes in float64 only if it is told to."""
    with contextlib.ExitStack() as stack:
        if BACKEND == "jax":
            import jax

            stack.enter_context(jax.enable_x64(True))
        yield


# On PyTorch, Keras rounds what `Dense` multiplies.
@each("layer_class", [S5, LRU, RGLRU])
def test_float64_scan_step_and_formula_agree_to_nine_digits(layer_class):
    options = {} if layer_class is RGLRU else {"activation": None}
    x = sequences(31).astype("float64")
    with float64():
        layer = make(layer_class, dtype="float64", return_state=True, **options)
        weights = weights_of(layer)
        initial = random_states(layer)
        y, *end = layer(x, initial_state=initial)
        state, steps = initial, []
        for t in range(x.shape[1]):
            out, state = layer.step(x[:, t], state)
            steps.append(as_array(out))
        from_zero = as_array(layer(x)[0])
    assert_near(np.stack(steps, axis=1), as_array(y))
    for one, other in zip(state, end, strict=True):
        assert_near(as_array(one), as_array(other))
    if layer_class is S5:
        weights["out_proj/kernel"] = np.zeros((WIDTH, WIDTH))
        # A gate of 1.
        weights["out_proj/bias"] = np.full(WIDTH, 1e3)
    assert_near(from_zero, FORMULAS[layer_class](weights, x))


def assert_near(actual, expected):
    assert actual.dtype == "float64"
    assert np.abs(actual - expected).max() < 1e-9 * np.abs(expected).max()


@each("layer_class", [S5, LRU, RGLRU, Griffin])
def test_long_sequences_in_parts_and_in_steps(layer_class):
    layer = make(layer_class, return_state=True)
    x = sequences(301)
    whole, *end = layer(x)
    parts, state = [], layer.get_initial_state(BATCH)
    for part in (x[:, :150], x[:, 150:151], x[:, 151:298]):
        y, *state = layer(part, initial_state=state)
        parts.append(as_array(y))
    for t in range(298, 301):
        y, state = layer.step(x[:, t], state)
        parts.append(as_array(y)[:, None])
    whole = as_array(whole)
    assert_close(np.concatenate(parts, axis=1), whole, "float32")
    for one, other in zip(state, end, strict=True):
        assert_close(one, as_array(other), "float32")


@pytest.mark.parametrize("rate", [0.5, 2.0])
def test_rate_runs_an_s5_at_another_sampling_rate(rate):
    layer = make(S5, rate=rate)
    x = sequences()
    expected = s5(weights_of(layer), x.astype("float64"), rate)
    assert_close(layer(x), expected, "float32")


def test_an_s5_at_twice_the_rate_agrees_where_the_input_is_held():
    # Zero-order hold: two half steps with the same input are one step.
    config = make(S5, activation=None).get_config()
    once, twice = (
        S5.from_config({**config, "rate": rate}) for rate in (1, 0.5)
    )
    for layer in (once, twice):
        layer.build((None, None, WIDTH))
        randomize(layer)
    twice.set_weights(once.get_weights())
    x = sequences()
    held = as_array(twice(np.repeat(x, 2, axis=1)))
    assert_close(held[:, 1::2], as_array(once(x)), "float32")


@pytest.mark.parametrize(
    ("layer_class", "activation", "formula"),
    [(S5, "glu", glu), (LRU, "glu", glu), (LRU, "half_glu", half_glu)],
)
def test_activations_are_gates_of_what_the_recurrence_gives(
    layer_class, activation, formula
):
    layer = make(layer_class, activation=activation)
    plain = make(layer_class, activation=None)
    plain.set_weights(layer.get_weights()[:8])
    x = sequences()
    y = as_array(plain(x)).astype("float64")
    assert_close(layer(x), formula(weights_of(layer), y), "float32")


@pytest.mark.parametrize("blocks", [1, 2])
def test_an_s5_starts_as_hippo_systems_with_real_maps(blocks):
    layer = S5(state_dim=16, blocks=blocks, activation=None)
    layer.build((None, None, WIDTH))
    w = weights_of(layer)
    size = 16 // blocks
    n = np.arange(size)
    low_rank = np.sqrt(n + 0.5)
    # HiPPO-N: -1/2 and a skew-symmetric matrix.
    hippo = -np.sign(n[:, None] - n) * np.outer(low_rank, low_rank)
    hippo = np.kron(np.eye(blocks), hippo - np.eye(size) / 2)
    found = np.linalg.eigvals(hippo)
    found = np.sort(found.imag[found.imag > 0])
    assert np.allclose(np.sort(w["A_imag"]), found, rtol=1e-5)
    assert np.allclose(np.exp(w["A_log"]), 0.5)
    for name in "BC":
        # Real maps of variance 1 / 16 have norm 1 in each channel, half of it
        # in the other numbers of the pairs.
        square = w[f"{name}_real"] ** 2 + w[f"{name}_imag"] ** 2
        assert 0.5 < 2 * square.sum() / WIDTH < 2


def test_an_lru_starts_with_a_gain_that_fits_its_eigenvalues():
    layer = LRU(state_dim=64, r_min=0.5, r_max=0.99, max_phase=0.3)
    layer.build((None, None, WIDTH))
    w = weights_of(layer)
    radius = np.exp(-np.exp(w["nu_log"]))
    assert 0.5 <= radius.min() and radius.max() <= 0.99
    assert np.exp(w["theta_log"]).max() <= 0.3
    assert np.allclose(np.exp(w["gamma_log"]), np.sqrt(1 - radius**2), 1e-4)


@needs_gradients
def test_gradients_of_an_rg_lru_are_finite_where_nothing_is_forgotten():
    layer = make(RGLRU)
    layer.gate_bias.assign(np.full(layer.gate_bias.shape, -200.0))
    x = sequences()
    y, gradients = layer_gradients(layer, x, sequences(seed=5))
    # The gates are closed, a is 1: the state stays.
    assert (y == 0).all()
    for name, gradient in gradients.items():
        assert np.isfinite(gradient).all(), name


def test_an_rg_lru_keeps_digits_where_little_is_forgotten():
    layer = make(RGLRU)
    # 1 - a^2 is about 1e-7: less than a float32 near 1 can tell.
    layer.decay.assign(np.full(layer.decay.shape, -18.0))
    x = sequences()
    expected = rg_lru(weights_of(layer), x.astype("float64"))
    assert_close(layer(x), expected, "float32")


PEER_NAMES = {
    "in_proj/kernel": ("linear_x.weight", "linear_y.weight"),
    "in_proj/bias": ("linear_x.bias", "linear_y.bias"),
    "conv_kernel": ("conv_1d.weight",),
    "conv_bias": ("conv_1d.bias",),
    "rg_lru/gate_kernel": (
        "rg_lru.recurrent_gate_weight",
        "rg_lru.input_gate_weight",
    ),
    "rg_lru/gate_bias": (
        "rg_lru.recurrent_gate_bias",
        "rg_lru.input_gate_bias",
    ),
    "rg_lru/decay": ("rg_lru.recurrent_param",),
    "out_proj/kernel": ("linear_out.weight",),
    "out_proj/bias": ("linear_out.bias",),
}


def to_peer(name, array):
    """The peer's arrays of one of ours, in the order of its names."""
    arrays = np.split(array, len(PEER_NAMES[name]), axis=-1)
    if name == "conv_kernel":
        return [v.T[:, None] for v in arrays]
    if name.endswith("proj/kernel"):
        return [v.T for v in arrays]
    return arrays


@pytest.mark.skipif(BACKEND != "torch", reason="a peer on PyTorch")
def test_layer_equals_the_recurrent_block_of_transformers():
    import torch

    peers = pytest.importorskip(
        "transformers.models.recurrent_gemma.modeling_recurrent_gemma"
    )
    from transformers import RecurrentGemmaConfig

    config = RecurrentGemmaConfig(
        hidden_size=WIDTH,
        lru_width=8,
        num_attention_heads=2,
        vocab_size=8,
        num_hidden_layers=1,
    )
    # In float64, as its 1 - a^2 loses digits; its scan stays float32.
    peer = peers.RecurrentGemmaRecurrentBlock(config, layer_idx=0).double()
    layer = make(Griffin, state_dim=8, heads=2)
    ours = {
        v.path.removeprefix(f"{layer.name}/"): v
        for v in layer.trainable_variables
    }
    theirs = dict(peer.named_parameters())
    assert {n for names in PEER_NAMES.values() for n in names} == set(theirs)
    with torch.no_grad():
        for name, v in ours.items():
            parts = to_peer(name, value(v))
            for peer_name, part in zip(PEER_NAMES[name], parts, strict=True):
                theirs[peer_name].copy_(torch.tensor(part))
    x, cotangent = sequences(), sequences(seed=5)
    inputs = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    # Without position 0, at which it would not scale its input.
    positions = torch.arange(1, x.shape[1] + 1).expand(BATCH, -1)
    expected, _ = peer(inputs, positions, None, use_cache=False)
    expected.backward(torch.tensor(cotangent, dtype=torch.float64))
    y, gradients = layer_gradients(layer, x, cotangent)
    assert_close(y, as_array(expected.detach()), "float32")
    assert_close(
        gradients.pop("x"), as_array(inputs.grad), "float32", "gradient", "x"
    )
    for name, v in ours.items():
        parts = to_peer(name, gradients[v.path])
        for peer_name, part in zip(PEER_NAMES[name], parts, strict=True):
            expected = as_array(theirs[peer_name].grad)
            assert_close(part, expected, "float32", "gradient", peer_name)
