# %% [markdown]
# # Spoken digits from raw audio with S4D, at two sampling rates
#
# No spectrogram: the network hears the samples of a recording one by one, 8,000
# a second. S4D treats time as continuous, so the trained model also listens to
# recordings of half the sampling rate, without training again: its layers only
# have to know that a step now lasts twice as long, `rate=2`.
#
# It is made for a GPU. On a CPU, choose a smaller model, such as `WIDTH = 32`,
# `DEPTH = 2`, `LENGTH = 4096` and few epochs.

# %%
# "torch", "jax" or "tensorflow", before Keras loads: each runs on CPU and GPU,
# and "jax" is for TPUs. Kernels have run on an H100, and not yet on a T4 or a
# TPU. Should one fail there, train within
# `keras_ssm.use_implementation("torch")`, or "lax_associative" on JAX.
import os

os.environ.setdefault("KERAS_BACKEND", "jax")

# !pip install -q keras-ssm

import glob
import wave

import keras
import matplotlib.pyplot as plt
import numpy as np
from keras import layers
from scipy.signal import resample_poly

import keras_ssm

# %% [markdown]
# ## Parameters
#
# `MODEL` is `"s4d"`, `"s4"`, `"s5"`, which have a `rate`, or `"lstm"`, which
# has none.

# %% tags=["parameters"]
DATA = "/kaggle/input/free-spoken-digit-dataset-fsdd/recordings"
MODEL = "s4d"
LENGTH = 6144  # samples that are heard, 0.77 s
WIDTH = 64
DEPTH = 4
STATE_DIM = 64
DROPOUT = 0.1
EPOCHS = 15
BATCH_SIZE = 16
LEARNING_RATE = 4e-3
SEED = 0

# %%
keras.utils.set_random_seed(SEED)

# %% [markdown]
# ## The data
#
# The [Free Spoken Digit Dataset](https://github.com/Jakobovski/free-spoken-digit-dataset)
# has six speakers who say each digit fifty times; the first five of these are
# for testing. Where there is no such folder, we dial: each digit is the pair of
# tones that its key on a telephone makes, in noise.

# %%
SAMPLING_RATE = 8000
PADDING = -1000.0  # behind the end of a recording


def read(path):
    """Returns the samples of a WAV file."""
    with wave.open(path) as file:
        frames = file.readframes(file.getnframes())
    return np.frombuffer(frames, "<i2").astype("float32")


def dial(digit, random):
    """Returns the two tones of a key, for about a fifth of a second."""
    row, column = divmod(digit - 1, 3) if digit else (3, 1)
    time = np.arange(random.integers(1000, 2000)) / SAMPLING_RATE
    tones = ((697, 770, 852, 941)[row], (1209, 1336, 1477)[column])
    waves = [np.sin(2 * np.pi * hertz * time) for hertz in tones]
    noise = random.normal(0, 0.3, len(time))
    return (sum(waves) + noise).astype("float32")


if os.path.isdir(DATA):
    paths = sorted(glob.glob(os.path.join(DATA, "*.wav")))
    names = [os.path.basename(path)[:-4].split("_") for path in paths]
    recordings = [read(path) for path in paths]
    digits = np.array([int(digit) for digit, _, _ in names])
    testing = np.array([int(number) < 5 for _, _, number in names])
else:
    print(f"There is no {DATA}: we dial.")
    random = np.random.default_rng(0)
    digits = np.arange(200) % 10
    recordings = [dial(digit, random) for digit in digits]
    testing = np.arange(200) >= 160
recordings = [r / np.sqrt(np.mean(r**2)) for r in recordings]

fig, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
seconds = np.arange(len(recordings[0])) / SAMPLING_RATE
axes[0].plot(seconds, recordings[0], linewidth=0.5)
axes[0].set(title=f"digit {digits[0]}", xlabel="seconds")
axes[1].hist([len(r) / SAMPLING_RATE for r in recordings], bins=40)
axes[1].axvline(LENGTH / SAMPLING_RATE, color="tab:orange")
axes[1].set(title="length of the recordings", xlabel="seconds")
plt.show()

# %% [markdown]
# Every recording is cut or padded to one length. Every other sample, after a
# filter that takes away what half the rate cannot hold, makes the same
# recording at 4,000 Hz.


# %%
def padded(recordings, length):
    """Returns signals `(n, length, 1)`."""
    signals = np.full((len(recordings), length, 1), PADDING, "float32")
    for signal, recording in zip(signals, recordings, strict=True):
        heard = recording[:length]
        signal[: len(heard), 0] = heard
    return signals


