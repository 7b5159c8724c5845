"""What PyTorch users write or install."""

import torch
from torch.nn import functional as F

from candidates import BOTH, FORWARD, installed
from candidates.op_peers import Peer, maps


def peers(problem):
    found = {}
    if problem.op == "causal_conv1d":
        found["torch conv1d"] = Peer(_convolution(problem))
        if installed("causal_conv1d") and torch.cuda.is_available():
            found["causal_conv1d"] = Peer(_cuda_convolution(problem))
        return found
    if problem.op == "linear_scan":
        return {"torch loop": Peer(_linear_scan)}
    if installed("mambapy") and problem.bare:
        found["mambapy pscan"] = Peer(_mambapy, wide=(FORWARD, BOTH))
    if installed("mamba_ssm") and torch.cuda.is_available():
        found["mamba_ssm"] = Peer(_mamba_ssm(problem), layout=_swapped)
    return found


def _mambapy(x, dt, A, B, C):
    from mambapy.pscan import pscan

    return torch.einsum("bldn,bln->bld", pscan(*maps(x, dt, A, B)), C)


def _linear_scan(a, x):
    pair = isinstance(x, tuple)
    a, x = (torch.complex(*v) if pair else v for v in (a, x))
    h, y = torch.zeros_like(x[:, 0]), []
    a = a.expand(x.shape)
    for t in range(x.shape[1]):
        h = a[:, t] * h + x[:, t]
        y.append(h)
    y = torch.stack(y, 1)
    return (y.real, y.imag) if pair else y


def _mamba_ssm(problem):
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    softplus = problem.options["dt_softplus"]

    def function(x, dt, A, B, C, D=None, z=None, dt_bias=None):
        return selective_scan_fn(x, dt, A, B, C, D, z, dt_bias, softplus)

    return function


def _swapped(tensors):
    """(b, l, d) <-> (b, d, l)."""
    return {
        name: v.transpose(1, 2).contiguous() if v.ndim == 3 else v
        for name, v in tensors.items()
    }


def _convolution(problem):
    activation = problem.options["activation"]

    def function(x, weight, bias=None):
        k, d = weight.shape
        bias = None if bias is None else bias.to(x.dtype)
        weight = weight.t()[:, None].to(x.dtype)
        y = F.conv1d(x.transpose(1, 2), weight, bias, 1, k - 1, groups=d)
        y = y[..., : x.shape[1]].transpose(1, 2)
        return y if activation is None else F.silu(y)

    return function


def _cuda_convolution(problem):
    from causal_conv1d import causal_conv1d_fn

    activation = problem.options["activation"]

    def function(x, weight, bias=None):
        y = causal_conv1d_fn(
            x.transpose(1, 2), weight.t(), bias, activation=activation
        )
        return y.transpose(1, 2)

    return function
