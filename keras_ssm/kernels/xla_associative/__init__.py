"""TensorFlow on a GPU: chunks of time steps at once, in logarithmic steps."""
