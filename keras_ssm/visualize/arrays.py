"""From tensors of a backend to arrays to look at."""

import numpy as np
from keras import ops


def array(tensor):
    """As float64, booleans and integers as they are; `None` stays `None`."""
    if tensor is None:
        return None
    values = np.asarray(ops.convert_to_numpy(tensor))
    return values if values.dtype.kind in "bui" else values.astype("float64")


def cumulative(v, reverse: bool):
    """Sums of the steps up to each one, `(b, l, ...)`, in scanning order."""
    if not reverse:
        return np.cumsum(v, axis=1)
    return np.flip(np.cumsum(np.flip(v, axis=1), axis=1), axis=1)


def step_sizes(dt, dt_bias=None, dt_softplus=False, mask=None):
    """The step sizes that a scan makes of its `dt`, 0 at masked steps."""
    dt = dt if dt_bias is None else dt + dt_bias
    dt = np.logaddexp(dt, 0) if dt_softplus else dt
    return dt if mask is None else np.where(mask[..., None], dt, 0.0)
