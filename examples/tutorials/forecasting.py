# %% [markdown]
# # Forecasting time series with S4D and Mamba
#
# Seven sensors of a power transformer, two weeks of hourly measurements: what
# will they show in the next four days? We train an S4D or a Mamba model, and
# compare it with what costs nothing (repeat the last day), with a linear map
# and with an LSTM, on the split that papers use.
#
# It takes two minutes of one CPU core.

# %%
# "torch", "jax" or "tensorflow", before Keras loads: each runs on CPU and GPU,
# and "jax" is for TPUs. Kernels have run on an H100, and not yet on a T4 or a
# TPU. Should one fail there, train within
# `keras_ssm.use_implementation("torch")`, or "lax_associative" on JAX.
import os

os.environ.setdefault("KERAS_BACKEND", "torch")

# !pip install -q keras-ssm

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from keras import layers, ops

import keras_ssm

# %% [markdown]
# ## Parameters
#
# `MODEL` is `"s4d"`, `"mamba"`, `"lstm"`, `"transformer"` or `"linear"`. For a
# longer forecast, set `HORIZON` to 192, 336 or 720 hours.

# %% tags=["parameters"]
DATA = "/kaggle/input/ett-small/ETTh1.csv"  # any table of hours: date, columns
MODEL = "s4d"
HISTORY = 336  # hours that are seen
HORIZON = 96  # hours that are forecast
PATCH = 24  # hours of a step
WIDTH = 64
DEPTH = 2
STATE_DIM = 16
DROPOUT = 0.2
EPOCHS = 5
BATCH_SIZE = 64
LEARNING_RATE = 5e-3
SEED = 0

# %%
keras.utils.set_random_seed(SEED)

# %% [markdown]
# ## The data
#
# ETTh1 ([Zhou et al., 2021](https://arxiv.org/abs/2012.07436)) has six loads
# and the oil temperature, OT. Where there is no such file, we make sensors with
# a day, a week and noise, so that the notebook runs anywhere.
#
# Twelve months are for training, four for validation, four for testing. Scales
# are those of the training months: nobody knows those of the future.


# %%
def made_up_sensors(hours=14_400, sensors=7):
    """Days, weeks and noise that wanders."""
    random = np.random.default_rng(0)
    time = np.arange(hours)[:, None]
    phases = random.uniform(0, 2 * np.pi, (2, sensors))
    days = np.sin(2 * np.pi * time / 24 + phases[0])
    weeks = np.sin(2 * np.pi * time / 168 + phases[1])
    noise = random.normal(0, 0.1, (hours, sensors)).cumsum(0)
    noise -= pd.DataFrame(noise).rolling(168, min_periods=1).mean().to_numpy()
    return pd.DataFrame(days + 0.5 * weeks + noise).add_prefix("sensor_")


if os.path.exists(DATA):
    table = pd.read_csv(DATA).drop(columns="date")
else:
    print(f"There is no {DATA}: we make up sensors.")
    table = made_up_sensors()

month = 30 * 24
train_end, val_end, test_end = 12 * month, 16 * month, 20 * month
values = table.to_numpy("float32")
mean, std = values[:train_end].mean(axis=0), values[:train_end].std(axis=0)
values = (values - mean) / std
sensors = values.shape[1]

fig, axes = plt.subplots(2, 1, figsize=(9, 4), layout="constrained")
axes[0].plot(values[:, -1], linewidth=0.4)
axes[0].axvspan(train_end, val_end, color="tab:orange", alpha=0.2)
axes[0].axvspan(val_end, test_end, color="tab:green", alpha=0.2)
axes[0].set_title(f"{table.columns[-1]}: training, validation, test")
axes[1].plot(values[: 14 * 24])
axes[1].set(title="the first two weeks of all sensors", xlabel="hours")
plt.show()

# %% [markdown]
# A window of history and the hours after it make an example; there is one for
# each hour. Only their targets must lie within the months of a part.


