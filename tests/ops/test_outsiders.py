"""The selective scan is the one of the paper and of its released code."""

import keras
import numpy as np
import pytest
from cases import PER_STEP, Case, make_cotangents, make_inputs
from compare import assert_close
from harness import BACKEND, gradients, run, tensor, tensors

from keras_ssm.ops import reference, selective_scan


def s6(x, delta, A, B, C):
    """Algorithm 2 of Gu & Dao, 2023, without its projections.

    `SSM(A_bar, B_bar, C)(x)` is written out as the sum over all pairs of
    steps; B is discretised as in the released code.
    """
    A_bar = np.exp(np.einsum("bld,dn->bldn", delta, A))
    B_bar = np.einsum("bld,bln->bldn", delta, B)
    y = np.zeros_like(x)
    for t in range(x.shape[1]):
        for s in range(t + 1):
            carried = np.prod(A_bar[:, s + 1 : t + 1], axis=1)
            y[:, t] += np.einsum(
                "bn,bdn,bdn,bd->bd", C[:, t], carried, B_bar[:, s], x[:, s]
            )
    return y


def test_algorithm_2_of_the_paper():
    arrays, options = make_inputs("selective_scan", Case("s6", l=20, d=3, n=5))
    x, dt, A, B, C = (arrays[name] for name in ("x", "dt", "A", "B", "C"))
    expected = s6(x, dt, A, B, C)
    actual = run("selective_scan", arrays, options)
    assert_close(actual.y, expected, "float32")
    assert_close(
        reference.selective_scan(x, dt, A, B, C)[0], expected, "float64"
    )


def selective_scan_fn(
    u,
    delta,
    A,
    B,
    C,
    D=None,
    z=None,
    delta_bias=None,
    delta_softplus=False,
    return_last_state=False,
):
    """The function of that name in `mamba_ssm`, `(b, d, l)`, by our op."""

    def turn(v):
        return None if v is None else keras.ops.moveaxis(v, -1, 1)

    y, state = selective_scan(
        *(turn(u), turn(delta), A, turn(B), turn(C), D, turn(z)),
        dt_bias=delta_bias,
        dt_softplus=delta_softplus,
        return_state=True,
    )
    y = keras.ops.moveaxis(y, 1, -1)
    return (y, state) if return_last_state else y


def selective_scan_ref(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False
):
    """What `mamba_ssm` tests its kernels against, in PyTorch."""
    import torch

    if delta_bias is not None:
        delta = delta + delta_bias[:, None]
    if delta_softplus:
        delta = torch.nn.functional.softplus(delta)
    groups, channels = B.shape[1] if B.ndim == 4 else 1, u.shape[1]
    B, C = (v[:, None] if v.ndim == 3 else v for v in (B, C))
    B, C = (v.repeat_interleave(channels // groups, dim=1) for v in (B, C))
    decay = torch.exp(torch.einsum("bdl,dn->bdln", delta, A))
    update = torch.einsum("bdl,bdnl,bdl->bdln", delta, B, u)
    h, y = 0, []
    for t in range(u.shape[2]):
        h = decay[:, :, t] * h + update[:, :, t]
        y.append(torch.einsum("bdn,bdn->bd", h, C[..., t]))
    y = torch.stack(y, dim=2)
    y = y if D is None else y + u * D[:, None]
    y = y if z is None else y * torch.nn.functional.silu(z)
    return y, h


@pytest.mark.skipif(BACKEND != "torch", reason="mamba_ssm is for PyTorch")
@pytest.mark.parametrize("groups", (None, 1, 2))
@pytest.mark.parametrize("everything", (False, True))
def test_selective_scan_fn_of_mamba_ssm(everything, groups):
    case = Case(
        "mamba_ssm",
        l=50,
        d=6,
        n=8,
        g=groups,
        D=everything,
        z=everything,
        bias=everything,
        nonlinear=everything,
    )
    arrays, _ = make_inputs("selective_scan", case)
    names = {"x": "u", "dt": "delta", "dt_bias": "delta_bias"}
    per_step = [name for name in arrays if name in PER_STEP]
    given = {
        names.get(name, name): np.moveaxis(v, 1, -1) if name in per_step else v
        for name, v in arrays.items()
    }
    dy, dstate = make_cotangents("selective_scan", case)
    cotangents = tensor(np.moveaxis(dy, 1, -1)), tensor(dstate)
    (y, state), found = gradients(
        lambda given: selective_scan_fn(
            **given, delta_softplus=everything, return_last_state=True
        ),
        tensors(given),
        cotangents,
    )
    expected, wanted = gradients(
        lambda given: selective_scan_ref(**given, delta_softplus=everything),
        {name: tensor(v, "float64") for name, v in given.items()},
        [v.double() for v in cotangents],
    )
    assert_close(y, expected[0], "float32")
    assert_close(state, expected[1], "float32")
    for name, gradient in wanted.items():
        assert_close(found[name], gradient, "float32", "gradient", name)
