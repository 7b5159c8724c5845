"""The implied attention is what the scan multiplies its input with."""

import numpy as np
import pytest
from compare import assert_close

from keras_ssm.ops import reference
from keras_ssm.visualize import implied_attention

BATCH, LENGTH, CHANNELS, STATE = 2, 7, 4, 3
MASK = np.array([[1, 1, 0, 1, 1, 0, 1], [0, 0, 1, 1, 1, 1, 1]], bool)
# The second segment of the first row has the id of its third one.
SEGMENTS = np.array([[0, 0, 1, 1, 0, 0, 0], [3, 3, 3, 3, 3, 4, 4]])

CASES = {
    "plain": {},
    "all of a layer": {"D": True, "dt_bias": True, "dt_softplus": True},
    "masked": {"D": True, "mask": MASK},
    "packed": {"segment_ids": SEGMENTS},
    "packed, masked and backwards": {
        "dt_softplus": True,
        "mask": MASK,
        "segment_ids": SEGMENTS,
        "reverse": True,
    },
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
each_op = pytest.mark.parametrize("op", ["selective_scan", "ssd"])


def arguments(op, case, groups=2):
    """Of an op of `CHANNELS` channels, or heads of two channels."""
    rng = np.random.default_rng(0)
    maps = BATCH, LENGTH, groups, STATE
    rates = (CHANNELS, STATE) if op == "selective_scan" else (CHANNELS,)
    case = dict(case)
    for name in ("D", "dt_bias"):
        if case.get(name):
            case[name] = rng.normal(size=CHANNELS)
    return {
        "dt": rng.uniform(0.1, 1, (BATCH, LENGTH, CHANNELS)),
        "A": -rng.uniform(0.2, 2, rates),
        "B": rng.normal(size=maps),
        "C": rng.normal(size=maps),
        **case,
    }


@each_op
@each_case
def test_the_matrix_times_the_input_is_the_output(op, case):
    given = arguments(op, case)
    size = () if op == "selective_scan" else (2,)
    x = np.random.default_rng(1).normal(size=(BATCH, LENGTH, CHANNELS, *size))
    expected, _ = getattr(reference, op)(x, **given)
    M = implied_attention(**given)
    actual = np.einsum("bdts,bsd...->btd...", M, x)
    assert_close(actual, expected, "float64")


def test_channels_are_some_of_all():
    given = arguments("selective_scan", CASES["all of a layer"])
    M = implied_attention(**given)
    assert M.shape == (BATCH, CHANNELS, LENGTH, LENGTH)
    np.testing.assert_array_equal(
        implied_attention(**given, channels=[3, 1]), M[:, [3, 1]]
    )


def test_what_is_masked_is_never_used():
    given = arguments("selective_scan", CASES["masked"])
    expected = implied_attention(**given)
    for name in ("dt", "B", "C"):
        given[name] = np.where(
            MASK.reshape(BATCH, LENGTH, *[1] * (given[name].ndim - 2)),
            given[name],
            np.nan,
        )
    np.testing.assert_array_equal(implied_attention(**given), expected)


def test_large_steps_overflow_nothing():
    given = arguments("selective_scan", {})
    given["dt"] = given["dt"] * 1e4
    M = implied_attention(**given)
    own = np.einsum("blgn,blgn->blg", given["B"], given["C"])
    own = np.repeat(own, 2, axis=-1) * given["dt"]
    assert_close(np.einsum("bdtt->btd", M), own, "float64")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"A": np.ones((3, STATE))}, "`A` must have shape"),
        ({"mask": MASK[:1]}, "`mask` must have shape"),
        ({"B": np.ones((BATCH, LENGTH, 3, STATE))}, "`C` must have shape"),
    ],
)
def test_what_does_not_fit_is_an_error(change, message):
    given = arguments("selective_scan", {})
    with pytest.raises(ValueError, match=f"`implied_attention`: {message}"):
        implied_attention(**{**given, **change})


def test_groups_divide_the_channels():
    with pytest.raises(ValueError, match="a multiple of the groups"):
        implied_attention(**arguments("selective_scan", {}, groups=3))


def test_a_mask_is_boolean():
    given = arguments("selective_scan", {"mask": MASK.astype("float32")})
    with pytest.raises(TypeError, match="`mask` must be boolean"):
        implied_attention(**given)
