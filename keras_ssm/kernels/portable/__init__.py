"""Any backend, for inference: `keras.ops` alone."""
