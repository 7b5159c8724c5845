"""What every op does to its tensors before it computes anything."""

import keras
from keras import ops


def any_symbolic(tensors) -> bool:
    """Whether one of them is a `KerasTensor`, as in a functional model."""
    return any(isinstance(tensor, keras.KerasTensor) for tensor in tensors)


def convert(*tensors):
    """Converts to backend tensors; `None` stays `None`."""
    return tuple(
        None if tensor is None else ops.convert_to_tensor(tensor)
        for tensor in tensors
    )


def cast(tensor, dtype: str):
    """Casts; `None` stays `None`."""
    return None if tensor is None else ops.cast(tensor, dtype)


def accumulation_dtype(x) -> str:
    """The dtype of states and sums: float64 if `x` is, else float32."""
    dtype = keras.backend.standardize_dtype(x.dtype)
    return "float64" if dtype == "float64" else "float32"
