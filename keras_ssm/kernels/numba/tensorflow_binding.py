"""How TensorFlow calls a kernel: through XLA's foreign function interface.

The interface is the one that JAX offers. TensorFlow's own XLA has its table of
functions behind a symbol of TensorFlow's library: `xla::ffi::GetXlaFfiApi`, as
`xla/ffi/ffi_api.h` below `tf.sysconfig.get_include()` declares it. The call is
a program of StableHLO in an operation of TensorFlow, which runs in a graph, in
a function that XLA compiles, and eagerly.
"""

import ctypes
import functools
import os
import pathlib

import tensorflow as tf

from keras_ssm.kernels.numba import compiled, ffi, stablehlo

try:
    # Not public, but what JAX runs its programs in TensorFlow with.
    from tensorflow.compiler.tf2xla.python.xla import call_module
except ImportError:
    call_module = None

# Below this many numbers, waking another thread costs more than it saves.
SERIAL = 1 << 16

_TYPES = {tf.bool: "i1", tf.int64: "i64", tf.float32: "f32", tf.float64: "f64"}
# The first version of the operation that finds out unknown sizes as we do.
_MODULE_VERSION = 9


def unsupported(*tensors, **options):
    """Why these tensors cannot go through these kernels, or `None`."""
    if os.name != "posix":
        return "needs Linux or macOS"
    if call_module is None or _functions() is None:
        return "does not know the interface of this version of TensorFlow"
    return None


def wide(dtype):
    """The dtype that kernels compute in."""
    return tf.float64 if dtype == tf.float64 else tf.float32


def widen(tensors):
    """Floating tensors in the dtype that a kernel computes in."""
    dtype = wide(tensors[0].dtype)
    return [
        v if v is None or v.dtype == tf.bool else tf.cast(v, dtype)
        for v in tensors
    ]


def cast_like(gradients, tensors):
    """Gradients in the dtypes of their tensors, `None` for absent ones."""
    return [
        None if v is None else tf.cast(gradient, v.dtype)
        for gradient, v in zip(gradients, tensors, strict=False)
    ]


def total(*sums):
    """Sums over the first axis."""
    return [tf.reduce_sum(v, 0) for v in sums]


def shape_of(v):
    """A shape of integers, 64-bit tensors where they are not known."""
    known = v.shape.as_list()
    if None not in known:
        return tuple(known)
    found = tf.unstack(tf.shape(v, tf.int64))
    return tuple(
        found[axis] if size is None else size for axis, size in enumerate(known)
    )


def threads() -> int:
    """How many threads a kernel may have work for."""
    return os.cpu_count() or 1


def run(name: str, sizes, inputs, results, work):
    """Calls a kernel; returns its results.

    Sizes that are not known yet are tensors.

    Args:
        name: Its name in `compiled.entries`.
        sizes: Sizes and flags of the frame.
        inputs: The first tensors of the frame; absent ones are `None`.
        results: The shapes of the others.
        work: How many numbers it computes, roughly.
    """
    dtype = inputs[0].dtype
    target = _target(name, dtype == tf.float64)
    count = tf.where(work < SERIAL, 1, threads())
    words = tf.stack([tf.cast(v, tf.int64) for v in (count, *sizes)])
    none = tf.zeros((0,), dtype)
    known = [tuple(None if tf.is_tensor(v) else v for v in s) for s in results]
    moulds = []
    if any(None in shape for shape in known):
        moulds = [tf.zeros((0, *shape), dtype) for shape in results]
    arguments = [words, *(none if v is None else v for v in inputs), *moulds]
    return call_module(
        arguments,
        version=_MODULE_VERSION,
        module=stablehlo.program(
            target,
            [(tuple(v.shape), _TYPES[v.dtype]) for v in arguments],
            [(shape, _TYPES[dtype]) for shape in known],
        ),
        Sout=known,
        Tout=[dtype] * len(known),
        platforms=["CPU"],
    )


class _Registration(ctypes.Structure):
    """`XLA_FFI_Handler_Register_Args` of the header `c_api.h`."""

    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("extension_start", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("name_size", ctypes.c_size_t),
        ("platform", ctypes.c_char_p),
        ("platform_size", ctypes.c_size_t),
        ("instantiate", ctypes.c_void_p),
        ("prepare", ctypes.c_void_p),
        ("initialize", ctypes.c_void_p),
        ("execute", ctypes.c_void_p),
        ("traits", ctypes.c_uint32),
    ]


@functools.cache
def _target(name, double):
    """Makes a kernel known to XLA; its name there."""
    target = f"keras_ssm_{name}_{'float64' if double else 'float32'}"
    traits = _Registration.traits
    registration = _Registration(
        # As the header counts: without what fills up the last word.
        struct_size=traits.offset + traits.size,
        name=target.encode(),
        name_size=len(target),
        platform=b"Host",
        platform_size=len("Host"),
        execute=compiled.handler(name, double).address,
    )
    function = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
    register = function(_functions()[ffi.REGISTER])
    if register(ctypes.addressof(registration)):
        raise RuntimeError(f"XLA does not take the kernel {target!r}.")
    return target


@functools.cache
def _functions():
    """XLA's table of functions as words; `None` if it is not one we know."""
    for path in sorted(pathlib.Path(tf.sysconfig.get_lib()).glob("*_cc.*")):
        get = getattr(ctypes.CDLL(str(path)), _GET_FUNCTIONS, None)
        if get is None:
            continue
        get.restype = ctypes.POINTER(ctypes.c_int64)
        functions = get()
        version = functions[ffi.VERSION]
        if (version & 0xFFFFFFFF, version >> 32) in ffi.API_VERSIONS:
            return functions
    return None


_GET_FUNCTIONS = "_ZN3xla3ffi12GetXlaFfiApiEv"
