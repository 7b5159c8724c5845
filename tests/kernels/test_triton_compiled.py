"""What the Triton kernels compile to, on a machine without a GPU.

Every launch of the ops is compiled, with the arguments that it has, for GPUs
from NVIDIA and AMD. At the sizes that are the default for 16 states nothing
of a kernel spills from its registers but what `SPILLS` records, and none uses
shared memory but what `SHARED` does. Those of `ssd` need it to multiply, and
are compiled for 64 channels and 128 states.
"""

import dataclasses
import pathlib
import re
import subprocess
import tempfile

import interpreter
import pytest
from harness import only_on

only_on("torch")
pytest.importorskip("triton")
if interpreter.wanted():
    pytest.skip(
        "nothing is compiled to be interpreted", allow_module_level=True
    )

import torch  # noqa: E402
import triton  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from keras_ssm.kernels.triton import (  # noqa: E402
    causal_conv1d,
    launch,
    linear_scan,
    scan_blocks,
    selective_scan,
    ssd,
)

NVIDIA = {cc: GPUTarget("cuda", cc, 32) for cc in (75, 80, 90)}
AMD = GPUTarget("hip", "gfx942", 64)
TOOLS = pathlib.Path(triton.__file__).parent / "backends" / "nvidia" / "bin"

# Bytes that spill, at most, by kernel and architecture; none where nothing is
# said, and but on 90 none without a mask. There, fewer registers let more
# programs hide one another's waits, which is worth more: 32 without a mask.
SPILLS = {
    ("scan_forward", "forward_kernel", 80): 16,
    ("scan_backward", "backward_kernel", 75): 16,
    ("scan_backward", "backward_kernel", 90): 144,
    ("ssd_forward", "outputs_kernel", 80): 8,  # in float16
    ("ssd_backward", "inputs_kernel", 75): 16,  # in float32
    ("ssd_backward", "inputs_kernel", 80): 80,  # with a mask and resets
    ("ssd_backward", "maps_kernel", 80): 40,
}
# A product of matrices that ptxas takes for 0, and leaves out.
NOTHING = "HGMMA.64x8x16.F16 RZ"
# From this architecture on, registers are limited: `launch.limits_registers`.
LIMITED = 90
# Bytes of shared memory: an odd number of states in half precision does not lie
# in lanes as it is read, nor do the sums of step sizes of chunks.
SHARED = {"float16_n5": 1024, "split": 512}
# What programs may use that multiply, by architecture; on 80 that of 86.
MOST_SHARED = {75: 64 << 10, 80: 99 << 10, 90: 99 << 10}
# What the units for products of matrices take there.
PRECISIONS = dict.fromkeys((80, 90), ("bfloat16", "tf32", "tf32x3"))


@dataclasses.dataclass(frozen=True)
class Call:
    """A forward and a backward pass.

    Args:
        dtype: Of x, dt, B, C and z.
        n: States.
        marks: Whether there are a mask and resets.
        reverse: Whether to run from the end.
        split: Whether time is split into chunks.
    """

    dtype: torch.dtype = torch.bfloat16
    n: int = 16
    marks: bool = False
    reverse: bool = False
    split: bool = False


SSD_CALLS = {
    "mamba2": Call(),
    "packed_backwards": Call(marks=True, reverse=True),
    "float32": Call(dtype=torch.float32),
    "float16": Call(dtype=torch.float16),
}
CALLS = {
    "mamba": Call(),
    "split": Call(split=True),
    "packed_backwards": Call(marks=True, reverse=True),
    "float32": Call(dtype=torch.float32),
    "float16_n5": Call(dtype=torch.float16, n=5),
    "n64": Call(n=64),
    "n256": Call(n=256),
}


