"""Continues prompts with a language model, by compiled programs."""

import functools

import keras
import numpy as np
from keras import ops

from keras_ssm.models import samplers
from keras_ssm.ops.dispatch import compiled, traced

# Tokens that one call of a program generates where nobody waits for each.
CHUNK = 64
# Tokens of a prompt that are read at once: attention compares each of them with
# all of its state.
PART = 2048
SHORTEST = 16
# In the place of tokens of a row that has ended.
ENDED = -1


class Generator:
    """Generates with a model.

    Prompts are padded on the left, so that all of them end together, and read
    by one program, long ones in parts. Masked steps leave a state as it is:
    each row has the state that it would have by itself. Another program goes
    on from there; it takes a step with the last token and chooses the next
    one, again and again, until all rows have ended.

    Args:
        model: A `CausalLM`.
    """

    def __init__(self, model):
        self.model = model
        self._programs = {}

    def __call__(
        self, prompts, max_length, sampler, stop_tokens, seed, callback
    ):
        """See `CausalLM.generate`."""
        rows, several = _rows(prompts, self.model.backbone.padding_id)
        _check(rows, max_length, self.model.backbone.vocabulary_size)
        tell = _teller(callback, several)
        generated = []
        for tokens in self._tokens(
            rows,
            max_length,
            samplers.get(sampler),
            np.array(list(stop_tokens), "int32"),
            seed,
            CHUNK if callback is None else 1,
        ):
            generated.append(tokens)
            tell(tokens)
        generated = np.concatenate(generated)
        results = [
            np.concatenate([row, new[new != ENDED]]).astype("int32")
            for row, new in zip(rows, generated.T, strict=True)
        ]
        return results if several else results[0]

    def _tokens(self, rows, max_length, sampler, stop_tokens, seed, chunk):
        """Yields new tokens, `(any number of steps, rows)`."""
        feed, read, go_on = self._compiled(sampler)
        values = [variable.value for variable in self.model.variables]
        random = _random(seed, len(rows))
        tokens, mask = _pad_left(rows)
        left = np.array([max_length - len(row) for row in rows], "int32")
        state = self.model.backbone.get_initial_state(
            len(rows), _rounded(max_length)
        )
        *parts, last = zip(_parts(tokens), _parts(mask), strict=True)
        for part in parts:
            state = feed(values, state, *part)
        carry = {"state": state, "left": ops.convert_to_tensor(left)}
        carry, new = read(values, carry, *last, random(1)[0], stop_tokens)
        yield ops.convert_to_numpy(new)[None]
        left = ops.convert_to_numpy(carry["left"])
        while left.any():
            count = min(chunk, left.max())
            carry, new = go_on(
                values, carry, np.int32(count), random(count), stop_tokens
            )
            yield ops.convert_to_numpy(new)[:count]
            left = ops.convert_to_numpy(carry["left"])

    def _compiled(self, sampler):
        """The programs for a sampler."""
        jit_compile = self.model.jit_compile
        key = (
            type(sampler),
            *sorted(sampler.get_config().items()),
            jit_compile,
        )
        if key not in self._programs:
            read = functools.partial(self._read, sampler)
            step = functools.partial(self._step, sampler)
            step = traced(with_weights(self.model, step))
            functions = (
                with_weights(self.model, self._feed),
                with_weights(self.model, read),
                functools.partial(_go_on, step),
            )
            self._programs[key] = [
                compiled(function, jit_compile) for function in functions
            ]
        return self._programs[key]

    def _feed(self, state, tokens, mask):
        return self.model.backbone.steps(tokens, state, mask)[1]

    def _read(self, sampler, carry, tokens, mask, uniform, stop_tokens):
        y, state = self.model.backbone.steps(tokens, carry["state"], mask)
        return self._choose(
            sampler, y[:, -1], state, carry["left"], uniform, stop_tokens
        )

    def _step(self, sampler, carry, uniform, stop_tokens):
        y, state = self.model.backbone.step(carry["token"], carry["state"])
        return self._choose(
            sampler, y, state, carry["left"], uniform, stop_tokens
        )

    def _choose(self, sampler, y, state, left, uniform, stop_tokens):
        """Chooses tokens after outputs `y` of the backbone, `(b, width)`."""
        logits = self.model.logits(y)
        padding_id = self.model.backbone.padding_id
        if padding_id is not None:
            is_padding = ops.arange(logits.shape[-1]) == padding_id
            logits = ops.where(is_padding, -float("inf"), logits)
        token = sampler.choose(logits, ops.convert_to_tensor(uniform))
        stops = ops.any(ops.expand_dims(token, -1) == stop_tokens, axis=-1)
        live = left > 0
        new = ops.where(live, token, ENDED)
        left = ops.where(stops, 0, ops.maximum(left - 1, 0))
        return {"state": state, "token": token, "left": left}, new