# %%
def windows(start, end):
    """Returns histories `(n, HISTORY, sensors)` and what came after them."""
    part = values[max(start - HISTORY, 0) : end]
    size = HISTORY + HORIZON
    view = np.lib.stride_tricks.sliding_window_view(part, size, axis=0)
    view = view.transpose(0, 2, 1)
    return view[:, :HISTORY].copy(), view[:, HISTORY:].copy()


train = windows(0, train_end)
val = windows(train_end, val_end)
test = windows(val_end, test_end)
print("Windows:", len(train[0]), len(val[0]), len(test[0]))

# %% [markdown]
# ## The model
#
# Levels drift over months, so each window of each sensor is scaled by its own
# mean and deviation, and the forecast scaled back. Every sensor is a sequence
# of its own with the same weights
# ([Nie et al., 2023](https://arxiv.org/abs/2211.14730)); a step is a day. The
# last step of the last block knows all days: from it comes the forecast.


# %%
def mix(x):
    """One block over time, with a residual, of the chosen kind."""
    if MODEL == "mamba":
        block = keras_ssm.layers.MambaBlock
        return block(state_dim=STATE_DIM, dropout=DROPOUT)(x)
    if MODEL == "s4d":
        block = keras_ssm.layers.S4DBlock
        return block(state_dim=STATE_DIM, dropout=DROPOUT)(x)
    y = layers.LayerNormalization(epsilon=1e-5)(x)
    if MODEL == "lstm":
        y = layers.LSTM(WIDTH, return_sequences=True)(y)
        return x + layers.Dropout(DROPOUT)(y)
    y = layers.MultiHeadAttention(4, WIDTH // 4)(y, y)
    x = x + layers.Dropout(DROPOUT)(y)
    y = layers.LayerNormalization(epsilon=1e-5)(x)
    y = layers.Dense(2 * WIDTH, activation="gelu")(y)
    return x + layers.Dropout(DROPOUT)(layers.Dense(WIDTH)(y))


def forecast(x):
    """From histories `(b, sensors, HISTORY)` to `(b, sensors, HORIZON)`."""
    if MODEL == "linear":
        return layers.Dense(HORIZON)(x)
    steps = HISTORY // PATCH
    x = ops.reshape(x[..., -steps * PATCH :], (-1, steps, PATCH))
    x = layers.Dense(WIDTH)(x)
    if MODEL == "transformer":
        places = ops.cumsum(ops.ones_like(x[..., 0], "int32"), axis=1) - 1
        x = x + layers.Embedding(steps, WIDTH)(places)
    for _ in range(DEPTH):
        x = mix(x)
    x = layers.LayerNormalization(epsilon=1e-5)(x)
    y = layers.Dense(HORIZON)(layers.Dropout(DROPOUT)(x[:, -1]))
    return ops.reshape(y, (-1, sensors, HORIZON))


inputs = keras.Input((HISTORY, sensors))
x = ops.transpose(inputs, (0, 2, 1))
level = ops.mean(x, axis=-1, keepdims=True)
scale = ops.std(x, axis=-1, keepdims=True) + 1e-3
y = forecast((x - level) / scale) * scale + level
model = keras.Model(inputs, ops.transpose(y, (0, 2, 1)), name=MODEL)
print(f"{MODEL}: {model.count_params():,} parameters")

# %% [markdown]
# ## Training
#
# The learning rate rises at first and falls to zero at the end.

# %%
steps = EPOCHS * -(-len(train[0]) // BATCH_SIZE)
rate = keras.optimizers.schedules.CosineDecay(
    0.0, steps, warmup_target=LEARNING_RATE, warmup_steps=steps // 20
)
model.compile(
    keras.optimizers.AdamW(rate, weight_decay=0.01, clipnorm=1.0),
    loss="mse",
    metrics=["mae"],
)
history = model.fit(
    *train, validation_data=val, batch_size=BATCH_SIZE, epochs=EPOCHS
)

fig, axis = plt.subplots(figsize=(5, 3), layout="constrained")
epochs = range(1, EPOCHS + 1)
axis.plot(epochs, history.history["loss"], "o-", label="training")
axis.plot(epochs, history.history["val_loss"], "o-", label="validation")
axis.set(xlabel="epoch", ylabel="mean squared error", xticks=epochs)
axis.legend()
plt.show()

# %% [markdown]
# ## How good is it?
#
# Errors are averaged over all windows of the test months, hours and sensors.
# Papers report, 96 hours ahead from 336 hours, a mean squared error of 0.375
# and a mean absolute error of 0.399 for DLinear
# ([Zeng et al., 2023](https://arxiv.org/abs/2205.13504), table 2), and the same
# for PatchTST ([Nie et al., 2023](https://arxiv.org/abs/2211.14730), table 3).
# On these data a linear map (`MODEL = "linear"`, `LEARNING_RATE = 0.01`) is
# hard to beat; try it first on yours, too.

# %%
predicted = model.predict(test[0], batch_size=256)
days = -(-HORIZON // 24)
repeated = np.tile(test[0][:, -24:], (1, days, 1))[:, :HORIZON]


def errors(forecasts):
    """Returns the mean squared and the mean absolute error."""
    error = forecasts - test[1]
    return float(np.mean(error**2)), float(np.mean(np.abs(error)))


results = {"model": MODEL, "parameters": model.count_params()}
results["mse"], results["mae"] = errors(predicted)
results["repeat_mse"], results["repeat_mae"] = errors(repeated)
print(f"{MODEL:16}  MSE {results['mse']:.3f}  MAE {results['mae']:.3f}")
print(
    f"repeat last day   MSE {results['repeat_mse']:.3f}"
    f"  MAE {results['repeat_mae']:.3f}"
)

# %% [markdown]
# The last sensor, forecast from a week before to four days ahead; and how the
# error grows with the hours.

# %%
fig, axes = plt.subplots(3, 1, figsize=(9, 7), layout="constrained")
ahead = np.arange(HORIZON)
for axis, row in zip(axes, (0, len(test[0]) // 2), strict=False):
    past = test[0][row, -168:, -1]
    axis.plot(np.arange(-len(past), 0), past, color="gray")
    axis.plot(ahead, test[1][row, :, -1], color="black", label="truth")
    axis.plot(ahead, predicted[row, :, -1], color="tab:green", label=MODEL)
    axis.plot(ahead, repeated[row, :, -1], ":", label="repeat last day")
    axis.set(ylabel=table.columns[-1], xlabel="hours")
axes[0].legend()
for name, forecasts in (("repeat last day", repeated), (MODEL, predicted)):
    by_hour = np.mean((forecasts - test[1]) ** 2, axis=(0, 2))
    axes[2].plot(ahead + 1, by_hour, label=name)
axes[2].set(xlabel="hours ahead", ylabel="mean squared error")
axes[2].legend()
plt.show()

# %% [markdown]
# What S4D remembers of the days: the kernel of each of its channels is the
# weight of today, yesterday, and so on.

# %%
picture = None
if MODEL == "s4d":
    first = next(layer for layer in model.layers if "block" in layer.name)
    picture = keras_ssm.visualize.plot_kernels(first, HISTORY // PATCH)
    picture.savefig("kernels.png")
picture

# %% [markdown]
# ## Keep it, use it
#
# A saved model forecasts on any backend. Here are the next hours after the end
# of the data, in the units of the sensors.

# %%
model.save(f"{MODEL}.keras")
loaded = keras.saving.load_model(f"{MODEL}.keras", compile=False)
future = loaded.predict(values[None, -HISTORY:], verbose=0)[0]
future = pd.DataFrame(future * std + mean, columns=table.columns)
future.to_csv("forecast.csv", index_label="hour")
print(future.head())