@pytest.fixture
def launches(monkeypatch):
    """The launches of a call: kernels with their arguments and constants."""

    def record(call, lanes):
        found = []

        monkeypatch.setattr(launch, "_LANES", lanes)
        for module in (selective_scan, causal_conv1d, linear_scan):
            monkeypatch.setattr(module, "run", recorder(found))
        if call.split:
            monkeypatch.setattr(
                scan_blocks, "chunk_steps", lambda *_: 2 * scan_blocks.EVERY
            )
        _run(call)
        return found

    return record


@pytest.fixture
def ssd_launches(monkeypatch):
    """The same for `ssd`, for units that multiply in these precisions."""

    def record(call, precisions):
        found = []
        monkeypatch.setattr(launch, "precisions", lambda _: precisions)
        # So many that the heads of a group are split.
        monkeypatch.setattr(ssd, "processors", lambda _: 132)
        monkeypatch.setattr(ssd, "run", recorder(found))
        _run_ssd(call)
        return found

    return record


def recorder(found):
    """Stands for `launch.run`."""

    def run(kernel, programs, *arguments, warps=1, registers=None, **constants):
        options = dict(num_warps=warps)
        if registers is not None:
            options["maxnreg"] = registers
        found.append((kernel, arguments, constants, options))

    return run


def _run(call):
    b, l, d, n = 2, 512, 64, call.n
    inputs = torch.zeros(b, l, 3 * d, dtype=call.dtype)
    x, dt, z = inputs.split(d, -1)
    # B and C behind what becomes dt, as a layer has them.
    maps = torch.zeros(b, l, 48 + 2 * n, dtype=call.dtype)
    _, B, C = (v.unsqueeze(2) for v in maps.split([48, n, n], -1))
    A, D, state = torch.zeros(d, n), torch.zeros(d), torch.zeros(b, d, n)
    marks = torch.zeros(b, l, dtype=torch.bool) if call.marks else None
    given = x, dt, A, B, C, D, z, D, state, marks, marks
    _, _, saved = selective_scan._forward(*given, True, call.reverse, True)
    selective_scan._backward(*given, x, state, saved, True, call.reverse)
    given = x, torch.zeros(4, d), D, torch.zeros(b, 3, d), marks
    causal_conv1d._forward(*given, "silu", call.reverse)
    causal_conv1d._backward(*given, x, "silu", call.reverse)
    x, x_imag, a = inputs.float().split(d, -1)
    _run_linear(x, None, a, None, D.expand(b, d), None, marks, call.reverse)
    _run_linear(x, x_imag, D, D, *[D.expand(b, d)] * 2, marks, call.reverse)


def _run_linear(x, x_imag, a, a_imag, state, state_imag, marks, reverse):
    others = a, a_imag, state, state_imag, marks, marks
    linear_scan._forward(x, x_imag, *others, reverse)
    gradients = x, x_imag, state, state_imag
    linear_scan._backward(x, x_imag, *others, *gradients, reverse)


def _run_ssd(call):
    b, l, h, p, n = 2, 512, 24, 64, 128
    # x, B and C side by side, as a layer has them.
    inputs = torch.zeros(b, l, h * p + 2 * n, dtype=call.dtype)
    x, B, C = inputs.split([h * p, n, n], -1)
    x, B, C = x.unflatten(-1, (h, p)), B.unsqueeze(2), C.unsqueeze(2)
    dt = torch.zeros(b, l, h, dtype=call.dtype)
    A, state = torch.zeros(h), torch.zeros(b, h, p, n)
    marks = torch.zeros(b, l, dtype=torch.bool) if call.marks else None
    given = x, dt, A, B, C, A, A, state, marks, marks
    options = True, call.reverse, 64
    y, _, saved = ssd._forward(*given, *options, True)
    ssd._backward(*given, y, state, saved, *options)


