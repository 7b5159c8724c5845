"""Wrong arguments get a sentence that says what to change."""

import dataclasses
import re

import numpy as np
import pytest
from cases import PER_STEP, Case, make_inputs
from harness import OPS, as_arguments, tensor, tensors

import keras_ssm

CASE = Case(
    "errors",
    b=2,
    l=5,
    d=6,
    n=3,
    k=4,
    D=True,
    z=True,
    bias=True,
    initial_state=True,
    mask="right",
    segments="runs",
)
SCAN, CONV, LINEAR, SSD = OPS


def make(op):
    """Arguments; those of a linear scan are real."""
    case = dataclasses.replace(CASE, D=op != LINEAR)
    arrays, options = make_inputs(op, case)
    arguments, options = as_arguments(tensors(arrays), options)
    return {**arguments, **options}


def call(op, arguments):
    return getattr(keras_ssm.ops, op)(**arguments)


def zeros(*shape, dtype="float32"):
    return tensor(np.zeros(shape, dtype))


def raises(error, op, sentence, **changes):
    """Asserts that changed arguments raise an error with this sentence."""
    with pytest.raises(error) as caught:
        call(op, {**make(op), **changes})
    assert str(caught.value) == f"`{op}`: {sentence}"


@pytest.mark.parametrize(
    ("op", "name", "shape", "wanted"),
    [
        (SCAN, "x", (2, 5), "(b, l, d)"),
        (SCAN, "dt", (2, 5, 1), "(b, l, d) with b=2, l=5, d=6"),
        (SCAN, "A", (3,), "(d, n) with d=6"),
        (SCAN, "A", (5, 3), "(d, n) with d=6"),
        (SCAN, "B", (2, 5, 4), "(b, l, n) with b=2, l=5, n=3"),
        (SCAN, "B", (2, 5), "(b, l, n) with b=2, l=5, n=3"),
        (SCAN, "C", (2, 4, 3), "(b, l, n) with b=2, l=5, n=3"),
        (SCAN, "C", (2, 5, 2, 3), "(b, l, n) with b=2, l=5, n=3"),
        (SCAN, "D", (6, 1), "(d) with d=6"),
        (SCAN, "z", (1, 5, 6), "(b, l, d) with b=2, l=5, d=6"),
        (SCAN, "dt_bias", (1,), "(d) with d=6"),
        (SCAN, "initial_state", (2, 3, 6), "(b, d, n) with b=2, d=6, n=3"),
        (CONV, "x", (5, 6), "(b, l, d)"),
        (CONV, "weight", (4, 5), "(k, d) with d=6"),
        (CONV, "weight", (4, 1, 6), "(k, d) with d=6"),
        (CONV, "bias", (5,), "(d) with d=6"),
        (CONV, "initial_state", (2, 4, 6), "(b, 3, d) with b=2, d=6"),
        (LINEAR, "x", (2, 5), "(b, l, d)"),
        (LINEAR, "a", (2, 5, 1), "(b, l, d) with b=2, l=5, d=6"),
        (LINEAR, "a", (5,), "(d) with d=6"),
        (LINEAR, "a", (5, 6), "(b, l, d) with b=2, l=5, d=6"),
        (LINEAR, "initial_state", (2, 5), "(b, d) with b=2, d=6"),
        (SSD, "x", (2, 5, 6), "(b, l, h, p)"),
        (SSD, "dt", (2, 5, 1), "(b, l, h) with b=2, l=5, h=6"),
        (SSD, "A", (6, 3), "(h) with h=6"),
        (SSD, "B", (2, 4, 3), "(b, l, n) with b=2, l=5"),
        (SSD, "C", (2, 5, 4), "(b, l, n) with b=2, l=5, n=3"),
        (SSD, "D", (5,), "(h) with h=6"),
        (SSD, "dt_bias", (1,), "(h) with h=6"),
        (
            SSD,
            "initial_state",
            (2, 6, 3, 2),
            "(b, h, p, n) with b=2, h=6, p=2, n=3",
        ),
    ],
)
def test_wrong_shapes(op, name, shape, wanted):
    sentence = (
        f"`{name}` must have shape {wanted}. Received: {name}.shape={shape}."
    )
    raises(ValueError, op, sentence, **{name: zeros(*shape)})


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("name", ("mask", "segment_ids"))
def test_wrong_shapes_of_a_mask_or_of_segment_ids(op, name):
    raises(
        ValueError,
        op,
        f"`{name}` must have shape (b, l) with b=2, l=5. "
        f"Received: {name}.shape=(2, 4).",
        **{name: zeros(2, 4, dtype="bool" if name == "mask" else "int32")},
    )


