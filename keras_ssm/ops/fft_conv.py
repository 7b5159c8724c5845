"""The long convolution of the S4 family."""

import keras
from keras import ops

from keras_ssm.ops import dispatch
from keras_ssm.ops.shapes import check_floating, check_mask, check_shapes
from keras_ssm.ops.symbolic import symbolic
from keras_ssm.ops.tensors import accumulation_dtype, cast, convert


def _conv_spec(
    x,
    kernel,
    D=None,
    *,
    backward_kernel=None,
    mask=None,
    reverse=False,
    implementation=None,
):
    _check(x, kernel, D, backward_kernel, mask)
    return keras.KerasTensor(x.shape, x.dtype)


@symbolic(_conv_spec)
def fft_conv(
    x,
    kernel,
    D=None,
    *,
    backward_kernel=None,
    mask=None,
    reverse: bool = False,
    implementation: str | None = None,
):
    """Convolves each channel with a kernel as long as the sequence.

        y[t] = sum_j kernel[j] * x[t-j] + D * x[t],  j = 0, 1, ...
               (+ sum_j backward_kernel[j] * x[t+1+j])

    by Fourier transforms padded to a fast length, in `l log l` time. Inputs
    before the first and behind the last count as 0. Computes in float32
    whatever the dtype policy, in float64 where `x` is. Gradients flow to every
    floating input.

    There is no initial state, and the future reaches the past by rounding
    errors alone; but NaN or infinity anywhere in a channel of a row is
    everywhere in it.

    Args:
        x: Input, `(b, l, d)`.
        kernel: What an input adds to the outputs from its own on, the nearest
            first, `(l_k, d)`. Time first and channels last, as in
            `causal_conv1d`, whose weights are in the opposite order. What is
            longer than `l` is not used.
        D: Skip weights, `(d,)`. `None` for no skip.
        backward_kernel: What an input adds to the outputs before its own, the
            nearest first, `(l_b, d)`: with it, the convolution is
            bidirectional. `None` for none.
        mask: Boolean, `(b, l)`. Masked inputs count as 0, whatever they hold,
            and `y` is 0 there. Time passes at masked steps: for padding this
            is the same as skipping it, for holes between unmasked steps it is
            not.
        reverse: Whether to run from the end: `y[t]` sees x[t], x[t+1], ...,
            and with `backward_kernel` x[t-1], x[t-2], ...
        implementation: `None` chooses; a name is strict. See
            `keras_ssm.show_implementations()`.

    Returns:
        `y`, `(b, l, d)`, in the dtype of `x`.

    Raises:
        ValueError: If shapes do not fit, or there is no such implementation.
        TypeError: If an input is not floating, or `mask` is not boolean.
        NotImplementedError: If nothing here can compute this: JAX transforms
            no sequence whose length is unknown when it lowers a program.

    Example:

    ```python
    x = keras.random.normal((2, 1000, 8))
    time = keras.ops.arange(1000, dtype="float32")[:, None]
    kernel = keras.random.uniform((8,), 0.9, 0.999) ** time
    y = fft_conv(x, kernel)
    ```

    Reference:
        [Gu et al., 2021](https://arxiv.org/abs/2111.00396), section 2.4; the
        pair of kernels is that of its bidirectional models.
    """
    x, kernel, D, backward_kernel, mask = convert(
        x, kernel, D, backward_kernel, mask
    )
    _check(x, kernel, D, backward_kernel, mask)
    if 0 in x.shape:
        return x
    dtype, keep = accumulation_dtype(x), None
    kernel, backward_kernel = (
        cast(v, dtype) for v in (kernel, backward_kernel)
    )
    inputs = cast(x, dtype)
    if mask is not None:
        keep = ops.expand_dims(mask, -1)
        inputs = ops.where(keep, inputs, 0)
    y = dispatch.run(
        "fft_conv",
        (inputs, kernel, backward_kernel),
        {"reverse": reverse},
        implementation,
    )
    y = y if D is None else y + cast(D, dtype) * inputs
    y = y if mask is None else ops.where(keep, y, 0)
    return cast(y, x.dtype)


def _check(x, kernel, D, backward_kernel, mask):
    check_shapes(
        "fft_conv",
        x=(x, "b l d"),
        kernel=(kernel, "l_k d"),
        D=(D, "d"),
        backward_kernel=(backward_kernel, "l_b d"),
        mask=(mask, "b l"),
    )
    for name, taps in (
        ("kernel", kernel),
        ("backward_kernel", backward_kernel),
    ):
        if taps is not None and taps.shape[0] == 0:
            raise ValueError(
                f"`fft_conv`: `{name}` must have at least one tap. "
                f"Received: {name}.shape={tuple(taps.shape)}."
            )
    check_floating(
        "fft_conv", x=x, kernel=kernel, D=D, backward_kernel=backward_kernel
    )
    check_mask("fft_conv", mask)
