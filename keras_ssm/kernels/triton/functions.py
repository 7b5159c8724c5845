"""Functions of vectors, as accurate as float32 is."""

import triton
import triton.language as tl

LN2 = tl.constexpr(0.6931471805599453)
LOG2E = tl.constexpr(1.4426950408889634)
# What float32 leaves of it.
_LOG2E_REST = tl.constexpr(1.925963033500011e-08)
# Half a unit in the last place of numbers just below 1.
_HALF = tl.constexpr(2.0**-25)


@triton.jit
def power(rate, dt):
    """2 to the power of `rate dt`, which is what a step leaves of a state.

    The exponential of the special function unit comes out half a unit in the
    last place too small, on average, where it is almost 1, and a state that
    decays slowly adds up as many errors as it has steps to decay. That much is
    added to the exponent, which takes no time and leaves steps of size 0 as
    they are.
    """
    return tl.exp2(tl.fma(rate, dt, tl.full(dt.shape, _HALF, tl.float32)))


@triton.jit
def exponential(v):
    """e to the power of `v`, by `power`."""
    return power(v, tl.full(v.shape, LOG2E, tl.float32))


@triton.jit
def softplus(v):
    """log(1 + exp(v)), also where that is tiny, and its slope."""
    u = _exp_minus_abs(v)
    slope = tl.where(v < 0, u, 1.0) / (1.0 + u)
    # log(1 + u) / u at Chebyshev nodes from 0 to 1.
    log = u * -0.00317605701 + 0.0195425283
    log = log * u - 0.0563736148
    log = log * u + 0.105436236
    log = log * u - 0.152696669
    log = log * u + 0.196632743
    log = log * u - 0.249516159
    log = log * u + 0.333297104
    log = log * u - 0.499998927
    log = log * u + 1.0
    return tl.maximum(v, 0.0) + log * u, slope


@triton.jit
def sigmoid(v):
    """1 / (1 + exp(-v))."""
    return 1.0 / (1.0 + tl.exp2(v * -LOG2E))


@triton.jit
def _exp_minus_abs(v):
    v = -tl.abs(v)
    power = v * LOG2E
    # What rounding leaves of the product.
    rest = tl.fma(v, tl.full(v.shape, LOG2E, tl.float32), -power)
    rest = rest + v * _LOG2E_REST
    u = tl.exp2(power)
    return u * rest * LN2 + u
