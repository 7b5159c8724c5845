"""Trains within a budget of seconds and keeps the best epoch."""

import math
import time

import keras

from text.models import LEARNING_RATES


class TimeBudget(keras.callbacks.Callback):
    """Lets the learning rate follow the clock and stops when it runs out.

    The rate rises linearly over the first steps and falls to zero along a
    half cosine. What counts there is the share used of the seconds or of the
    steps, whichever is larger. Models of unequal speed given equal
    seconds so get a full schedule each. The clock starts with `fit` and
    includes compilation and validation.

    Args:
        seconds: wall-clock time; 0 for no limit.
        steps: number of optimizer steps at most.
        learning_rate: the highest one.
    """

    def __init__(self, seconds: float, steps: int, learning_rate: float):
        super().__init__()
        self.seconds = seconds
        self.steps = steps
        self.learning_rate = learning_rate
        self.step = 0

    def on_train_begin(self, logs=None):
        self.start = time.perf_counter()

    def used(self) -> float:
        share = self.step / self.steps
        if self.seconds:
            elapsed = time.perf_counter() - self.start
            share = max(share, elapsed / self.seconds)
        return min(share, 1.0)

    def on_train_batch_begin(self, batch, logs=None):
        used = self.used()
        warm_up = min(100, 1 + self.steps // 10)
        factor = min(1.0, (self.step + 1) / warm_up) * (
            0.5 + 0.5 * math.cos(math.pi * used)
        )
        self.model.optimizer.learning_rate = self.learning_rate * factor

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if self.used() >= 1.0:
            self.model.stop_training = True


def train(model, training, validation, options):
    """Compiles and fits the model; leaves the weights of its best epoch.

    Args:
        model: an uncompiled classifier by `build_model`.
        training: `Batches` to learn from.
        validation: `Batches` that choose the epoch.
        options: what `text_classification.parse` returns.

    Returns:
        The history: a dict of lists, one value an epoch.
    """
    rate = options.learning_rate or LEARNING_RATES[model.name]
    compile_for(model, rate, options.weight_decay)
    budget = TimeBudget(options.seconds, options.epochs * len(training), rate)
    stopping = keras.callbacks.EarlyStopping(
        "val_accuracy",
        mode="max",
        patience=options.patience,
        restore_best_weights=True,
    )
    history = model.fit(
        training,
        validation_data=validation,
        epochs=options.epochs,
        shuffle=False,  # `Batches` does it, from its own seed
        verbose=options.verbose,
        callbacks=[budget, stopping],
    )
    return history.history


def compile_for(model, learning_rate: float, weight_decay: float):
    """Gives the model an optimizer and a loss that knows of weight 0."""
    model.compile(
        optimizer=keras.optimizers.AdamW(
            learning_rate, weight_decay=weight_decay, clipnorm=1.0
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(
            reduction="mean_with_sample_weight"
        ),
        weighted_metrics=["accuracy"],
    )