@pytest.mark.parametrize("enough", (0, 1, 10**9), ids=("split", "many", "few"))
@pytest.mark.parametrize("cc", (80, 90))
def test_nothing_spills(launches, cc, enough, monkeypatch):
    # As where time is split, with so many programs that the largest are chosen,
    # and with so few that the smallest are.
    monkeypatch.setattr(scan_blocks, "ENOUGH", enough)
    for launched in launches(CALLS["mamba"], 32):
        check_nvidia(launched, cc)


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("cc", NVIDIA)
def test_compiles_for_nvidia(launches, name, cc):
    for launched in launches(CALLS[name], 32):
        of_default = CALLS[name].n == 16
        check_nvidia(launched, cc, of_default, SHARED.get(name, 0))


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_compiles_for_amd(launches, name):
    for launched in launches(CALLS[name], 64):
        compiled = compile_for(AMD, launched)
        assert compiled.asm["hsaco"]
        assert compiled.metadata.shared <= SHARED.get(name, 0)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "mamba2" else pytest.mark.slow)
        for name in SSD_CALLS
    ],
)
@pytest.mark.parametrize(
    "cc", (80, 90, pytest.param(75, marks=pytest.mark.slow))
)
def test_ssd_compiles_for_nvidia(ssd_launches, name, cc):
    for launched in ssd_launches(SSD_CALLS[name], PRECISIONS.get(cc, ())):
        check_nvidia(launched, cc, shared=MOST_SHARED[cc])


@pytest.mark.slow
@pytest.mark.parametrize("name", SSD_CALLS)
def test_ssd_compiles_for_amd(ssd_launches, name):
    for launched in ssd_launches(SSD_CALLS[name], ("bfloat16",)):
        compiled = compile_for(AMD, launched)
        assert compiled.asm["hsaco"]
        assert compiled.metadata.shared <= 64 << 10


def check_nvidia(launched, cc, of_default=True, shared=0):
    compiled = compile_for(NVIDIA[cc], launched)
    kernel = launched[0].__module__.split(".")[-1], launched[0].__name__
    used = resources(compiled.asm["cubin"])
    print(*kernel, cc, used)
    assert compiled.metadata.shared <= shared
    assert NOTHING not in instructions(compiled.asm["cubin"]), kernel
    if of_default:
        assert used["STACK"] <= SPILLS.get((*kernel, cc), 0), kernel
        assert used["LOCAL"] == 0


def compile_for(target, launched):
    kernel, arguments, constants, options = launched
    signature, known, attributes = {}, {}, {}
    names = kernel.arg_names
    given = dict(zip(names, arguments, strict=False)) | constants
    for i, name in enumerate(names):
        if name in constants:
            signature[name], known[(i,)] = "constexpr", constants[name]
            continue
        plain = kernel.params[i].do_not_specialize
        signature[name] = describe(given[name], (i,), plain, known, attributes)
    source = ASTSource(kernel, signature, known, attributes)
    options = dict(options, num_stages=1, enable_fp_fusion=True)
    if target.backend == "hip" or target.arch < LIMITED:
        options.pop("maxnreg", None)
    return triton.compile(source, target=target, options=options)


def describe(v, path, plain, known, attributes):
    """The type of an argument, and what the compiler may know of it."""
    if isinstance(v, tuple):
        return tuple(
            describe(element, (*path, i), plain, known, attributes)
            for i, element in enumerate(v)
        )
    tensor = isinstance(v, torch.Tensor)
    if v is None or (not tensor and not plain and v == 1):
        known[path] = v
        return "constexpr"
    if not plain and (v.data_ptr() if tensor else v) % 16 == 0:
        attributes[path] = [["tt.divisibility", 16]]
    return f"*{TYPES[v.dtype]}" if tensor else "i32"


TYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.uint8: "u8",
}


def resources(cubin):
    """What a kernel uses: registers, bytes."""
    said = inspect("-res-usage", cubin)
    found = re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", said)
    return {name: int(value) for name, value in found}


def instructions(cubin):
    """The machine's instructions, as text."""
    return inspect("-sass", cubin)


def inspect(what, cubin):
    """What `cuobjdump` says of a kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run(
            [TOOLS / "cuobjdump", what, file.name],
            capture_output=True,
            text=True,
            check=True,
        )
    return done.stdout
