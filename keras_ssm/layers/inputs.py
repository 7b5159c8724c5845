"""Checks of what a sequence layer is made and called with.

A shape whose sizes are not known, or are symbols of an exporter, passes.
"""

import inspect


def check_arguments(layer: type, args: tuple, kwargs: dict) -> None:
    """Raises a `TypeError` for the arguments of `keras.layers.LSTM`.

    Args:
        layer: Class of the layer.
        args: Positional arguments of its constructor.
        kwargs: The others.

    Raises:
        TypeError: If there are too many positional ones, or `units`.
    """
    if not args and "units" not in kwargs:
        return
    known = inspect.signature(layer.__init__).parameters
    _, *positional = (
        name
        for name, parameter in known.items()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    )
    if len(args) > len(positional) or "units" in kwargs.keys() - known.keys():
        but = ", ".join(f"`{name}`" for name in positional)
        given = [*map(repr, args), *(f"{k}={v!r}" for k, v in kwargs.items())]
        raise TypeError(
            f"`{layer.__name__}`: arguments{but and f' but {but}'} must be "
            "keywords, and there are no `units`: the output is as wide as the "
            "input. For another width put a `keras.layers.Dense` before it. "
            f"Received: {layer.__name__}({', '.join(given)})."
        )


def check_single(name: str, sequences) -> None:
    """Raises a `ValueError` if there are several tensors, or their shapes.

    Raises:
        ValueError: If it is a tuple or list of them.
    """
    nested = isinstance(sequences, (tuple, list)) and any(
        not (item is None or isinstance(item, int)) for item in sequences
    )
    if nested:
        raise ValueError(
            f"{name}: the input must be one tensor. Received: "
            f"{len(sequences)} of them. If the layer before returns its state, "
            "as with `return_state=True` in a `keras.Sequential` model, use "
            "the functional API, or set `return_state=False`."
        )


def check_sequences(name: str, shape, width: int | None = None) -> None:
    """Raises a `ValueError` unless a shape is `(batch, length, width)`.

    Args:
        name: Of the layer.
        shape: Of its input.
        width: What the layer was built for, if it was.

    Raises:
        ValueError: If the rank is another one, or the width is another one or
            unknown.
    """
    shape = tuple(shape)
    if len(shape) != 3 or shape[-1] is None:
        hint = (
            " Tokens go through an embedding first; single numbers get an axis "
            "of channels, `x[..., None]`; a layer before this one needs "
            "`return_sequences=True`."
        )
        raise ValueError(
            f"{name}: the input must have shape (batch, length, width) with a "
            f"known width. Received: input shape {shape}."
            f"{hint if len(shape) == 2 else ''}"
        )
    if width is not None and shape[-1] != width:
        hint = (
            " Channels come last: `keras.ops.swapaxes(x, 1, 2)` makes that of "
            "channels first."
        )
        raise ValueError(
            f"{name}: the last axis of the input must be the {width} channels "
            f"that the layer was built for. Received: input shape {shape}."
            f"{hint if shape[1] == width else ''}"
        )


def check_step(name: str, shape, width: int) -> None:
    """Raises a `ValueError` unless a shape is `(batch, width)`.

    Raises:
        ValueError: If it is not.
    """
    shape = tuple(shape)
    if len(shape) != 2 or shape[-1] != width:
        raise ValueError(
            f"{name}: `step` takes one time step, (batch, {width}); `steps` "
            f"takes several, (batch, length, {width}). "
            f"Received: input shape {shape}."
        )


def check_mask(name: str, mask, x) -> None:
    """Raises a `ValueError` unless the mask has a number for each step.

    Raises:
        ValueError: If its shape is not `(batch, length)`.
    """
    shape, steps = tuple(mask.shape), tuple(x.shape[:2])
    if len(shape) == 2 and not any(map(_differ, shape, steps)):
        return
    hint = ""
    if len(shape) == 1 and not _differ(shape[0], steps[0]):
        hint = " Of lengths, `keras.ops.arange(length) < lengths[:, None]` is."
    raise ValueError(
        f"{name}: `mask` must be (batch, length), True at steps that count: "
        f"{steps} here. Received: a mask of shape {shape}.{hint}"
    )


def check_batch(name: str, states, x) -> None:
    """Raises a `ValueError` unless states are for as many rows as the input.

    Raises:
        ValueError: If one is not.
    """
    rows = x.shape[0]
    if any(_differ(state.shape[0], rows) for state in states):
        raise ValueError(
            f"{name}: the state must be for the {rows} rows of the input, as "
            f"`get_initial_state({rows})` is. With `stateful=True` all batches "
            "must have as many rows as the first one. Received: shapes "
            f"{[tuple(state.shape) for state in states]}."
        )


def check_integers(function: str, **sizes) -> None:
    """Raises a `TypeError` if a size is a floating-point number.

    Raises:
        TypeError: If one is.
    """
    for name, size in sizes.items():
        if isinstance(size, float):
            raise TypeError(
                f"{function}: `{name}` must be an integer; `//` divides "
                f"integers to one. Received: {name}={size}."
            )


def _differ(size, other):
    """Whether two sizes are known and not the same."""
    return isinstance(size, int) and isinstance(other, int) and size != other
