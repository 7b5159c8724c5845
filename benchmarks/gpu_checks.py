r"""One check of the kernels on a GPU, in a process of its own.

    PYTHONPATH=tests KERAS_BACKEND=torch \
        python benchmarks/gpu_checks.py bits [--small]

Prints what it found as JSON on the last line, with `ok`. `gpu.py` runs all of
them; `--small` is its dry run.
"""

import argparse
import contextlib
import dataclasses
import functools
import itertools
import json

import cases
import frameworks
import harness
import keras
import numpy as np
from candidates import implementations
from compare import TOLERANCES, as_array, relative_error
from problem import Problem

import keras_ssm
from keras_ssm.kernels import exact

OPS = ("selective_scan", "causal_conv1d")
TINY = cases.Case("tiny", b=2, l=70, d=40, n=16, **cases.MAMBA)
REPEATS = 100
STEPS = 10  # of training
CALLS = 20  # of which the mean time is taken
# Of a layer of width 768: heads, channels of a head, and states.
MAMBA2 = dict(b=8, l=2048, d=24, p=64, n=128)
# What computes `ssd` in float64.
PLAIN = {"torch": "torch", "jax": "lax"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("check", choices=CHECKS)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    frameworks.load().configure()
    found = CHECKS[options.check](options.small)
    print(json.dumps({"ok": True, **found}))


def bits(small):
    """The same bits, again and again: a race or an atomic sum would differ."""
    named = ("mamba_small_b8_l256", "mamba_small_b1_l8192")
    chosen = [TINY] if small else [cases.named(name) for name in named]
    repeats = 3 if small else REPEATS
    names = []
    for op in OPS:
        name = implementations(op)[0]
        for case in chosen:
            for dtype in ("float32", "bfloat16"):
                run = _both(Problem(op, case, dtype, checked=False), name)
                first = _flat(run())
                for _ in range(repeats - 1):
                    again = _flat(run())
                    for key, v in first.items():
                        same = _same_bits(v, again[key])
                        assert same, f"{op} {case.name} {dtype}: {key} differs"
        names.append(f"{op} {name}")
    return {"detail": f"{repeats} repeats of {', '.join(names)}"}


def offsets(small):
    """A tensor of more than 2^31 elements, against its rows alone."""
    l, d = (64, 96) if small else (2**18, 4224)
    case = cases.Case("large", b=2, l=l, d=d, n=16)
    problem = Problem("selective_scan", case, "bfloat16", True, checked=False)
    name = implementations("selective_scan")[0]
    (y,), gradients = _both(problem, name)()
    whole = {"y": y, **gradients}
    sums, worst = {}, 0.0
    for row in range(case.b):
        (y,), gradients = _both(problem, name, row)()
        for key, alone in {"y": y, **gradients}.items():
            if key == "A":  # the one gradient that sums over rows
                sums[key] = sums.get(key, 0) + alone
                continue
            worst = max(worst, _difference(whole[key][row : row + 1], alone))
    worst = max(worst, _difference(whole["A"], sums["A"]))
    # bfloat16 rounds what another order of sums has made a little different.
    assert worst < 1e-2, f"the rows alone give something else: {worst:.1e}"
    elements = case.b * case.l * case.d
    return {
        "detail": f"{elements / 2**31:.2f} * 2^31 elements, {name}, rows "
        f"alone differ by {worst:.0e}",
        "elements": elements,
    }


def dual(small):
    """Kernels of `ssd` for Mamba-2's sizes: their errors, and their time."""
    sizes = dict(b=1, l=70, d=2, p=16, n=32) if small else MAMBA2
    case = cases.Case("mamba2", g=1, initial_state=True, **sizes, **cases.MAMBA)
    plain = PLAIN[keras.config.backend()]
    fused = [v for v in implementations("ssd") if v != plain] or [plain]
    worst = {}
    for name, dtype in itertools.product(
        fused, ("float32", "bfloat16", "float16")
    ):
        for changes in ({}, dict(mask="holes", segments="runs", reverse=True)):
            of = dataclasses.replace(case, b=1, **changes)
            errors = _errors_of_dual(of, dtype, name, plain)
            for v, error in errors.items():
                wide = v in ("state", *harness.FLOAT32_PARAMETERS)
                kind = "forward" if v in ("y", "state") else "gradient"
                allowed = TOLERANCES["float32" if wide else dtype][kind]
                where = name, dtype, "padded" if changes else "plain", v
                print(*where, f"{error:.1e} of {allowed:.0e}")
                worst[where] = error / allowed
    seconds = {v: _seconds_of_dual(case, v) for v in (*fused, plain)}
    times = {
        v: "{:.3f} and {:.3f} ms".format(*(1e3 * one for one in both))
        for v, both in seconds.items()
    }
    print("forward, and forward and backward:", times)
    share, where = max((v, k) for k, v in worst.items())
    assert share <= 1, f"the error of {where} is {share:.2f} of what may be"
    return {
        "detail": f"errors at most {share:.2f} of what may be, {where}; "
        f"forward, and forward and backward: {times}",
        "seconds": seconds,
    }


def compile(small):
    """`torch.compile(fullgraph=True)` of a layer, forward and backward."""
    import torch

    layer, x = _layer(small)
    eager = frameworks.load().training(layer, x)()
    compiled = torch.compile(layer, fullgraph=True)
    y = compiled(x.requires_grad_())
    weights = [v for v in layer.parameters() if v.requires_grad]
    found = torch.autograd.grad(y, [x, *weights], y.detach())
    worst = max(_difference(a, b) for a, b in zip(eager, found, strict=True))
    assert worst < 1e-4, f"compiled gradients differ by {worst:.1e}"
    return {"detail": f"Mamba layer, gradients differ by {worst:.0e}"}


def graphs(small):
    """CUDA graphs of a forward and backward pass, and of a step."""
    import torch

    if not torch.cuda.is_available():
        return {"detail": "no CUDA here"}
    layer, x = _layer(small)
    framework = frameworks.load()
    training = framework.training(layer, x)
    token, state = x[:, 0].detach(), layer.get_initial_state(x.shape[0])
    step = framework.steps(layer)["eager"]
    worst = {}
    for name, run in {
        "training": lambda *_: training(),
        "step": step,
    }.items():
        expected = _flat(run(token, state))
        replay = framework.Replay(run)
        replay(token, state)
        found = _flat(replay(token, state))
        worst[name] = max(_difference(found[k], v) for k, v in expected.items())
        assert worst[name] < 1e-6, f"replayed {name} differs: {worst[name]}"
    return {"detail": f"replayed results differ from eager ones by {worst}"}


def classifier(small):
    """Losses of a text classifier, for `gpu.py` to compare over backends."""
    random = np.random.default_rng(0)
    length = 32 if small else 512
    tokens = random.integers(1, 256, (16, length)).astype("int32")
    for row, unpadded in enumerate(np.linspace(length, 8, 16).astype(int)):
        tokens[row, unpadded:] = 0
    labels = (tokens[:, 0] % 2).astype("int32")
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(256, 64, mask_zero=True),
            keras_ssm.layers.MambaBlock(),
            keras.layers.Bidirectional(keras_ssm.layers.MambaBlock()),
            keras.layers.RMSNormalization(epsilon=1e-5),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(2),
        ]
    )
    model.set_weights(_same_everywhere(model, random))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss)
    losses = [float(model.train_on_batch(tokens, labels)) for _ in range(STEPS)]
    assert losses[-1] < losses[0], f"it does not learn: {losses}"
    return {
        "detail": f"{STEPS} steps, loss {losses[0]:.4f} to {losses[-1]:.4f}",
        "losses": losses,
    }


