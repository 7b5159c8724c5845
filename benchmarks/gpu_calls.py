"""Times calls on a GPU as PyTorch users make them, ours and peers'.

    KERAS_BACKEND=torch python benchmarks/gpu_calls.py
        [--output results/gpu.json] [--seconds 200] [--small]

The selective scan, a Mamba layer, attention of equal width over growing
lengths, and a step of generation: called eagerly, compiled by
`torch.compile`, and replayed as a CUDA graph, which leaves kernels and the
gaps between them. Peers are those of mamba_ssm and fla that are installed.
Times are milliseconds, medians of `triton.testing.do_bench`; everything is in
bfloat16, layers in mixed precision. What fails is in the record with its error.
`--small` goes through the motions without a GPU.
"""

import argparse
import functools
import json
import pathlib
import time

import cases
import keras
import torch
from candidates import installed, layer_peers_torch
from candidates.layers import Attention
from torch.nn import functional as F

import keras_ssm
from keras_ssm.ops import selective_scan

HERE = pathlib.Path(__file__).resolve().parent
GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
N, HEAD, WIDTH = 16, 64, 768

# b, l, d of the scan; b, l of layers; tokens that attention looks back on.
SCANS = [
    *((8, 2048, 1536), (8, 2048, 2560), (8, 2048, 5120)),
    *((64, 256, 1536), (1, 65536, 1536), (1, 1048576, 1536)),
]
LAYERS = [(8, 2048), (64, 256), (1, 65536)]
LENGTHS = [2**k for k in range(9, 18)]
CONTEXTS = [16, 1024, 4096, 16384, 65536, 131072]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    output = HERE / "results" / "gpu.json"
    parser.add_argument("--output", type=pathlib.Path, default=output)
    parser.add_argument("--seconds", type=int, default=200)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    record = Record(options.output, time.time() + options.seconds)
    small = options.small
    layers(record, [(1, 8)] if small else LAYERS)
    scans(record, [(1, 8, 16)] if small else SCANS)
    steps(record, [16] if small else CONTEXTS)
    crossover(record, [8, 16] if small else LENGTHS)
    record.print_table()


class Record:
    """What was timed, written down as it comes.

    Args:
        path: Where to.
        end: When no new case begins.
    """

    def __init__(self, path, end):
        self._path, self._end = path, end
        device = torch.cuda.get_device_name() if GPU else "cpu"
        self.rows, self.about = (
            [],
            {
                "device": device,
                "torch": torch.__version__,
                "unit": "milliseconds",
            },
        )

    def time(self, part, shape, name, make, ways):
        """Times `make()`, a dictionary of functions by what they do."""
        row = dict(part=part, shape=shape, name=name)
        for way in ways:
            if time.time() > self._end:
                break
            try:
                found = {
                    what: measure(WAYS[way](run))
                    for what, run in make().items()
                }
            except Exception as error:  # Whatever a peer comes up with.
                found = {"error": f"{type(error).__name__}: {error}"[:200]}
            row[way] = found
            release()
        self.rows.append(row)
        print(json.dumps(row), flush=True)
        text = json.dumps({**self.about, "rows": self.rows}, indent=1)
        self._path.write_text(text + "\n")

    def print_table(self):
        for row in self.rows:
            ways = {way: row[way] for way in WAYS if way in row}
            print(row["part"], row["shape"], row["name"], *ways.items())


def measure(run):
    """Median milliseconds."""
    if not GPU:
        run()
        return 0.0
    from triton.testing import do_bench

    found = do_bench(run, warmup=20, rep=60, return_mode="median")
    return round(found, 4)


def release():
    """Leaves the memory of what has gone to others."""
    torch.compiler.reset()
    if GPU:
        torch.cuda.empty_cache()


def graph(run):
    """Replays what a function does on the GPU."""
    if not GPU:
        return run
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    # A graph has memory of its own.
    torch.cuda.empty_cache()
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        outputs = run()

    def replay():
        captured.replay()
        return outputs

    return replay


WAYS = {"eager": lambda run: run, "compiled": torch.compile, "graph": graph}


def both_ways(function, leaves, x):
    """A forward pass, and a forward and backward pass."""
    dy = torch.randn_like(x)

    def both():
        return torch.autograd.grad(function(), leaves, dy)

    return {"forward": torch.no_grad()(function), "both": both}


