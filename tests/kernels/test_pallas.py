"""Pallas kernels without their hardware: interpreted, and lowered for it.

`tests/ops` tests what they compute where the hardware is.
"""

import os
import pathlib
import subprocess
import sys

import keras
import oracle
import pytest
from cases import (
    Case,
    complex_of,
    make_cotangents,
    make_inputs,
    named,
    select,
)
from compare import assert_close, assert_same
from harness import (
    call,
    check,
    compiled_quickly,
    only_on,
    rounded,
    run,
    tensors,
)

only_on("jax")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from jax.sharding import PartitionSpec  # noqa: E402

from keras_ssm.kernels import platforms  # noqa: E402
from keras_ssm.kernels.pallas import ssd_kernels  # noqa: E402
from keras_ssm.kernels.pallas.interpreter import interpreted  # noqa: E402

PLATFORMS = ("gpu", "tpu")
QUICK = {
    "selective_scan": (
        "one_number",
        "right_padding_backwards",
        "packed_and_padded_backwards",
        "packed_documents",  # its time is cut into parts
        "holes",
    ),
    "causal_conv1d": (
        "one_number",
        "three_steps_from_the_end",
        "mamba_goes_on",
        "packed_and_padded_backwards",
        "wide_window",
    ),
    "linear_scan": (
        "one_number",
        "mamba_goes_on",  # complex, factors by step
        "right_padding_backwards",
        "packed_and_padded_backwards",
        "holes",
    ),
    "ssd": (
        "one_number",
        "mamba_goes_on",
        "packed_and_padded_backwards",
    ),
}
OPS = tuple(QUICK)
HALF = Case(
    "half",
    l=33,
    n=16,
    D=True,
    z=True,
    bias=True,
    nonlinear=True,
    segments="runs",
    mask="left",
)
SMALL = Case(
    "small",
    l=21,
    d=4,
    n=3,
    D=True,
    z=True,
    bias=True,
    nonlinear=True,
    initial_state=True,
    segments="runs",
)
# Names of arguments that all rows share.
SHARED = ("A", "D", "dt_bias", "weight", "bias", "constant_a")


@pytest.mark.skipif(platforms.here("jax") != "cpu", reason="it is there")
@pytest.mark.parametrize("op", OPS)
def test_by_name_without_the_hardware(op):
    arrays, options = make_inputs(op, named("mamba"))
    with pytest.raises(NotImplementedError, match="needs a GPU or a TPU"):
        call(op, tensors(arrays), options, "pallas")


@pytest.fixture(scope="module", params=PLATFORMS)
def platform(request):
    """Runs kernels for this platform in Pallas' interpreter."""
    with interpreted(request.param):
        yield request.param


def quick_and_slow():
    """Every case of every op; most of them take a while."""
    for op in OPS:
        for case in select("test") + select("slow"):
            marks = () if case.name in QUICK[op] else pytest.mark.slow
            yield pytest.param(op, case, id=f"{op}-{case.name}", marks=marks)


def compute(op, case, dtype="float32"):
    """Runs an op and its adjoint; returns that and what is expected."""
    arrays, options = make_inputs(op, case)
    arrays = rounded(arrays, dtype)
    dy, dstate = make_cotangents(op, case)
    cotangents = (rounded({"y": dy}, dtype)["y"], dstate)
    expected = oracle.solve(op, arrays, options, cotangents)
    wrap = compiled_quickly
    found = run(
        op, arrays, options, "pallas", cotangents, dtype=dtype, wrap=wrap
    )
    return found, expected


@pytest.mark.parametrize(("op", "case"), quick_and_slow())
def test_outputs_and_gradients(platform, op, case):
    check(*compute(op, case))


def test_heads_wider_than_a_program(platform, monkeypatch):
    # Cut into parts, and with more heads in a group than a program takes.
    monkeypatch.setattr(ssd_kernels, "MOST_HEADS", 4)
    case = Case("wide", b=1, l=19, d=4, p=130, n=20, g=2, initial_state=True)
    check(*compute("ssd", case))


@pytest.mark.parametrize(
    "dtype", ("bfloat16", pytest.param("float16", marks=pytest.mark.slow))
)
@pytest.mark.parametrize("op", OPS)
def test_half_precision(platform, op, dtype):
    check(*compute(op, HALF, dtype), dtype)


