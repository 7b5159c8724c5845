"""Checks the Triton kernels on a GPU, and tries block sizes, in four minutes.

    KERAS_BACKEND=torch python benchmarks/gpu_tune.py [--seconds 230]

Both ops are compared with the float64 reference first, outputs and gradients,
in float32, bfloat16 and float16 and with both schedules; a wrong one ends it.
Then the kernels of the scan are timed over shapes of real models for all
choices of `CHOICES`, and a table of the best is printed, with what the same
work takes at the limit of memory (bytes over the bandwidth of a copy) and of
the special function unit (an exponential is one of 16 in a clock). With
TRITON_INTERPRET=1 it goes through the motions at tiny sizes.
"""

import argparse
import concurrent.futures
import contextlib
import functools
import itertools
import multiprocessing
import os
import subprocess
import time

import numpy as np
import torch

from keras_ssm.kernels.torch import causal_conv1d as exact_conv
from keras_ssm.kernels.torch import selective_scan as exact_scan
from keras_ssm.kernels.triton import (
    causal_conv1d,
    launch,
    scan_blocks,
    selective_scan,
)

DRY = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if DRY else "cuda"

# b, l, d; always n=16 and bfloat16.
SHAPES = [
    *((8, 2048, 1536), (8, 2048, 2560), (8, 2048, 5120)),
    *((64, 256, 2048), (1, 65536, 1536), (1, 1048576, 1536)),
]
if DRY:
    SHAPES = [(1, 20, 16)]
N = 16

# (channels, steps, most registers), and steps between saved states.
CHOICES = {
    "forward": [
        *(((8, 8, most), 64) for most in (128, 168)),
        *(((16, 2, most), 64) for most in (96, 128)),
        *(((16, 4, most), 64) for most in (128, 168)),
        ((8, 4, None), 64),
    ],
    "backward": [
        *(((8, 4, most), 64) for most in (None, 168, 128)),
        *((c, 64) for c in ((4, 8, 168), (16, 2, None))),
        *(((8, 4, 168), every) for every in (32, 128)),
    ],
}
if DRY:
    CHOICES = {
        "forward": [((8, 4, None), 64)],
        "backward": [((8, 4, 168), 64)],
    }

# Relative root mean square errors of outputs and of gradients.
TOLERANCES = {
    torch.float32: (2e-6, 1e-5),
    torch.bfloat16: (1e-2, 5e-2),
    torch.float16: (2e-3, 1e-2),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=230)
    options = parser.parse_args()
    end = time.time() + options.seconds
    check()
    limits = Limits()
    print(limits)
    compile_all()
    rows = []
    for direction, shape in itertools.product(CHOICES, SHAPES):
        if time.time() > end:
            print(f"no time left for {direction} {shape}")
            continue
        rows.append(sweep(direction, shape, limits))
    rows += [convolution(shape, limits) for shape in SHAPES]
    print("\n".join(["", HEADER, *(row for row in rows if row)]))


def check():
    """Compares both ops with the float64 implementation for any device."""
    started = time.time()
    with on_small_chunks(False):
        worst = [
            check_scan(dtype, seed) for seed, dtype in enumerate(TOLERANCES)
        ]
        worst += [check_conv(dtype) for dtype in TOLERANCES]
    with on_small_chunks(True):
        worst += [
            check_scan(dtype, seed) for seed, dtype in enumerate(TOLERANCES)
        ]
    print(
        f"correct in {time.time() - started:.0f} s; largest error, as a share "
        f"of what is allowed: {max(worst):.2f}"
    )


@contextlib.contextmanager
def on_small_chunks(split):
    """Splits time into chunks of 64 steps, or not at all."""
    before = scan_blocks.chunk_steps
    scan_blocks.chunk_steps = lambda length, *_: 64 if split else length
    try:
        yield
    finally:
        scan_blocks.chunk_steps = before


def check_scan(dtype, seed):
    b, l, d = (1, 70, 3) if DRY else (3, 333, 72)
    torch.manual_seed(seed)
    given = scan_inputs(b, l, d, N, 3, dtype)
    mask = torch.rand(b, l, device=DEVICE) < 0.8
    resets = (torch.rand(b, l, device=DEVICE) < 0.05) & mask
    for k in (0, 1, 3, 4, 6):
        given[k][~mask] = torch.nan
    given += [mask, resets]
    options = dict(dt_softplus=True, reverse=bool(seed % 2))
    run = functools.partial(selective_scan.selective_scan, **options)
    exact = functools.partial(exact_scan.selective_scan, **options)
    return compare(run, exact, given, 9, dtype)


