"""Kernels as a primitive of JAX, which decides late how to compute them.

A program that is exported shall run where this library is not installed: where
a call of the kernel could not, it gets operations of XLA instead, as it does on
ROCm, for which there are no kernels. Elsewhere the call is partitioned: arrays
that lie on several devices are split by batch `b` and by channel `d`, and
nothing else is gathered. Sums over a split axis are made by the devices
together.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.extend.core import Primitive
from jax.interpreters import mlir
from jax.sharding import NamedSharding, PartitionSpec


@dataclasses.dataclass(frozen=True)
class Kernel:
    """What the primitive computes.

    Args:
        direct: Calls the kernel: a function of the tensors, then the options,
            and of the platform ("cpu", "gpu" or "tpu") by keyword, that
            returns a list.
        exported: The same in operations of XLA.
        options: The plain arguments.
        inputs: The axes of each tensor, for example "b l d".
        outputs: The axes of each result.
        dtypes: The dtype of each result.
        split: The axes that may be split over devices.
        sizes: Sizes of axes that no tensor has.
        exports: The platforms for which the call itself can be exported.
    """

    direct: Callable
    exported: Callable
    options: tuple
    inputs: tuple
    outputs: tuple
    dtypes: tuple
    split: tuple
    sizes: tuple = ()
    exports: tuple = ()

    def __call__(self, *tensors):
        """The results; tensors may be `None`."""
        present = tuple(k for k, v in enumerate(tensors) if v is not None)
        call = jax.custom_batching.sequential_vmap(_partitioned(self, present))
        return call(*(tensors[k] for k in present))

    def on(self, tensors, present, function):
        """Calls a function with `None` for tensors that are not present."""
        given: list = [None] * len(self.inputs)
        for k, v in zip(present, tensors, strict=True):
            given[k] = v
        return function(*given, *self.options)


_primitive = Primitive("keras_ssm_kernel")
_primitive.multiple_results = True


@_primitive.def_impl
def _run(*tensors, **options):
    return jax.jit(lambda *tensors: _primitive.bind(*tensors, **options))(
        *tensors
    )


@_primitive.def_abstract_eval
def _shapes(*tensors, kernel, present):
    sizes = dict(kernel.sizes)
    for k, v in zip(present, tensors, strict=True):
        sizes.update(zip(kernel.inputs[k].split(), v.shape, strict=True))
    return [
        tensors[0].update(
            shape=tuple(sizes[axis] for axis in axes.split()),
            dtype=dtype,
            weak_type=False,
            sharding=NamedSharding(
                tensors[0].sharding.mesh,
                PartitionSpec(*[None] * len(axes.split())),
            ),
        )
        for axes, dtype in zip(kernel.outputs, kernel.dtypes, strict=True)
    ]


def _lower(platform, ctx, *tensors, kernel, present):
    # Where JAX does not say, the call stays one, which JAX refuses to export.
    parameters = ctx.module_context.lowering_parameters
    for_export = getattr(parameters, "for_export", False)
    exported = platform == "rocm" or (
        for_export and platform not in kernel.exports
    )
    compute = functools.partial(
        kernel.exported if exported else kernel.direct,
        platform={"cuda": "gpu", "rocm": "gpu"}.get(platform, platform),
    )

    def function(*tensors):
        return kernel.on(tensors, present, compute)

    return mlir.lower_fun(function, multiple_results=True)(ctx, *tensors)


for _platform in ("cpu", "cuda", "rocm", "tpu"):
    mlir.register_lowering(
        _primitive,
        functools.partial(_lower, _platform),
        platform=_platform,
    )


def _partitioned(kernel, present):
    axes = [kernel.inputs[k] for k in present]
    bind = functools.partial(_primitive.bind, kernel=kernel, present=present)

    @custom_partitioning
    def call(*tensors):
        return tuple(bind(*tensors))

    def partition(mesh, tensors, results):
        over = _split_over(kernel, axes[0].split(), tensors[0])

        def place(axes):
            spec = PartitionSpec(*(over.get(axis) for axis in axes.split()))
            return NamedSharding(mesh, spec)

        def on_device(*tensors):
            found = bind(*tensors)
            return tuple(
                _sum_over(v, [n for a, n in over.items() if a not in axes])
                for v, axes in zip(found, kernel.outputs, strict=True)
            )

        results = tuple(place(axes) for axes in kernel.outputs)
        return mesh, on_device, results, tuple(place(a) for a in axes)

    names = dict.fromkeys(" ".join((*axes, *kernel.outputs)).split())
    call.def_partition(
        partition=partition,
        sharding_rule=f"{', '.join(axes)} -> {', '.join(kernel.outputs)}",
        need_replication_factors=tuple(
            name for name in names if name not in kernel.split
        ),
    )
    return call


def _split_over(kernel, axes, x):
    """The mesh axes over which each axis of x that may be split is."""
    spec = getattr(x.sharding, "spec", ())
    return {
        axis: names
        for axis, names in zip(axes, spec, strict=False)
        if axis in kernel.split and names is not None
    }


def _sum_over(v, names):
    return jax.lax.psum(v, names) if names else v
