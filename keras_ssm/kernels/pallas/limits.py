"""What the kernels cannot compute."""

import jax.numpy as jnp


def unsupported(*tensors, **options):
    """Why these tensors cannot go through these kernels, or `None`."""
    given = [v for v in tensors if v is not None]
    if any(v.dtype == jnp.float64 for v in given):
        return "does not compute in float64"
    if not all(isinstance(size, int) for v in given for size in v.shape):
        return "needs known sizes"
    return None
