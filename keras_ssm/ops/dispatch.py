"""Chooses the implementation that computes an op, and says why not another.

To add an implementation, write `keras_ssm/kernels/<name>/<op>.py` with

- a function named like the op that takes its arguments in canonical form
  (see `ops/selective_scan.py`) and returns what the other implementations
  return;
- `unsupported(...)` with the same arguments, which returns `None`, or one
  clause saying why it cannot compute them ("needs CUDA tensors");

then add its name to `PREFERENCES` and, if it rests on a package that the
backend does not bring along, to `PACKAGES`.
"""

import contextlib
import contextvars
import importlib
import importlib.util

import keras

# The one module that loads kernels.
from keras_ssm import kernels  # noqa: TID251
from keras_ssm.kernels import exact, platforms, programs  # noqa: TID251

# (op, backend) -> platform -> names, most preferred first. On a GPU a loop
# over single steps is bound by kernel launches, on a CPU by arithmetic.
PREFERENCES = {
    ("selective_scan", "jax"): {
        "cpu": ("numba", "lax", "lax_associative", "portable"),
        "gpu": ("pallas", "lax_associative", "lax", "portable"),
        "tpu": ("pallas", "lax", "lax_associative", "portable"),
    },
    ("selective_scan", "tensorflow"): {
        "cpu": ("numba", "xla", "xla_associative", "portable"),
        "cpu graph": ("xla", "xla_associative", "portable", "numba"),
        "gpu": ("xla_associative", "xla", "portable"),
    },
    ("selective_scan", "torch"): {
        "cpu": ("numba", "torch", "portable"),
        "gpu": ("triton", "torch", "portable"),
    },
    ("selective_scan", "numpy"): {"cpu": ("portable",)},
    ("causal_conv1d", "jax"): {
        "cpu": ("numba", "lax", "portable"),
        "gpu": ("pallas", "lax", "portable"),
        "tpu": ("pallas", "lax", "portable"),
    },
    ("causal_conv1d", "tensorflow"): {
        "cpu": ("numba", "xla", "portable"),
        "cpu graph": ("xla", "portable", "numba"),
        "gpu": ("xla", "portable"),
    },
    ("causal_conv1d", "torch"): {
        "cpu": ("numba", "torch", "portable"),
        "gpu": ("triton", "torch", "portable"),
    },
    ("causal_conv1d", "numpy"): {"cpu": ("portable",)},
    ("linear_scan", "jax"): {
        "cpu": ("numba", "lax", "lax_associative", "portable"),
        # The kernel is faster where rows and channels are many, and up to four
        # times as slow where they are few and long: docs/gpu.md.
        "gpu": ("lax_associative", "pallas", "lax", "portable"),
        "tpu": ("pallas", "lax", "lax_associative", "portable"),
    },
    ("linear_scan", "tensorflow"): {
        "cpu": ("numba", "xla", "xla_associative", "portable"),
        "cpu graph": ("xla", "xla_associative", "portable", "numba"),
        "gpu": ("xla_associative", "xla", "portable"),
    },
    ("linear_scan", "torch"): {
        "cpu": ("numba", "torch", "portable"),
        "gpu": ("triton", "torch", "portable"),
    },
    ("linear_scan", "numpy"): {"cpu": ("portable",)},
    ("ssd", "jax"): {
        "cpu": ("lax", "portable"),
        "gpu": ("pallas", "lax", "portable"),
        "tpu": ("pallas", "lax", "portable"),
    },
    ("ssd", "tensorflow"): {
        "cpu": ("xla", "portable"),
        "cpu graph": ("xla", "portable"),
        "gpu": ("xla", "portable"),
    },
    ("ssd", "torch"): {
        "cpu": ("torch", "portable"),
        "gpu": ("triton", "torch", "portable"),
    },
    ("ssd", "numpy"): {"cpu": ("portable",)},
    ("fft_conv", "jax"): {
        "cpu": ("portable",),
        "gpu": ("portable",),
        "tpu": ("portable",),
    },
    ("fft_conv", "tensorflow"): {
        "cpu": ("portable",),
        "cpu graph": ("portable",),
        "gpu": ("portable",),
    },
    ("fft_conv", "torch"): {
        "cpu": ("torch", "portable"),
        "gpu": ("torch", "portable"),
    },
    ("fft_conv", "numpy"): {"cpu": ("portable",)},
    **{
        (op, backend): {platform: names for platform in on}
        for op, names in {
            "selective_scan_step": ("portable",),
            "causal_conv1d_step": ("portable",),
            "linear_scan_step": ("portable",),
            "ssd_step": ("portable",),
            "ssm_scan": ("portable",),
            "ssm_scan_step": ("portable",),
            "s4d_conv_kernel": ("portable",),
            "s4_conv_kernel": ("dense", "portable"),
            "discretize": ("portable",),
            "discretize_dplr": ("portable",),
        }.items()
        for backend, on in {
            "jax": ("cpu", "gpu", "tpu"),
            "tensorflow": ("cpu", "cpu graph", "gpu"),
            "torch": ("cpu", "gpu"),
            "numpy": ("cpu",),
        }.items()
    },
}

