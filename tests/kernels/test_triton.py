"""What is special about the Triton kernels; `tests/ops` has what they compute.

They run on a GPU, or under Triton's interpreter, see `tests/interpreter.py`.
"""

import dataclasses
import itertools

import interpreter
import numpy as np
import oracle
import pytest
from cases import Case, make_cotangents, make_inputs
from compare import as_array, assert_same
from harness import call, check, only_on, rounded, run

only_on("torch")
pytest.importorskip("triton")

import torch  # noqa: E402
import triton  # noqa: E402
import triton.language as tl  # noqa: E402

from keras_ssm.kernels.triton import (  # noqa: E402
    causal_conv1d,
    functions,
    launch,
    scan_blocks,
    selective_scan,
    ssd,
    ssd_tiles,
)

runs = pytest.mark.skipif(
    not (torch.cuda.is_available() or interpreter.wanted()),
    reason="there is neither a GPU nor the interpreter",
)


@pytest.fixture(autouse=True)
def on_the_gpu():
    """Makes tensors on the GPU, if there is one."""
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        yield


EVERYTHING = dict(D=True, z=True, bias=True, nonlinear=True, initial_state=True)
WHOLE = Case("whole", b=2, l=37, d=5, n=16, **EVERYTHING)
# Time is split into chunks of 8 steps, here and in the convolution.
SPLIT = [
    Case("split", b=1, l=33, d=5, n=5, **EVERYTHING),
    Case(
        "split_and_masked_backwards",
        b=2,
        l=20,
        d=4,
        n=4,
        g=2,
        mask="holes",
        reverse=True,
        **EVERYTHING,
    ),
    Case("split_documents", b=2, l=21, d=3, n=3, z=True, segments="runs"),
    Case(
        "split_documents_backwards",
        b=2,
        l=24,
        d=3,
        n=3,
        mask="left",
        segments="alternating",
        initial_state=True,
        reverse=True,
    ),
]


@pytest.fixture
def split(monkeypatch):
    """Has even short sequences split into chunks of 8 steps."""
    monkeypatch.setattr(scan_blocks, "EVERY", 8)
    monkeypatch.setattr(scan_blocks, "chunk_steps", lambda l, *_: min(l, 8))
    monkeypatch.setattr(causal_conv1d, "_CHUNK", 8)


def solve(op, case, dtype="float32"):
    arrays, options = make_inputs(op, case)
    cotangents = make_cotangents(op, case)
    actual = run(op, arrays, options, "triton", cotangents, dtype=dtype)
    return actual, oracle.solve(op, arrays, options, cotangents)


@runs
@pytest.mark.usefixtures("split")
@pytest.mark.parametrize("case", SPLIT, ids=lambda case: case.name)
@pytest.mark.parametrize("op", ("selective_scan", "causal_conv1d"))
def test_time_in_chunks(op, case):
    check(*solve(op, case))


@runs
@pytest.mark.parametrize("reverse", (False, True))
def test_a_document_of_one_step_at_the_end(reverse):
    # Steps behind the last must not start anew like it.
    case = dataclasses.replace(WHOLE, l=5, n=3, reverse=reverse)
    arrays, options = make_inputs("selective_scan", case)
    arrays["segment_ids"] = np.array([[1, 0, 0, 0, 1]] * case.b)
    cotangents = make_cotangents("selective_scan", case)
    actual = run("selective_scan", arrays, options, "triton", cotangents)
    check(actual, oracle.solve("selective_scan", arrays, options, cotangents))


@runs
def test_compiled_without_graph_breaks():
    arrays, options = make_inputs(
        "selective_scan", dataclasses.replace(WHOLE, b=1, l=3, n=2)
    )
    cotangents = [torch.ones(1, 3, 5), torch.ones(1, 5, 2)]
    results = []
    for wrap in (
        lambda function: function,
        torch.compile(fullgraph=True, backend="aot_eager"),
    ):
        given = {
            name: torch.tensor(v, dtype=torch.float32, requires_grad=True)
            for name, v in arrays.items()
        }
        outputs = wrap(call)("selective_scan", given, options, "triton")
        inputs = list(given.values())
        found = torch.autograd.grad(outputs, inputs, cotangents)
        results.append((*outputs, *found))
    for one, other in zip(*results, strict=True):
        assert_same(one, other)


@runs
@pytest.mark.usefixtures("split", "uninitialized_memory")
def test_the_same_bits_in_chunks():
    case = dataclasses.replace(SPLIT[2], l=12)
    first, _ = solve("selective_scan", case)
    again, _ = solve("selective_scan", case)
    assert_same(first.y, again.y)
    for name, gradient in first.gradients.items():
        assert_same(gradient, again.gradients[name], name)


