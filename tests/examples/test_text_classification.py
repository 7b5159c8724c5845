"""The example goes from CSV files to a submission, or says what is wrong."""

import gzip
import itertools
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pandas as pd
import pytest
import text_classification
from text import batches, classifiers, figure, files, models, tables
from text.vocabulary import Vocabulary

EXAMPLE = pathlib.Path(text_classification.__file__)
QUICK = (
    "--width 8 --state-dim 2 --batch-size 8 --seconds 0 --epochs 10 "
    "--patience 10 --learning-rate 0.03 --word-dropout 0 "
    "--embedding-dropout 0 --dropout 0 "
    "--validation-fraction 0.2 --verbose 0"
).split()
NOUNS = ("film", "plot", "score", "cast", "ending", "camera", "script")


def rows(count: int, seed: int = 0):
    """Texts whose label is told by one word; no two are the same."""
    random = np.random.default_rng(seed)
    for number in range(count):
        label = ("bad", "good")[number % 2]
        word = {"bad": "dreadful", "good": "wonderful"}[label]
        nouns = random.choice(NOUNS, 5)
        yield f"A {word} {' '.join(nouns)} number {number}", label


def write_csv(path, count: int, seed: int = 0, **more) -> str:
    table = pd.DataFrame(list(rows(count, seed)), columns=["text", "label"])
    table.assign(**more).to_csv(path, index=False)
    return str(path)


@pytest.fixture
def run(tmp_path):
    """Runs the command line with its output in a temporary folder."""

    def run(*arguments):
        output = ["--output", str(tmp_path / "output")]
        return text_classification.main([*arguments, *QUICK, *output])

    return run


@pytest.fixture
def options():
    return text_classification.parse(QUICK)


# The road from files to files


