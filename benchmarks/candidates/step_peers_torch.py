"""Steps of packages for PyTorch."""

import torch

from candidates import installed


def peers(case, dtype):
    """Functions that run one step, by name."""
    if dtype != "float32" or not installed("mambapy"):
        return {}
    from mambapy.mamba import MambaBlock, MambaConfig

    width = case.d // 2
    config = MambaConfig(d_model=width, n_layers=1)
    block = MambaBlock(config)
    x = torch.randn(case.b, width)
    h = torch.zeros(case.b, config.d_inner, config.d_state)
    inputs = torch.zeros(case.b, config.d_inner, config.d_conv - 1)
    step = torch.no_grad()(block.step)
    return {"mambapy, eager": lambda: step(x, (h, inputs))}
