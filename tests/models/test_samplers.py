"""Samplers choose what their probabilities say."""

import keras
import numpy as np
import pytest
from compare import as_array

from keras_ssm.models import (
    GreedySampler,
    RandomSampler,
    Sampler,
    TopKSampler,
    TopPSampler,
    samplers,
)

LOGITS = np.log([0.1, 0.4, 0.0625, 0.25, 0.1875]).astype("float32")
# Tokens by their probability.
ORDER = [1, 3, 4, 0, 2]
COUNT = 4000


def shares(sampler, logits=LOGITS):
    """How often each token is chosen, with evenly spread random numbers."""
    uniform = ((np.arange(COUNT) + 1) / COUNT).astype("float32")
    rows = np.broadcast_to(logits, (COUNT, len(logits)))
    tokens = as_array(
        sampler.choose(
            keras.ops.convert_to_tensor(rows.copy()),
            keras.ops.convert_to_tensor(uniform),
        )
    )
    assert tokens.dtype == "int32"
    return np.bincount(tokens, minlength=len(logits)) / COUNT


def softmax(logits):
    p = np.exp(logits - logits.max())
    return p / p.sum()


def among(tokens, temperature=1.0):
    """Probabilities of these tokens alone."""
    logits = np.full_like(LOGITS, -np.inf)
    logits[tokens] = LOGITS[tokens] / temperature
    return softmax(logits)


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (GreedySampler(), among(ORDER[:1])),
        (RandomSampler(), among(ORDER)),
        (RandomSampler(temperature=0.5), among(ORDER, 0.5)),
        (RandomSampler(temperature=0.01), among(ORDER[:1])),
        (TopKSampler(k=1), among(ORDER[:1])),
        (TopKSampler(k=3), among(ORDER[:3])),
        (TopKSampler(k=3, temperature=2.0), among(ORDER[:3], 2.0)),
        (TopKSampler(k=99), among(ORDER)),
        (TopPSampler(p=0.3), among(ORDER[:1])),
        (TopPSampler(p=0.5), among(ORDER[:2])),
        (TopPSampler(p=0.84), among(ORDER[:4])),
        (TopPSampler(p=1.0), among(ORDER)),
        (TopPSampler(p=1.0, k=2), among(ORDER[:2])),
        # At half the temperature, the first token has 57 % by itself.
        (TopPSampler(p=0.5, temperature=0.5), among(ORDER[:1])),
        (TopPSampler(p=0.6, temperature=2.0), among(ORDER[:3], 2.0)),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, Sampler) else "",
)
def test_tokens_come_as_often_as_their_probabilities_say(sampler, expected):
    assert np.allclose(shares(sampler), expected, atol=2 / COUNT)


@pytest.mark.parametrize(
    "sampler", [GreedySampler(), RandomSampler(), TopKSampler(), TopPSampler()]
)
def test_what_is_ruled_out_is_never_chosen(sampler):
    logits = np.full(300, -np.inf, "float32")
    logits[[0, 7]] = 1.0
    found = shares(sampler, logits)
    assert found[[0, 7]].sum() == 1


def test_samplers_have_names_and_configs():
    for name, kind in samplers.SAMPLERS.items():
        sampler = samplers.get(name)
        assert type(sampler) is kind
        config = keras.saving.serialize_keras_object(sampler)
        again = keras.saving.deserialize_keras_object(config)
        assert vars(again) == vars(sampler)
    sampler = TopPSampler(0.5, k=3, temperature=2.0)
    assert samplers.get(sampler) is sampler
    assert sampler.get_config() == {"p": 0.5, "k": 3, "temperature": 2.0}


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: RandomSampler(0), "`temperature` must be positive"),
        (lambda: TopKSampler(0), "`k` must be a positive integer"),
        (lambda: TopKSampler(2, -1.0), "`temperature` must be positive"),
        (lambda: TopPSampler(0), "`p` must be greater than 0"),
        (lambda: TopPSampler(1.5), "`p` must be greater than 0"),
        (lambda: TopPSampler(0.5, k=0), "`k` must be a positive integer"),
        (lambda: samplers.get("beam"), "one of .'greedy', 'random'"),
        (lambda: samplers.get(3), "or a `Sampler`"),
    ],
)
def test_what_does_not_fit_is_explained(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