@pytest.mark.parametrize("op", OPS)
def test_the_same_bits_every_time(platform, op):
    first, _ = compute(op, SMALL)
    again, _ = compute(op, SMALL)
    for a, b in zip(
        *map(jax.tree.leaves, (vars(first), vars(again))), strict=True
    ):
        assert_same(a, b)


@pytest.mark.parametrize("op", OPS)
def test_vmap(platform, op):
    arrays, options = make_inputs(op, SMALL)
    expected = oracle.solve(op, arrays, options, make_cotangents(op, SMALL))
    axes = {name: None if name in SHARED else 0 for name in arrays}

    def of_row(given):
        given = {
            name: v if name in SHARED else v[None] for name, v in given.items()
        }
        y, state = call(op, given, options, "pallas")
        return y[0], state[0]

    y, state = jax.jit(jax.vmap(of_row, (axes,)))(tensors(arrays))
    assert_close(y, expected.y, "float32")
    assert_close(state, expected.state, "float32")


@pytest.mark.parametrize(
    "of", (pytest.param("tpu", marks=pytest.mark.slow), "gpu")
)
def test_on_eight_devices(of):
    """Split by batch and channel, nothing is gathered; see the script."""
    script = pathlib.Path(__file__).with_name("on_devices.py")
    flags = "--xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, script, "pallas", of],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


LOWERED = {
    # name: dtype, options of a case
    "mamba": (
        "bfloat16",
        dict(b=8, l=2048, d=1536, n=16, p=64, D=True, bias=True),
    ),
    "mamba_float32": ("float32", dict(b=1, l=4096, d=2048, n=16)),
    "packed": (
        "bfloat16",
        dict(b=2, l=300, d=200, n=16, mask="holes", segments="runs", k=20)
        | dict(D=True, z=True, bias=True),
    ),
    "grouped": (
        "float32",
        dict(b=2, l=1000, d=384, n=64, g=2, reverse=True, mask="left", k=1)
        | dict(p=96),
    ),
    "odd": ("float32", dict(b=3, l=101, d=7, n=5, segments="runs", k=7, p=1)),
    "half": ("float16", dict(b=2, l=256, d=256, n=24, reverse=True, D=True)),
    "wide": ("bfloat16", dict(b=1, l=512, d=128, n=256, k=300, z=True)),
}
each_lowered = pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=() if name in ("mamba", "packed") else pytest.mark.slow,
        )
        for name in LOWERED
    ],
)


DEVICES = {
    "cuda": dict(device_kind="NVIDIA H100", num_cores=132, platform="gpu"),
    "tpu": dict(device_kind="TPU v5e", num_cores=1, platform="tpu"),
}


def shapes(op, case, dtype):
    """What an op takes, without values."""
    b, l, d, n, k = case.b, case.l, case.d, case.n, case.k
    steps, maps = (b, l, d), (b, l, case.g or 1, n)
    if op == "linear_scan":
        return _shapes_of_linear_scan(case, dtype)
    heads = b, l, d // case.p, case.p
    sizes = {
        "selective_scan": dict(
            x=steps, dt=steps, A=(d, n), B=maps, C=maps, D=(d,), z=steps
        )
        | dict(dt_bias=(d,), initial_state=(b, d, n)),
        "causal_conv1d": dict(
            x=steps, weight=(k, d), bias=(d,), initial_state=(b, k - 1, d)
        ),
        "ssd": dict(x=heads, dt=heads[:3], A=heads[2:3], B=maps, C=maps)
        | dict(D=heads[2:3], initial_state=(b, *heads[2:], n)),
    }[op]
    wide = ("A", "D", "dt_bias", "initial_state")
    made = {
        name: jax.ShapeDtypeStruct(v, "float32" if name in wide else dtype)
        for name, v in sizes.items()
    }
    made |= _shapes_of_marks(case)
    if op == "causal_conv1d":
        return made, {"reverse": case.reverse, "activation": "silu"}
    return made, {"reverse": case.reverse, "dt_softplus": True}


def _shapes_of_linear_scan(case, dtype):
    b, l, d = case.b, case.l, case.d
    pairs = complex_of(case)
    of_a = {"a": (b, l, d)} if case.z else {"constant_a": (d,)}
    made = {
        name: jax.ShapeDtypeStruct(
            (*shape[:-1], shape[-1] * (2 if name in pairs else 1)),
            "float32" if name == "initial_state" else dtype,
        )
        for name, shape in {"x": (b, l, d), **of_a}.items()
    }
    made |= _shapes_of_marks(case)
    return made, {"reverse": case.reverse, "complex": pairs}


