"""The layer against others: the paper in NumPy, transformers, mambapy."""

import numpy as np
import pytest
from layer_harness import (
    BACKEND,
    LENGTH,
    WIDTH,
    as_array,
    assert_close,
    layer_gradients,
    make,
    mask_of,
    needs_gradients,
    randomize,
    sequences,
    value,
)

from keras_ssm.layers import (
    Attention,
    GatedMLP,
    Mamba,
    Mamba2,
    MambaBlock,
    MixtureOfExperts,
)

OPTIONS = [
    {},
    {"use_conv_bias": False, "use_bias": True, "state_dim": 3, "expand": 3},
    {"conv_kernel_size": 1, "dt_rank": 4, "state_dim": 1},
    {"use_inner_norm": True, "epsilon": 1e-2},
]


def silu(v):
    return v / (1 + np.exp(-v))


def mamba(w, x, epsilon=1e-2):
    """A layer of Mamba in NumPy.

    Gu & Dao, 2023 (https://arxiv.org/abs/2312.00752), section 3.4 and
    Algorithm 2, with the Euler rule for B of the released code.

    Args:
        w: Weights in float64, by name.
        x: Input, `(b, l, m)`.
        epsilon: Of Jamba's norms, where there are weights of them.
    """
    b, l, _ = x.shape
    d, n = w["A_log"].shape
    k, r = len(w["conv_kernel"]), len(w["dt_proj/kernel"])
    u = x @ w["in_proj/kernel"] + w.get("in_proj/bias", 0)
    u, z = u[..., :d], u[..., d:]
    padded = np.concatenate([np.zeros((b, k - 1, d)), u], axis=1)
    windows = np.stack([padded[:, t : t + k] for t in range(l)], axis=1)
    u = silu((windows * w["conv_kernel"]).sum(2) + w.get("conv_bias", 0))
    s = u @ w["x_proj/kernel"]
    step, B, C = s[..., :r], s[..., r : r + n], s[..., r + n :]
    if "dt_norm_scale" in w:
        step, B, C = (
            v / np.sqrt((v**2).mean(-1, keepdims=True) + epsilon) * w[name]
            for name, v in (
                ("dt_norm_scale", step),
                ("B_norm_scale", B),
                ("C_norm_scale", C),
            )
        )
    step = np.log1p(np.exp(step @ w["dt_proj/kernel"] + w["dt_bias"]))
    h, y = np.zeros((b, d, n)), []
    for t in range(l):
        h = h * np.exp(-np.exp(w["A_log"]) * step[:, t, :, None])
        h = h + (step[:, t] * u[:, t])[..., None] * B[:, t, None]
        y.append(np.einsum("bdn,bn->bd", h, C[:, t]) + w["D"] * u[:, t])
    y = np.stack(y, axis=1) * silu(z)
    return y @ w["out_proj/kernel"] + w.get("out_proj/bias", 0)


