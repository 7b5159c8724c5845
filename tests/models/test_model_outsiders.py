"""Whole models against those of transformers, with the same weights."""

import keras
import numpy as np
import pytest
from harness import only_on

from keras_ssm.models import (
    CausalLM,
    HybridBackbone,
    griffin_config,
    jamba_config,
    mamba2_config,
    mamba_config,
)

only_on("torch")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOKENS = np.random.default_rng(0).integers(3, 40, (2, 13)).astype("int32")
SIZES = {"vocab_size": 40, "hidden_size": 32}
CHANGES = {"vocabulary_size": 40}

# Our names of the weights, by theirs. A function stands for what is laid out
# otherwise: it takes their weights by name, and returns ours.
OF_MAMBA = {
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
OF_MAMBA2 = {**OF_MAMBA, "dt_bias": "dt_bias", "norm_scale": "norm.weight"}
INNER_NORMS = {
    f"{name}_norm_scale": f"{name.lower()}_layernorm.weight"
    for name in ("dt", "B", "C")
}


def below(ours, theirs, names):
    """The names of sublayers."""
    return {
        f"{ours}/{one}": f"{theirs}.{other}" for one, other in names.items()
    }


def projections(*names, **renamed):
    """Kernels and biases of dense layers."""
    names = {**{name: name for name in names}, **renamed}
    return {
        f"{one}/{ours}": f"{other}.{theirs}"
        for one, other in names.items()
        for ours, theirs in (("kernel", "weight"), ("bias", "bias"))
    }


def joined(one, other, axis=0):
    """Two of their weights side by side, as ours are."""
    return lambda w: laid_out(np.concatenate([w(one), w(other)], axis))


def of_experts(part):
    """The kernels of all experts side by side."""

    def kernel(w):
        if part == "down_proj":
            v = w("feed_forward.experts.down_proj")  # (E, m, u)
            return v.transpose(0, 2, 1).reshape(-1, v.shape[1])
        v = w("feed_forward.experts.gate_up_proj")  # (E, 2u, m)
        v = np.split(v, 2, axis=1)[part == "up_proj"]
        return v.reshape(-1, v.shape[-1]).T

    return kernel


def gates(kind):
    """Those of the recurrence and of the input, side by side."""
    names = [
        f"temporal_block.rg_lru.{gate}_gate_{kind}"
        for gate in ("recurrent", "input")
    ]
    return lambda w: np.concatenate([w(name) for name in names], axis=-1)


def laid_out(v):
    """Linear weights are (out, in) there, and taps (d, 1, k)."""
    return v[:, 0].T if v.ndim == 3 else v.T


ATTENTION = projections("q_proj", "k_proj", "v_proj", out_proj="o_proj")
MLP = projections("gate_proj", "up_proj", "down_proj")
OF_BLOCKS = {
    "mamba": {
        "norm/scale": "norm.weight",
        **below("mixer", "mixer", OF_MAMBA),
    },
    "mamba2": {
        "norm/scale": "norm.weight",
        **below("mixer", "mixer", OF_MAMBA2),
    },
    "jamba": {
        "norm/scale": "input_layernorm.weight",
        "feed_forward_norm/scale": "pre_ff_layernorm.weight",
        **below("mixer", "mamba", {**OF_MAMBA, **INNER_NORMS}),
        **below("feed_forward", "feed_forward", MLP),
        "feed_forward/router_kernel": "feed_forward.router.weight",
    },
    "griffin": {
        "norm/scale": "temporal_pre_norm.weight",
        "feed_forward_norm/scale": "channel_pre_norm.weight",
        **below("feed_forward", "mlp_block", MLP),
        **below("mixer", "temporal_block", projections(out_proj="linear_out")),
        **{
            f"mixer/in_proj/{ours}": joined(
                f"temporal_block.linear_x.{theirs}",
                f"temporal_block.linear_y.{theirs}",
            )
            for ours, theirs in (("kernel", "weight"), ("bias", "bias"))
        },
        "mixer/conv_kernel": "temporal_block.conv_1d.weight",
        "mixer/conv_bias": "temporal_block.conv_1d.bias",
        "mixer/rg_lru/gate_kernel": gates("weight"),
        "mixer/rg_lru/gate_bias": gates("bias"),
        "mixer/rg_lru/decay": "temporal_block.rg_lru.recurrent_param",
    },
}
OF_ATTENTION = {
    "jamba": below("mixer", "self_attn", ATTENTION),
    "griffin": below("mixer", "temporal_block", ATTENTION),
}
OF_EXPERTS = {
    f"feed_forward/{part}/kernel": of_experts(part)
    for part in ("gate_proj", "up_proj", "down_proj")
}
OUTSIDE = {
    "mamba": ("backbone.embeddings", "backbone.layers", "backbone.norm_f"),
    "mamba2": ("backbone.embeddings", "backbone.layers", "backbone.norm_f"),
    "jamba": ("model.embed_tokens", "model.layers", "model.final_layernorm"),
    "griffin": ("model.embed_tokens", "model.layers", "model.final_norm"),
}


def weights_for(ours, theirs, name):
    """Arrays for our variables, by path, and which of theirs were used."""
    used, found = set(), {}
    embedding, layers, norm = OUTSIDE[name]

    def their(path):
        used.add(path)
        v = theirs[path]
        # What RecurrentGemma adds to 1.
        return v + 1 if name == "griffin" and "norm" in path else v

    outside = {
        "token_embedding/embeddings": f"{embedding}.weight",
        "final_norm/scale": f"{norm}.weight",
        "head/kernel": "lm_head.weight",
    }
    for variable in ours.weights:
        path = variable.path
        if path in outside:
            v = their(outside[path])
            found[path] = v.T if path == "head/kernel" else v
            continue
        block, rest = path.split("/", 1)
        table = dict(OF_BLOCKS[name])
        if block.startswith("attention"):
            table |= OF_ATTENTION[name]
        if f"{block}/feed_forward/router_kernel" in found:
            table |= OF_EXPERTS
        prefix = f"{layers}.{block.rsplit('_', 1)[1]}."
        entry = table[rest]
        if callable(entry):
            found[path] = entry(lambda v, p=prefix: their(p + v))
        else:
            v = their(prefix + entry)
            found[path] = laid_out(v) if "kernel" in rest else v
    return found, used


def peers():
    """Their model, the options of its call, and ours, by name."""
    t = transformers
    yield (
        "mamba",
        t.MambaForCausalLM(
            t.MambaConfig(**SIZES, state_size=4, num_hidden_layers=2)
        ),
        mamba_config("tiny", **CHANGES),
        {},
    )
    yield (
        "mamba2",
        t.Mamba2ForCausalLM(
            t.Mamba2Config(
                **SIZES,
                state_size=8,
                num_hidden_layers=2,
                num_heads=4,
                head_dim=16,
                n_groups=1,
                chunk_size=4,
                tie_word_embeddings=True,
            )
        ),
        mamba2_config("tiny", **CHANGES),
        {},
    )
    yield (
        "jamba",
        t.JambaForCausalLM(
            t.JambaConfig(
                **SIZES,
                intermediate_size=48,
                num_hidden_layers=8,
                num_attention_heads=4,
                num_key_value_heads=2,
                num_experts=4,
                mamba_d_state=4,
            )
        ),
        jamba_config("tiny", **CHANGES),
        {"tie_embeddings": False},
    )
    yield (
        "griffin",
        t.RecurrentGemmaForCausalLM(
            t.RecurrentGemmaConfig(
                **SIZES,
                intermediate_size=192,
                num_hidden_layers=3,
                num_attention_heads=2,
                num_key_value_heads=1,
                attention_window_size=8,
                attention_bias=True,
            )
        ),
        griffin_config(
            "tiny",
            **CHANGES,
        ),
        {"logit_soft_cap": 30.0},
    )


@pytest.mark.parametrize("name", OF_BLOCKS)
def test_logits_are_those_of_transformers(name):
    ((_, theirs, config, options),) = (p for p in peers() if p[0] == name)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for parameter in theirs.eval().parameters():
            noise = rng.uniform(-0.3, 0.3, parameter.shape)
            parameter += torch.from_numpy(noise.astype("float32"))
    ours = CausalLM(HybridBackbone(**config), **options)
    arrays = {k: v.detach().numpy() for k, v in theirs.named_parameters()}
    found, used = weights_for(ours, arrays, name)
    assert used == set(arrays)
    for variable in ours.weights:
        variable.assign(found[variable.path])
    call = {"use_cache": False}
    if name == "griffin":
        # Theirs leaves out the input's scale at position 0.
        call["position_ids"] = torch.arange(1, 14)[None].repeat(2, 1)
    with torch.no_grad():
        tokens = torch.from_numpy(TOKENS).long()
        expected = theirs(tokens, **call).logits.numpy()
    y = ours.predict(TOKENS, verbose=0)
    assert np.abs(expected).max() > 0.5
    assert np.abs(y - expected).max() < 1e-4


def published():
    """The configurations of published models, and our arguments."""
    t = transformers
    width, blocks = 2560, 64
    sizes = {"hidden_size": width, "num_hidden_layers": blocks}
    yield (
        "mamba",
        (t.MambaForCausalLM, t.MambaConfig(**sizes, vocab_size=50280)),
        (mamba_config("2.8b"), {}),
    )
    yield (
        "mamba2",
        (
            t.Mamba2ForCausalLM,
            t.Mamba2Config(
                **sizes,
                vocab_size=50288,
                num_heads=2 * width // 64,
                n_groups=1,
                tie_word_embeddings=True,
            ),
        ),
        (mamba2_config("2.7b"), {}),
    )
    yield (
        "jamba",
        (t.JambaForCausalLM, t.JambaConfig()),
        (jamba_config(), {"tie_embeddings": False}),
    )
    yield (
        "griffin",
        (
            t.RecurrentGemmaForCausalLM,
            t.RecurrentGemmaConfig(
                intermediate_size=15360,
                num_key_value_heads=1,
                attention_bias=True,
            ),
        ),
        (griffin_config(), {}),
    )


@pytest.mark.parametrize("name", OF_BLOCKS)
def test_published_models_have_as_many_parameters(name):
    ((_, theirs, ours),) = (p for p in published() if p[0] == name)
    (model_class, of_theirs), (config, options) = theirs, ours
    with torch.device("meta"):
        parameters = model_class(of_theirs).parameters()
    expected = sum(v.numel() for v in parameters)
    with keras.device("meta"):
        model = CausalLM(HybridBackbone(**config), **options)
    assert model.count_params() == expected
