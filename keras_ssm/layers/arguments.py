"""Checks of constructor arguments, with one message."""


def check_positive(layer: str, **sizes) -> None:
    """Raises a `ValueError` unless every size is a positive integer.

    Raises:
        ValueError: If one is not.
    """
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(
                f"`{layer}`: `{name}` must be a positive integer. "
                f"Received: {name}={size!r}."
            )
