"""TensorFlow: everything in a `tf.function`.

Layers run as Keras runs them, which is under XLA on a GPU alone.
"""

import keras
import numpy as np
import tensorflow as tf

import frameworks


def configure():
    """Lets a GPU be shared with the other frameworks, and keeps quiet."""
    tf.get_logger().setLevel("ERROR")
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)


def compiled(function, xla=True):
    return tf.function(function, jit_compile=xla, autograph=False)


inferring = compiled


def as_keras_does(function):
    return compiled(function, bool(tf.config.list_physical_devices("GPU")))


def inference(layer):
    return as_keras_does(lambda x: layer(x))


def training(layer, x):
    variables = [v.value for v in layer.trainable_variables]

    def both(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        return tape.gradient(y, [x, *variables], output_gradients=y)

    both = as_keras_does(both)
    return lambda: both(x)


def ways(function, weights):
    def step(x, state):
        return function(weights, x, state)

    return {
        "eager": step,
        "graph": compiled(step, xla=False),
        "jit": compiled(step),
    }


def steps(layer):
    return ways(lambda weights, x, state: layer.step(x, state), ())


def attend(q, k, v, causal):
    return keras.ops.dot_product_attention(q, k, v, is_causal=causal)


def wait(outputs):
    # The first output on the host: all of a program end together.
    np.asarray(tf.nest.flatten(outputs)[0])


def seconds(run, calls):
    return frameworks.wall_seconds(run, calls, wait)


def allocated(run):
    if not tf.config.list_physical_devices("GPU"):
        return None
    tf.config.experimental.reset_memory_stats("GPU:0")
    before = tf.config.experimental.get_memory_info("GPU:0")["current"]
    wait(run())
    return tf.config.experimental.get_memory_info("GPU:0")["peak"] - before


def device():
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "cpu"
    return tf.config.experimental.get_device_details(gpus[0])["device_name"]
