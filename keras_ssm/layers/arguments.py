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


def check_choice(layer: str, name: str, value, choices: tuple) -> None:
    """Raises a `ValueError` unless the value is one of the choices.

    Raises:
        ValueError: If it is not.
    """
    if value not in choices:
        raise ValueError(
            f"`{layer}`: `{name}` must be one of {choices}. "
            f"Received: {name}={value!r}."
        )