def check_conv(dtype):
    b, l, d = (1, 70, 3) if DRY else (3, 333, 72)
    torch.manual_seed(0)
    draw = functools.partial(torch.randn, device=DEVICE)
    given = [draw(b, l, d).to(dtype), draw(4, d), draw(d), draw(b, 3, d)]
    given.append(torch.rand(b, l, device=DEVICE) < 0.1)
    options = dict(activation="silu", reverse=True)
    run = functools.partial(causal_conv1d.causal_conv1d, **options)
    exact = functools.partial(exact_conv.causal_conv1d, **options)
    return compare(run, exact, given, 4, dtype)


def compare(run, exact, given, count, dtype):
    """Compares outputs and gradients, and whether two runs are the same."""
    found = solve(run, given, count, dtype)
    again = solve(run, given, count, dtype)
    wide = [
        v if v is None or v.dtype == torch.bool else v.double() for v in given
    ]
    wanted = solve(exact, wide, count, dtype)
    shares = []
    for k, (v, w, u) in enumerate(zip(found, wanted, again, strict=True)):
        assert torch.equal(v, u), f"result {k} of {dtype}: not the same bits"
        v, w = v.detach(), w.detach()
        error = (v.double() - w).norm() / w.norm()
        outputs = len(found) - count
        narrow = v.dtype if k != outputs - 1 or outputs == 1 else torch.float32
        share = float(error) / TOLERANCES[narrow][k >= outputs]
        if not share <= 1:
            raise SystemExit(f"result {k} of {dtype}: error {error:.1e}")
        shares.append(share)
    return max(shares)


def solve(function, given, count, dtype):
    """Outputs, and gradients for random ones of these.

    Those of `y` have values that `dtype` has.
    """
    inputs = [v.detach().clone().requires_grad_() for v in given[:count]]
    outputs = function(*inputs, *given[count:])
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    gradients = []
    for v, narrow in zip(outputs, (dtype, torch.float32), strict=False):
        weights = np.random.default_rng(0).normal(size=v.shape)
        weights = torch.from_numpy(weights).to(v.device, narrow)
        gradients.append(weights.to(v.dtype))
    return [*outputs, *torch.autograd.grad(outputs, inputs, gradients)]


def scan_inputs(b, l, d, n, g, dtype):
    draw = functools.partial(torch.randn, device=DEVICE)
    return [
        *(draw(b, l, d).to(dtype), draw(b, l, d).to(dtype)),
        -torch.rand(d, n, device=DEVICE) * 8 - 0.1,
        *(draw(b, l, g, n).to(dtype) for _ in range(2)),
        *(draw(d), draw(b, l, d).to(dtype), draw(d) - 3, draw(b, d, n)),
    ]


class Limits:
    """What the GPU can do at best."""

    def __init__(self):
        self.processors, self.clock, self.bandwidth = 1, 1e9, 1e9
        if DRY:
            return
        properties = torch.cuda.get_device_properties(0)
        self.processors = properties.multi_processor_count
        source = torch.empty(2**30, dtype=torch.uint8, device=DEVICE)
        target = torch.empty_like(source)
        ms = measure(lambda: target.copy_(source))
        self.bandwidth = 2 * source.numel() / ms * 1e3
        self.clock = self._clock_under_load(target)

    def _clock_under_load(self, v):
        for _ in range(200):
            v.copy_(v.roll(1))
        query = ["nvidia-smi", "--query-gpu=clocks.sm", "--format=csv,noheader"]
        try:
            found = subprocess.run(query, capture_output=True, text=True)
            return float(found.stdout.split()[0]) * 1e6
        except (OSError, IndexError, ValueError):
            return 1.7e9

    def __str__(self):
        name = "interpreter" if DRY else torch.cuda.get_device_name(0)
        return (
            f"{name}: {self.processors} multiprocessors at "
            f"{self.clock / 1e9:.2f} GHz, {self.bandwidth / 1e12:.2f} TB/s"
        )

    def memory_ms(self, size):
        return size / self.bandwidth * 1e3

    def exponentials_ms(self, count):
        return count / (16 * self.processors * self.clock) * 1e3


