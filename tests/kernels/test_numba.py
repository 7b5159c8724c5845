"""What is special about the numba kernels; `tests/ops` tests what they compute.

Kernels are called with tensors in canonical form, without the choice of an
implementation in between.
"""

import concurrent.futures
import multiprocessing
import os
import pathlib
import subprocess
import sys
from unittest import mock

import keras
import numpy as np
import pytest
from compare import as_array, assert_close, assert_same

import keras_ssm
from keras_ssm.kernels import platforms
from keras_ssm.ops import reference

BACKEND = keras.config.backend()
if BACKEND not in ("jax", "tensorflow", "torch"):
    pytest.skip("a backend without kernels", allow_module_level=True)
if platforms.here(BACKEND) != "cpu":
    pytest.skip("kernels for a CPU", allow_module_level=True)
pytest.importorskip("numba")

from keras_ssm.kernels.numba import (  # noqa: E402
    causal_conv1d,
    compiled,
    selective_scan,
    vectors,
)

on_torch = pytest.mark.skipif(BACKEND != "torch", reason="about PyTorch")
on_jax = pytest.mark.skipif(BACKEND != "jax", reason="about JAX")
on_tensorflow = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="about TensorFlow"
)

# Large enough for several threads.
B, L, D, N = 2, 100, 40, 16


def arrays(b=B, l=L, d=D, n=N, g=1):
    """Canonical arguments of a scan without mask and resets."""
    random = np.random.default_rng(0)
    shapes = [(b, l, d), (b, l, d), (d, n), (b, l, g, n), (b, l, g, n)]
    shapes += [(d,), (b, l, d), (d,), (b, d, n)]
    made = [random.normal(size=shape).astype(np.float32) for shape in shapes]
    made[2] = -np.exp(made[2])
    return made


def scan(*given, mask=None, resets=None, dt_softplus=True, reverse=False):
    return selective_scan.selective_scan(
        *given, mask, resets, dt_softplus=dt_softplus, reverse=reverse
    )


def tensors(given):
    return [
        None if v is None else keras.ops.convert_to_tensor(v) for v in given
    ]


def expected(given, **options):
    x, dt, A, B, C, D, z, dt_bias, state = given
    return reference.selective_scan(
        *(x, dt, A, B, C, D, z),
        dt_bias=dt_bias,
        initial_state=state,
        **{"dt_softplus": True, **options},
    )


def gradients(given):
    """Of a sum of squares of y and the state."""
    given = tensors(given)
    if BACKEND == "jax":
        import jax

        return jax.jit(jax.grad(_loss, argnums=tuple(range(len(given)))))(
            *given
        )
    if BACKEND == "tensorflow":
        return _gradients_tensorflow(given)
    import torch

    given = [v.requires_grad_() for v in given]
    return torch.autograd.grad(_loss(*given), given)


def _gradients_tensorflow(given):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(given)
        loss = _loss(*given)
    return tape.gradient(loss, given)


def _loss(*given):
    y, state = scan(*given)
    return keras.ops.sum(y**2) + keras.ops.sum(state**2)


@pytest.mark.parametrize("d", (1, 15, 16, 17, 100))
def test_any_number_of_channels(d):
    given = arrays(d=d)
    y, state = scan(*tensors(given))
    wanted = expected(given)
    assert_close(y, wanted[0], "float32")
    assert_close(state, wanted[1], "float32")


@pytest.mark.parametrize("n", (1, 3, 64, 256))
def test_any_size_of_state(n):
    given = arrays(b=1, l=40, d=5, n=n)
    assert_close(scan(*tensors(given))[0], expected(given)[0], "float32")
    assert all(np.isfinite(as_array(v)).all() for v in gradients(given))


