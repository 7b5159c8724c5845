"""TensorFlow's counterpart of `jax.custom_vjp`."""

import tensorflow as tf


# Nothing in here is for AutoGraph to convert; its looking for something doubles
# the time of a first trace.
@tf.autograph.experimental.do_not_convert
def custom_gradient(forward, backward, *tensors):
    """Calls `forward`, and differentiates it with `backward`.

    `tf.custom_gradient` takes tensors alone; here some may be `None`.

    Args:
        forward: Function of the tensors that returns `(outputs, residuals)`.
        backward: Function of the residuals and of the gradients of the
            outputs that returns a gradient for each tensor, or `None`.
        *tensors: Tensors; `None` where an optional one is absent.

    Returns:
        The outputs.
    """
    given = [i for i, v in enumerate(tensors) if v is not None]

    @tf.custom_gradient
    def run(*present):
        arguments = [None] * len(tensors)
        for i, v in zip(given, present, strict=True):
            # Outside of a graph, a tape would record, and so keep, every step.
            arguments[i] = tf.stop_gradient(v)
        outputs, residuals = forward(*arguments)

        def gradient(*gradients):
            results = backward(residuals, *gradients)
            return tuple(results[i] for i in given)

        return outputs, gradient

    return run(*(tensors[i] for i in given))