def measure(function):
    if DRY:
        started = time.time()
        function()
        return (time.time() - started) * 1e3
    from triton.testing import do_bench

    return do_bench(function, warmup=10, rep=40, return_mode="median")


def compile_all():
    """Fills Triton's cache, a process for each choice."""
    if DRY:
        return
    started = time.time()
    jobs = [(d, *c) for d in CHOICES for c in CHOICES[d]]
    context = multiprocessing.get_context("spawn")
    workers = max(1, min(16, os.cpu_count() - 1))
    with concurrent.futures.ProcessPoolExecutor(workers, context) as pool:
        list(pool.map(compile_one, jobs))
    print(f"compiled {len(jobs)} kernels in {time.time() - started:.0f} s")


def compile_one(job):
    direction, choice, every = job
    for length in (256, 4096):
        problem = Problem((1, length, 512))
        with chosen(direction, choice, every):
            getattr(problem, direction)()
    torch.cuda.synchronize()


@contextlib.contextmanager
def chosen(direction, choice, every=64):
    """Has the kernels use a choice instead of the table."""
    name = f"{direction}_blocks"
    before = getattr(scan_blocks, name), scan_blocks.EVERY
    setattr(scan_blocks, name, lambda *_: scan_blocks.Blocks(*choice))
    scan_blocks.EVERY = every
    try:
        yield
    finally:
        setattr(scan_blocks, name, before[0])
        scan_blocks.EVERY = before[1]


class Problem:
    """A scan of random inputs, as a Mamba layer has it."""

    def __init__(self, shape):
        self.given = scan_inputs(*shape, N, 1, torch.bfloat16)
        self.given += [None, None]
        self.dy = torch.randn_like(self.given[0])
        self.dstate = torch.zeros_like(self.given[8])
        self.saved = {}

    def forward(self):
        return selective_scan._forward(*self.given, True, False, True)

    def inference(self):
        return selective_scan._forward(*self.given, True, False, False)

    def backward(self):
        every = scan_blocks.EVERY
        if every not in self.saved:
            self.saved = {every: self.forward()[2]}
        saved = self.saved[every]
        return selective_scan._backward(
            *self.given, self.dy, self.dstate, saved, True, False
        )


HEADER = (
    "what      shape                 ms      memory limit   exp limit   "
    "choice (channels, steps, registers; every), default's ms"
)


def sweep(direction, shape, limits):
    """Times all choices for a shape; a row of the table."""
    elements = np.prod(shape)
    problem = Problem(shape)
    found = {}
    for choice, every in CHOICES[direction]:
        with chosen(direction, choice, every):
            found[choice, every] = measure(getattr(problem, direction))
    default = measure(getattr(problem, direction))
    (choice, every), best = min(found.items(), key=lambda item: item[1])
    listed = sorted(found.items(), key=lambda item: item[1])
    print(
        f"{direction} {shape}: "
        + ", ".join(f"{c}/{e} {ms:.3f}" for (c, e), ms in listed)
    )
    sizes, exponentials = {
        "forward": (8 + 4 * N / 64, N),
        "backward": (14 + 4 * N / 64, 2 * N),
    }[direction]
    return row(
        direction,
        shape,
        best,
        limits.memory_ms(sizes * elements),
        limits.exponentials_ms(exponentials * elements),
        f"{choice}; {every}, {default:.3f}",
    )


def convolution(shape, limits):
    b, l, d = shape
    draw = functools.partial(torch.randn, device=DEVICE)
    x = draw(b, l, d).bfloat16()
    given = x, draw(4, d), draw(d), draw(b, 3, d), None
    ahead = measure(lambda: causal_conv1d._forward(*given, "silu", False))
    back = measure(lambda: causal_conv1d._backward(*given, x, "silu", False))
    rows = [("conv", ahead, 4), ("conv back", back, 6)]
    return "\n".join(
        row(name, shape, ms, limits.memory_ms(size * x.numel()), 0, "")
        for name, ms, size in rows
    )


def row(name, shape, ms, memory, exponentials, rest):
    limits = f"{memory:12.3f} {exponentials:12.3f}"
    return f"{name:9} {shape!s:20} {ms:8.3f} {limits}   {rest}"


if __name__ == "__main__":
    print(f"{launch.lanes(torch.device(DEVICE))} lanes")
    main()
