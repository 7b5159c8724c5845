"""Batches of similar length, so that little time goes into padding."""

import keras
import numpy as np

from text.vocabulary import UNKNOWN


def choose_widths(lengths, count: int, multiple: int = 32) -> list[int]:
    """Chooses at most `count` widths that pad these lengths least.

    Every width is a shape of its own and costs a compilation, every padded
    position costs arithmetic.
    """
    sizes = np.maximum(1, -(-np.asarray(lengths) // multiple))
    rows = np.cumsum(np.bincount(sizes))  # as wide as this, or less
    width = np.arange(len(rows))
    # What the rows between two widths cost, the wider one first.
    cost = (rows[:, None] - rows) * width[:, None]
    cost = np.where(width <= width[:, None], cost, np.inf)
    least, narrower = cost[:, 0], []
    for _ in range(count - 1):
        total = least + cost
        narrower.append(total.argmin(axis=1))
        least = total.min(axis=1)
    chosen = [len(rows) - 1]
    for best in reversed(narrower):
        chosen.append(best[chosen[-1]])
    return sorted({int(size) * multiple for size in chosen if size})


class Batches(keras.utils.PyDataset):
    """Serves `(tokens, labels, weights)` of one batch size and few widths.

    Rows are grouped by the narrowest width that holds them. Rows left over
    in a width ride along in the next wider one; what is missing in the very
    last batch is filled up with copies of weight 0. So every row is served
    exactly once per epoch, and every batch has one of few shapes.

    Args:
        sequences: list of 1D integer arrays, none longer than `widths[-1]`.
        labels: class number of every sequence; `None` if unknown.
        widths: ascending widths of the batches.
        batch_size: rows of every batch.
        seed: shuffles rows and batches every epoch; `None` keeps the order.
        word_dropout: share of tokens replaced by the unknown token, so that
            the model leans on no single word. Only with a seed.
    """

    def __init__(
        self,
        sequences,
        labels,
        widths: list[int],
        batch_size: int,
        seed: int | None = None,
        word_dropout: float = 0.0,
    ):
        super().__init__()
        self.sequences = sequences
        if labels is None:
            labels = np.zeros(len(sequences))
        self.labels = np.asarray(labels, "int32")
        self.widths = widths
        self.batch_size = batch_size
        self.word_dropout = word_dropout
        self.random = None if seed is None else np.random.default_rng(seed)
        lengths = np.array([len(sequence) for sequence in sequences])
        self.buckets = np.searchsorted(widths, lengths)
        self.plan = self.make_plan()

    def make_plan(self):
        """Returns a list of `(width, rows)`, the batches of one epoch."""
        plan, waiting = [], np.array([], int)
        for bucket, width in enumerate(self.widths):
            rows = np.flatnonzero(self.buckets == bucket)
            if self.random is not None:
                rows = self.random.permutation(rows)
            rows = np.concatenate([waiting, rows])
            last = bucket == len(self.widths) - 1
            full = len(rows) - (0 if last else len(rows) % self.batch_size)
            for start in range(0, full, self.batch_size):
                plan.append((width, rows[start : start + self.batch_size]))
            waiting = rows[full:]
        if self.random is not None:
            plan = [plan[index] for index in self.random.permutation(len(plan))]
        # TensorFlow takes for fixed what the first two batches have in
        # common: begin with one batch of every width.
        first = {width: index for index, (width, _) in enumerate(plan)}
        heads = [plan[index] for index in first.values()]
        rest = [b for i, b in enumerate(plan) if i not in first.values()]
        return heads + rest

    def on_epoch_end(self):
        if self.random is not None:
            self.plan = self.make_plan()

    def __len__(self):
        return len(self.plan)

    def __getitem__(self, index):
        width, rows = self.plan[index]
        filled = np.resize(rows, self.batch_size)
        tokens = np.zeros((self.batch_size, width), "int32")
        for row, number in enumerate(filled):
            sequence = self.sequences[number]
            tokens[row, : len(sequence)] = sequence
        if self.random is not None and self.word_dropout:
            dropped = self.random.random(tokens.shape) < self.word_dropout
            tokens[dropped & (tokens > 0)] = UNKNOWN
        weights = (np.arange(self.batch_size) < len(rows)).astype("float32")
        return tokens, self.labels[filled], weights

    def in_row_order(self, outputs):
        """Puts `model.predict(batches)` into the order of `sequences`."""
        ordered = np.zeros((len(self.sequences), *outputs.shape[1:]))
        for index, (_, rows) in enumerate(self.plan):
            start = index * self.batch_size
            ordered[rows] = outputs[start : start + len(rows)]
        return ordered
