"""What kind of device a call runs on: "cpu", "gpu" or "tpu".

PyTorch tensors say so themselves. TensorFlow and JAX programs are placed
later; JAX can even be asked to hold one implementation for each kind.

A graph of TensorFlow may come to be saved and served where this library is not
installed. It cannot tell, but nobody serves what a gradient tape records, and
Keras saves no step of `fit`, `evaluate` and `predict`, nor do we the programs
that generate. Every other graph on a CPU counts as a platform of its own, "cpu
graph".
"""

import functools

import keras

from keras_ssm.kernels import programs


def candidates(backend: str, tensor, platforms: tuple[str, ...]):
    """The platforms on which a call with this tensor may come to run."""
    if backend == "jax":
        return platforms
    if backend == "torch":
        return ("cpu" if tensor.device.type in ("cpu", "meta") else "gpu",)
    if backend == "tensorflow" and here(backend) == "cpu" and _may_be_saved():
        return ("cpu graph",)
    return (here(backend),)


def here(backend: str) -> str:
    """The platform that this machine prefers."""
    if backend == "jax":
        import jax

        return {"cpu": "cpu", "tpu": "tpu"}.get(jax.default_backend(), "gpu")
    if backend == "torch":
        import torch

        return "gpu" if torch.cuda.is_available() else "cpu"
    if backend == "tensorflow":
        import tensorflow as tf

        return "gpu" if tf.config.list_physical_devices("GPU") else "cpu"
    return "cpu"


def run(backend: str, chosen: dict, tensors: tuple, options: dict):
    """Calls the implementation chosen for each candidate platform."""
    if backend == "jax":
        return _run_jax()(tuple(chosen.items()), tensors, **options)
    (implementation,) = chosen.values()
    return implementation(*tensors, **options)


def constant(function):
    """Decorates a function whose answer a compiled program keeps.

    `torch.compile` and AutoGraph look into what they compile, and would stop
    at an import or a context variable.
    """
    if keras.config.backend() == "torch":
        import torch

        return torch.compiler.assume_constant_result(function)
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        return tf.autograph.experimental.do_not_convert(function)
    return function


@constant
def exporting() -> bool:
    """Whether PyTorch is exporting what is called.

    PyTorch 2.11 tells what it compiles that it is, if asked while compiling.
    """
    import torch

    return torch.compiler.is_exporting()


def recorded() -> bool:
    """Whether a gradient tape of TensorFlow records what is called."""
    try:
        from tensorflow.python.eager import record
    except ImportError:  # It is not public.
        return False
    return record.could_possibly_record()


def _may_be_saved():
    import tensorflow as tf

    if tf.executing_eagerly() or recorded():
        return False
    graph = tf.compat.v1.get_default_graph()
    while hasattr(graph, "outer_graph"):
        if graph.name.startswith((*_STEPS_OF_KERAS, programs.NAME)):
            return False
        graph = graph.outer_graph
    return True


@functools.cache
def _run_jax():
    import jax

    # Compiled by itself when it is not part of a larger program, so that a
    # call outside of jit is traced once for each shape.
    @functools.partial(jax.jit, static_argnums=0, static_argnames=_OPTIONS)
    def run_jax(chosen, tensors, **options):
        tensors = _vary_alike(tensors)
        branches = {
            platform: functools.partial(implementation, **options)
            for platform, implementation in chosen
        }
        if len({implementation for _, implementation in chosen}) == 1:
            return next(iter(branches.values()))(*tensors)
        gpu = branches.pop("gpu")
        return jax.lax.platform_dependent(
            *tensors, **branches, cuda=gpu, rocm=gpu
        )

    return run_jax


def _vary_alike(tensors):
    """Lets what is the same on all devices of a `shard_map` vary, like others.

    The loops carry states made from several tensors, and a gradient that is
    written by hand has to vary like its tensor: both need one kind of tensor.
    JAX sums the gradients of those that were the same.
    """
    import jax

    axes = [
        frozenset()
        if tensor is None
        else jax.typeof(tensor).manual_axis_type.varying
        for tensor in tensors
    ]
    every = frozenset().union(*axes)
    return tuple(
        tensor
        if tensor is None or own == every
        else jax.lax.pcast(tensor, tuple(every - own), to="varying")
        for tensor, own in zip(tensors, axes, strict=True)
    )


# How the functions begin that Keras traces for its trainer.
_STEPS_OF_KERAS = ("one_step_on_", "multi_step_on_")
_OPTIONS = (
    "activation",
    "chunk_size",
    "dt_softplus",
    "length",
    "reverse",
    "rule",
)