def with_weights(model, function):
    """The function, with the values of a model's variables first.

    A program keeps what it has seen when it was compiled. Weights that are
    arguments are those of today.
    """

    def program(values, *arguments):
        pairs = zip(model.variables, values, strict=True)
        with keras.StatelessScope(state_mapping=list(pairs)):
            return function(*arguments)

    return program


def _go_on(step, values, carry, count, uniform, stop_tokens):
    """Takes steps, at most `count`, until all rows have ended.

    Returns:
        `(carry, generated)`: what to go on from, and the tokens, `(CHUNK, b)`.
    """

    def goes_on(index, carry, generated):
        return ops.logical_and(index < count, ops.any(carry["left"] > 0))

    def body(index, carry, generated):
        carry, new = step(values, carry, uniform[index], stop_tokens)
        new = ops.expand_dims(new, 0)
        return (
            index + 1,
            carry,
            ops.slice_update(generated, (index, 0), new),
        )

    uniform = ops.convert_to_tensor(uniform)
    stop_tokens = ops.convert_to_tensor(stop_tokens)
    generated = ops.full(uniform.shape, ENDED, "int32")
    start = ops.zeros((), "int32")
    _, carry, generated = ops.while_loop(
        goes_on, body, (start, carry, generated)
    )
    return carry, generated


def _rows(prompts, padding_id):
    """The prompts without padding, and whether they were several."""
    if ops.is_tensor(prompts):
        prompts = ops.convert_to_numpy(prompts)
    several = len(prompts) > 0 and np.ndim(prompts[0]) > 0
    rows = [np.asarray(row) for row in (prompts if several else [prompts])]
    if padding_id is not None:
        rows = [row[row != padding_id] for row in rows]
    return rows, several


def _check(rows, max_length, vocabulary_size):
    for row in rows:
        if row.ndim != 1 or not len(row) or row.dtype.kind not in "iu":
            raise ValueError(
                "`generate`: a prompt must be a list of at least one token "
                "that is no padding, each an integer. "
                f"Received: {row.tolist()}."
            )
        if row.min() < 0 or row.max() >= vocabulary_size:
            raise ValueError(
                "`generate`: tokens must be at least 0 and less than the "
                f"vocabulary size, {vocabulary_size}. "
                f"Received: {row.min()} to {row.max()} in a prompt."
            )
        if len(row) > max_length:
            raise ValueError(
                "`generate`: `max_length` counts the prompt, and must be as "
                f"large. Received: max_length={max_length}, and a prompt of "
                f"{len(row)} tokens."
            )


def _pad_left(rows):
    """Tokens and a mask, `(b, l)`."""
    length = max(len(row) for row in rows)
    if length > PART:
        length = -(-length // PART) * PART
    else:
        length = _rounded(length)
    tokens = np.zeros((len(rows), length), "int32")
    mask = np.zeros((len(rows), length), "bool")
    for index, row in enumerate(rows):
        tokens[index, length - len(row) :] = row
        mask[index, length - len(row) :] = True
    return tokens, mask


def _rounded(length):
    """A greater length of few, so that few programs are compiled."""
    return max(SHORTEST, 1 << (length - 1).bit_length())


def _parts(x):
    """`(b, l)` in parts of equal length."""
    return np.split(x, max(1, x.shape[1] // PART), axis=1)


def _random(seed, rows):
    """A function that gives numbers in (0, 1] for the next steps."""
    if seed is None:
        # What `keras.utils.set_random_seed` determines.
        seed = np.random.randint(2**31)
    generator = np.random.default_rng(seed)

    def draw(count):
        """`(CHUNK, rows)`, of which `count` steps are random."""
        numbers = np.ones((CHUNK, rows), "float32")
        numbers[:count] -= generator.random((count, rows), "float32")
        return numbers

    return draw


def _teller(callback, several):
    """Hands new tokens of one step to a callback."""

    def tell(tokens):
        if callback is None:
            return
        (tokens,) = tokens.tolist()
        tokens = [None if token == ENDED else token for token in tokens]
        callback(tokens if several else tokens[0])

    return tell
