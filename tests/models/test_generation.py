"""Generation continues prompts as full passes over them would."""

import keras
import numpy as np
import pytest
from compare import as_array
from harness import BACKEND
from model_harness import VOCABULARY, causal_lm, each_config

from keras_ssm.models import (
    GreedySampler,
    RandomSampler,
    TopKSampler,
    generation,
)

PROMPTS = [[3, 1, 4], [1, 5, 9, 2, 6, 5, 3, 5], [8]]


def by_full_passes(model, prompt, max_length):
    """The most likely next token, again and again, without states."""
    row = list(prompt)
    while len(row) < max_length:
        # One length for all passes: few programs.
        padded = np.zeros((1, max_length), "int32")
        padded[0, : len(row)] = row
        logits = model.predict(padded, verbose=0)[0, len(row) - 1]
        logits[0] = -np.inf  # padding
        row.append(int(logits.argmax()))
    return row


def lists(results):
    return [result.tolist() for result in results]


@each_config()
def test_greedy_is_the_most_likely_token_of_full_passes(name):
    model = causal_lm(name)
    results = model.generate(PROMPTS, 12)
    expected = [by_full_passes(model, prompt, 12) for prompt in PROMPTS]
    assert lists(results) == expected
    assert all(result.dtype == "int32" for result in results)
    assert len({tuple(row[-4:]) for row in expected}) > 1


@pytest.fixture(scope="module")
def model():
    return causal_lm()


def test_prompts_may_be_arrays_with_padding_anywhere(model):
    expected = lists(model.generate(PROMPTS, 12))
    padded = np.zeros((3, 10), "int64")
    padded[0, 7:] = PROMPTS[0]
    padded[1, :8] = PROMPTS[1]
    padded[2, 4] = 8
    assert lists(model.generate(padded, 12)) == expected
    tensor = keras.ops.convert_to_tensor(padded.astype("int32"))
    assert lists(model.generate(tensor, 12)) == expected
    assert model.generate(PROMPTS[0], 12).tolist() == expected[0]
    assert model.generate(np.array(PROMPTS[0]), 12).tolist() == expected[0]


def test_a_long_generation_runs_in_parts(model):
    result = model.generate(PROMPTS[:1], 80)[0]
    assert len(result) == 80
    assert result[:70].tolist() == model.generate(PROMPTS[0], 70).tolist()
    assert result.min() > 0


def test_long_prompts_are_read_in_parts(monkeypatch):
    model = causal_lm("jamba")
    expected = lists(model.generate(PROMPTS, 12))
    monkeypatch.setattr(generation, "SHORTEST", 1)
    monkeypatch.setattr(generation, "PART", 3)
    assert lists(causal_lm("jamba").generate(PROMPTS, 12)) == expected


def test_a_row_ends_behind_its_stop_token(model):
    whole = lists(model.generate(PROMPTS, 30))
    stop = whole[0][8]
    for row, result in zip(
        whole,
        lists(model.generate(PROMPTS, 30, stop_tokens=[stop, 19])),
        strict=True,
    ):
        new = row[len(PROMPTS[whole.index(row)]) :]
        ends = [new.index(s) + 1 for s in (stop, 19) if s in new]
        length = len(row) - len(new) + min(ends, default=len(new))
        assert result == row[:length]
    assert len(model.generate(PROMPTS[0], 30, stop_tokens=[stop])) < 30


def test_a_callback_hears_every_token(model):
    heard = []
    results = model.generate(
        PROMPTS, 12, "random", seed=3, stop_tokens=[7], callback=heard.append
    )
    for index, (prompt, result) in enumerate(
        zip(PROMPTS, lists(results), strict=True)
    ):
        new = [step[index] for step in heard]
        count = len(result) - len(prompt)
        assert new[:count] == result[len(prompt) :]
        assert new[count:] == [None] * (len(heard) - count)
    together = model.generate(PROMPTS, 12, "random", seed=3, stop_tokens=[7])
    assert lists(together) == lists(results)
    alone = []
    model.generate([3, 1, 4], 6, callback=alone.append)
    assert alone == model.generate([3, 1, 4], 6)[3:].tolist()


