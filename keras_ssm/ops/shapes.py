"""One language for shapes, and one message when they do not fit."""

import keras


def check_shapes(op: str, **specs) -> dict[str, int | None]:
    """Checks tensors against named axes and returns the size of each axis.

    The same letter must have the same size everywhere. Sizes that are not
    known (`None`, or a symbol of an exporter) are not compared.

    Args:
        op: Name of the op, for the message.
        **specs: `name=(tensor, "b l d")`; a tensor that is `None` is skipped,
            and a number in the place of a letter is that size.

    Returns:
        A dictionary from axis letter to its size, `None` where unknown.

    Raises:
        ValueError: If a tensor has another rank or another size.

    Example:

    ```python
    sizes = check_shapes("scan", x=(x, "b l d"), A=(A, "d n"))
    sizes["n"]
    ```
    """
    sizes = {}
    for name, (tensor, spec) in specs.items():
        if tensor is None:
            continue
        axes, shape = spec.split(), tensor.shape
        fits, found = len(axes) == len(shape), {}
        # A loop and no more: every eager call waits for it.
        for axis, size in zip(axes, shape, strict=False):
            known = int(axis) if axis.isdigit() else sizes.get(axis)
            if not isinstance(size, int):
                found[axis] = known
            elif known is None:
                found[axis] = size
            elif known != size:
                fits = False
        if not fits:
            raise ValueError(_message(op, name, axes, tuple(shape), sizes))
        sizes.update(found)
    return sizes


def _message(op, name, axes, shape, sizes):
    known = ", ".join(
        f"{axis}={sizes[axis]}"
        for axis in axes
        if sizes.get(axis) is not None and not axis.isdigit()
    )
    return (
        f"`{op}`: `{name}` must have shape ({', '.join(axes)})"
        f"{' with ' + known if known else ''}. "
        f"Received: {name}.shape={shape}."
    )


def check_floating(op: str, **tensors) -> None:
    """Raises a `TypeError` unless every tensor that is given is real floating.

    Raises:
        TypeError: If a tensor holds integers, booleans or complex numbers.
    """
    found = []
    for name, tensor in tensors.items():
        if tensor is None or tensor.dtype in found:
            continue
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        if not dtype.startswith(("float", "bfloat")):
            raise TypeError(
                f"`{op}`: `{name}` must be a floating-point tensor; cast it, "
                f"for example with `keras.ops.cast({name}, 'float32')`. "
                f"Received: {name}.dtype={dtype}."
            )
        found.append(tensor.dtype)


def check_mask(op: str, mask) -> None:
    """Raises a `TypeError` unless `mask` is `None` or boolean.

    Raises:
        TypeError: If the mask is not boolean; a float or integer mask is
            ambiguous (weights, lengths), so it is not converted.
    """
    if mask is None:
        return
    dtype = keras.backend.standardize_dtype(mask.dtype)
    if dtype != "bool":
        raise TypeError(
            f"`{op}`: `mask` must be boolean, True where a step counts; "
            f"convert it, for example with `mask > 0`. "
            f"Received: mask.dtype={dtype}."
        )