def mamba2(w, x, n=4, g=2, epsilon=1e-5):
    """A layer of Mamba-2 in NumPy.

    Dao & Gu, 2024 (https://arxiv.org/abs/2405.21060), section 7.

    Args:
        w: Weights in float64, by name.
        x: Input, `(b, l, m)`.
        n: Size of the state.
        g: Number of groups.
        epsilon: Of the norm.
    """
    b, l, _ = x.shape
    d, h, k = len(w["norm_scale"]), len(w["D"]), len(w["conv_kernel"])
    v = x @ w["in_proj/kernel"]
    z, u, step = np.split(v, (d, v.shape[-1] - h), axis=-1)
    padded = np.concatenate([np.zeros((b, k - 1, u.shape[-1])), u], axis=1)
    windows = np.stack([padded[:, t : t + k] for t in range(l)], axis=1)
    u = silu((windows * w["conv_kernel"]).sum(2) + w["conv_bias"])
    u, B, C = np.split(u, (d, d + g * n), axis=-1)
    u = u.reshape(b, l, h, -1)
    B, C = (np.repeat(m.reshape(b, l, g, n), h // g, 2) for m in (B, C))
    step = np.log1p(np.exp(step + w["dt_bias"]))
    state, y = np.zeros((b, h, d // h, n)), []
    for t in range(l):
        decay = np.exp(-np.exp(w["A_log"]) * step[:, t])
        update = np.einsum(
            "bhp,bhn->bhpn", step[:, t, :, None] * u[:, t], B[:, t]
        )
        state = decay[..., None, None] * state + update
        y.append(np.einsum("bhpn,bhn->bhp", state, C[:, t]))
    y = np.stack(y, axis=1) + w["D"][:, None] * u
    y = (y.reshape(b, l, d) * silu(z)).reshape(b, l, g, -1)
    y = y / np.sqrt((y**2).mean(-1, keepdims=True) + epsilon)
    return (y.reshape(b, l, d) * w["norm_scale"]) @ w["out_proj/kernel"]


def block(w, x):
    """A block in NumPy: norm, layer, residual."""
    inner = {p.removeprefix("mixer/"): v for p, v in w.items()}
    scale = np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
    return x + mamba(inner, x / scale * w["norm/scale"])


FORMULAS = {Mamba: mamba, MambaBlock: block, Mamba2: mamba2}


def weights_of(layer):
    return {
        v.path.removeprefix(f"{layer.name}/"): value(v).astype("float64")
        for v in layer.weights
    }


@pytest.mark.parametrize(
    ("layer_class", "options"),
    [
        *((Mamba, options) for options in OPTIONS),
        *((MambaBlock, {}), (Mamba2, {})),
    ],
)
def test_layer_computes_the_formulas_of_the_paper(layer_class, options):
    layer = make(layer_class, **options)
    x = sequences()
    expected = FORMULAS[layer_class](weights_of(layer), x.astype("float64"))
    assert_close(layer(x), expected, "float32")


@needs_gradients
@pytest.mark.parametrize(
    ("layer_class", "options"),
    [
        *((Mamba, OPTIONS[0]), (Mamba, OPTIONS[1]), (Mamba, OPTIONS[3])),
        *((MambaBlock, {}), (Mamba2, {})),
    ],
)
def test_gradients_are_slopes_of_the_formulas_of_the_paper(
    layer_class, options
):
    layer = make(layer_class, **options)
    x, cotangent = sequences(), sequences(seed=5)
    _, gradients = layer_gradients(layer, x, cotangent)
    gradients = {
        p.removeprefix(f"{layer.name}/"): v for p, v in gradients.items()
    }
    weights = weights_of(layer)
    assert gradients.keys() == {"x", *weights}
    point = {**weights, "x": x.astype("float64")}

    def loss(point):
        point = dict(point)
        y = FORMULAS[layer_class](point, point.pop("x"))
        return (y * cotangent).sum()

    for name, gradient in gradients.items():
        expected = slopes(loss, point, name)
        assert_close(gradient, expected, "float32", "gradient", name)


def slopes(function, point, name, width=1e-5):
    """Central differences of a function in every entry of one argument."""
    result = np.zeros_like(point[name])
    for index in np.ndindex(result.shape):
        moved = []
        for step in (width, -width):
            array = point[name].copy()
            array[index] += step
            moved.append(function({**point, name: array}))
        result[index] = (moved[0] - moved[1]) / (2 * width)
    return result


@pytest.fixture
def torch():
    """PyTorch, in its own process only."""
    if BACKEND != "torch":
        pytest.skip("peers on PyTorch run in the process of that backend")
    import torch

    return torch


# Our names of the weights that a peer calls otherwise.
PEER_NAMES = {
    "in_proj/kernel": "in_proj.weight",
    "conv_kernel": "conv1d.weight",
    "conv_bias": "conv1d.bias",
    "x_proj/kernel": "x_proj.weight",
    "dt_proj/kernel": "dt_proj.weight",
    "dt_bias": "dt_proj.bias",
    "A_log": "A_log",
    "D": "D",
    "out_proj/kernel": "out_proj.weight",
}
PEER_NAMES_2 = {**PEER_NAMES, "dt_bias": "dt_bias", "norm_scale": "norm.weight"}
OF_JAMBA = {
    f"{name}_proj/kernel": f"{name[:1] if name == 'out' else name}_proj.weight"
    for name in ("q", "k", "v", "out", "gate", "up", "down")
}


def to_peer(name, array):
    """The layout of a peer: linear weights (out, in), taps (d, 1, k)."""
    if name == "conv_kernel":
        return np.ascontiguousarray(array.T[:, None])
    if name.endswith("kernel"):
        return np.ascontiguousarray(array.T)
    return array


def check_peer(torch, peer, layer, names=PEER_NAMES):
    """Compares outputs and all gradients after copying the weights over."""
    x, cotangent = sequences(LENGTH), sequences(seed=5)
    theirs = dict(peer.named_parameters())
    ours = {
        v.path.removeprefix(f"{layer.name}/"): v
        for v in layer.trainable_variables
    }
    assert {names[name] for name in ours} == set(theirs)
    with torch.no_grad():
        for name, v in ours.items():
            array = torch.from_numpy(to_peer(name, value(v)))
            theirs[names[name]].copy_(array)
    inputs = torch.from_numpy(x).requires_grad_()
    expected = peer(inputs)
    expected = expected[0] if isinstance(expected, tuple) else expected
    expected.backward(torch.from_numpy(cotangent))
    y, gradients = layer_gradients(layer, x, cotangent)
    assert_close(y, as_array(expected.detach()), "float32")
    assert_close(
        gradients.pop("x"), as_array(inputs.grad), "float32", "gradient", "x"
    )
    for name, v in ours.items():
        expected = as_array(theirs[names[name]].grad)
        actual = to_peer(name, gradients[v.path])
        assert_close(actual, expected, "float32", "gradient", name)


def test_layer_equals_the_mixer_of_transformers(torch):
    mamba = pytest.importorskip("transformers.models.mamba.modeling_mamba")
    from transformers import MambaConfig

    config = MambaConfig(
        hidden_size=WIDTH, state_size=4, num_hidden_layers=1, vocab_size=8
    )
    peer = mamba.MambaMixer(config, layer_idx=0)
    check_peer(torch, peer, make(Mamba))


def test_mamba2_equals_the_mixer_of_transformers(torch):
    mamba2 = pytest.importorskip("transformers.models.mamba2.modeling_mamba2")
    from transformers import Mamba2Config

    config = Mamba2Config(
        hidden_size=WIDTH,
        state_size=4,
        head_dim=3,
        num_heads=4,
        n_groups=1,
        chunk_size=4,
        num_hidden_layers=1,
        vocab_size=8,
    )
    peer = mamba2.Mamba2Mixer(config, layer_idx=0)
    layer = make(Mamba2, head_dim=3, groups=1)
    check_peer(torch, peer, layer, PEER_NAMES_2)


@pytest.fixture
def jamba():
    """The module of Jamba, and a small configuration of it."""
    module = pytest.importorskip("transformers.models.jamba.modeling_jamba")
    from transformers import JambaConfig

    config = JambaConfig(
        hidden_size=WIDTH,
        intermediate_size=5,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_experts=4,
        num_experts_per_tok=2,
    )
    config._attn_implementation = "sdpa"
    return module, config


def test_attention_equals_that_of_jamba(torch, jamba):
    module, config = jamba
    peer = module.JambaAttention(config, layer_idx=0)
    options = {"heads": 2, "kv_heads": 1, "head_dim": 3, "rotary_base": None}
    layer = make(Attention, **options, window=None)
    check_peer(torch, peer, layer, of_jamba(layer))


def test_gated_mlp_equals_that_of_jamba(torch, jamba):
    module, config = jamba
    layer = GatedMLP(5)
    layer.build((None, None, WIDTH))
    randomize(layer)
    check_peer(torch, module.JambaMLP(config), layer, of_jamba(layer))


def of_jamba(layer):
    names = [v.path.split("/", 1)[1] for v in layer.weights]
    return {name: OF_JAMBA[name] for name in names}


def test_experts_equal_those_of_jamba(torch, jamba):
    module, config = jamba
    peer = module.JambaSparseMoeBlock(config)
    layer = MixtureOfExperts(4, 5, balance_loss=1.0)
    layer.build((None, None, WIDTH))
    randomize(layer)
    gate, up, down = (
        torch.from_numpy(value(dense.kernel).copy())
        for dense in (layer.gate_proj, layer.up_proj, layer.down_proj)
    )
    with torch.no_grad():
        peer.router.weight.copy_(torch.from_numpy(value(layer.router_kernel).T))
        for e in range(4):
            both = gate.chunk(4, 1)[e], up.chunk(4, 1)[e]
            peer.experts.gate_up_proj[e] = torch.cat(both, dim=1).T
            peer.experts.down_proj[e] = down.chunk(4)[e].T
    x, mask = sequences(), mask_of("holes")
    inputs = torch.from_numpy(x).requires_grad_()
    expected = peer(inputs)
    expected.backward(torch.from_numpy(sequences(seed=5)))
    y, gradients = layer_gradients(layer, x, sequences(seed=5))
    assert_close(y, as_array(expected.detach()), "float32")
    found = gradients[layer.router_kernel.path].T
    for actual, of_peer in (
        (gradients["x"], inputs.grad),
        (found, peer.router.weight.grad),
    ):
        assert_close(actual, as_array(of_peer), "float32", "gradient")
    layer(x, mask=mask, training=True)
    logits = peer.router(inputs.detach().reshape(-1, WIDTH))[0]
    loss = module.load_balancing_loss_func(
        (logits.detach(),), 4, 2, torch.from_numpy(mask)
    )
    (ours,) = layer.losses
    assert_close(ours.detach(), as_array(loss), "float32")


def test_layer_equals_the_block_of_mambapy(torch):
    mambapy = pytest.importorskip("mambapy.mamba")
    config = mambapy.MambaConfig(d_model=WIDTH, n_layers=1, d_state=4)
    check_peer(torch, mambapy.MambaBlock(config), make(Mamba))
