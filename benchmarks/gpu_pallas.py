"""Checks the Pallas kernels on a GPU, and tries block sizes, in three minutes.

    KERAS_BACKEND=jax python benchmarks/gpu_pallas.py [--seconds 170]

Both ops are compared with `lax` in float64 first, outputs and gradients, in
float32, bfloat16 and float16, with and without parts of time; a wrong one ends
it. Then the kernels are timed over shapes of real models, the scan for all
choices of `CHOICES` on the first shapes, beside `lax_associative` and `lax`,
and a table is printed with what the same work takes at the limit of memory
(bytes over the bandwidth of a copy) and of the special function unit (an
exponential is one of 16 in a clock). `--dry-run` goes through the motions at
tiny sizes in Pallas' interpreter.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import functools
import subprocess
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from keras_ssm.kernels.lax import causal_conv1d as exact_conv
from keras_ssm.kernels.lax import selective_scan as exact_scan
from keras_ssm.kernels.lax_associative import selective_scan as associative
from keras_ssm.kernels.pallas import (
    causal_conv1d,
    gpu_causal_conv1d,
    gpu_scan_plan,
    selective_scan,
)
from keras_ssm.kernels.pallas.interpreter import interpreted

N, K = 16, 4
PLATFORM = "cpu" if jax.default_backend() == "cpu" else "gpu"
# b, l, d; every choice is tried on the first of these.
SHAPES = [
    *((8, 2048, 2560), (64, 256, 2048)),
    *((8, 2048, 1536), (8, 2048, 5120), (1, 65536, 1536)),
]
SWEPT = 2
# States in a lane, and steps of a run.
CHOICES = {
    "FORWARD": [(8, 8), (8, 4), (8, 16), (4, 8), (16, 8)],
    "BACKWARD": [(8, 8), (8, 4), (4, 8), (4, 16), (16, 4)],
}
TILES = [(32, 128, 4), (64, 128, 8), (16, 256, 4), (64, 64, 4)]
# Relative root mean square errors of outputs and of gradients.
TOLERANCES = {
    "float32": (2e-6, 1e-5),
    "bfloat16": (1e-2, 5e-2),
    "float16": (2e-3, 1e-2),
}


@dataclasses.dataclass
class Job:
    """What is timed.

    Args:
        name: What it is.
        shape: b, l, d.
        limits: Milliseconds at the limits of memory and of exponentials.
        function: A function of `arguments`, compiled.
        arguments: The tensors.
        seconds: How long it took to compile.
    """

    name: str
    shape: tuple
    limits: tuple
    function: Callable
    arguments: tuple
    seconds: float = 0.0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=170)
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    start = time.monotonic()
    with contextlib.ExitStack() as stack:
        if options.dry_run:
            stack.enter_context(interpreted("gpu"))
            # What is interpreted takes long to compile.
            SHAPES[:] = [(1, 40, 32)]
            for choices in (*CHOICES.values(), TILES):
                del choices[1:]
        print(jax.devices()[0].device_kind, jax.__version__)
        check(options.dry_run)
        print(f"correct after {time.monotonic() - start:.0f} s", flush=True)
        run(start + options.seconds, Limits(options.dry_run))


def check(dry_run):
    """Compares both ops with `lax` in float64."""
    shape = (1, 40, 6) if dry_run else (3, 333, 72)
    worst = []
    # What is interpreted takes long to compile.
    dtypes = ["bfloat16"] if dry_run else TOLERANCES
    for seed, dtype in enumerate(dtypes):
        for programs in (0, 1 << 20):
            with setting(gpu_scan_plan, "PROGRAMS", programs):
                worst.append(check_scan(shape, dtype, seed))
        worst.append(check_conv(shape, dtype, seed))
    print(f"largest error, as a share of what is allowed: {max(worst):.2f}")


@contextlib.contextmanager
def setting(module, name, value):
    """Sets a name of a module; what was traced with another is forgotten."""
    before = getattr(module, name)
    setattr(module, name, value)
    jax.clear_caches()
    try:
        yield
    finally:
        setattr(module, name, before)
        jax.clear_caches()


def check_scan(shape, dtype, seed):
    given = scan_inputs(shape, 3, dtype, seed)
    random = np.random.default_rng(seed)
    mask = random.uniform(size=shape[:2]) < 0.8
    resets = make_resets(random, shape) & mask
    for k in (0, 1, 3, 4, 6):
        broad = mask.reshape(*mask.shape, *[1] * (given[k].ndim - 2))
        given[k] = jnp.where(broad, given[k], jnp.nan)
    options = dict(dt_softplus=True, reverse=bool(seed % 2))
    functions = (selective_scan.selective_scan, exact_scan.selective_scan)
    found, exact = (
        lambda *t, f=f: f(*t, jnp.array(mask), jnp.array(resets), **options)
        for f in functions
    )
    return compare("scan", found, exact, given, dtype)


def make_resets(random, shape):
    """Some of the steps, but not the first or the last."""
    resets = random.uniform(size=shape[:2]) < 0.1
    resets[:, [0, -1]] = False
    return resets


def check_conv(shape, dtype, seed):
    given = conv_inputs(shape, dtype, seed)
    resets = jnp.array(make_resets(np.random.default_rng(seed), shape))
    options = dict(activation="silu", reverse=bool(seed % 2))
    functions = (causal_conv1d.causal_conv1d, exact_conv.causal_conv1d)
    found, exact = (
        lambda *t, f=f: (f(*t, resets, **options),) for f in functions
    )
    return compare("convolution", found, exact, given, dtype)


def compare(name, found, exact, given, dtype):
    """The largest error of outputs and gradients over its tolerance."""

    def solve(function, *given):
        outputs, adjoint = jax.vjp(function, *given)
        return *outputs, *adjoint(tuple(jnp.cos(v) for v in outputs))

    results = jax.jit(functools.partial(solve, found))(*given)
    again = jax.jit(functools.partial(solve, found))(*given)
    with jax.enable_x64(True):
        double = [v.astype("float64") for v in given]
        outputs = jax.jit(functools.partial(forward_of, exact))(*double)
        # Gradients of what the kernel returned, rounded as that is.
        wide = functools.partial(adjoint_of, exact)
        count = len(outputs)
        seeds = [jnp.cos(v).astype("float64") for v in results[:count]]
        expected = *outputs, *jax.jit(wide)(double, seeds)
    worst = 0.0
    for k, (a, b, c) in enumerate(zip(results, expected, again, strict=True)):
        a, b, c = (np.asarray(v, np.float64) for v in (a, b, c))
        assert (a == c).all(), f"{name} {dtype}: result {k} has other bits"
        error = np.sqrt(((a - b) ** 2).sum() / (b**2).sum())
        of = dtype if results[k].dtype == dtype else "float32"
        allowed = TOLERANCES[of][k >= count]
        assert error <= allowed, (
            f"{name} {dtype}: result {k} is {error:.1e} off"
        )
        worst = max(worst, error / allowed)
    return worst


def forward_of(function, *given):
    return function(*given)


def adjoint_of(function, given, seeds):
    outputs, adjoint = jax.vjp(function, *given)
    return adjoint(
        tuple(v.astype(o.dtype) for v, o in zip(seeds, outputs, strict=True))
    )


def scan_inputs(shape, groups, dtype, seed=0):
    """Canonical tensors without mask and resets."""
    b, l, d = shape
    keys = iter(jax.random.split(jax.random.key(seed), 9))
    steps, maps = (b, l, d), (b, l, groups, N)
    sizes = [steps, steps, (d, N), maps, maps, (d,), steps, (d,), (b, d, N)]
    narrow = {0, 1, 3, 4, 6}
    given = [
        jax.random.normal(next(keys), size).astype(
            dtype if k in narrow else "float32"
        )
        for k, size in enumerate(sizes)
    ]
    given[1] = given[1] - 2
    given[2] = -jnp.exp(given[2])
    return given


def conv_inputs(shape, dtype, seed=0):
    """Canonical tensors without resets."""
    b, l, d = shape
    keys = jax.random.split(jax.random.key(seed), 4)
    sizes = [(b, l, d), (K, d), (d,), (b, K - 1, d)]
    given = [
        jax.random.normal(key, size)
        for key, size in zip(keys, sizes, strict=True)
    ]
    return [given[0].astype(dtype), *given[1:]]


class Limits:
    """What memory and the special function unit can do."""

    def __init__(self, dry_run):
        self._bandwidth, self._exponentials = 1e12, 1e12
        if not dry_run:
            v = jnp.ones(1 << 29, jnp.bfloat16)
            copy = jax.jit(lambda v: v + 1)
            milliseconds = measure(copy, (v,))
            self._bandwidth = 2 * v.nbytes / milliseconds * 1e3
            device = jax.devices()[0]
            self._exponentials = 16 * device.core_count * clock()
        print(f"{self._bandwidth / 1e12:.2f} TB/s", flush=True)

    def __call__(self, count, exponentials):
        """Milliseconds for so many bytes, and so many exponentials."""
        return (
            count / self._bandwidth * 1e3,
            exponentials / self._exponentials * 1e3,
        )


def clock():
    """The highest clock of the multiprocessors, in Hertz."""
    command = ["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv"]
    text = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(text.stdout.split("\n")[1].split()[0]) * 1e6


def run(end, limits):
    """Compiles and times everything that there is time for."""
    rows = ["| what | b, l, d | ms | of memory | of exp2 | compiled in s |"]
    rows.append("| --- | --- | ---: | ---: | ---: | ---: |")
    jobs = [job for k in range(len(SHAPES)) for job in jobs_of(k, limits)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for job, ready in [(j, pool.submit(compile_job, j)) for j in jobs]:
            if time.monotonic() > end:
                print(f"no time left for {job.name} {job.shape}")
                ready.cancel()
                continue
            rows.append(timed(job, ready))
            print(rows[-1], flush=True)
    print("\n".join(["", *rows]))


def timed(job, ready):
    """The line of a job."""
    try:
        ready.result()
        milliseconds = measure(job.function, job.arguments)
    except Exception as error:  # it is a line of the table, too
        text = str(error).strip().splitlines()[0][:120]
        return f"| {job.name} | {job.shape} | {type(error).__name__}: {text} |"
    memory, exponentials = (milliseconds / v for v in job.limits)
    return (
        f"| {job.name} | {', '.join(map(str, job.shape))} | "
        f"{milliseconds:.3f} | {memory:.2f} | {exponentials:.2f} | "
        f"{job.seconds:.0f} |"
    )


def jobs_of(k, limits):
    """Everything that is timed on a shape, traced."""
    shape = SHAPES[k]
    b, l, d = shape
    size, bytes_of_y = b * l * d, 2 * b * l * d
    given = scan_inputs(shape, 1, "bfloat16")
    swept = k < SWEPT
    for direction, choices in CHOICES.items():
        forward = direction == "FORWARD"
        # Forward x, dt, z, y; backward these, dy and three gradients.
        most = limits(bytes_of_y * (4 if forward else 7), size * N)
        make = scan_forward if forward else scan_backward
        for choice in choices if swept else choices[:1]:
            with setting(gpu_scan_plan, direction, choice):
                title = f"scan {direction.lower()} {choice}"
                yield traced(title, shape, most, *make(given))
    if k in (0, 1):
        most = limits(bytes_of_y * 11, 2 * size * N)
        for name, module in {
            "lax_associative": associative,
            **({"lax": exact_scan} if k == 1 else {}),
        }.items():
            scan = functools.partial(
                module.selective_scan, dt_softplus=True, reverse=False
            )
            yield traced(
                f"scan forward+backward {name}",
                shape,
                most,
                functools.partial(value_and_gradients, scan),
                (*given, None, None),
            )
    x, *others = conv_inputs(shape, "bfloat16")
    for tile in TILES if swept else TILES[:1]:
        with setting(gpu_causal_conv1d, "TILE", tile):
            options = dict(platform=PLATFORM)
            for title, function, extra, moved in (
                ("forward", causal_conv1d._forward, (), 2),
                ("backward", causal_conv1d._backward, (x,), 3),
            ):
                call = functools.partial(conv_call, function, options)
                yield traced(
                    f"convolution {title} {tile}",
                    shape,
                    limits(bytes_of_y * moved, size),
                    call,
                    (x, *others, *extra),
                )


def conv_call(function, options, x, weight, bias, state, *extra):
    return function(
        x, weight, bias, state, None, *extra, "silu", False, **options
    )


def value_and_gradients(scan, *given):
    outputs, adjoint = jax.vjp(scan, *given)
    return outputs, adjoint(outputs)


def scan_forward(given):
    """The forward kernel as in training, and its arguments."""

    def forward(*given):
        return selective_scan._forward(
            *given, None, None, True, False, True, platform=PLATFORM
        )

    return forward, tuple(given)


def scan_backward(given):
    """The backward kernel, and its arguments."""
    x, state = given[0], given[8]
    chunks = -(-x.shape[1] // selective_scan.chunk_of(N))
    starts = jnp.zeros((x.shape[0], chunks, N, x.shape[2]))

    def backward(*arguments):
        *given, dy, dend, starts = arguments
        tensors = (*given, None, None, dy, dend, starts)
        return selective_scan._backward(
            *tensors, True, False, platform=PLATFORM
        )

    return backward, (*given, x, state, starts)


def traced(name, shape, limits, function, arguments):
    lowered = jax.jit(function).lower(*arguments)
    return Job(name, shape, limits, lowered.compile, arguments)


def compile_job(job):
    start = time.monotonic()
    job.function = job.function()
    job.seconds = time.monotonic() - start


def measure(function, arguments):
    """Milliseconds of a call, the median of several rounds."""
    jax.block_until_ready(function(*arguments))
    start = time.monotonic()
    jax.block_until_ready(function(*arguments))
    once = time.monotonic() - start
    calls = max(1, min(20, int(0.05 / max(once, 1e-5))))
    rounds = []
    for _ in range(5):
        start = time.monotonic()
        for _ in range(calls):
            results = function(*arguments)
        jax.block_until_ready(results)
        rounds.append((time.monotonic() - start) / calls)
    return float(np.median(rounds)) * 1e3


if __name__ == "__main__":
    main()
