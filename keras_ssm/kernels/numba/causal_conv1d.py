"""The causal convolution with its activation; see `conv_loops.py`."""

import keras

# Only the framework in use is imported.
if keras.config.backend() == "torch":
    from keras_ssm.kernels.numba.torch_binding import unsupported
    from keras_ssm.kernels.numba.torch_causal_conv1d import causal_conv1d
elif keras.config.backend() == "tensorflow":
    from keras_ssm.kernels.numba.tensorflow_binding import unsupported
    from keras_ssm.kernels.numba.tensorflow_causal_conv1d import causal_conv1d
else:
    from keras_ssm.kernels.numba.jax_binding import unsupported
    from keras_ssm.kernels.numba.jax_causal_conv1d import causal_conv1d

__all__ = ["causal_conv1d", "unsupported"]