def _shapes_of_marks(case):
    of_steps = {"mask": (case.mask, "bool")}
    of_steps["segment_ids"] = (case.segments, "int32")
    return {
        name: jax.ShapeDtypeStruct((case.b, case.l), dtype)
        for name, (there, dtype) in of_steps.items()
        if there
    }


def gradient(op, options):
    """An op with its gradient, as a function of its tensors."""

    def loss(floats, others):
        y, state = call(op, {**floats, **others}, options, "pallas")
        return y.astype("float32").sum() + state.sum()

    return jax.jit(jax.value_and_grad(loss))


def split_floats(made):
    floats = {k: v for k, v in made.items() if v.dtype.kind == "f"}
    floats |= {k: v for k, v in made.items() if v.dtype == jnp.bfloat16}
    return floats, {k: v for k, v in made.items() if k not in floats}


def mesh_of(platform, shape=(), names=()):
    """Devices that are not here, for JAX to lower a program for."""
    kind = jax.sharding.AbstractDevice(**DEVICES[platform])
    types = (jax.sharding.AxisType.Auto,) * len(names)
    mesh = jax.sharding.AbstractMesh
    return mesh(shape, names, axis_types=types, abstract_device=kind)


def lowered(function, arguments, platform):
    """The text of a program for a platform that is not here."""
    with jax.sharding.use_abstract_mesh(mesh_of(platform)):
        traced = function.trace(*arguments)
        return traced.lower(lowering_platforms=(platform,)).as_text()


@each_lowered
@pytest.mark.parametrize("platform", ("cuda", "tpu"))
@pytest.mark.parametrize("op", OPS)
def test_lowered(op, platform, name):
    dtype, sizes = LOWERED[name]
    made, options = shapes(op, Case(name, **sizes), dtype)
    arguments = split_floats(made)
    text = lowered(gradient(op, options), arguments, platform)
    assert text.count("custom_call @") >= 2
    target = {"cuda": "triton", "tpu": "tpu_custom_call"}[platform]
    assert target in text


@pytest.mark.parametrize("platform", ("cuda", "tpu"))
@pytest.mark.parametrize("op", OPS)
def test_exported(op, platform):
    """For a TPU as a kernel, for a GPU in operations of XLA."""
    made, options = shapes(op, SMALL, "float32")
    function = gradient(op, options)
    with jax.sharding.use_abstract_mesh(mesh_of(platform)):
        exported = jax.export.export(function, platforms=[platform])
        text = exported(*split_floats(made)).mlir_module()
    assert ("tpu_custom_call" in text) == (platform == "tpu")
    assert "triton" not in text


@pytest.mark.parametrize("platform", ("cuda", "tpu"))
def test_lowered_within_shard_map(platform):
    made, options = shapes("selective_scan", SMALL, "float32")
    mesh = mesh_of(platform, (1,), ("rows",))
    specs = {
        name: PartitionSpec() if name in SHARED else PartitionSpec("rows")
        for name in made
    }
    rows = PartitionSpec("rows")

    def loss(floats, others):
        given = {**floats, **others}
        scan = jax.shard_map(
            lambda given: call("selective_scan", given, options, "pallas"),
            mesh=mesh,
            in_specs=(specs,),
            out_specs=(rows, rows),
        )
        y, state = scan(given)
        return y.sum() + state.sum()

    with jax.sharding.use_abstract_mesh(mesh):
        traced = jax.jit(jax.grad(loss)).trace(*split_floats(made))
        text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert "custom_call @" in text


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("op", OPS)
def test_float64_is_refused(op):
    arrays, options = make_inputs(op, named("mamba"))
    with pytest.raises(NotImplementedError, match="pallas: does not compute"):
        call(op, tensors(arrays, "float64"), options, "pallas")


def test_an_unknown_length_is_refused():
    (l,) = jax.export.symbolic_shape("l")
    made, options = shapes("causal_conv1d", Case("unknown", l=l), "float32")
    assert keras.config.backend() == "jax"
    with pytest.raises(NotImplementedError, match="pallas: needs known sizes"):
        jax.export.export(
            jax.jit(
                lambda given: call("causal_conv1d", given, options, "pallas")
            )
        )(made)
