"""C functions that XLA calls: they turn its call frames into frames of ours.

A call frame is read as 64-bit words, laid out as in the header `c_api.h` below
`jax.ffi.include_dir()`. Helpers come from XLA's own threads. XLA may start one
long after the call has returned, or never, so the frame lies on the heap and
the last one frees it; the caller waits only for helpers at work.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.typing import signature
from numba.extending import intrinsic

from keras_ssm.kernels.numba.frames import (
    SIZES,
    TENSORS,
    WORDS,
    address_of,
    count_up,
)
from keras_ssm.kernels.numba.vectors import get, jit, put

# The versions that are laid out as below; others may differ.
API_VERSIONS = ((0, 2), (0, 3))

# Words of XLA's table of functions.
VERSION, _DESTROY_ERROR, REGISTER, _SCHEDULE, _COUNT_THREADS = 4, 8, 9, 17, 18
# Words of a call frame.
_EXTENSION, _API, _CONTEXT = 1, 2, 3
_ARGUMENTS, _ARGUMENTS_AT, _RESULTS, _RESULTS_AT = 7, 9, 12, 14
_ATTRIBUTES, _ATTRIBUTES_AT = 17, 20
# Words of a tensor.
_DATA, _RANK, _DIMENSIONS = 3, 4, 5

# Words of a frame that only threads of XLA use.
_ACTIVE, _USERS, _KERNEL = 1, 2, 3

_WORD = np.int64(0)

_malloc = types.ExternalFunction("malloc", signature(types.int64, types.int64))
_free = types.ExternalFunction("free", signature(types.void, types.int64))
_yield = types.ExternalFunction("sched_yield", signature(types.int32))


@intrinsic
def _call(typing_context, function, argument):
    """Calls the C function at an address with one word."""

    def codegen(context, builder, sig, args):
        word = ir.IntType(64)
        type_ = ir.FunctionType(word, [word]).as_pointer()
        return builder.call(builder.inttoptr(args[0], type_), [args[1]])

    return types.int64(types.int64, types.int64), codegen


@intrinsic(prefer_literal=True)
def _address(typing_context, name):
    """The address of a symbol that was given to LLVM."""
    if not isinstance(name, types.StringLiteral):
        return None

    def codegen(context, builder, sig, args):
        symbol, word = name.literal_value, ir.IntType(64)
        variable = builder.module.globals.get(symbol)
        if variable is None:
            type_ = ir.FunctionType(word, [word])
            variable = ir.Function(builder.module, type_, symbol)
        return builder.ptrtoint(variable, word)

    return types.int64(name), codegen


def handler_entry(kernel: str, helper: str, source: str):
    """What numba compiles to the function that XLA calls.

    Args:
        kernel: Symbol of the kernel.
        helper: Symbol of what helpers run.
        source: See `compiled.entries`.
    """

    def handle(call):
        source  # noqa: B018
        return _handle(address_of(call), _address(kernel), _address(helper))

    return handle


def helper_entry(source: str):
    """What numba compiles to the function that a helper runs on a frame."""

    def help_out(frame):
        source  # noqa: B018
        _help(address_of(frame))

    return help_out


@jit
def _word(at, index):
    return get(_WORD, at, index)


@jit
def _handle(call, kernel, helper):
    extension = _word(call, _EXTENSION)
    if extension != 0 and _word(extension, 1) & 0xFFFFFFFF == 1:
        # XLA asks for the version that the handler was made for.
        metadata = _word(extension, 3)
        put(metadata, 3, _word(_word(call, _API), VERSION))
        put(metadata, 4, _word(metadata, 4) >> 32 << 32)
        return 0
    frame = _malloc(8 * WORDS)
    for k in range(WORDS):
        put(frame, k, 0)
    put(frame, _KERNEL, kernel)
    threads = _fill(frame, call)
    helpers = min(threads, _count_threads(call)) - 1
    put(frame, _USERS, 1 + max(helpers, 0))
    for _ in range(helpers):
        if not _schedule(call, helper, frame):
            count_up(frame + 8 * _USERS, -1)
    _call(kernel, frame)
    while count_up(frame + 8 * _ACTIVE, 0) > 0:
        _yield()
    _forget(frame)
    return 0


@jit
def _help(frame):
    # Counted before it takes a task: who finds no task left and nobody active
    # knows that all of them are done.
    count_up(frame + 8 * _ACTIVE, 1)
    _call(_word(frame, _KERNEL), frame)
    count_up(frame + 8 * _ACTIVE, -1)
    _forget(frame)


@jit
def _forget(frame):
    if count_up(frame + 8 * _USERS, -1) == 1:
        _free(frame)


@jit
def _fill(frame, call):
    """Copies sizes and tensors; returns how many threads may help.

    The sizes are an attribute of the call. Where they were not known when it
    was written, they are its first argument.
    """
    arguments = _word(call, _ARGUMENTS_AT)
    tensors = _word(call, _ARGUMENTS)
    if _word(call, _ATTRIBUTES) > 0:
        attribute = _word(_word(call, _ATTRIBUTES_AT), 0)
        count, data = _word(attribute, 1), _word(attribute, 2)
    else:
        first = _word(arguments, 0)
        count, data = _word(_word(first, _DIMENSIONS), 0), _word(first, _DATA)
        arguments, tensors = arguments + 8, tensors - 1
    for k in range(1, count):
        put(frame, SIZES + k - 1, _word(data, k))
    for k in range(tensors):
        _fill_tensor(frame, k, _word(arguments, k))
    for k in range(_word(call, _RESULTS)):
        buffer = _word(_word(call, _RESULTS_AT), k)
        _fill_tensor(frame, tensors + k, buffer)
    return _word(data, 0)


@jit
def _fill_tensor(frame, tensor, buffer):
    """The address and strides of a buffer; an empty one counts as absent."""
    size, rows, steps = 1, 1, 1
    for axis in range(_word(buffer, _RANK)):
        length = _word(_word(buffer, _DIMENSIONS), axis)
        size *= length
        rows *= length if axis > 0 else 1
        steps *= length if axis > 1 else 1
    if size > 0:
        at = TENSORS + 3 * tensor
        put(frame, at, _word(buffer, _DATA))
        put(frame, at + 1, rows)
        put(frame, at + 2, steps)


@jit
def _count_threads(call):
    """How many threads XLA has; 1 if it does not say."""
    ask = _malloc(5 * 8)
    _ask(ask, 4, call)
    put(ask, 3, ask + 4 * 8)
    put(ask, 4, 1)
    _ask_xla(call, _COUNT_THREADS, ask)
    count = _word(ask, 4)
    _free(ask)
    return count


@jit
def _schedule(call, helper, frame):
    """Whether XLA has accepted to run a helper."""
    ask = _malloc(5 * 8)
    _ask(ask, 5, call)
    put(ask, 3, helper)
    put(ask, 4, frame)
    accepted = _ask_xla(call, _SCHEDULE, ask)
    _free(ask)
    return accepted


@jit
def _ask(ask, words, call):
    """Begins the arguments of a function of XLA."""
    put(ask, 0, words * 8)
    put(ask, 1, 0)
    put(ask, 2, _word(call, _CONTEXT))


@jit
def _ask_xla(call, function, ask):
    """Whether a function of XLA has returned without an error."""
    api = _word(call, _API)
    error = _call(_word(api, function), ask)
    if error != 0:
        put(ask, 0, 3 * 8)
        put(ask, 2, error)
        _call(_word(api, _DESTROY_ERROR), ask)
    return error == 0