def scans(record, shapes):
    for b, l, d in shapes:
        ours = functools.partial(our_scan, b, l, d)
        record.time("scan", [b, l, d], "keras_ssm", ours, WAYS)
        if installed("mamba_ssm") and GPU:
            peer = functools.partial(mamba_ssm_scan, b, l, d)
            ways = ("eager", "graph")
            record.time("scan", [b, l, d], "mamba_ssm", peer, ways)


def scan_inputs(b, l, d):
    def draw(*shape):
        return torch.randn(shape, device=DEVICE)

    A = -torch.rand(d, N, device=DEVICE) * 8 - 0.1
    numbers = [draw(b, l, d), draw(b, l, d), draw(b, l, N), draw(b, l, N)]
    x, dt, B, C, z = (v.bfloat16() for v in (*numbers, draw(b, l, d)))
    given = [x, dt, A, B, C, draw(d), z, draw(d) - 3]
    return [v.requires_grad_() for v in given]


def our_scan(b, l, d):
    *given, bias = leaves = scan_inputs(b, l, d)

    def function():
        return selective_scan(*given, dt_bias=bias, dt_softplus=True)

    return both_ways(function, leaves, given[0])


def mamba_ssm_scan(b, l, d):
    """On sequences with steps last, as their layer has them."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    leaves = [
        v.detach().transpose(1, 2).contiguous().requires_grad_()
        if v.ndim == 3
        else v
        for v in scan_inputs(b, l, d)
    ]

    def function():
        return selective_scan_fn(*leaves, delta_softplus=True)

    return both_ways(function, leaves, leaves[0])


def builders():
    """Functions that build a layer, by name."""
    case = cases.Case("layer", b=1, l=8, d=2 * WIDTH, n=N)
    mixed = dict(dtype="mixed_bfloat16")
    found = {
        "keras_ssm": lambda: keras_ssm.layers.Mamba(**mixed),
        "attention": lambda: Attention(**mixed),
    }
    peers = layer_peers_torch.peers(case, "bfloat16")
    names = [v for v in ("mamba_ssm", "fla") if v in peers]
    return {**found, **{name: peers[name] for name in names}}


def layer_runs(build, b, l):
    layer, x = build(), torch.randn(b, l, WIDTH, device=DEVICE).bfloat16()
    if isinstance(layer, keras.layers.Layer):
        layer.build((b, l, WIDTH))
    x.requires_grad_()
    leaves = [x, *(v for v in layer.parameters() if v.requires_grad)]
    return both_ways(lambda: layer(x), leaves, x)


def layers(record, shapes):
    for b, l in shapes:
        for name, build in builders().items():
            runs = functools.partial(layer_runs, build, b, l)
            ways = WAYS if name == "keras_ssm" else ("eager", "graph")
            record.time("layer", [b, l, WIDTH], name, runs, ways)


def crossover(record, lengths):
    """A row of growing length, ours and attention."""
    build = builders()
    for l in lengths:
        for name in ("keras_ssm", "attention"):
            runs = functools.partial(layer_runs, build[name], 1, l)
            record.time("length", [1, l, WIDTH], name, runs, ("eager", "graph"))


def steps(record, contexts):
    record.time("step", [1], "keras_ssm", our_step, ("eager", "graph"))
    for context in contexts:
        runs = functools.partial(attention_step, context)
        record.time("step", [1, context], "attention", runs, WAYS)


def our_step():
    layer = keras_ssm.layers.Mamba(dtype="mixed_bfloat16")
    layer.build((1, 1, WIDTH))
    x = torch.randn(1, WIDTH, device=DEVICE).bfloat16()
    state = layer.get_initial_state(1)
    return {"step": torch.no_grad()(lambda: layer.step(x, state))}


def attention_step(context):
    """One token that attends to so many, in a cache that it writes into."""
    half = dict(device=DEVICE, dtype=torch.bfloat16)
    heads = WIDTH // HEAD
    qkv, out = (
        torch.nn.Linear(WIDTH, width, bias=False, **half)
        for width in (3 * WIDTH, WIDTH)
    )
    cache = torch.randn(2, 1, heads, context, HEAD, **half)
    x = torch.randn(1, WIDTH, **half)

    def step():
        q, k, v = qkv(x).view(3, 1, heads, 1, HEAD)
        cache[0, :, :, -1:], cache[1, :, :, -1:] = k, v
        y = F.scaled_dot_product_attention(q, cache[0], cache[1])
        return out(y.reshape(1, WIDTH))

    return {"step": torch.no_grad()(step)}


if __name__ == "__main__":
    main()