def test_a_decay_to_nothing_is_exactly_that():
    given = arrays(d=16)
    given[1] = np.full_like(given[1], 10.0)
    given[2] = np.full_like(given[2], -100.0)
    given[6] = None
    y, state = scan(*tensors(given), dt_softplus=False)
    wanted = expected(given, dt_softplus=False)
    assert_close(y, wanted[0], "float32")
    assert_close(state, wanted[1], "float32")
    given[0] = np.zeros_like(given[0])
    _, state = scan(*tensors(given), dt_softplus=False)
    assert (as_array(state) == 0).all()


def test_growth_without_bounds_is_infinite():
    given = arrays(l=2, d=16)
    given[1][:] = 100.0
    given[2][:] = 100.0
    y, state = scan(*tensors(given), dt_softplus=False)
    assert np.isinf(as_array(state)).all()


def test_what_is_not_a_number_stays_so():
    given = arrays(l=3, d=16)
    given[1][0, 1, 2] = np.nan
    y, _ = scan(*tensors(given))
    wrong = np.isnan(as_array(y))
    assert wrong[0, 1:, 2].all() and wrong.sum() == 2


def test_functions_of_vectors():
    from numba import njit

    @njit
    def apply(source, results, count, zero):
        for i in range(0, count, vectors.LANES):
            v = vectors.load(zero, source, i)
            vectors.store(results, i, vectors.exp2(v))
            vectors.store(results + 4 * count, i, vectors.softplus(v))
            vectors.store(results + 8 * count, i, vectors.sigmoid(v))

    v = np.linspace(-120, 120, 1 << 14).astype(np.float32)
    results = np.empty((3, len(v)), np.float32)
    apply(v.ctypes.data, results.ctypes.data, len(v), np.float32(0))
    v = v.astype(np.float64)
    normal = v > -87  # the others are as small as float32 can be
    for result, wanted, where in zip(
        results,
        (np.exp2(v), np.logaddexp(0, v), np.exp(-np.logaddexp(0, -v))),
        (v > -126, normal, normal),
        strict=True,
    ):
        error = np.abs(result / wanted - 1)[where]
        assert error.max() < 3e-7
        assert np.isfinite(result).all()


def test_the_same_bits_every_time():
    given = arrays()
    first = [*scan(*tensors(given)), *gradients(given)]
    for _ in range(5):
        again = [*scan(*tensors(given)), *gradients(given)]
        for a, b in zip(first, again, strict=True):
            assert_same(a, b)


def test_many_threads_at_once():
    given = arrays()
    wanted = [as_array(v) for v in gradients(given)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: gradients(given), range(40)))
    for result in results:
        for a, b in zip(result, wanted, strict=True):
            assert_same(a, b)


