"""A selective scan as the attention that it implies."""

import numpy as np

from keras_ssm.ops.shapes import check_mask, check_shapes
from keras_ssm.ops.steps import find_resets
from keras_ssm.visualize.arrays import array, cumulative, step_sizes


def implied_attention(
    dt,
    A,
    B,
    C,
    D=None,
    *,
    dt_bias=None,
    dt_softplus: bool = False,
    mask=None,
    segment_ids=None,
    reverse: bool = False,
    channels=None,
):
    """The matrices that a selective scan multiplies its channels with.

        M[t, s] = C[t] exp(sum_{k=s+1..t} dt[k] A) dt[s] B[s],   s <= t

    and 0 for `s > t`; `D` is added to the diagonal. Without an initial state
    and a gate, `y[:, c] = M[c] @ x[:, c]` is what `selective_scan` computes of
    the same arguments, and `ssd`, whose heads are the channels here. It is
    computed in float64, and takes `l * l * n` for each channel: this is for
    looking, not for training.

    Args:
        dt: Step sizes, `(b, l, d)`.
        A: Decay rates, negative, `(d, n)`; `(d,)` as in `ssd`.
        B: Input maps, `(b, l, n)` or `(b, l, g, n)`.
        C: Output maps, shaped like `B`.
        D: Skip weights, `(d,)`. `None` for no skip.
        dt_bias: Added to `dt`, `(d,)`.
        dt_softplus: Whether step sizes pass through softplus, after the bias.
        mask: Boolean, `(b, l)`. Rows and columns of masked steps are 0.
        segment_ids: Integers, `(b, l)`, as in `selective_scan`: steps see
            those of their own segment.
        reverse: Whether the scan runs from the end: `s >= t` then.
        channels: Indices of those to compute. `None` for all.

    Returns:
        `(b, d, l, l)`, or as many in the place of `d` as there are `channels`.

    Raises:
        ValueError: If shapes do not fit.
        TypeError: If `mask` is not boolean.

    Example:

    ```python
    dt, x = np.random.uniform(0, 0.1, (1, 5, 8)), np.random.randn(1, 5, 8)
    A, B = -np.ones((8, 4)), np.random.randn(1, 5, 4)
    M = keras_ssm.visualize.implied_attention(dt, A, B, B)  # (1, 8, 5, 5)
    y = np.einsum("bdts,bsd->btd", M, x)  # selective_scan(x, dt, A, B, B)
    ```

    Reference:
        [Ali et al., 2024](https://arxiv.org/abs/2403.01590), section 4.
    """
    dt, A, B, C, D, dt_bias, mask = map(array, (dt, A, B, C, D, dt_bias, mask))
    _check(dt, A, B, C, D, dt_bias, mask, segment_ids)
    B, C = (v if v.ndim == 4 else v[:, :, None] for v in (B, C))
    dt = step_sizes(dt, dt_bias, dt_softplus, mask)
    seen = _seen(dt.shape[:2], mask, segment_ids, reverse)
    width, groups = dt.shape[-1], B.shape[2]
    found = []
    for c in range(width) if channels is None else channels:
        of_c = dt[..., c], A[c], B[:, :, c * groups // width]
        M = _matrix(*of_c, C[:, :, c * groups // width], seen, reverse)
        if D is not None:
            M += D[c] * (np.eye(M.shape[1]) * seen)
        found.append(M)
    return np.stack(found, axis=1)


def _matrix(dt, rates, B, C, seen, reverse):
    """M of a channel, `(b, l, l)`, from `dt` `(b, l)`, and B `(b, l, n)`."""
    if rates.ndim == 0:  # one rate for all numbers of the state
        rates, B, C = rates[None], B[..., None, :], C[..., None, :]
    else:
        B, C = B[..., None], C[..., None]
    M = np.zeros(seen.shape)
    for j, rate in enumerate(rates):
        total = cumulative(dt * rate, reverse)
        # Of steps that are not seen, exponents are positive and may be large.
        between = np.where(seen, total[:, :, None] - total[:, None], 0)
        M += np.exp(between) * (C[:, :, j] @ B[:, :, j].swapaxes(1, 2))
    return np.where(seen, M * dt[:, None], 0)  # also where it is NaN


def _seen(shape, mask, segment_ids, reverse):
    """Which step `s` reaches which step `t`: boolean, `(b, t, s)`."""
    b, l = shape
    seen = np.tri(l, dtype=bool)
    seen = np.broadcast_to(seen.T if reverse else seen, (b, l, l))
    if segment_ids is not None:
        resets = array(find_resets(segment_ids, mask, reverse))
        segment = cumulative(resets, reverse)
        seen = seen & (segment[:, :, None] == segment[:, None])
    if mask is not None:
        seen = seen & mask[:, :, None] & mask[:, None]
    return seen


def _check(dt, A, B, C, D, dt_bias, mask, segment_ids):
    maps = "b l g n" if B.ndim == 4 else "b l n"
    sizes = check_shapes(
        "implied_attention",
        dt=(dt, "b l d"),
        A=(A, "d" if A.ndim == 1 else "d n"),
        B=(B, maps),
        C=(C, maps),
        D=(D, "d"),
        dt_bias=(dt_bias, "d"),
        mask=(mask, "b l"),
        segment_ids=(segment_ids, "b l"),
    )
    if sizes["d"] % sizes.get("g", 1):
        raise ValueError(
            "`implied_attention`: the channels of `dt` must be a multiple of "
            f"the groups of `B`. Received: dt.shape={dt.shape}, "
            f"B.shape={B.shape}."
        )
    check_mask("implied_attention", mask)