@runs
@pytest.mark.parametrize(
    ("lanes", "blocks", "n"),
    [
        (32, (32, 2), 16),
        (32, (16, 4), 16),
        pytest.param(32, (8, 8), 16, marks=pytest.mark.slow),
        pytest.param(32, (4, 2), 11, marks=pytest.mark.slow),
        pytest.param(64, (16, 4), 16, marks=pytest.mark.slow),
        (64, (2, 2), 64),
    ],
)
def test_sizes_of_programs(lanes, blocks, n, monkeypatch):
    if interpreter.wanted():
        monkeypatch.setattr(launch, "_LANES", lanes)
    elif launch.lanes(torch.device("cuda")) != lanes:
        pytest.skip("this GPU has other warps")
    for name in ("forward_blocks", "backward_blocks"):
        monkeypatch.setattr(
            scan_blocks, name, lambda *_: scan_blocks.Blocks(*blocks)
        )
    case = dataclasses.replace(WHOLE, b=1, l=11, d=20, n=n)
    check(*solve("selective_scan", case))


@runs
@pytest.mark.parametrize(
    ("dtype", "precisions"),
    [
        ("float32", ()),
        pytest.param("bfloat16", (), marks=pytest.mark.slow),
        ("bfloat16", ("bfloat16",)),
        pytest.param("float16", ("tf32",), marks=pytest.mark.slow),
    ],
)
def test_tiles_of_ssd(dtype, precisions, monkeypatch):
    # Several tiles of channels, of states and of heads, and what is left over.
    longest = (32, 16, 16, 16)
    monkeypatch.setattr(
        ssd_tiles, "_LONGEST", dict.fromkeys(ssd_tiles._LONGEST, longest)
    )
    monkeypatch.setattr(launch, "precisions", lambda _: precisions)
    monkeypatch.setattr(ssd, "_HEADS", 2)
    case = dataclasses.replace(WHOLE, b=1, d=3, n=17, p=18, segments="runs")
    arrays, options = make_inputs("ssd", case)
    arrays = rounded(arrays, dtype)
    dy, dstate = make_cotangents("ssd", case)
    cotangents = rounded({"y": dy}, dtype)["y"], dstate
    actual = run("ssd", arrays, options, "triton", cotangents, dtype=dtype)
    check(actual, oracle.solve("ssd", arrays, options, cotangents), dtype)


@runs
@pytest.mark.parametrize("heads", (1, 4))
def test_heads_in_parts(heads, monkeypatch):
    # So many programs are wanted that each has one head, or all of them.
    monkeypatch.setattr(ssd, "_ENOUGH", 4 if heads == 1 else 1)
    case = dataclasses.replace(WHOLE, b=1, l=9, d=4, n=3, g=1)
    check(*solve("ssd", case))


