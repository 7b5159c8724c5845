"""Stacks of two blocks that predict a token at every step."""

import keras
import numpy as np
from text.training import TimeBudget

from keras_ssm.models import HybridBackbone

PATTERNS = {
    "mamba": ["mamba", "mamba"],
    "mamba2": ["mamba2", "mamba2"],
    "hybrid": ["mamba", "attention"],
    "attention": ["attention", "attention"],
}
HEADS = 4
STEPS_AN_EPOCH = 100


def build(name: str, vocabulary_size: int, width: int):
    """Builds the model called `name`: tokens `(b, l)` to `(b, l, v)`.

    Attention behind Mamba needs no positions; alone it does.
    """
    pattern = PATTERNS[name]
    attention = {"heads": HEADS}
    if "mamba" not in pattern:
        attention["rotary_base"] = 1e4
    backbone = HybridBackbone(
        vocabulary_size,
        width,
        pattern,
        mixers={"attention": attention} if "attention" in pattern else None,
        padding_id=None,
        name=name,
    )
    logits = keras.layers.Dense(vocabulary_size, dtype="float32", name="logits")
    return keras.Model(backbone.input, logits(backbone.output), name=name)


class Draws(keras.utils.PyDataset):
    """Batches that are drawn when they are asked for, never twice the same.

    Args:
        draw: Function of a random generator and a number of rows.
        batch_size: Rows of a batch.
        seed: For the random numbers.
    """

    def __init__(self, draw, batch_size: int, seed: int):
        super().__init__()
        self.draw, self.batch_size = draw, batch_size
        self.random = np.random.default_rng(seed)

    def __len__(self):
        return STEPS_AN_EPOCH

    def __getitem__(self, index):
        tokens, targets, weights = self.draw(self.random, self.batch_size)
        # Keras divides by the number of all steps.
        return tokens, targets, weights / weights.mean()


class StopWhenKnown(keras.callbacks.Callback):
    """Ends training when an epoch has had so few errors.

    Args:
        accuracy: What the epoch needs.
    """

    def __init__(self, accuracy: float):
        super().__init__()
        self.accuracy = accuracy

    def on_epoch_end(self, epoch, logs=None):
        if logs["accuracy"] >= self.accuracy:
            self.model.stop_training = True


def train(model, draws, options) -> dict:
    """Compiles and fits the model; returns the history of Keras."""
    model.compile(
        keras.optimizers.AdamW(
            options.learning_rate, weight_decay=0.01, clipnorm=1.0
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=[
            keras.metrics.SparseCategoricalAccuracy(name="accuracy")
        ],
    )
    epochs = -(-options.steps // STEPS_AN_EPOCH)
    steps = epochs * STEPS_AN_EPOCH
    history = model.fit(
        draws,
        epochs=epochs,
        shuffle=False,
        verbose=options.verbose,
        callbacks=[
            TimeBudget(options.seconds, steps, options.learning_rate),
            StopWhenKnown(options.enough),
        ],
    )
    return history.history


def accuracy(model, draw, rows: int, batch_size: int, seed: int) -> float:
    """The share of the targets that the model tells, of fresh rows."""
    random = np.random.default_rng(seed)
    right = total = 0
    for _ in range(-(-rows // batch_size)):
        tokens, targets, weights = draw(random, batch_size)
        told = np.argmax(model.predict_on_batch(tokens), axis=-1)
        right += np.sum((told == targets) * weights)
        total += np.sum(weights)
    return float(right / total)
