"""How kernels are called: with tensors by name, any of which may be absent."""

import types

import jax
from jax.experimental import pallas as pl


def call(kernel, given, outputs, *, specs=None, scratch=None, **options):
    """Runs a kernel.

    Args:
        kernel: Function of a namespace of references, `None` for what is
            absent.
        given: Tensors by name; may be `None`.
        outputs: `(shape, dtype)` by name, or false where one is not wanted.
        specs: The blocks that a program sees by name; without, it sees all.
        scratch: Memory of a program by name.
        **options: Arguments of `pallas_call`.

    Returns:
        The outputs by name.
    """
    optional = dict.fromkeys((*given, *outputs))
    scratch = scratch or {}
    given = {name: v for name, v in given.items() if v is not None}
    outputs = {name: v for name, v in outputs.items() if v}
    names = (*given, *outputs, *scratch)
    # Within `shard_map`, results vary over devices as tensors do.
    varying = jax.typeof(next(iter(given.values()))).manual_axis_type
    if specs is not None:
        options["in_specs"] = [specs[name] for name in given]
        options["out_specs"] = [specs[name] for name in outputs]
        options["scratch_shapes"] = list(scratch.values())

    def run(*refs):
        named = dict(zip(names, refs, strict=True))
        kernel(types.SimpleNamespace(**{**optional, **named}))

    found = pl.pallas_call(
        run,
        out_shape=[
            jax.ShapeDtypeStruct(*v, manual_axis_type=varying)
            for v in outputs.values()
        ],
        **options,
    )(*given.values())
    return dict(zip(outputs, found, strict=True))
