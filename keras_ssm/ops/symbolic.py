"""Lets an op be called on the symbolic tensors of a functional model."""

import functools
import inspect

import keras

from keras_ssm.ops.tensors import any_symbolic

_OPS = {}


def symbolic(output_spec):
    """Decorates an op so that it also takes `KerasTensor`s.

    On symbolic tensors the op becomes a node of the functional model, which
    is saved and loaded by the op's name; otherwise it just runs.

    Args:
        output_spec: Function with the op's arguments that checks them and
            returns `KerasTensor`s shaped like the op's outputs. It must not
            run a kernel.

    Example:

    ```python
    @symbolic(lambda x: keras.KerasTensor(x.shape, x.dtype))
    def double(x):
        return 2 * x
    ```
    """

    def decorate(function):
        signature = inspect.signature(function)

        @functools.wraps(function)
        def op(*args, **kwargs):
            if not any_symbolic(_flat((*args, *kwargs.values()))):
                return function(*args, **kwargs)
            arguments = signature.bind(*args, **kwargs).arguments
            options = {
                name: arguments.pop(name)
                for name, value in list(arguments.items())
                if value is None or isinstance(value, (bool, int, str))
            }
            node = SymbolicOp(function.__name__, options)
            return node.symbolic_call(**arguments)

        _OPS[function.__name__] = (function, output_spec)
        return op

    return decorate


@keras.saving.register_keras_serializable(package="keras_ssm")
class SymbolicOp(keras.Operation):
    """An op of this library as a node of a functional model.

    Args:
        op: Name of the op.
        options: Its plain Python arguments.
    """

    def __init__(self, op: str, options: dict, name: str | None = None):
        super().__init__(name=name)
        self.op = op
        self.options = options

    def call(self, **tensors):
        function, _ = _OPS[self.op]
        return function(**_with_pairs(tensors), **self.options)

    def compute_output_spec(self, **tensors):
        _, output_spec = _OPS[self.op]
        return output_spec(**_with_pairs(tensors), **self.options)

    def get_config(self):
        return {"op": self.op, "options": self.options, "name": self.name}


def _flat(arguments):
    """Arguments, and the tensors of pairs.

    `keras.tree` is not for what PyTorch 2.11 compiles.
    """
    for v in arguments:
        yield from v if isinstance(v, (tuple, list)) else (v,)


def _with_pairs(arguments):
    """Makes tuples of the lists of tensors that Keras makes of tuples."""
    return {
        name: tuple(v)
        if isinstance(v, list) and all(hasattr(part, "shape") for part in v)
        else v
        for name, v in arguments.items()
    }
