"""The tokens of a row, as text beside the steps of its scans."""

import numpy as np

from keras_ssm.visualize.scan import Scan


def rows_of(function: str, scans, row: int) -> list[Scan]:
    """A row of a scan, or of each of several.

    Raises:
        ValueError: If there are no scans.
    """
    scans = [scans] if isinstance(scans, Scan) else list(scans)
    if not scans:
        raise ValueError(
            f"`{function}`: `scans` must hold at least one `Scan`, as `record` "
            "returns them. Received: none."
        )
    return [scan.row(row) for scan in scans]


def texts_of_steps(function: str, scan: Scan, tokens):
    """The text of each step of a row, and the steps of those.

    Args:
        function: The name of what was called, for the message.
        scan: A scan of one row.
        tokens: A text for each step, or for each unmasked one; or the bytes
            that the tokens are.

    Returns:
        `(texts, steps)`: strings, and for each of them the indices of its
        steps, several where a character takes several bytes.

    Raises:
        ValueError: If there are not as many tokens as steps.
    """
    length = scan.step_size.shape[1]
    live = np.arange(length) if scan.mask is None else np.nonzero(scan.mask)[1]
    if len(tokens) not in (length, len(live)):
        raise ValueError(
            f"`{function}`: `tokens` must be as many as the {length} steps of "
            f"the row, or as the {len(live)} of them that are not masked. "
            f"Received: {len(tokens)} tokens."
        )
    if len(tokens) == length:
        tokens = [tokens[t : t + 1] for t in live]
    else:
        tokens = [tokens[t : t + 1] for t in range(len(live))]
    if isinstance(tokens[0] if tokens else b"", bytes):
        return _characters(tokens, live)
    return [str(token) for (token,) in tokens], [[t] for t in live]


def _characters(tokens, live):
    """The characters that bytes of UTF-8 stand for."""
    texts, steps = [], []
    for byte, t in zip(tokens, live, strict=True):
        if texts and byte[0] & 0xC0 == 0x80:  # goes on with a character
            texts[-1] += byte
            steps[-1].append(t)
        else:
            texts.append(byte)
            steps.append([t])
    return [text.decode("utf-8", "replace") for text in texts], steps


def by_text(values, steps):
    """The mean over the steps of each text, of values by step."""
    return np.array([values[of_text].mean(0) for of_text in steps])


def measured(scan: Scan, measure: str, steps):
    """A measure of each text in a row, the mean over channels if it has any.

    Args:
        scan: A scan of one row.
        measure: Name of the property.
        steps: The indices of the steps of each text.
    """
    values = getattr(scan, measure)[0]  # (l,) or (l, d)
    return by_text(values if values.ndim == 1 else values.mean(-1), steps)
