"""Vectors of `LANES` channels for numba, and the functions of them.

numba leaves it to LLVM to find out what can be vectorised, and LLVM gives up
where arrays might overlap. A type of its own for `LANES` numbers settles it:
what is written here with vectors is computed with vectors, on every machine,
in registers as wide as that machine has.

Memory is addressed by plain integers, as both frameworks hand it over.
"""

import operator

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import (
    AbstractTemplate,
    infer_global,
    signature,
)
from numba.extending import intrinsic, models, register_model

LANES = 16

# Kernels, and what becomes part of the kernels that call it. They divide as C
# does: nothing in them raises.
jit = njit(error_model="numpy")
inline = njit(error_model="numpy", forceinline=True)

# Of a floating type: bits of the exponent's bias, bits of the mantissa, and
# the degrees of polynomials that leave only errors of rounding.
_BIAS = {32: 127, 64: 1023}
_MANTISSA = {32: 23, 64: 52}
_DEGREE_EXP = {32: 5, 64: 13}
_DEGREE_LOG1P = {32: 9, 64: 21}


class Vector(types.Type):
    """`LANES` numbers of a floating type."""

    def __init__(self, element):
        self.element = element
        super().__init__(name=f"Vector({element})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        element = dmm.lookup(fe_type.element).get_value_type()
        super().__init__(dmm, fe_type, ir.VectorType(element, LANES))


def _operator(function, instruction):
    @infer_global(function)
    class Typing(AbstractTemplate):
        def generic(self, args, kws):
            if isinstance(args[0], Vector) and args == (args[0],) * 2:
                return signature(args[0], *args)

    @lower_builtin(function, Vector, Vector)
    def lower(context, builder, sig, args):
        return getattr(builder, instruction)(*args)


_operator(operator.add, "fadd")
_operator(operator.sub, "fsub")
_operator(operator.mul, "fmul")
_operator(operator.truediv, "fdiv")


def _pointer(builder, address, index, element):
    """A pointer to element `index` of the memory at `address`."""
    offset = builder.mul(index, ir.Constant(index.type, _bits(element) // 8))
    return builder.inttoptr(builder.add(address, offset), element.as_pointer())


def _bits(element):
    return 32 if isinstance(element, ir.FloatType) else 64


@intrinsic
def get(typing_context, zero, address, index):
    """The number at `index`, of the type of `zero`."""

    def codegen(context, builder, sig, args):
        element = context.get_value_type(sig.return_type)
        return builder.load(_pointer(builder, args[1], args[2], element))

    return zero(zero, types.int64, types.int64), codegen


@intrinsic
def put(typing_context, address, index, number):
    """Writes a number to `index`."""

    def codegen(context, builder, sig, args):
        pointer = _pointer(builder, args[0], args[1], args[2].type)
        builder.store(args[2], pointer)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, number), codegen


@intrinsic
def get_byte(typing_context, address, index):
    """Whether the byte at `index` is not 0."""

    def codegen(context, builder, sig, args):
        byte = ir.IntType(8)
        address = builder.add(*args)
        value = builder.load(builder.inttoptr(address, byte.as_pointer()))
        return builder.icmp_unsigned("!=", value, ir.Constant(byte, 0))

    return types.boolean(types.int64, types.int64), codegen


@intrinsic
def type_of(typing_context, zero, number):
    """A number in the type of `zero`."""

    def codegen(context, builder, sig, args):
        return context.cast(builder, args[1], sig.args[1], zero)

    return zero(zero, number), codegen


@intrinsic
def size_of(typing_context, zero):
    """Bytes of a number."""

    def codegen(context, builder, sig, args):
        size = _bits(context.get_value_type(zero)) // 8
        return ir.Constant(ir.IntType(64), size)

    return types.int64(zero), codegen


@intrinsic
def load(typing_context, zero, address, index):
    """The vector at `index`, of elements of the type of `zero`."""
    vector = Vector(zero)

    def codegen(context, builder, sig, args):
        value = context.get_value_type(vector)
        pointer = _pointer(builder, args[1], args[2], value.element)
        pointer = builder.bitcast(pointer, value.as_pointer())
        return builder.load(pointer, align=_bits(value.element) // 8)

    return vector(zero, types.int64, types.int64), codegen


@intrinsic
def store(typing_context, address, index, vector):
    """Writes a vector to `index`."""

    def codegen(context, builder, sig, args):
        value = args[2].type
        pointer = _pointer(builder, args[0], args[1], value.element)
        pointer = builder.bitcast(pointer, value.as_pointer())
        builder.store(args[2], pointer, align=_bits(value.element) // 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, vector), codegen


@intrinsic
def prefetch(typing_context, zero, address, index):
    """Asks for the memory at `index`, which need not be there, early."""

    def codegen(context, builder, sig, args):
        element = context.get_value_type(zero)
        pointer = _pointer(builder, args[1], args[2], element)
        flag = ir.IntType(32)
        byte = ir.IntType(8).as_pointer()
        type_ = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
        function = builder.module.declare_intrinsic(
            "llvm.prefetch", [byte], type_
        )
        # To read, to be kept in every cache, data.
        how = [ir.Constant(flag, value) for value in (0, 3, 1)]
        builder.call(function, [builder.bitcast(pointer, byte), *how])
        return context.get_dummy_value()

    return types.void(zero, types.int64, types.int64), codegen


@intrinsic
def splat(typing_context, number):
    """A vector of one number."""
    vector = Vector(number)

    def codegen(context, builder, sig, args):
        value = context.get_value_type(vector)
        index = ir.IntType(32)
        one = builder.insert_element(
            ir.Constant(value, ir.Undefined), args[0], ir.Constant(index, 0)
        )
        mask = ir.Constant(ir.VectorType(index, LANES), [0] * LANES)
        return builder.shuffle_vector(one, one, mask)

    return vector(number), codegen


def _fma(builder, a, b, c):
    """`a * b + c`, rounded once where the machine can."""
    name = f"llvm.fmuladd.v{LANES}f{_bits(a.type.element)}"
    function = builder.module.declare_intrinsic(
        name, (), ir.FunctionType(a.type, [a.type] * 3)
    )
    return builder.call(function, [a, b, c])


def _constant(vector, number):
    return ir.Constant(vector, [float(number)] * LANES)


@intrinsic
def fma(typing_context, a, b, c):
    """`a * b + c`."""

    def codegen(context, builder, sig, args):
        return _fma(builder, *args)

    return a(a, a, a), codegen


@intrinsic
def sum_lanes(typing_context, vector):
    """The sum of a vector's lanes, always in the same order."""

    def codegen(context, builder, sig, args):
        value, count = args[0], LANES
        index = ir.IntType(32)
        while count > 1:
            count //= 2
            low, high = (
                builder.shuffle_vector(
                    value,
                    value,
                    ir.Constant(
                        ir.VectorType(index, count),
                        list(range(start, start + count)),
                    ),
                )
                for start in (0, count)
            )
            value = builder.fadd(low, high)
        return builder.extract_element(value, ir.Constant(index, 0))

    return vector.element(vector), codegen


def _function(build):
    """A function of vectors, lane by lane, from one that writes its code."""

    @intrinsic
    def function(typing_context, vector):
        def codegen(context, builder, sig, args):
            return build(builder, args[0])

        return vector(vector), codegen

    return function


def _exp2(builder, v):
    # Clamped to where the result's exponent becomes that of 0 and of infinity;
    # the comparisons keep NaN.
    bias = _BIAS[_bits(v.type.element)]
    v = _clamp(builder, v, -bias, bias + 1)
    magic = _constant(v.type, _magic(v.type))
    shifted = builder.fadd(v, magic)
    rest = builder.fsub(v, builder.fsub(shifted, magic))
    return _scale(builder, _power(builder, rest, 2.0), shifted)


def _exp(builder, v):
    limit = (_BIAS[_bits(v.type.element)] - 1) * np.log(2)
    v = _clamp(builder, v, -limit, limit)
    magic = _constant(v.type, _magic(v.type))
    rate = _constant(v.type, 1 / np.log(2))
    shifted = _fma(builder, v, rate, magic)
    whole = builder.fsub(shifted, magic)
    # ln 2 in two parts, the first short enough for an exact product.
    rest = _fma(builder, whole, _constant(v.type, -355 / 512), v)
    rest = _fma(builder, whole, _constant(v.type, 2.1219444005469058e-4), rest)
    return _scale(builder, _power(builder, rest, np.e), shifted)


def _sigmoid(builder, v):
    one = _constant(v.type, 1)
    minus = builder.fsub(_constant(v.type, 0), v)
    return builder.fdiv(one, builder.fadd(one, _exp(builder, minus)))


def _softplus(builder, v):
    zero = _constant(v.type, 0)
    minus = builder.fsub(zero, v)
    negative = builder.fcmp_ordered("<", v, zero)
    u = _exp(builder, builder.select(negative, v, minus))  # exp(-|v|)
    degree = _DEGREE_LOG1P[_bits(v.type.element)]
    log1p = _fit(lambda u: np.log1p(u) / u, 0, 1, degree)
    positive = builder.select(negative, zero, v)
    return _fma(builder, u, _polynomial(builder, u, log1p), positive)


# 2 to the power of each lane: 0 below the lowest exponent, infinity above the
# highest.
exp2 = _function(_exp2)
# `1 / (1 + exp(-v))`.
sigmoid = _function(_sigmoid)
# `log(1 + exp(v))`.
softplus = _function(_softplus)


def _clamp(builder, v, low, high):
    for sign, limit in (("<", low), (">", high)):
        limit = _constant(v.type, limit)
        beyond = builder.fcmp_ordered(sign, v, limit)
        v = builder.select(beyond, limit, v)
    return v


def _magic(vector):
    """Added to a number, leaves it rounded in the lowest bits."""
    return 1.5 * 2 ** _MANTISSA[_bits(vector.element)]


def _power(builder, rest, base):
    """`base ** rest` for a rest between -log(2) / 2 and log(2) / 2."""
    rate = np.log(base)
    limit = np.log(2) / 2 / rate
    degree = _DEGREE_EXP[_bits(rest.type.element)]
    # 1 exactly at 0, for the limits of `exp2`.
    slope = _fit(lambda f: np.expm1(f * rate) / f, -limit, limit, degree)
    return _polynomial(builder, rest, [1.0, *slope])


def _polynomial(builder, v, coefficients):
    *lower, last = coefficients
    sum_ = _constant(v.type, last)
    for coefficient in lower[::-1]:
        sum_ = _fma(builder, sum_, v, _constant(v.type, coefficient))
    return sum_


def _scale(builder, v, shifted):
    """Adds the whole number in the lowest bits of `shifted` to exponents."""
    bits = _bits(v.type.element)
    integers = ir.VectorType(ir.IntType(bits), LANES)
    mantissa = ir.Constant(integers, [_MANTISSA[bits]] * LANES)
    whole = builder.shl(builder.bitcast(shifted, integers), mantissa)
    scaled = builder.add(builder.bitcast(v, integers), whole)
    return builder.bitcast(scaled, v.type)


def _fit(function, low, high, degree):
    """Coefficients, lowest first, of a polynomial close to a function."""
    fit = np.polynomial.Chebyshev.interpolate(function, degree, [low, high])
    return fit.convert(kind=np.polynomial.Polynomial).coef


@inline
def aligned(memory, line):
    """Where to begin in memory so that vectors lie in lines of the cache."""
    return (np.int64(memory.ctypes.data) + line - 1) // line * line


@inline
def load_lanes(zero, base, index, count, spare):
    """A vector of which only `count` lanes are there; the others are 0."""
    if count == LANES:
        return load(zero, base, index)
    for k in range(LANES):
        put(spare, k, get(zero, base, index + k) if k < count else zero)
    return load(zero, spare, 0)


@inline
def store_lanes(base, index, vector, count, spare, zero):
    """Writes the first `count` lanes of a vector."""
    if count == LANES:
        store(base, index, vector)
        return
    store(spare, 0, vector)
    for k in range(count):
        put(base, index + k, get(zero, spare, k))


@inline
def clear(base, lines, none):
    """Writes so many vectors of zeros, `none`."""
    for k in range(0, lines * LANES, LANES):
        store(base, k, none)
