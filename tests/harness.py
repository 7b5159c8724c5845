"""What tests need from a backend: tensors, gradients and compilation."""

import functools
import importlib.util

import keras
import numpy as np
import oracle
import pytest
from cases import PER_STEP
from compare import as_array, assert_close

import keras_ssm
from keras_ssm.kernels import platforms
from keras_ssm.ops import dispatch

BACKEND = keras.config.backend()
OPS = ("selective_scan", "causal_conv1d", "linear_scan", "ssd")

# Implementations that refuse float64.
FLOAT32_ONLY = ("triton", "pallas")

# The arguments of a half precision model that stay float32.
FLOAT32_PARAMETERS = (
    *("A", "D", "dt_bias", "constant_a", "initial_state"),
    *("log_dt", "A_log", "A_imag", "C_real", "C_imag"),
)

needs_gradients = pytest.mark.skipif(
    BACKEND == "numpy", reason="the numpy backend has no gradients"
)


def only_on(backend: str) -> None:
    """Skips the module of tests that calls this on other backends."""
    if backend != BACKEND:
        pytest.skip(f"about {backend} itself", allow_module_level=True)


def implementations(op: str, gradients: bool = False) -> list[str]:
    """Names of the implementations of an op that this machine can run.

    Args:
        op: Name of the op.
        gradients: Leaves out what promises none.
    """
    names = dispatch.PREFERENCES[op, BACKEND][platforms.here(BACKEND)]
    return [
        name
        for name in names
        if dispatch.PACKAGES.get(name) is None
        or importlib.util.find_spec(dispatch.PACKAGES[name])
        if not gradients or name != "portable"
    ]


def each_implementation(gradients: bool = False):
    """Parametrizes a test over every implementation of every op."""
    return pytest.mark.parametrize(
        ("op", "implementation"),
        [
            (op, implementation)
            for op in OPS
            for implementation in implementations(op, gradients)
        ],
    )


def tensor(array, dtype: str | None = None):
    """An array as a tensor, floating ones in `dtype`."""
    if array.dtype.kind == "f":
        return keras.ops.convert_to_tensor(array, dtype or "float32")
    return keras.ops.convert_to_tensor(array)


def tensors(arrays, dtype: str = "float32"):
    """Arguments as tensors, in half precision as layers give them."""
    half = dtype in ("float16", "bfloat16")
    return {
        name: tensor(
            array,
            "float32" if half and name in FLOAT32_PARAMETERS else dtype,
        )
        for name, array in arrays.items()
    }


def rounded(arrays, dtype: str):
    """Arrays with the values that `tensors` gives them."""
    return {
        name: as_array(v).astype(np.float64)
        if arrays[name].dtype.kind == "f"
        else arrays[name]
        for name, v in tensors(arrays, dtype).items()
    }


def compiled(function):
    """The way a function runs in training: under XLA, on PyTorch eagerly."""
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=True)
    return function


def compiled_quickly(function):
    """A way that takes a third of the time to compile, to run once."""
    if BACKEND == "jax":
        import jax

        options = {
            "xla_backend_optimization_level": 0,
            "xla_llvm_disable_expensive_passes": True,
        }
        return jax.jit(function, compiler_options=options)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(function)
    return function


def compilation(op: str, implementation: str | None):
    """The first choice runs as users run it, the others start faster."""
    if implementation in (None, implementations(op)[0]):
        return compiled
    return compiled_quickly


def gradients(function, inputs, cotangents):
    """Runs a function and its adjoint.

    Args:
        function: Takes a dictionary of tensors, returns a tuple of tensors;
            among both there may be pairs.
        inputs: The dictionary.
        cotangents: Gradients with respect to what the function returns.

    Returns:
        What the function returns, and a dictionary of the gradients with
        respect to the inputs; 0 for an input that is not used.
    """
    return _GRADIENTS[BACKEND](function, inputs, cotangents)


def _gradients_jax(function, inputs, cotangents):
    import jax

    outputs, adjoint = jax.vjp(function, inputs)
    return outputs, adjoint(tuple(cotangents))[0]


