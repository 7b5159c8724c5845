"""What TensorFlow users write without a kernel."""

import tensorflow as tf

from candidates.op_peers import Peer


def peers(problem):
    if problem.op != "linear_scan":
        return {}
    return {
        "tf.scan": Peer(_linear_scan),
        "tf.scan, without XLA": Peer(_linear_scan, xla=False),
    }


def _linear_scan(a, x):
    pair = isinstance(x, tuple)
    a, x = (tf.complex(*v) if pair else v for v in (a, x))
    over_time = [
        tf.transpose(v, (1, 0, 2)) for v in (tf.broadcast_to(a, x.shape), x)
    ]
    y = tf.scan(
        lambda h, step: step[0] * h + step[1],
        over_time,
        tf.zeros_like(x[:, 0]),
    )
    y = tf.transpose(y, (1, 0, 2))
    return (tf.math.real(y), tf.math.imag(y)) if pair else y