def sanitized(small):
    """Small runs of everything, for compute-sanitizer to watch."""
    for op in OPS:
        name = implementations(op)[0]
        for case in (TINY, dataclasses.replace(TINY, b=1, l=300)):
            frameworks.load().wait(_both(Problem(op, case), name)())
    return {"detail": "forward and backward of both ops"}


def million(small):
    """One Mamba layer over 1,048,576 tokens, forward and backward."""
    import measure

    length = 256 if small else 2**20
    width = 64 if small else 768
    policy = "mixed_bfloat16"
    layer = keras_ssm.layers.Mamba(dtype=policy)
    layer.build((1, length, width))
    x = keras.random.normal((1, length, width), dtype="bfloat16", seed=0)
    run = frameworks.load().training(layer, x)
    peak = measure.peak_memory(run)
    seconds = frameworks.load().seconds(run, 1)
    return {
        "detail": f"width {width}: {1e3 * seconds:.0f} ms, peak "
        f"{peak / 2**30:.1f} GiB beside input and weights",
        "layer_seconds": seconds,
        "peak_bytes": peak,
    }


def _errors_of_dual(case, dtype, implementation, plain):
    """Relative errors by the name of an output or a gradient.

    The reference is a plain implementation, in float64.
    """
    (arrays, options, cotangents), values = _arguments_of_dual(case, dtype), []
    for name, of in ((implementation, dtype), (plain, "float64")):
        with exact.float64() if of == "float64" else contextlib.nullcontext():
            found = harness.run(
                "ssd", arrays, options, name, cotangents, dtype=of
            )
        found = {"y": found.y, "state": found.state, **found.gradients}
        values.append({v: as_array(w) for v, w in found.items()})
    return {
        name: relative_error(v, values[1][name])
        for name, v in values[0].items()
    }