def test_without_a_place_for_a_cache(monkeypatch):
    def no_cache(signature, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: (function, options)

    monkeypatch.setattr(compiled, "cfunc", no_cache)
    assert compiled.compile_cached(len, None)[0] is len


def test_a_second_process_compiles_nothing(tmp_path):
    code = (
        "import sys, numba.core.compiler as c, keras_ssm\n"
        "from keras_ssm.kernels.numba import compiled\n"
        "compiled.kernel('conv_forward', False)\n"
        "compiled.handler('conv_forward', False)\n"
        "print(sum(p.suffix == '.nbc' for p in __import__('pathlib')"
        ".Path(sys.argv[1]).rglob('*')))"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", code, str(tmp_path)]
    counts, times = [], []
    for _ in range(2):
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        counts.append(int(done.stdout.split()[-1]))
        files = sorted(tmp_path.rglob("*.nb?"))
        times.append([file.stat().st_mtime_ns for file in files])
    assert counts[0] == counts[1] == 3
    assert times[0] == times[1]


def test_numba_starts_no_threads_of_its_own():
    folder = pathlib.Path(compiled.__file__).parent
    for path in folder.glob("*.py"):
        assert "parallel=True" not in path.read_text()


class Scans:
    """A data set whose items are computed by a kernel."""

    def __len__(self):
        return 8

    def __getitem__(self, item):
        return scan(*tensors(arrays()))[0]


@on_torch
@pytest.mark.parametrize("method", ("fork", "spawn"))
def test_workers_of_a_data_loader(method):
    import torch

    y, _ = scan(*tensors(arrays()))
    loader = torch.utils.data.DataLoader(
        Scans(), num_workers=2, multiprocessing_context=method, timeout=120
    )
    for item in loader:
        assert_same(item[0], y)


def _scan_in_a_child(wanted, queue):
    import torch

    torch.set_num_threads(4)
    queue.put(np.array_equal(as_array(scan(*tensors(arrays()))[0]), wanted))


@on_torch
def test_a_forked_child_has_threads_of_its_own():
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        wanted = as_array(scan(*tensors(arrays()))[0])
        context = multiprocessing.get_context("fork")
        queue = context.SimpleQueue()
        child = context.Process(target=_scan_in_a_child, args=(wanted, queue))
        child.start()
        child.join(60)
        assert child.exitcode == 0
        assert queue.get()
    finally:
        torch.set_num_threads(threads)


@on_torch
def test_operators_are_registered_right():
    import torch

    given = [v.requires_grad_() for v in tensors(arrays(l=9, d=5, n=3))]
    scan_op = torch.ops.keras_ssm.numba_selective_scan
    torch.library.opcheck(scan_op, (*given, None, None, True, False, True))
    given[5:8] = None, None, None
    resets = torch.zeros(B, 9, dtype=torch.bool)
    torch.library.opcheck(scan_op, (*given, resets, resets, False, True, True))
    x, w, bias, state = given[0], torch.randn(3, 5), torch.randn(5), None
    state = torch.randn(B, 2, 5)
    given = [v.detach().requires_grad_() for v in (x, w, bias, state)]
    conv_op = torch.ops.keras_ssm.numba_causal_conv1d
    torch.library.opcheck(conv_op, (*given, None, "silu", True))


@on_torch
def test_compiled_without_graph_breaks():
    import torch

    given = tensors(arrays())

    def loss(*given):
        return _loss(*(v * 1 for v in given))

    compiled_loss = torch.compile(loss, fullgraph=True, backend="aot_eager")
    plain = [v.clone().requires_grad_() for v in given]
    traced = [v.clone().requires_grad_() for v in given]
    wanted = torch.autograd.grad(loss(*plain), plain)
    found = torch.autograd.grad(compiled_loss(*traced), traced)
    for a, b in zip(found, wanted, strict=True):
        assert_close(a, as_array(b), "float32", "gradient")


@on_torch
def test_not_chosen_for_export():
    import torch

    class Ask(torch.nn.Module):
        def forward(self, x):
            self.clause = selective_scan.unsupported(x)
            return x + 1

    ask = Ask()
    torch.export.export(ask, (torch.ones(1, 2, 3),), strict=False)
    assert ask.clause == "it cannot be exported"
    assert selective_scan.unsupported(torch.ones(1, 2, 3)) is None


@on_torch
def test_steps_that_do_not_lie_together():
    import torch

    given = tensors(arrays())
    wide = torch.cat([given[0], given[6]], dim=-1)
    x, z = wide.chunk(2, dim=-1)
    y, _ = scan(x, given[1].mT.contiguous().mT, *given[2:6], z, *given[7:])
    assert_same(y, as_array(scan(*given)[0]))


@on_jax
def test_vmap():
    import jax

    given = tensors(arrays())
    xs = jax.numpy.stack([given[0], 2 * given[0]])
    ys = jax.jit(jax.vmap(lambda x: scan(x, *given[1:])[0]))(xs)
    for x, y in zip(xs, ys, strict=True):
        assert_close(y, as_array(scan(x, *given[1:])[0]), "float32")


@on_jax
def test_unknown_sizes_are_not_for_these_kernels():
    import jax

    (b,) = jax.export.symbolic_shape("b")
    x = jax.ShapeDtypeStruct((b, 3, 4), "float32")
    assert selective_scan.unsupported(x) == "needs known sizes"
    x = jax.ShapeDtypeStruct((2, 3, 4), "float32")
    assert causal_conv1d.unsupported(x, None) is None


@on_jax
def test_an_exported_program_holds_no_call_into_this_process():
    import jax

    given = tensors(arrays())
    grad = jax.jit(jax.grad(_loss, argnums=(0, 2, 3)))
    exported = jax.export.export(grad)(*given)
    assert "custom_call" not in exported.mlir_module()
    found, wanted = exported.call(*given), grad(*given)
    for a, b in zip(found, wanted, strict=True):
        assert_close(a, as_array(b), "float32", "gradient")


@on_jax
def test_on_eight_devices():
    """Split by batch and channel, nothing is gathered; see the script."""
    script = pathlib.Path(__file__).with_name("on_devices.py")
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }
    done = subprocess.run(
        [sys.executable, script, "numba"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


class Served:
    """A model of TensorFlow around the op, with one function to be served."""

    def __init__(self, implementation=None):
        import tensorflow as tf

        given = tensors(arrays())
        specs = [tf.TensorSpec(v.shape, v.dtype) for v in given[:5]]
        self.given = given[:5]

        @tf.function(input_signature=specs)
        def serve(*given):
            return keras_ssm.ops.selective_scan(
                *given, dt_softplus=True, implementation=implementation
            )

        @tf.function(input_signature=specs)
        def train(*given):
            with tf.GradientTape() as tape:
                tape.watch(given)
                y = keras_ssm.ops.selective_scan(
                    *given, dt_softplus=True, implementation=implementation
                )
            return tape.gradient(y, given)

        self.serve, self.train = serve, train


def _holds_kernels(function):
    operations = function.get_concrete_function().graph.get_operations()
    return "XlaCallModule" in {operation.type for operation in operations}


@on_tensorflow
def test_only_a_graph_with_gradients_calls_into_this_process():
    chosen, named = Served(), Served("numba")
    assert not _holds_kernels(chosen.serve)
    assert _holds_kernels(chosen.train)
    assert _holds_kernels(named.serve)
    y = chosen.serve(*chosen.given)
    assert_close(named.serve(*named.given), as_array(y), "float32")


@on_tensorflow
@pytest.mark.parametrize(
    ("name", "value"),
    [("call_module", None), ("_functions", lambda: None)],
)
def test_another_version_of_tensorflow(monkeypatch, name, value):
    from keras_ssm.kernels.numba import tensorflow_binding

    monkeypatch.setattr(tensorflow_binding, name, value)
    given = tensors(arrays())
    reason = selective_scan.unsupported(*given)
    assert reason == "does not know the interface of this version of TensorFlow"
    with pytest.raises(NotImplementedError, match=reason):
        keras_ssm.ops.selective_scan(*given[:5], implementation="numba")
    assert keras_ssm.ops.selective_scan(*given[:5]).shape == given[0].shape


@on_tensorflow
@pytest.mark.parametrize("jit_compile", (False, True))
@pytest.mark.parametrize("method", ("train", "test", "predict"))
def test_steps_of_keras_call_into_this_process(method, jit_compile):
    x = np.ones((2, 9, 4), "float32")
    model = keras.Sequential([keras_ssm.layers.Mamba(state_dim=4)])
    model.build((None, None, 4))  # XLA makes no variables
    model.compile("sgd", "mse", jit_compile=jit_compile)
    arguments = (x,) if method == "predict" else (x, x)
    kernel = selective_scan.selective_scan
    with mock.patch.object(
        selective_scan, "selective_scan", wraps=kernel
    ) as ran:
        getattr(model, f"{method}_on_batch")(*arguments)
    assert ran.called


@on_tensorflow
def test_a_tape_that_tensorflow_does_not_show(monkeypatch):
    from tensorflow.python import eager

    monkeypatch.delattr(eager, "record")
    monkeypatch.setitem(sys.modules, eager.__name__ + ".record", None)
    assert not _holds_kernels(Served().train)
