"""PyTorch: eagerly, as Keras runs it there; steps also compiled."""

import shutil

import torch

import frameworks

GPU = torch.cuda.is_available()


def configure():
    """Lets `torch.compile` keep a program for each kind of step."""
    torch._dynamo.config.recompile_limit = 64


def compiled(function, xla=True):
    return function


def inferring(function, xla=True):
    return torch.no_grad()(function)


def inference(layer):
    return torch.no_grad()(lambda x: layer(x))


def training(layer, x):
    weights = [v for v in layer.parameters() if v.requires_grad]
    leaves = [x.detach().requires_grad_(), *weights]

    def both():
        y = layer(leaves[0])
        return torch.autograd.grad(y, leaves, y.detach(), allow_unused=True)

    return both


def ways(function, weights):
    def step(x, state):
        return function(weights, x, state)

    found = {"eager": torch.no_grad()(step)}
    if GPU or shutil.which("g++") or shutil.which("clang++"):
        found["compile"] = torch.no_grad()(torch.compile(step))
    if GPU:
        found["CUDA graph"] = Replay(found["eager"])
    return found


def steps(layer):
    return ways(lambda weights, x, state: layer.step(x, state), ())


class Replay:
    """Records a function as a CUDA graph, for its first arguments.

    Args:
        step: The function. Later calls replay it on the first's arguments.
    """

    def __init__(self, step):
        self._step = step
        self._graph = None

    def __call__(self, x, state):
        if self._graph is None:
            self._record(x, state)
        self._graph.replay()
        return self._outputs

    def _record(self, x, state):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._step(x, state)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._outputs = self._step(x, state)


def attend(q, k, v, causal):
    q, k, v = (u.transpose(1, 2) for u in (q, k, v))  # (b, h, l, c)
    attention = torch.nn.functional.scaled_dot_product_attention
    return attention(q, k, v, is_causal=causal).transpose(1, 2)


def wait(outputs):
    if GPU:
        torch.cuda.synchronize()


def seconds(run, calls):
    if not GPU:
        return frameworks.wall_seconds(run, calls, wait)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(calls):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / calls


def allocated(run):
    if not GPU:
        return None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    outputs = run()
    wait(outputs)
    return torch.cuda.max_memory_allocated() - before


def device():
    return torch.cuda.get_device_name() if GPU else "cpu"
