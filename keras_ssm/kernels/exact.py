"""Functions that must not lose digits to the habits of Keras or a backend.

`keras.ops` computes some functions of float64 in float32, another one on each
backend.
"""

import contextlib

import keras


def matmul(a, b):
    """A product of matrices; JAX would round float32 on a GPU or a TPU."""
    if keras.config.backend() == "jax":
        import jax

        return jax.numpy.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
    return a @ b


def cos(x):
    """The cosine, in the dtype of `x`."""
    return _library().cos(x)


def sin(x):
    """The sine, in the dtype of `x`."""
    return _library().sin(x)


def arctan2(y, x):
    """The angle of `x + iy`, in the dtype of `x`."""
    return _library().arctan2(y, x)


def cumsum(x):
    """Sums over the steps up to each, along axis 1, in the dtype of `x`."""
    return _library().cumsum(x, 1)


@contextlib.contextmanager
def float64():
    """Lets `ops.cast(x, "float64")` do so, which JAX usually does not.

    Only the values of what is computed within come out; stop the gradients,
    since JAX would differentiate outside of the context.
    """
    if keras.config.backend() != "jax":
        yield
        return
    import jax

    with jax.enable_x64(True):
        yield


def _library():
    """The backend's functions under the names of NumPy."""
    backend = keras.config.backend()
    if backend == "jax":
        import jax.numpy as library
    elif backend == "torch":
        import torch as library
    elif backend == "tensorflow":
        import tensorflow.experimental.numpy as library
    else:
        import numpy as library
    return library
