"""Compiles functions as the backend does, for the shapes that they meet."""

import keras

# What the graphs of TensorFlow are called; see `platforms`.
NAME = "keras_ssm_program"


def compiled(function, jit_compile: bool):
    """A function of nests of tensors, as a program of the backend.

    It is for inference: there are no gradients. On JAX and TensorFlow it is
    traced once for the shapes of its arguments, PyTorch runs it as it is. On
    JAX the second argument is given away: it is overwritten.

    Args:
        function: Takes nests of tensors, returns a nest of tensors.
        jit_compile: Whether to compile it by XLA, as in `keras.Model.compile`.
    """
    return _COMPILERS[keras.config.backend()](function, jit_compile)


def traced(function):
    """A function of nests of tensors, without the Python in between.

    For what `compiled` does not compile, on PyTorch: there it is traced for
    the shapes that it meets, to a graph of PyTorch's own operations. On other
    backends it is the function itself.

    Args:
        function: Takes nests of tensors, all of them with shapes that few
            calls differ in, and returns a nest of tensors. What it does must
            not depend on their values.
    """
    if keras.config.backend() != "torch":
        return function
    return _traced_torch(function)


def _traced_torch(function):
    graphs = {}

    def program(*arguments):
        leaves = keras.tree.flatten(arguments)
        key = tuple((leaf.shape, leaf.dtype, leaf.device) for leaf in leaves)
        if key not in graphs:
            graphs[key] = _graph(function, arguments)
        graph, structure = graphs[key]
        return keras.tree.pack_sequence_as(structure, graph(*leaves))

    return program


def _graph(function, arguments):
    """The function from leaves to leaves, and the nest of its outputs."""
    from torch.fx.experimental.proxy_tensor import make_fx

    nests = []

    def of_leaves(*leaves):
        outputs = function(*keras.tree.pack_sequence_as(arguments, leaves))
        nests.append(keras.tree.map_structure(lambda leaf: None, outputs))
        return keras.tree.flatten(outputs)

    trace = make_fx(of_leaves, tracing_mode="fake")
    return trace(*keras.tree.flatten(arguments)), nests[0]


def _compiled_jax(function, jit_compile):
    import jax

    return jax.jit(function, donate_argnums=1) if jit_compile else function


def _compiled_tensorflow(function, jit_compile):
    import tensorflow as tf

    def program(*arguments):
        return function(*arguments)

    program.__name__ = NAME
    return tf.function(program, jit_compile=jit_compile, autograph=False)


def _compiled_torch(function, jit_compile):
    import torch

    return torch.no_grad()(function)


def _as_it_is(function, jit_compile):
    return function


_COMPILERS = {
    "jax": _compiled_jax,
    "tensorflow": _compiled_tensorflow,
    "torch": _compiled_torch,
    "numpy": _as_it_is,
}
