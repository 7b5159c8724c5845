"""Triton's interpreter: kernels for a GPU, run on the CPU step by step.

In a process with `TRITON_INTERPRET=1`, `triton` takes the place of the
implementations for a CPU, and what would take hours there is left out. An
operation of a vector takes as long for 128 lanes as for 32, so that warps have
128 lanes; `tests/kernels/test_triton.py` has other sizes.
"""

import os

import pytest

# Tests of ops that are part of `make test` even so, by parts of their names.
QUICK = (
    *("one_number", "two_steps", "three_steps", "mamba", "masked_row"),
    *("left_padding", "groups", "wide_window", "wide_state"),
    "packed_and_padded",
    *("test_half_precision[selective_scan-triton-bfloat16-padded", "dtypes"),
    "test_half_precision[ssd-triton-bfloat16-padded",
    *("two_parts", "packing", "rows_are_independent", "nothing_in"),
    *("two_runs", "inputs_are_not"),
)
# Tests with a thousand steps, or of other implementations.
LEFT_OUT = ("long_text", "l1000", "portable", "default_compiler", "export")


def wanted() -> bool:
    """Whether this process is to interpret kernels."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def configure():
    """Makes `triton` the implementation, and the interpreter fast."""
    from triton.runtime import interpreter

    from keras_ssm.kernels.triton import launch
    from keras_ssm.ops import dispatch

    for op in ("selective_scan", "causal_conv1d", "linear_scan", "ssd"):
        dispatch.PREFERENCES[op, "torch"]["cpu"] = ("triton",)
    launch._LANES = 128
    _patch_once(interpreter)
    _multiply_bfloat16(interpreter.InterpreterBuilder)


def choose(config, items):
    """Leaves tests out, and marks others as slow."""
    kept, dropped = [], []
    for item in items:
        of_ops = "/ops/" in str(item.path)
        if of_ops and any(part in item.nodeid for part in LEFT_OUT):
            dropped.append(item)
            continue
        if of_ops and not any(part in item.nodeid for part in QUICK):
            item.add_marker(pytest.mark.slow)
        kept.append(item)
    config.hook.pytest_deselected(items=dropped)
    items[:] = kept


def _patch_once(interpreter):
    """Patches `triton.language` once for a kernel, not for every function.

    The interpreter replaces the functions of the language whenever a kernel
    calls a function of its own, which takes most of its time.
    """
    patched = set()
    start = interpreter.GridExecutor.__call__

    def start_kernel(self, *arguments, **options):
        patched.clear()
        return start(self, *arguments, **options)

    def call_function(self, *arguments, **options):
        if id(self.fn.__globals__) not in patched:
            patched.add(id(self.fn.__globals__))
            interpreter._patch_lang(self.fn)
        return self.rewrite()(*arguments, **options)

    interpreter.GridExecutor.__call__ = start_kernel
    interpreter.InterpretedFunction.__call__ = call_function


def _multiply_bfloat16(builder):
    """Makes numbers of bfloat16 in products; the interpreter takes its bits."""
    from triton import language as tl

    multiply = builder.create_dot

    def create_dot(self, a, b, *others):
        a, b = (
            self.cast_impl(v, tl.float32) if v.dtype == tl.bfloat16 else v
            for v in (a, b)
        )
        return multiply(self, a, b, *others)

    builder.create_dot = create_dot
