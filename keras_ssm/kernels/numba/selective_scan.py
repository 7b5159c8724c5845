"""The selective scan, all of it in one kernel each way."""

import keras

# Only the framework in use is imported.
if keras.config.backend() == "torch":
    from keras_ssm.kernels.numba.torch_binding import unsupported
    from keras_ssm.kernels.numba.torch_selective_scan import selective_scan
elif keras.config.backend() == "tensorflow":
    from keras_ssm.kernels.numba.tensorflow_binding import unsupported
    from keras_ssm.kernels.numba.tensorflow_selective_scan import selective_scan
else:
    from keras_ssm.kernels.numba.jax_binding import unsupported
    from keras_ssm.kernels.numba.jax_selective_scan import selective_scan

__all__ = ["selective_scan", "unsupported"]
