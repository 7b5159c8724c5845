"""Runs a small classifier on one backend, for `test_backend_parity.py`.

    KERAS_BACKEND=jax python backend_worker.py save FOLDER
    KERAS_BACKEND=jax python backend_worker.py run FOLDER

`save` writes a model file; `run` loads the model files of all backends, and
writes what each gives, with gradients and training steps from its own.
"""

import pathlib
import sys

import keras
import numpy as np
from harness import BACKEND, gradients

import keras_ssm
from keras_ssm.layers import (
    LRU,
    RGLRU,
    S4,
    S4D,
    S5,
    Attention,
    Griffin,
    HybridBlock,
    Mamba3,
    MixtureOfExperts,
)

TOKENS = np.array(
    [[3, 1, 4, 1, 5, 9, 2], [2, 7, 1, 8, 0, 0, 0], [0, 0, 0, 0, 1, 6, 1]],
    "int32",
)
LABELS = np.array([0, 1, 1], "int32")
# So large that a step changes every weight by far more than its rounding.
RATE = 6.0
# Beside the stack of Mamba, each by itself on the embedded tokens.
OTHERS = {
    Mamba3: {"state_dim": 4, "head_dim": 4, "rank": 2},
    S4D: {"state_dim": 4},
    S4: {"state_dim": 4},
    S5: {"state_dim": 4, "blocks": 2},
    LRU: {"state_dim": 4},
    RGLRU: {"heads": 2},
    Griffin: {"state_dim": 4},
    Attention: {
        **{"heads": 4, "kv_heads": 2, "window": 3},
        "rotary_base": 100.0,
    },
    HybridBlock: {
        "mixer": RGLRU(heads=2),
        "feed_forward": MixtureOfExperts(3, 4),
    },
}


def make_model():
    """A classifier with every kind of layer, and the same weights always."""
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    embedding = keras.layers.Embedding(10, 8, mask_zero=True, name="embedding")
    embedded = y = embedding(tokens)
    for layer in (
        keras_ssm.layers.MambaBlock(state_dim=4, name="block"),
        keras.layers.Bidirectional(
            keras_ssm.layers.Mamba(state_dim=3, expand=1), name="both"
        ),
        keras_ssm.layers.MambaBlock(
            go_backwards=True, return_sequences=False, name="last"
        ),
        keras.layers.RMSNormalization(epsilon=1e-5, name="norm"),
    ):
        y = layer(y)
    others = [
        layer_class(return_sequences=False, name=name_of(layer_class), **small)(
            embedded
        )
        for layer_class, small in OTHERS.items()
    ]
    backbone = keras_ssm.models.HybridBackbone(
        10,
        8,
        ["griffin"],
        feed_forward={"units": 4},
        name="backbone",
    )
    average = keras.layers.GlobalAveragePooling1D(name="average")
    others.append(average(backbone(tokens)))
    logits = keras.layers.Dense(2, name="logits")
    y = logits(keras.layers.Concatenate(name="features")([y, *others]))
    model = keras.Model(tokens, y, name="classifier")
    rng = np.random.default_rng(0)
    weights = [
        rng.uniform(-0.7, 0.7, w.shape).astype("float32")
        for w in model.get_weights()
    ]
    # So many features would make a class certain: its gradient, a difference,
    # would have few digits left.
    weights[-2] /= 2
    model.set_weights(weights)
    return model


def name_of(layer_class):
    return layer_class.__name__.lower()


def states(model):
    """The states that the other layers end in, by name."""
    found = {}
    embedding = model.get_layer("embedding")
    x = embedding(keras.ops.convert_to_tensor(TOKENS))
    mask = keras.ops.convert_to_tensor(TOKENS != 0)
    for layer_class in OTHERS:
        layer = model.get_layer(name_of(layer_class))
        config = {**layer.get_config(), "return_state": True}
        layer_of_states = layer_class.from_config(config)
        layer_of_states.build(x.shape)
        layer_of_states.set_weights(layer.get_weights())
        _, *after = layer_of_states(x, mask=mask)
        for index, state in enumerate(after):
            name = f"{layer.name}/{index}"
            found[name] = keras.ops.convert_to_numpy(
                keras.ops.cast(state, "float32")
            )
    return found


def loss_gradients(model):
    """Gradients of the loss with respect to every weight, as arrays."""
    variables = model.trainable_variables
    inputs = {
        str(index): keras.ops.copy(v.value) for index, v in enumerate(variables)
    }

    def loss(inputs):
        values = [(v, inputs[str(i)]) for i, v in enumerate(variables)]
        with keras.StatelessScope(state_mapping=values):
            logits = model(keras.ops.convert_to_tensor(TOKENS))
        labels = keras.ops.convert_to_tensor(LABELS)
        return (keras.ops.mean(loss_function()(labels, logits)),)

    _, found = gradients(loss, inputs, (keras.ops.ones(()),))
    return [
        keras.ops.convert_to_numpy(found[str(index)])
        for index in range(len(variables))
    ]


def loss_function():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def after_training(path):
    """The weights after a step of `fit`, which compiles, with SGD."""
    model = keras.models.load_model(path, compile=False)
    model.compile(keras.optimizers.SGD(RATE), loss_function())
    model.train_on_batch(TOKENS, LABELS)
    return model.get_weights()


def after_adam(path, gradients):
    """The weights after a step of Adam."""
    model = keras.models.load_model(path, compile=False)
    keras.optimizers.Adam(0.2, epsilon=1e-3).apply(
        [keras.ops.convert_to_tensor(g) for g in gradients],
        model.trainable_variables,
    )
    return model.get_weights()


def run(folder):
    """Everything to compare, by name."""
    results = {}
    for path in sorted(folder.glob("*.keras")):
        model = keras.models.load_model(path, compile=False)
        outputs = model(keras.ops.convert_to_tensor(TOKENS))
        results[f"output/{path.stem}"] = keras.ops.convert_to_numpy(outputs)
    path = folder / f"{BACKEND}.keras"
    model = keras.models.load_model(path, compile=False)
    gradients = loss_gradients(model)
    by_kind = {
        "before": model.get_weights(),
        "gradient": gradients,
        "sgd": after_training(path),
        "adam": after_adam(path, gradients),
    }
    for kind, arrays in by_kind.items():
        for v, array in zip(model.trainable_variables, arrays, strict=True):
            results[f"{kind}/{v.path}"] = array
    for name, state in states(model).items():
        results[f"state/{name}"] = state
    return results


if __name__ == "__main__":
    job, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    if job == "save":
        model = make_model()
        # Compiled, so that the file holds an optimizer, as users' files do.
        model.compile("adam", "mse")
        model.save(folder / f"{BACKEND}.keras")
    else:
        np.savez(folder / f"{BACKEND}.npz", **run(folder))
