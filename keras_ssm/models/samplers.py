"""How the next token is chosen from logits.

A sampler gets its random numbers from outside: numbers in (0, 1], one for each
row. So the same seed gives the same tokens on every backend, compiled or not,
but for rounding.
"""

import keras
from keras import ops


class Sampler:
    """Base of samplers. A subclass implements `choose`.

    Its arguments are numbers, and attributes of the same names.
    """

    def choose(self, logits, uniform):
        """Chooses a token for each row.

        Args:
            logits: float32, `(b, v)`. Those of tokens that must not be chosen
                are -inf.
            uniform: Random numbers, float32, in (0, 1], `(b,)`.

        Returns:
            Tokens, int32, `(b,)`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `choose(logits, uniform)`."
        )

    def get_config(self) -> dict:
        """The arguments by name; samplers that share them are equal."""
        return dict(vars(self))

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_ssm")
class GreedySampler(Sampler):
    """Chooses the most likely token."""

    def choose(self, logits, uniform):
        return ops.cast(ops.argmax(logits, axis=-1), "int32")


@keras.saving.register_keras_serializable(package="keras_ssm")
class RandomSampler(Sampler):
    """Chooses tokens by their probabilities.

    Args:
        temperature: Divides the logits: below 1, likely tokens become likelier.
    """

    def __init__(self, temperature: float = 1.0):
        _check(self, temperature > 0, "positive", temperature=temperature)
        self.temperature = temperature

    def choose(self, logits, uniform):
        return _draw(ops.softmax(logits / self.temperature), uniform)


@keras.saving.register_keras_serializable(package="keras_ssm")
class TopKSampler(Sampler):
    """Chooses by their probabilities among the `k` most likely tokens.

    Args:
        k: Number of tokens to choose from.
        temperature: See `RandomSampler`.
    """

    def __init__(self, k: int = 5, temperature: float = 1.0):
        _check(self, isinstance(k, int) and k > 0, "a positive integer", k=k)
        _check(self, temperature > 0, "positive", temperature=temperature)
        self.k = k
        self.temperature = temperature

    def choose(self, logits, uniform):
        logits, tokens = ops.top_k(logits, min(self.k, logits.shape[-1]))
        # The largest comes first.
        weights = ops.exp((logits - logits[:, :1]) / self.temperature)
        return _pick(tokens, _draw(weights, uniform))


@keras.saving.register_keras_serializable(package="keras_ssm")
class TopPSampler(Sampler):
    """Chooses among the likeliest tokens that make up a probability of `p`.

    These are the fewest tokens whose probabilities add up to `p` or more.

    Args:
        p: Their share of all probability.
        k: At most so many tokens, which saves sorting them all. `None` for no
            limit.
        temperature: See `RandomSampler`.

    Reference:
        [Holtzman et al., 2019](https://arxiv.org/abs/1904.09751).
    """

    def __init__(
        self, p: float = 0.9, k: int | None = None, temperature: float = 1.0
    ):
        _check(self, 0 < p <= 1, "greater than 0 and at most 1", p=p)
        if k is not None:
            _check(
                self, isinstance(k, int) and k > 0, "a positive integer", k=k
            )
        _check(self, temperature > 0, "positive", temperature=temperature)
        self.p = p
        self.k = k
        self.temperature = temperature

    def choose(self, logits, uniform):
        probabilities = ops.softmax(logits / self.temperature)
        count = logits.shape[-1]
        probabilities, tokens = ops.top_k(
            probabilities, min(self.k or count, count)
        )
        before = ops.cumsum(probabilities, axis=-1) - probabilities
        kept = ops.where(before < self.p, probabilities, 0.0)
        return _pick(tokens, _draw(kept, uniform))


SAMPLERS = {
    "greedy": GreedySampler,
    "random": RandomSampler,
    "top_k": TopKSampler,
    "top_p": TopPSampler,
}


def get(sampler) -> Sampler:
    """A sampler by its name, or the one that is given.

    Raises:
        ValueError: If there is none of that name.
    """
    if isinstance(sampler, Sampler):
        return sampler
    if isinstance(sampler, str) and sampler in SAMPLERS:
        return SAMPLERS[sampler]()
    raise ValueError(
        f"`sampler` must be one of {sorted(SAMPLERS)}, or a `Sampler`. "
        f"Received: sampler={sampler!r}."
    )


def _draw(weights, uniform):
    """Positions, each with a chance proportional to its weight."""
    sums = ops.cumsum(weights, axis=-1)
    aim = ops.expand_dims(uniform, -1) * sums[:, -1:]
    below = ops.cast(sums < aim, "int32")
    # What is aimed at is reached where a weight is positive, unless sums that
    # are added up in another order fall behind by rounding.
    last = ops.max(
        ops.where(weights > 0, ops.arange(weights.shape[-1]), 0), axis=-1
    )
    return ops.minimum(ops.sum(below, axis=-1), ops.cast(last, "int32"))


def _pick(tokens, positions):
    positions = ops.expand_dims(positions, -1)
    tokens = ops.take_along_axis(tokens, positions, axis=-1)
    return ops.cast(tokens[:, 0], "int32")


def _check(sampler, holds, what, **argument):
    ((name, value),) = argument.items()
    if not holds:
        raise ValueError(
            f"`{type(sampler).__name__}`: `{name}` must be {what}. "
            f"Received: {name}={value!r}."
        )
