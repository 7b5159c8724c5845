"""Functions of vectors, as accurate as float32 is."""

import triton
import triton.language as tl

LN2 = tl.constexpr(0.6931471805599453)
LOG2E = tl.constexpr(1.4426950408889634)
# What float32 leaves of it.
_LOG2E_REST = tl.constexpr(1.925963033500011e-08)


@triton.jit
def exp2(v, FMA: tl.constexpr):
    """2 to the power of `v`; with `FMA`, without the special function unit.

    A multiprocessor has eight times as many lanes that multiply and add as
    lanes that compute exponentials: a few of these are faster there.
    """
    if FMA:
        # At these limits the result is exactly 0 and infinity.
        v = tl.clamp(v, -127.0, 128.0, propagate_nan=tl.PropagateNan.ALL)
        shifted = v + 12582912.0  # 1.5 * 2**23: its lowest bits hold round(v)
        rest = v - (shifted - 12582912.0)
        # (2**rest - 1) / rest at Chebyshev nodes from -1/2 to 1/2.
        power = rest * 0.00133813021 + 0.00966636837
        power = power * rest + 0.0555038117
        power = power * rest + 0.240223497
        power = power * rest + 0.69314718
        power = power * rest + 1.0
        # The whole part is added to the exponent.
        exponent = shifted.to(tl.int32, bitcast=True) << 23
        power = power.to(tl.int32, bitcast=True) + exponent
        power = power.to(tl.float32, bitcast=True)
    else:
        power = tl.exp2(v)
    return power


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