halved = [resample_poly(r, 1, 2).astype("float32") for r in recordings]
signals, half_signals = padded(recordings, LENGTH), padded(halved, LENGTH // 2)
order = np.random.default_rng(SEED).permutation(np.flatnonzero(~testing))
held_out, learned = np.split(order, [len(order) // 10])

# %% [markdown]
# ## The model
#
# `Masking` finds the padding, and the layers leave it out.


# %%
def build(rate=1.0):
    """The classifier, for recordings with `1 / rate` of the samples."""
    blocks = {
        "s4d": keras_ssm.layers.S4DBlock,
        "s4": keras_ssm.layers.S4Block,
        "s5": keras_ssm.layers.S5Block,
    }
    inputs = keras.Input((None, 1), name="signal")
    x = layers.Dense(WIDTH)(layers.Masking(PADDING)(inputs))
    for _ in range(DEPTH):
        if MODEL == "lstm":
            y = layers.LayerNormalization(epsilon=1e-5)(x)
            y = layers.LSTM(WIDTH, return_sequences=True)(y)
            x = layers.Add()([x, layers.Dropout(DROPOUT)(y)])
        else:
            block = blocks[MODEL](
                state_dim=STATE_DIM, rate=rate, dropout=DROPOUT
            )
            x = block(x)
    x = layers.LayerNormalization(epsilon=1e-5)(x)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


model = build()
print(f"{MODEL}: {model.count_params():,} parameters")

# %% [markdown]
# ## Training
#
# The parameters of a recurrence (how fast it turns and forgets) want smaller
# steps than the rest and no weight decay, as S4's authors found.

# %%
steps = EPOCHS * -(-len(learned) // BATCH_SIZE)
rate = keras.optimizers.schedules.CosineDecay(
    0.0, steps, warmup_target=LEARNING_RATE, warmup_steps=steps // 20
)
adam = keras.optimizers.AdamW(rate, weight_decay=0.05, clipnorm=1.0)
dynamics = keras_ssm.optimizers.DYNAMICS
adam.exclude_from_weight_decay(var_names=dynamics)
factors = dict.fromkeys(dynamics, 0.25)
model.compile(
    keras_ssm.optimizers.LearningRateFactors(adam, factors),
    "sparse_categorical_crossentropy",
    metrics=["accuracy"],
)
history = model.fit(
    signals[learned],
    digits[learned],
    validation_data=(signals[held_out], digits[held_out]),
    batch_size=BATCH_SIZE,
    epochs=EPOCHS,
)

# %% [markdown]
# ## At 8,000 Hz, and at 4,000 Hz without training again
#
# The same weights in layers with `rate=2`. How much is that worth? The model as
# it is hears recordings that are an octave too high, and twice as fast.

# %%
listener = build(rate=2.0)
listener.set_weights(model.get_weights())


def accuracy(model, signals):
    """Returns the share of test recordings that are understood."""
    guesses = model.predict(signals[testing], verbose=0).argmax(axis=1)
    return float(np.mean(guesses == digits[testing]))


results = {
    "model": MODEL,
    "parameters": model.count_params(),
    "test_accuracy": accuracy(model, signals),
    "half_rate_accuracy": accuracy(listener, half_signals),
    "half_rate_as_it_is": accuracy(model, half_signals),
}
print(results)

guesses = model.predict(signals[testing], verbose=0).argmax(axis=1)
confusion = np.zeros((10, 10), int)
np.add.at(confusion, (digits[testing], guesses), 1)
fig, axes = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
epochs = range(1, EPOCHS + 1)
axes[0].plot(epochs, history.history["accuracy"], "o-", label="training")
axes[0].plot(epochs, history.history["val_accuracy"], "o-", label="validation")
axes[0].set(xlabel="epoch", ylabel="accuracy", xticks=epochs)
axes[0].legend()
axes[1].imshow(confusion, cmap="Greens", vmax=1.5 * confusion.max())
axes[1].set(xlabel="understood", ylabel="said", title="test recordings")
axes[1].set_xticks(range(10))
axes[1].set_yticks(range(10))
plt.show()

# %% [markdown]
# ## What it listens for
#
# Each channel of a block is a convolution, whose kernel is its memory: how long
# it rings says how far back it hears, and its frequencies what it hears.

# %%
picture = None
if MODEL in ("s4", "s4d"):
    first = next(layer for layer in model.layers if "block" in layer.name)
    picture = keras_ssm.visualize.plot_kernels(
        first, 800, sampling_rate=SAMPLING_RATE
    )
    picture.savefig("kernels.png")
picture

# %%
model.save(f"{MODEL}.keras")
