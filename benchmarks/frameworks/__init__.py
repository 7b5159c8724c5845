"""How each framework compiles, trains, waits and counts memory.

The modules here, one a framework, have the same functions:

- `configure()`: before anything runs;
- `compiled(function, xla)`: as users run it, under XLA, or eagerly on PyTorch;
  without `xla`, as a graph on TensorFlow;
- `inferring(function, xla)`: the same, where no gradient will be asked for;
- `inference(layer)`: `x -> y` of a layer, without gradients;
- `training(layer, x)`: a function that runs the layer forward and backward,
  with its output as the gradient with respect to it;
- `ways(function, weights)`: the ways to run `function(weights, x, state)` for
  a single token, functions of `x` and `state` by name, the fastest last;
- `steps(layer)`: the same for `layer.step`;
- `attend(q, k, v, causal)`: the framework's own attention, `(b, l, h, c)`;
- `wait(outputs)`: until they are there;
- `seconds(run, calls)`: time of one of so many calls in a row;
- `allocated(run)`: bytes that a run adds at its peak to what the device holds,
  or `None` where only the system knows, as on a CPU;
- `device()`: the name of what it all runs on.
"""

import importlib
import time

import keras


def load():
    """The module of the Keras backend."""
    return importlib.import_module(f"frameworks.on_{keras.config.backend()}")


def wall_seconds(run, calls, wait):
    """Time of one of `calls` calls, by the clock on the wall."""
    start = time.perf_counter()
    for _ in range(calls):
        outputs = run()
    wait(outputs)
    return (time.perf_counter() - start) / calls
