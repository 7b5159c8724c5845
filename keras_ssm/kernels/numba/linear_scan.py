"""The linear scan, all of it in one kernel; see `linear_loops.py`."""

import keras

# Only the framework in use is imported.
if keras.config.backend() == "torch":
    from keras_ssm.kernels.numba.torch_binding import unsupported
    from keras_ssm.kernels.numba.torch_linear_scan import linear_scan
elif keras.config.backend() == "tensorflow":
    from keras_ssm.kernels.numba.tensorflow_binding import unsupported
    from keras_ssm.kernels.numba.tensorflow_linear_scan import linear_scan
else:
    from keras_ssm.kernels.numba.jax_binding import unsupported
    from keras_ssm.kernels.numba.jax_linear_scan import linear_scan

__all__ = ["linear_scan", "unsupported"]