def _arguments_of_dual(case, dtype):
    arrays, options = cases.make_inputs("ssd", case)
    arrays = harness.rounded(arrays, dtype)
    dy, dstate = cases.make_cotangents("ssd", case)
    cotangents = harness.rounded({"y": dy}, dtype)["y"], dstate
    return arrays, {**options, "chunk_size": 64}, cotangents


def _seconds_of_dual(case, implementation):
    """Of a forward pass, and of a forward and backward pass, in bfloat16."""
    arrays, options, (dy, _) = _arguments_of_dual(case, "bfloat16")
    given = harness.tensors(arrays, "bfloat16")
    dy = harness.tensor(dy, "bfloat16")
    framework = frameworks.load()

    def forward(given):
        return harness.call("ssd", given, options, implementation)[:1]

    def both(given, dy):
        return harness.gradients(forward, given, (dy,))

    runs = (
        functools.partial(framework.inferring(forward), given),
        functools.partial(framework.compiled(both), given, dy),
    )
    for run in runs:
        framework.wait(run())
    return [
        min(framework.seconds(run, CALLS) for _ in range(3)) for run in runs
    ]


def _both(problem, implementation, row=None):
    """A function that runs an op and its adjoint, of one row if asked."""
    arguments, dy = problem.arguments, problem.dy
    if row is not None:
        arguments = {
            name: v[row : row + 1] if name in cases.PER_STEP else v
            for name, v in arguments.items()
        }
        dy = dy[row : row + 1]
    op = getattr(keras_ssm.ops, problem.op)

    def both(arguments, dy):
        return harness.gradients(
            lambda v: (
                op(**v, **problem.options, implementation=implementation),
            ),
            arguments,
            (dy,),
        )

    run = frameworks.load().compiled(both)
    return functools.partial(run, arguments, dy)


def _layer(small):
    width, length = (16, 40) if small else (256, 512)
    layer = keras_ssm.layers.Mamba()
    layer.build((2, length, width))
    return layer, keras.random.normal((2, length, width), seed=0)


def _same_everywhere(model, random):
    """Weights like those that layers draw, but equal on every backend."""
    weights = []
    for v, w in zip(model.weights, model.get_weights(), strict=True):
        if v.name == "dt_bias":
            w = random.uniform(-7, -2, w.shape)
        elif v.name == "conv_bias":
            w = random.uniform(-0.5, 0.5, w.shape)
        elif w.ndim > 1 and v.name != "A_log":
            w = random.normal(0, 1 / np.sqrt(len(w)), w.shape)
        weights.append(w.astype("float32"))
    return weights


def _flat(outputs):
    """Tensors by their path in what a function returns."""
    import keras.tree

    flat = keras.tree.flatten_with_path(outputs)
    return {"/".join(map(str, path)): v for path, v in flat}


def _same_bits(a, b):
    a, b = (
        keras.ops.convert_to_numpy(keras.ops.cast(v, "float32")) for v in (a, b)
    )
    return a.tobytes() == b.tobytes()


def _difference(a, b):
    """Root mean square of the difference, relative to that of `b`."""
    a, b = (keras.ops.cast(v, "float32") for v in (a, b))
    apart = keras.ops.norm(keras.ops.reshape(a - b, (-1,)))
    return float(apart / keras.ops.norm(keras.ops.reshape(b, (-1,))))


CHECKS = {
    check.__name__: check
    for check in (
        *(bits, offsets, dual, compile, graphs),
        *(classifier, sanitized, million),
    )
}

if __name__ == "__main__":
    main()
