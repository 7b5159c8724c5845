"""Runs a model, and looks at its selective scans."""

import contextlib

import keras

from keras_ssm.layers import Mamba, Mamba2
from keras_ssm.layers.sequence_layer import SequenceLayer
from keras_ssm.ops import dispatch
from keras_ssm.visualize.scan import Scan, scan_of

SELECTIVE = (Mamba, Mamba2)
SCANS = ("selective_scan", "ssd")


def record(model, inputs) -> list[Scan]:
    """Runs a model once, and keeps what its selective scans did.

    They are those of every `Mamba` and `Mamba2`, alone, in blocks, in
    `keras.layers.Bidirectional`, in models and in models in models. Other
    mixers run, and are not looked at: a `Mamba3` has two weights for each
    input, and no single step size. The model stays as it is, its states too.

    Args:
        model: A model or a layer, built: trained, or loaded from a file.
        inputs: What it is called with: arrays, or whatever it takes.

    Returns:
        A `Scan` for each call of such a mixer, in the order of the calls.

    Raises:
        ValueError: If the model is not built, or has no such mixer.

    Example:

    ```python
    backbone = keras_ssm.models.HybridBackbone(256, 16, ["mamba"] * 2)
    model = keras_ssm.models.TextClassifier(backbone, classes=2)
    tokens = np.array([list(b"to be")])
    scans = keras_ssm.visualize.record(model, tokens)  # one for each layer
    scans[0].step_size  # (1, 5, 32)
    scans[0].retention  # (1, 5, 32)
    ```
    """
    if not model.built:
        raise ValueError(
            "`record`: `model` must be built, so that there is something to "
            "look at. Call it, train it or load it first. "
            f"Received: {model.name!r}, which has no weights yet."
        )
    layers = model._flatten_layers()
    mixers = [layer for layer in layers if isinstance(layer, SELECTIVE)]
    if not mixers:
        raise ValueError(
            "`record`: `model` must have a `Mamba` or a `Mamba2`, which "
            "choose what to remember by a step size. "
            f"Received: {model.name!r} with {_mixers_of(model)}."
        )
    scans = []
    # What a call assigns, such as states, is dropped with the scope.
    with contextlib.ExitStack() as stack, keras.StatelessScope():
        for mixer in mixers:
            path = mixer.path.removeprefix(f"{model.name}/")
            path = path.removesuffix("/mixer")
            stack.enter_context(_recorded(mixer, path, scans))
        model(inputs, training=False)
    return scans


@contextlib.contextmanager
def _recorded(mixer, path, scans):
    """Appends the scans of a mixer to a list, under its path."""
    mix = mixer.mix

    def recorded_mix(*args, **kwargs):
        with dispatch.watched() as calls:
            result = mix(*args, **kwargs)
        scans.extend(scan_of(path, *c) for c in calls if c[0] in SCANS)
        return result

    # As an attribute of the instance, which Keras does not look at.
    vars(mixer)["mix"] = recorded_mix
    try:
        yield
    finally:
        del vars(mixer)["mix"]


def _mixers_of(model):
    found = {
        type(layer).__name__
        for layer in model._flatten_layers()
        if isinstance(layer, SequenceLayer)
    }
    return ", ".join(sorted(found)) or "no sequence layer of keras_ssm"