@triton.jit
def apply(v, results, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    v = tl.load(v + i)
    soft, slope = functions.softplus(v)
    tl.store(results + i, functions.power(v, tl.full((SIZE,), 1.0, tl.float32)))
    tl.store(results + SIZE + i, soft)
    tl.store(results + 2 * SIZE + i, slope)
    tl.store(results + 3 * SIZE + i, functions.sigmoid(v))
    # Of a step of size 0.
    tl.store(results + 4 * SIZE + i, functions.power(v, v * 0.0))


@runs
def test_functions_of_vectors():
    size = 1 << 14
    v = torch.linspace(-120, 120, size)
    results = torch.empty(5, size)
    launch.run(apply, 1, v, results, SIZE=size)
    v, results = as_array(v).astype("float64"), as_array(results)
    sigmoid = np.exp(-np.logaddexp(0, -v))
    normal = v > -87  # the others are as small as float32 can be
    for result, wanted, where, most in (
        (results[0], np.exp2(v), v > -126, 3e-7),
        (results[1], np.logaddexp(0, v), normal, 3e-7),
        (results[2], sigmoid, normal, 3e-7),
        # Only factors of what is not tiny: less exact where they are.
        (results[3], sigmoid, v > -10, 2e-6),
    ):
        error = np.abs(result / wanted - 1)[where]
        assert error.max() < most
        assert np.isfinite(result).all()
    assert (results[4] == 1).all()


@runs
def test_powers_at_their_limits():
    inf = float("inf")
    v = torch.tensor([-inf, -200, 0, 1, 200, inf, float("nan"), 0.0])
    results = torch.empty(5, 8)
    launch.run(apply, 1, v, results, SIZE=8)
    expected = [0, 0, 1, 2, inf, inf, float("nan"), 1]
    np.testing.assert_array_equal(as_array(results[0]), expected)


@runs
def test_operators_are_registered_right():
    arrays, _ = make_inputs(
        "selective_scan", dataclasses.replace(WHOLE, b=1, l=3, n=2)
    )
    x, dt, A, B, C, D, z, bias, state = (
        torch.tensor(v, dtype=torch.float32, requires_grad=True)
        for v in arrays.values()
    )
    B, C = (v.detach()[:, :, None].requires_grad_() for v in (B, C))
    scan = torch.ops.keras_ssm.triton_selective_scan
    given = x, dt, A, B, C, D, z, bias, state, None, None
    torch.library.opcheck(scan, (*given, True, False, True))
    marks = torch.zeros(x.shape[:2], dtype=torch.bool)
    given = x, dt, A, B, C, None, None, None, state, marks, marks
    torch.library.opcheck(scan, (*given, False, True, True))
    heads, maps = torch.randn(1, 3, 2, 4), torch.randn(1, 3, 1, 2)
    rates, state = -torch.rand(2), torch.randn(1, 2, 4, 2)
    for v in (heads, maps, rates, state):
        v.requires_grad_()
    given = heads, heads[..., 0], rates, maps, maps, rates, rates, state
    given = *given, marks, marks
    dual = torch.ops.keras_ssm.triton_ssd
    torch.library.opcheck(dual, (*given, True, False, 64, True))
    weight, state = torch.randn(3, 5), torch.randn(1, 2, 5)
    given = x, weight.requires_grad_(), None, state.requires_grad_(), None
    conv = torch.ops.keras_ssm.triton_causal_conv1d
    torch.library.opcheck(conv, (*given, "silu", True))


@runs
def test_first_derivatives_only():
    x = torch.randn(1, 3, 2, requires_grad=True)
    weight, state = torch.randn(2, 2), torch.zeros(1, 1, 2)
    y = causal_conv1d.causal_conv1d(
        x, weight, None, state, None, activation="silu", reverse=False
    )
    (gradient,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError) as caught:
        gradient.sum().backward()
    assert str(caught.value) == (
        "The implementation 'triton' has first derivatives only."
    )


def test_views_are_read_where_they_lie():
    x, _, B, C = torch.randn(2, 7, 4 + 5 + 6 + 6).split([4, 5, 6, 6], -1)
    for v in (x, x.flip(0)[::1]):
        assert launch.readable(v).data_ptr() == v.data_ptr()
    for v in (B.unsqueeze(2), C.unflatten(-1, (3, 2))):
        assert launch.readable(v, together=2).data_ptr() == v.data_ptr()
    time_first = torch.randn(7, 2, 4).transpose(0, 1)
    assert launch.readable(time_first).data_ptr() == time_first.data_ptr()
    channels_first = torch.randn(2, 4, 7).mT
    assert launch.readable(channels_first).is_contiguous()
    far = torch.empty(1, device="meta").as_strided((2, 3, 4), (1, 2**30, 1))
    assert launch.readable(far).stride(1) == 4


def test_what_they_cannot_compute():
    x = torch.ones(1, 2, 3)
    clause = None if interpreter.wanted() else "needs CUDA tensors"
    assert selective_scan.unsupported(x.to("cpu")) == clause
    if clause and not torch.cuda.is_available():
        return
    assert selective_scan.unsupported(x) is None
    assert causal_conv1d.unsupported(x, torch.ones(4, 3)) is None
    wide = selective_scan.unsupported(x.double())
    assert wide == "computes in float32"
    many = causal_conv1d.unsupported(x, torch.ones(65, 3))
    assert many == "takes at most 64 taps"


def test_not_chosen_for_export():
    class Ask(torch.nn.Module):
        def forward(self, x):
            self.clause = selective_scan.unsupported(x)
            return x + 1

    ask = Ask()
    torch.export.export(ask, (torch.ones(1, 2, 3),), strict=False)
    assert ask.clause == "it cannot be exported"


def test_time_is_split_where_programs_are_few():
    assert scan_blocks.chunk_steps(2048, 1024, 132) == 2048
    steps = scan_blocks.chunk_steps(65536, 96, 132)
    assert steps % scan_blocks.EVERY == 0 and 24 <= 65536 / steps <= 36
    assert scan_blocks.chunk_steps(100, 1, 132) == 100


@pytest.mark.parametrize("width", (1, 3, 16, 1000))
@pytest.mark.parametrize("lanes", (32, 64))
def test_every_shape_has_sizes(lanes, width):
    choices = scan_blocks.forward_blocks, scan_blocks.backward_blocks
    for n, blocks in itertools.product(range(1, 257), choices):
        found = blocks(width, n, lanes).constants(n, lanes)
        N, block, span = (found[name] for name in ("N", "BLOCK", "SPAN"))
        assert n <= N < 2 * n and N * block % lanes == 0
        assert lanes % span == 0 and span % block == 0 and found["TILES"] >= 1
        steps = lanes // span * found["TILES"]
        assert scan_blocks.EVERY % steps == 0
