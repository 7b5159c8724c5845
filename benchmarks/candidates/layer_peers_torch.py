"""Layers of PyTorch and of packages for it, as wide as ours."""

import contextlib
import importlib

import torch
from torch import nn

from candidates import installed

GPU = torch.cuda.is_available()


def peers(case, dtype):
    """Functions that build a module, by name."""
    width = case.d // 2
    heads = max(1, width // 64)
    found = {
        "torch.nn.LSTM": lambda: nn.LSTM(width, case.d, batch_first=True),
        "torch.nn.TransformerEncoderLayer": lambda: nn.TransformerEncoderLayer(
            width, heads, 4 * width, batch_first=True, dropout=0.0
        ),
    }
    packages = {
        "mambapy": lambda: _mambapy(width),
        "transformers": lambda: _transformers(width),
    }
    if GPU:
        packages |= {
            "mamba_ssm": lambda: _mamba_ssm(width),
            "fla": lambda: _fla(width),
        }
    found |= {n: build for n, build in packages.items() if installed(n)}
    return _all_in_dtype(found, dtype)


def mamba2_peers(case, dtype):
    """The same, for Mamba-2."""
    found = {}
    if installed("transformers"):
        found["transformers Mamba2"] = lambda: _transformers_mamba2(case)
    return _all_in_dtype(found, dtype)


def _all_in_dtype(found, dtype):
    return {
        name: lambda build=build: _in_dtype(build(), dtype)
        for name, build in found.items()
    }


def _in_dtype(module, dtype):
    """The module as one trains in mixed precision: weights stay float32."""
    device = "cuda" if GPU else "cpu"
    context = contextlib.nullcontext()
    if dtype != "float32":
        context = torch.autocast(device, getattr(torch, dtype))
    return _Mixed(module.to(device), context)


class _Mixed(nn.Module):
    def __init__(self, module, context):
        super().__init__()
        self.module, self._context = module, context

    def forward(self, x):
        with self._context:
            y = self.module(x)
        # Recurrent layers return their state, too.
        return y[0] if isinstance(y, tuple) else y


def _mambapy(width):
    from mambapy.mamba import MambaBlock, MambaConfig

    return MambaBlock(MambaConfig(d_model=width, n_layers=1))


def _transformers(width):
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    return MambaMixer(MambaConfig(hidden_size=width), layer_idx=0)


def _transformers_mamba2(case):
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    config = Mamba2Config(
        hidden_size=case.d * case.p // 2,
        num_heads=case.d,
        head_dim=case.p,
        state_size=case.n,
        n_groups=1,
    )
    return Mamba2Mixer(config, layer_idx=0)


def _mamba_ssm(width):
    from mamba_ssm import Mamba

    return Mamba(width)


def _fla(width):
    return importlib.import_module("fla.layers.mamba").Mamba(hidden_size=width)