@pytest.mark.parametrize(
    ("op", "name"),
    [
        *((SCAN, name) for name in ("x", "dt", "A", "B", "C", "D", "z")),
        *((SCAN, name) for name in ("dt_bias", "initial_state")),
        *((CONV, name) for name in ("x", "weight", "bias", "initial_state")),
        *((LINEAR, name) for name in ("a", "x", "initial_state")),
        *((SSD, name) for name in ("x", "dt", "A", "B", "C", "D")),
        *((SSD, name) for name in ("dt_bias", "initial_state")),
    ],
)
def test_integers_where_numbers_are_real(op, name):
    raises(
        TypeError,
        op,
        f"`{name}` must be a floating-point tensor; cast it, for example with "
        f"`keras.ops.cast({name}, 'float32')`. Received: {name}.dtype=int32.",
        **{name: zeros(*make(op)[name].shape, dtype="int32")},
    )


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", ("float32", "int32"))
def test_a_mask_that_is_not_boolean(op, dtype):
    raises(
        TypeError,
        op,
        "`mask` must be boolean, True where a step counts; convert it, for "
        f"example with `mask > 0`. Received: mask.dtype={dtype}.",
        mask=zeros(2, 5, dtype=dtype),
    )


def test_groups_that_do_not_divide_the_channels():
    maps = zeros(2, 5, 4, 3)
    raises(
        ValueError,
        SCAN,
        "the channels of `x` must be a multiple of the groups of `B`. "
        "Received: x.shape=(2, 5, 6), B.shape=(2, 5, 4, 3).",
        B=maps,
        C=maps,
    )


def test_groups_that_do_not_divide_the_heads():
    maps = zeros(2, 5, 4, 3)
    raises(
        ValueError,
        SSD,
        "the heads of `x` must be a multiple of the groups of `B`. "
        "Received: x.shape=(2, 5, 6, 2), B.shape=(2, 5, 4, 3).",
        B=maps,
        C=maps,
    )


@pytest.mark.parametrize("size", (0, 1025, 64.0, True))
def test_chunks_of_no_possible_size(size):
    raises(
        ValueError,
        SSD,
        "`chunk_size` must be an integer from 1 to 1024. "
        f"Received: chunk_size={size!r}.",
        chunk_size=size,
    )


def test_an_activation_that_does_not_exist():
    raises(
        ValueError,
        CONV,
        "`activation` must be None or \"silu\". Received: activation='relu'.",
        activation="relu",
    )


def test_a_window_without_taps():
    raises(
        ValueError,
        CONV,
        "`weight` must have at least one tap. Received: weight.shape=(0, 6).",
        weight=zeros(0, 6),
        initial_state=None,
    )


def pair(*shape):
    return zeros(*shape), zeros(*shape)


@pytest.mark.parametrize(
    ("sentence", "changes"),
    [
        (
            "a complex `a` needs a complex `x`. Received: a pair `a` and a "
            "tensor `x`; `(x, keras.ops.zeros_like(x))` makes a pair of it.",
            {"a": pair(6)},
        ),
        (
            "`initial_state` must be a pair `(real, imag)` where `x` is, and "
            "only there. Received: a pair `x` and a tensor `initial_state`.",
            {"x": pair(2, 5, 6)},
        ),
        (
            "`initial_state` must be a pair `(real, imag)` where `x` is, and "
            "only there. Received: a tensor `x` and a pair `initial_state`.",
            {"initial_state": pair(2, 6)},
        ),
        (
            "`x` must be a tensor, or the pair `(real, imag)` of a complex "
            "one. Received: a tuple of 3.",
            {"x": (zeros(2, 5, 6),) * 3},
        ),
        (
            "`x[1]` must have shape (b, l, d) with b=2, l=5, d=6. "
            "Received: x[1].shape=(2, 4, 6).",
            {"x": (zeros(2, 5, 6), zeros(2, 4, 6)), "initial_state": None},
        ),
    ],
)
def test_complex_numbers_that_do_not_fit(sentence, changes):
    raises(ValueError, LINEAR, sentence, **changes)


@pytest.mark.parametrize(
    ("error", "name", "shape", "dtype", "sentence"),
    [
        (ValueError, "x", (2,), "float32", "`x` must have shape (b, "),
        (ValueError, "state", (3, 6), "float32", "`state` must have shape (b,"),
        (ValueError, "mask", (2, 5), "bool", "`mask` must have shape (b) with"),
        (TypeError, "state", None, "int32", "`state` must be a floating-point"),
        (TypeError, "mask", (2,), "float32", "`mask` must be boolean"),
    ],
)
@pytest.mark.parametrize("op", OPS)
def test_steps_check_their_arguments(op, error, name, shape, dtype, sentence):
    given = make(op)
    given["state"] = given.pop("initial_state")
    step = {
        name: v[:, 0] if name in PER_STEP else v
        for name, v in given.items()
        if name not in ("reverse", "segment_ids", "chunk_size")
    }
    call(f"{op}_step", step)
    step[name] = zeros(*(shape or given[name].shape), dtype=dtype)
    with pytest.raises(error, match=re.escape(f"`{op}_step`: {sentence}")):
        call(f"{op}_step", step)
