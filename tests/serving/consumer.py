"""Serves a SavedModel with TensorFlow alone, whole and as a stream.

python consumer.py MODEL REQUESTS.pkl RESULTS.pkl

Requests are `(endpoint, arguments)`; results are flat lists of arrays. The
request `("stream", (x, cuts))` runs a stream that begins with `init`, with
`steps` for the pieces between cuts and `step` for those of length 1; where `x`
is a list of strings, with `steps_text` for all.
"""

import pickle
import sys

# A name that is None here cannot be imported.
for name in ("keras", "tf_keras", "keras_ssm", "jax", "torch"):
    sys.modules[name] = None

import numpy as np  # noqa: E402 - first the names are taken away
import tensorflow as tf  # noqa: E402


def stream(served, x, cuts):
    """The outputs after each piece, and the state at the end."""
    state = served.init(len(x))
    found = []
    for first, last in zip(cuts, cuts[1:], strict=False):
        if isinstance(x, list):
            piece = [row[first:last] for row in x]
            results = served.steps_text(tf.constant(piece), state)
        elif last - first == 1:
            results = served.step(x[:, first], state)
        else:
            results = served.steps(x[:, first:last], state)
        state = {name: results.pop(name) for name in state}
        # A SavedModel does not keep the order of a dictionary.
        found.append(tuple(results[name] for name in sorted(results)))
    return found


def answer(served, endpoint, arguments):
    if endpoint == "stream":
        results = stream(served, *arguments)
    else:
        results = getattr(served, endpoint)(*arguments)
    return [np.asarray(v) for v in tf.nest.flatten(results)]


model, requests, results = sys.argv[1:]
served = tf.saved_model.load(model)
with open(requests, "rb") as file:
    requests = pickle.load(file)  # noqa: S301 - the test wrote it
with open(results, "wb") as file:
    pickle.dump([answer(served, *request) for request in requests], file)