# Implementation -> third-party package that it needs beside its backend.
PACKAGES = {"numba": "numba", "triton": "triton"}

# For ops and layers, which load no kernels.
compiled = programs.compiled
traced = programs.traced
cos, sin, cumsum = exact.cos, exact.sin, exact.cumsum

_PINNED = contextvars.ContextVar("keras_ssm_implementation", default=None)
_CALLS = contextvars.ContextVar("keras_ssm_calls", default=None)


@contextlib.contextmanager
def use_implementation(name: str):
    """Pins the implementation of every op that is called within the context.

    For export, tests and benchmarks. Enter it before the model is traced or
    compiled: a compiled function keeps the choice it was compiled with. An op
    that has no implementation of that name chooses as usual.

    Args:
        name: Name of an implementation; `show_implementations()` lists them.

    Raises:
        ValueError: If no op has an implementation of that name on any
            backend.

    Example:

    ```python
    x = keras.random.normal((2, 100, 64))
    with keras_ssm.use_implementation("portable"):
        y = keras_ssm.layers.Mamba()(x)
    ```
    """
    known = sorted({n for rows in PREFERENCES.values() for n in _names(rows)})
    if name not in known:
        raise ValueError(
            f"`use_implementation` takes one of {known}. Received: {name!r}."
        )
    token = _PINNED.set(name)
    try:
        yield
    finally:
        _PINNED.reset(token)


@contextlib.contextmanager
def watched():
    """Yields a list that gets every call of an op within the context.

    A call is `(op, tensors, options)`, with the canonical tensors. Those of a
    program that is compiled in the context are traced, and hold no numbers.
    """
    calls = []
    token = _CALLS.set(calls)
    try:
        yield calls
    finally:
        _CALLS.reset(token)


def run(op: str, tensors: tuple, options: dict, implementation=None):
    """Computes `op` with the implementation chosen for these tensors.

    Args:
        op: Name of the op.
        tensors: Canonical tensors of the op, in the order of its
            implementations' positional arguments; absent ones are `None`.
        options: The plain Python arguments.
        implementation: `None` takes the first that can; a named one is
            strict: it runs, or raises with the reason.

    Raises:
        ValueError: If the op has no implementation of that name here.
        NotImplementedError: If the named one cannot compute these tensors.
    """
    calls = _calls()
    if calls is not None:
        calls.append((op, tensors, options))
    backend = keras.config.backend()
    rows = PREFERENCES[op, backend]
    if backend == "jax" and implementation is not None:
        # A name that exists for some platforms is strict about those alone.
        rows = {p: n for p, n in rows.items() if implementation in n} or rows
    chosen = {
        platform: _select(op, rows[platform], tensors, options, implementation)
        for platform in platforms.candidates(backend, tensors[0], tuple(rows))
    }
    return platforms.run(backend, chosen, tensors, options)


def show_implementations() -> str:
    """Prints what would run on this machine for every op, and why not others.

    Returns:
        What it printed, a line for each op and implementation.
    """
    backend = keras.config.backend()
    lines = [f"keras backend: {backend}"]
    for (op, of_backend), rows in PREFERENCES.items():
        if of_backend != backend:
            continue
        here = platforms.here(backend)
        lines.append(f"{op} on {here}")
        first = True
        for name in rows.get(here, ()):
            reason = _missing(name)
            lines.append(f"  {name}: {reason or ('runs' if first else 'can')}")
            first = first and reason is not None
    text = "\n".join(lines)
    print(text)  # noqa: T201 - printing is what it is for
    return text


def _select(op, names, tensors, options, implementation):
    if implementation is None and _pinned() in names:
        implementation = _pinned()
    if implementation is not None and implementation not in names:
        raise ValueError(
            f"`{op}` has no implementation {implementation!r} on the "
            f"{keras.config.backend()!r} backend; it has {list(names)}. "
            f"Received: implementation={implementation!r}."
        )
    reasons = {}
    for name in names if implementation is None else (implementation,):
        reason = _missing(name)
        if reason is None:
            _load(name, op)
            module = getattr(getattr(kernels, name), op)
            reason = module.unsupported(*tensors, **options)
            if reason is None:
                return getattr(module, op)
        reasons[name] = reason
    listed = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    raise NotImplementedError(f"`{op}` cannot run here: {listed}.")


@platforms.constant
def _pinned():
    return _PINNED.get()


@platforms.constant
def _calls():
    return _CALLS.get()


@platforms.constant
def _missing(name):
    package = PACKAGES.get(name)
    if package is None or importlib.util.find_spec(package):
        return None
    return f"the `{package}` package is not installed"


def _names(rows):
    return {name for names in rows.values() for name in names}


@platforms.constant
def _load(name, op):
    # `torch.compile` can keep no module: it is found in its package.
    importlib.import_module(f"keras_ssm.kernels.{name}.{op}")