def _gradients_tensorflow(function, inputs, cotangents):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = function(inputs)
    found = tape.gradient(
        outputs,
        inputs,
        output_gradients=tuple(cotangents),
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    return outputs, found


def _gradients_torch(function, inputs, cotangents):
    import torch

    tree = keras.tree
    inputs = tree.map_structure(lambda v: v.detach().requires_grad_(), inputs)
    outputs = function(inputs)
    # The state of a convolution with one tap is empty and depends on nothing.
    each = zip(tree.flatten(outputs), tree.flatten(cotangents), strict=True)
    each = [(v, g) for v, g in each if v.requires_grad]
    roots, cotangents = zip(*each, strict=True)
    found = torch.autograd.grad(
        roots, tree.flatten(inputs), cotangents, materialize_grads=True
    )
    return outputs, tree.pack_sequence_as(inputs, found)


_GRADIENTS = {
    "jax": _gradients_jax,
    "tensorflow": _gradients_tensorflow,
    "torch": _gradients_torch,
}


def call(op: str, arrays, options=None, implementation=None):
    """`(y, state)` of an op on tensors; see `make_inputs`."""
    function = getattr(keras_ssm.ops, op)
    arrays, options = as_arguments(arrays, options or {})
    if not op.endswith("_step"):
        options["return_state"] = True
    outputs = function(**arrays, **options, implementation=implementation)
    return tuple(side_by_side(v) for v in outputs)


def as_arguments(arrays, options, split=keras.ops.split):
    """The arguments of an op: with complex numbers as pairs."""
    options = dict(options)
    pairs = options.pop("complex", ())
    arguments = {}
    for name, v in arrays.items():
        if name in pairs or (name == "state" and "x" in pairs):
            v = tuple(split(v, 2, axis=-1))
        arguments["a" if name == "constant_a" else name] = v
    return arguments, options


def side_by_side(v, concatenate=keras.ops.concatenate):
    """A pair of tensors as one; a tensor as it is."""
    return concatenate(v, axis=-1) if isinstance(v, tuple) else v


def run(
    op: str,
    arrays,
    options,
    implementation=None,
    cotangents=None,
    *,
    dtype: str = "float32",
    wrap=None,
) -> oracle.Result:
    """Runs an op, and with cotangents its adjoint, on arrays.

    Args:
        op: Name of the op.
        arrays: The arguments that are arrays, by name.
        options: The plain arguments.
        implementation: Name of the implementation.
        cotangents: Gradients with respect to y and the state, or `None`.
        dtype: Dtype of the floating arguments.
        wrap: Turns the Python function into the one that runs; `None` for
            `compilation`.
    """
    wrap = wrap or compilation(op, implementation)
    function = _op(op, tuple(options.items()), implementation)
    return run_function(function, arrays, cotangents, dtype=dtype, wrap=wrap)


def run_function(
    function, arrays, cotangents=None, *, dtype="float32", wrap=compiled
) -> oracle.Result:
    """Runs a function from a dictionary of tensors to `(y, state)`.

    What is compiled for a function is kept for its next run.
    """
    given = tensors(arrays, dtype)
    floats = {name: given.pop(name) for name in oracle.floating(arrays)}
    if cotangents is None:
        y, state = _forward(function, wrap)(floats, given)
        return oracle.Result(y, state, {})
    wide = "float64" if dtype == "float64" else "float32"
    cotangents = (tensor(cotangents[0], dtype), tensor(cotangents[1], wide))
    (y, state), found = _both(function, wrap)(floats, given, cotangents)
    return oracle.Result(y, state, found)


@functools.cache
def _op(op, options, implementation):
    def function(tensors):
        return call(op, tensors, dict(options), implementation)

    return function


@functools.cache
def _forward(function, wrap):
    def forward(floats, others):
        return function({**floats, **others})

    return wrap(forward)


@functools.cache
def _both(function, wrap):
    def both(floats, others, cotangents):
        return gradients(
            lambda floats: function({**floats, **others}), floats, cotangents
        )

    return wrap(both)


def check(actual: oracle.Result, expected: oracle.Result, dtype="float32"):
    """Asserts that outputs and gradients are close, in their dtypes."""
    wide = "float64" if dtype == "float64" else "float32"
    assert_close(actual.y, expected.y, dtype, "forward", "y")
    assert_close(actual.state, expected.state, wide, "forward", "state")
    for name, gradient in actual.gradients.items():
        of = wide if name in FLOAT32_PARAMETERS else dtype
        title = f"gradient of {name}"
        assert_close(gradient, expected.gradients[name], of, "gradient", title)


def at_steps(arrays, steps):
    """Arguments with only some of the time steps, `steps` an index."""
    return {
        name: v[:, steps] if name in PER_STEP else v
        for name, v in arrays.items()
    }