def test_the_same_seed_chooses_the_same_tokens(model):
    def generate(**options):
        return lists(model.generate(PROMPTS, 16, "random", **options))

    assert generate(seed=1) == generate(seed=1)
    assert generate(seed=1) != generate(seed=2)
    keras.utils.set_random_seed(5)
    first = generate()
    assert generate() != first
    keras.utils.set_random_seed(5)
    assert generate() == first


def test_random_tokens_follow_the_probabilities(model):
    logits = model.predict(np.array([[3, 1, 4]]), verbose=0)[0, -1]
    logits = logits.astype("float64")
    logits[0] = -np.inf
    expected = np.exp(logits) / np.exp(logits).sum()
    rows = model.generate([[3, 1, 4]] * 3000, 4, "random", seed=0)
    found = np.bincount([row[3] for row in rows], minlength=VOCABULARY) / 3000
    assert np.abs(found - expected).max() < 0.03
    rows = model.generate([[3, 1, 4]] * 100, 4, TopKSampler(2), seed=0)
    assert {row[3] for row in rows} == set(logits.argsort()[-2:].tolist())


def test_a_program_serves_all_lengths_up_to_a_power_of_two(monkeypatch):
    model, calls = causal_lm(), []
    # PyTorch reads prompts eagerly.
    for name in ("step",) if BACKEND == "torch" else ("steps", "step"):
        inner = getattr(model.backbone, name)

        def spy(*args, inner=inner, name=name):
            calls.append(name)
            return inner(*args)

        monkeypatch.setattr(model.backbone, name, spy)
    model.generate([[1, 2, 3]], 9)
    traced = list(calls)
    model.generate([[1, 2, 3, 4, 5]], 15)
    model.generate([[1]], 16, seed=3, callback=lambda token: None)
    model.compile(keras.optimizers.SGD(0.1))
    model.fit(np.array([[1, 2, 3]]), verbose=0)
    model.generate([1, 2, 3], 9)
    embeddings = model.backbone.token_embedding.embeddings
    embeddings.assign(np.roll(as_array(embeddings), 5, axis=0))
    result = model.generate([1, 2, 3], 9)
    assert calls == traced
    assert result.tolist() == by_full_passes(model, [1, 2, 3], 9)


def test_a_prompt_that_is_long_enough_stays_as_it_is(model):
    assert lists(model.generate(PROMPTS[1:], 8))[0] == PROMPTS[1]
    assert model.generate(PROMPTS[1], 8).tolist() == PROMPTS[1]


@pytest.mark.parametrize(
    ("prompts", "options", "sentence"),
    [
        ([[1, 2], []], {}, "a list of at least one token"),
        ([[1, 2], [0, 0]], {}, "a list of at least one token"),
        ([], {}, "a list of at least one token"),
        ([[0.5, 1.0]], {}, "each an integer"),
        ([[1, VOCABULARY]], {}, "less than the vocabulary size, 20"),
        ([[-1]], {}, "at least 0"),
        ([[1] * 11], {}, "`max_length` counts the prompt"),
        ([[1]], {"sampler": "beam"}, "`sampler` must be one of"),
    ],
)
def test_what_does_not_fit_is_explained(model, prompts, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        model.generate(prompts, 10, **options)


def test_samplers_of_equal_arguments_share_their_programs(model):
    model.generate([1], 3, RandomSampler(2.0), seed=1)
    count = len(model._generator._programs)
    model.generate([1], 3, RandomSampler(2.0), seed=1)
    assert len(model._generator._programs) == count
    model.generate([1], 3, RandomSampler(3.0), seed=1)
    model.generate([1], 3, GreedySampler(), seed=1)
    assert len(model._generator._programs) == count + 1


def test_padding_is_never_generated(model):
    prompt = np.array([[3, 1, 4]], "int32")
    favours_padding = causal_lm()
    embedding = favours_padding.backbone.token_embedding.embeddings
    kernel = np.array(as_array(embedding))
    kernel[0] = 10 * favours_padding.backbone.predict(prompt, verbose=0)[0, -1]
    embedding.assign(kernel)
    logits = favours_padding.predict(prompt, verbose=0)[0, -1]
    assert logits.argmax() == 0
    (result,) = favours_padding.generate(prompt, 4)
    assert result[3] == 1 + logits[1:].argmax()