@pytest.mark.parametrize("model", text_classification.MODELS)
def test_every_model_learns_and_predicts(model, run, tmp_path):
    train = write_csv(tmp_path / "train.csv", 160)
    names = [f"row {number}" for number in reversed(range(40))]
    test = write_csv(tmp_path / "test.csv", 40, 1, id=names)
    submission = tmp_path / "made" / "submission.csv"

    code = run(
        *("--train", train, "--test", test, "--model", model, "--no-tfidf"),
        *("--submission", str(submission)),
    )

    assert code == 0
    predicted = pd.read_csv(submission)
    assert list(predicted.columns) == ["id", "label"]
    assert list(predicted["id"]) == names
    truth = [label for _, label in rows(40, 1)]
    assert np.mean(predicted["label"] == truth) > 0.75
    results = json.loads((tmp_path / "output/results.json").read_text())
    assert results["test_accuracy"] == np.mean(predicted["label"] == truth)
    picture = (tmp_path / "output/report.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 10_000


@pytest.mark.parametrize(
    "name", ["mamba", "mamba2", "mamba3", "hybrid", "s4d", "transformer"]
)
def test_saved_model_predicts_the_same(name, options, tmp_path):
    texts = [text for text, _ in rows(30)]
    saved = classifiers.NeuralClassifier(["bad", "good", "new"], options)
    saved.vocabulary = Vocabulary.learn("word", texts, 100, 32)
    saved.widths = [32]
    saved.model = models.build_model(name, len(saved.vocabulary), 3, options)
    weights = saved.model.get_weights()
    random = np.random.default_rng(0)
    saved.model.set_weights(
        [w + 0.2 * random.normal(size=w.shape) for w in weights]
    )

    saved.save(tmp_path)
    loaded = classifiers.NeuralClassifier.load(tmp_path, options)

    assert list(loaded.predict(texts)) == list(saved.predict(texts))
    tokens = saved.batches([saved.vocabulary.encode(text) for text in texts])
    expected = saved.model.predict_on_batch(tokens[0][0])
    again = loaded.model.predict_on_batch(tokens[0][0])
    assert np.abs(expected[0] - expected[1]).max() > 1e-4
    np.testing.assert_allclose(again, expected, atol=1e-6)


def test_prints_what_must_be_beaten(run, tmp_path, capsys):
    train = write_csv(tmp_path / "train.csv", 80)

    assert run("--train", train, "--model", "pooling") == 0

    printed = capsys.readouterr().out
    assert "50.00%  always the most frequent class" in printed
    assert "TF-IDF + logistic regression" in printed


def test_missing_scikit_learn_is_a_sentence(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(classifiers, "scikit_learn_is_there", lambda: False)
    train = write_csv(tmp_path / "train.csv", 80)

    assert run("--train", train, "--model", "pooling") == 0
    assert "pip install keras-ssm[examples]" in capsys.readouterr().out
    assert run("--train", train, "--model", "tfidf") == 2
    assert "pip install keras-ssm[examples]" in capsys.readouterr().err


def test_latin_1_with_junk_columns(run, tmp_path):
    path = tmp_path / "spam.csv"
    lines = ["v1,v2,,,", 'ham,"commas, quotes ""and"" more",,,x']
    lines += [f"{label},{text} café £5,,," for text, label in rows(60)]
    path.write_text("\n".join(lines), "latin-1")

    columns = ["--text-column", "v2", "--label-column", "v1"]
    code = run(
        *("--train", str(path), "--encoding", "latin-1", *columns),
        *("--model", "pooling", "--no-tfidf"),
    )

    assert code == 0
    saved = json.loads((tmp_path / "output/vocabulary.json").read_text())
    assert saved["classes"] == ["bad", "good", "ham"]
    assert {"café", "£"} <= set(saved["vocabulary"]["tokens"])


def test_gzip_and_missing_values(run, tmp_path, capsys):
    table = pd.DataFrame(list(rows(60)), columns=["text", "label"])
    table.loc[3, "label"] = None
    table.loc[4:5, "text"] = "   "
    table.to_csv(tmp_path / "train.csv.gz", index=False)
    test = pd.DataFrame({"text": ["a wonderful film", None, "null", "NA"]})
    test.to_csv(tmp_path / "test.csv.gz", index=False)
    submission = tmp_path / "submission.csv.gz"

    code = run(
        *("--train", str(tmp_path / "train.csv.gz"), "--no-tfidf"),
        *("--test", str(tmp_path / "test.csv.gz"), "--model", "pooling"),
        *("--submission", str(submission)),
    )

    assert code == 0
    printed = capsys.readouterr().out
    assert "1 rows without a label are left out" in printed
    assert "2 rows without a text are left out" in printed
    with gzip.open(submission, "rt") as file:
        lines = file.read().splitlines()
    assert lines[0] == "id,label" and len(lines) == 5


def test_same_seed_same_model(run, tmp_path):
    train = write_csv(tmp_path / "train.csv", 60)
    arguments = ["--train", train, "--model", "pooling", "--no-tfidf"]
    losses = []
    for _ in range(2):
        run(*arguments, "--epochs", "2", "--seed", "1")
        results = json.loads((tmp_path / "output/results.json").read_text())
        losses.append(results["history"]["loss"])

    assert losses[0] == losses[1]
    assert losses[0][0] != losses[0][1]


def test_budget_ends_training_within_an_epoch():
    options = text_classification.parse(
        [*QUICK, "--seconds", "0.001", "--model", "pooling"]
    )
    texts, labels = zip(*rows(200), strict=True)
    data = tables.Texts(list(texts), np.array(labels), ("id", []))
    split = tables.split(data, 0.2, 0)
    classifier = classifiers.NeuralClassifier(["bad", "good"], options)

    classifier.fit(data, split)

    assert len(classifier.history["val_accuracy"]) == 1
    assert int(classifier.model.optimizer.iterations) == 1


# Bad input


def expect_sentence(code, capsys, *parts):
    error = capsys.readouterr().err
    assert code == 2
    assert all(part in error for part in parts), error
    assert len(error.strip().splitlines()) == 1


def test_missing_file(run, capsys):
    expect_sentence(run("--train", "none.csv"), capsys, "no file none.csv")


def test_missing_column_lists_the_columns(run, tmp_path, capsys):
    train = write_csv(tmp_path / "train.csv", 8)
    code = run("--train", train, "--text-column", "review")
    expect_sentence(code, capsys, "'review'", "text, label", "--text-column")
    code = run("--train", train, "--label-column", "stars")
    expect_sentence(code, capsys, "'stars'", "text, label", "--label-column")


def test_test_file_without_texts(run, tmp_path, capsys):
    train = write_csv(tmp_path / "train.csv", 8)
    test = tmp_path / "test.csv"
    test.write_text("id,review\n1,good\n")
    code = run("--train", train, "--test", str(test))
    expect_sentence(code, capsys, "test.csv", "'text'", "id, review")


@pytest.mark.parametrize("content", ["", "text,label\n"])
def test_empty_file(content, run, tmp_path, capsys):
    (tmp_path / "train.csv").write_text(content)
    code = run("--train", str(tmp_path / "train.csv"))
    expect_sentence(code, capsys, "train.csv is empty")


def test_one_class(run, tmp_path, capsys):
    train = write_csv(tmp_path / "train.csv", 8, label="good")
    expect_sentence(run("--train", train), capsys, "two of them", "good")


def test_label_seen_only_in_test(run, tmp_path, capsys):
    train = write_csv(tmp_path / "train.csv", 8)
    test = write_csv(tmp_path / "test.csv", 4, label="mediocre")
    code = run("--train", train, "--test", test)
    expect_sentence(code, capsys, "training file lacks", "mediocre")


@pytest.mark.parametrize(
    "written, tried, advice",
    [
        ("latin-1", "utf-8", "--encoding latin-1"),
        ("utf-16", "utf-8", "--encoding utf-16"),
        ("utf-8", "ascii", "--encoding utf-8"),
    ],
)
def test_wrong_encoding(written, tried, advice, run, tmp_path, capsys):
    path = tmp_path / "train.csv"
    path.write_text("text,label\ncafé,good\ntea,bad\n", written)
    code = run("--train", str(path), "--encoding", tried)
    expect_sentence(code, capsys, f"not written in {tried}", advice)


def test_unknown_encoding(run, tmp_path, capsys):
    train = write_csv(tmp_path / "train.csv", 8)
    code = run("--train", train, "--encoding", "latin-one")
    expect_sentence(code, capsys, "latin-one", "latin-1")


def test_not_a_csv_file(run, tmp_path, capsys):
    expect_sentence(run("--train", str(tmp_path)), capsys, "cannot be read")
    (tmp_path / "train.csv.gz").write_text("not gzipped")
    code = run("--train", str(tmp_path / "train.csv.gz"))
    expect_sentence(code, capsys, "cannot be read")


def test_nothing_to_validate_on(run, tmp_path, capsys):
    (tmp_path / "train.csv").write_text("text,label\nyes,good\nno,bad\n")
    code = run("--train", str(tmp_path / "train.csv"))
    expect_sentence(code, capsys, "nothing to validate on")


def test_output_that_cannot_be_written(run, tmp_path, capsys):
    train = write_csv(tmp_path / "train.csv", 8)
    (tmp_path / "file").write_text("")
    code = text_classification.main(
        ["--train", train, "--output", str(tmp_path / "file" / "folder")]
    )
    expect_sentence(code, capsys, "Cannot", str(tmp_path / "file"))
    test = write_csv(tmp_path / "test.csv", 4)
    code = run("--train", train, "--test", test, "--submission", str(tmp_path))
    expect_sentence(code, capsys, "Cannot write", str(tmp_path))


def test_arguments_that_miss_others(run, tmp_path, capsys):
    train = write_csv(tmp_path / "train.csv", 8)
    code = run("--train", train, "--submission", "submission.csv")
    expect_sentence(code, capsys, "--test")
    expect_sentence(run("--test", train), capsys, "--train")


def test_missing_package_is_a_sentence(tmp_path):
    code = (
        "import importlib.util as u, runpy, sys; find = u.find_spec;"
        "u.find_spec = lambda n, *a: None if n == 'pandas' else find(n, *a);"
        f"runpy.run_path({str(EXAMPLE)!r}, run_name='__main__')"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(EXAMPLE.parent)},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 2
    assert "pandas: pip install keras-ssm[examples]" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_failed_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "results.json"
    files.write_json(str(path), {"old": True})
    with pytest.raises(TypeError):
        files.write_json(str(path), {"new": object()})
    assert json.loads(path.read_text()) == {"old": True}
    assert os.listdir(tmp_path) == ["results.json"]


# The split


@pytest.mark.parametrize("seed", range(5))
def test_split_is_stratified_and_shares_no_text(seed):
    random = np.random.default_rng(seed)
    numbers = random.integers(0, 150, 400)  # many texts come several times
    texts = [f"<br />Text {n}  " if n % 2 else f"text\t{n}" for n in numbers]
    labels = np.where(numbers % 5 == 0, "rare", "common")

    parts = tables.split(tables.Texts(texts, labels, ("id", [])), 0.2, seed)

    assert sorted(np.concatenate(parts)) == list(range(400))
    learned, held_out = ({int(n) for n in numbers[part]} for part in parts)
    assert not learned & held_out
    for label in ("rare", "common"):
        of_label = np.mean(labels[parts[1]] == label)
        assert abs(of_label - np.mean(labels == label)) < 0.05
    assert abs(len(parts[1]) / 400 - 0.2) < 0.03


def test_split_depends_on_the_seed_alone():
    texts, labels = zip(*rows(50), strict=True)
    data = tables.Texts(list(texts), np.array(labels), ("id", []))
    first, again, other = (tables.split(data, 0.2, s)[1] for s in (0, 0, 1))
    assert list(first) == list(again) != list(other)


def test_only_copies_are_grouped():
    assert tables.normalise("One<br />two  ") == tables.normalise("one TWO")
    assert tables.normalise("1 < 2 and 3") != tables.normalise("1 3")


# Vocabulary


def test_words_are_learned_most_frequent_first():
    texts = ["The cat<br />isn't the Dog!", "the cat. isn't! once"]
    vocabulary = Vocabulary.learn("word", texts, 100, 10)
    assert vocabulary.tokens == ["the", "cat", "isn't", "!"]
    assert list(vocabulary.encode("The once CAT")) == [2, 1, 3]
    assert len(Vocabulary.learn("word", texts, 4, 10)) == 4


def test_bytes_reach_every_text():
    vocabulary = Vocabulary.learn("byte", ["aab", "bé"], 258, 10)
    assert list(vocabulary.encode("ab")) == [2, 3]
    assert len(vocabulary.encode("日本")) == 6


def test_head_and_tail_of_long_texts_are_kept():
    vocabulary = Vocabulary("word", list("abcdefgh"), 4)
    assert list(vocabulary.encode("a b c d e f g h")) == [2, 7, 8, 9]
    assert list(vocabulary.encode("a b c d")) == [2, 3, 4, 5]
    assert list(vocabulary.encode("")) == [1]


def test_vocabulary_knows_no_validation_word(run, tmp_path):
    path = tmp_path / "train.csv"
    lines = [
        f"{text} only{number} only{number}," + label
        for number, (text, label) in enumerate(rows(50))
    ]
    path.write_text("\n".join(["text,label", *lines]))

    run("--train", str(path), "--model", "pooling", "--no-tfidf")

    saved = json.loads((tmp_path / "output/vocabulary.json").read_text())
    known = {t for t in saved["vocabulary"]["tokens"] if t.startswith("only")}
    assert len(known) == 40


# Batches


@pytest.mark.parametrize("seed", [None, 3])
def test_batches_serve_every_row_once(seed):
    random = np.random.default_rng(0)
    lengths = random.integers(1, 97, 101)
    sequences = [np.full(n, row + 2) for row, n in enumerate(lengths)]
    labels = np.arange(101)
    served = batches.Batches(sequences, labels, [32, 64, 96], 8, seed)

    for _ in range(2):
        seen, shapes = [], []
        for tokens, answers, weights in (served[i] for i in range(len(served))):
            shapes.append(tokens.shape)
            for row, answer, weight in zip(
                tokens, answers, weights, strict=True
            ):
                length = lengths[answer]
                assert (row[:length] == answer + 2).all()
                assert not row[length:].any()
                if weight:
                    seen.append(int(answer))
        assert sorted(seen) == list(range(101))
        assert {shape[0] for shape in shapes} == {8}
        assert {shape[1] for shape in shapes} == {32, 64, 96}
        assert len(shapes) == 13  # nothing but the last batch is filled up
        assert shapes[0] != shapes[1]  # TensorFlow's signature needs that
        served.on_epoch_end()


def test_batches_are_shuffled_every_epoch():
    sequences = [np.ones(3)] * 64
    served = batches.Batches(sequences, np.arange(64), [32], 8, seed=0)
    first = np.concatenate([rows for _, rows in served.plan])
    served.on_epoch_end()
    second = np.concatenate([rows for _, rows in served.plan])
    assert list(first) != list(second)
    assert sorted(first) == sorted(second)


def test_predictions_return_in_row_order():
    random = np.random.default_rng(0)
    sequences = [np.full(n, n) for n in random.integers(1, 65, 30)]
    served = batches.Batches(sequences, None, [32, 64], 4)
    first_tokens = [served[i][0][:, :1] for i in range(len(served))]
    outputs = np.concatenate(first_tokens)
    ordered = served.in_row_order(outputs)
    assert list(ordered[:, 0]) == [len(sequence) for sequence in sequences]


def test_word_dropout_spares_padding():
    sequences = [np.full(20, 9)] * 8
    served = batches.Batches(sequences, None, [32], 8, seed=0, word_dropout=0.5)
    tokens, _, _ = served[0]
    assert 0.3 < np.mean(tokens[:, :20] == 1) < 0.7
    assert not tokens[:, 20:].any()


def test_widths_are_few_and_hold_everything():
    lengths = np.random.default_rng(0).integers(1, 1000, 500)
    widths = batches.choose_widths(lengths, 3)
    assert len(widths) == 3 and widths == sorted(widths)
    assert widths[-1] >= lengths.max()
    assert all(width % 32 == 0 for width in widths)
    assert batches.choose_widths([5, 6, 7], 3) == [32]
    assert batches.choose_widths([0], 3) == [32]


def test_no_other_widths_pad_less():
    lengths = np.random.default_rng(0).lognormal(4, 1, 200).astype(int) + 1

    def positions(widths):
        return np.take(widths, np.searchsorted(widths, lengths)).sum()

    chosen = batches.choose_widths(lengths, 3)
    last = -(-int(lengths.max()) // 32) * 32
    inner = itertools.combinations(range(32, last, 32), 2)
    assert positions(chosen) == min(positions([*w, last]) for w in inner)


def test_blocks_stand_one_behind_the_other(options):
    options.blocks = 3
    model = models.build_model("mamba", 50, 3, options)
    assert sum(v.name.startswith("mamba_block") for v in model.layers) == 3


# Models


def test_mixers_have_equal_size():
    options = text_classification.parse([])
    sizes = {
        name: models.count_parameters(
            models.build_model(name, 1000, 2, options)
        )["outside"]
        for name in models.NEURAL
    }
    for name in set(models.NEURAL) - {"mamba", "pooling"}:
        assert abs(sizes[name] / sizes["mamba"] - 1) < 0.02, sizes
    assert sizes["pooling"] < 0.05 * sizes["mamba"]


@pytest.mark.parametrize("name", models.NEURAL)
def test_padding_changes_nothing_and_order_does(name, options):
    model = models.build_model(name, 50, 3, options)
    tokens = np.random.default_rng(0).integers(1, 50, (4, 9))
    padded = np.pad(tokens, ((0, 0), (0, 7)))
    shuffled = np.pad(tokens[:, [3, 1, 2, 0, 8, 5, 6, 7, 4]], ((0, 0), (0, 7)))

    short, long, other = (
        keras.ops.convert_to_numpy(model(batch))
        for batch in (tokens, padded, shuffled)
    )

    np.testing.assert_allclose(long, short, atol=1e-5)
    if name == "pooling":
        np.testing.assert_allclose(other, long, atol=1e-5)
    else:
        assert np.abs(other - long).max() > 1e-5


def test_confusion_counts_true_by_predicted():
    truth, predicted = ["a", "a", "b", "c"], ["a", "b", "b", "a"]
    counts = figure.confusion_matrix(truth, predicted, ["a", "b", "c"])
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
