"""Serves a SavedModel with TensorFlow alone.

python serve.py MODEL INPUTS.npz OUTPUTS.npz
"""

import sys

# A name that is None here cannot be imported.
for name in ("keras", "tf_keras", "keras_ssm", "jax", "torch"):
    sys.modules[name] = None

import numpy as np  # noqa: E402 - first the names are taken away
import tensorflow as tf  # noqa: E402

model, inputs, outputs = sys.argv[1:]
served = tf.saved_model.load(model)
results = {
    name: served.serve(tokens).numpy()
    for name, tokens in np.load(inputs).items()
}
np.savez(outputs, **results)
