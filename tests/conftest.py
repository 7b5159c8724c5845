"""Exact products, fixed seeds, and no luck with uninitialized memory."""

import atexit
import pathlib
import tempfile

import interpreter
import keras
import pytest


@pytest.fixture(autouse=True)
def seeds():
    """Every test draws the same random numbers, in whatever order they run."""
    keras.utils.set_random_seed(0)


# Where programs are compiled as users have them: XLA's optimizations take
# more than half of the time of tests that run a program once.
OPTIMIZED = ("ops", "kernels")


@pytest.fixture(autouse=True, scope="module")
def programs(request):
    """How JAX compiles the programs of a module, and how it forgets them.

    Each program maps memory, and a process may hold a limited number of them.
    """
    if keras.config.backend() != "jax":
        yield
        return
    import jax

    quick = request.path.parent.name not in OPTIMIZED
    jax.config.update("jax_disable_most_optimizations", quick)
    yield
    jax.clear_caches()


def pytest_configure(config):
    # Keras 3.15 converts tensors in a way that NumPy 2 deprecates.
    config.addinivalue_line(
        "filterwarnings", "ignore:__array__ implementation:DeprecationWarning"
    )
    configure = {
        "jax": _configure_jax,
        "tensorflow": _configure_tensorflow,
        "torch": _configure_torch,
    }.get(keras.config.backend())
    if configure is not None:
        configure()
    if interpreter.wanted():
        interpreter.configure()


def pytest_collection_modifyitems(config, items):
    if interpreter.wanted():
        interpreter.choose(config, items)
    if keras.config.backend() in ("jax", "tensorflow"):
        _leave_to_the_slow_ones(items)


# JAX and TensorFlow compile what a test calls, which takes most of its time.
# There, what follows is left to `make test-all`.
#
# Benchmarks, and what pages quote of them, have processes of their own,
# whatever the backend here. Of the examples, what differs between backends is
# in the layers, so that Mamba's have to do, the one that exports, and the
# tutorials, each of which runs on one backend.
HERE = pathlib.Path(__file__).parent
OF_EXAMPLES = ("[mamba]", "export_and_serve", "test_tutorials")
# The chunks of `ssd` and a scan by composition differ from other kernels in
# what they compute, not in how masks and states enter: of the cases, some.
LONG_TO_COMPILE = ("ssd", "associative")
CASES = (
    *("one_number", "mamba_goes_on", "groups", "right_padding]"),
    *("packed_and_padded_backwards", "long_text"),
)
# Laws are for the kernels that a CPU chooses.
NOT_CHOSEN = ("associative", "portable")
OF_CASES = ("test_outputs_and_gradients[", "test_outputs_of_portable[")


def _leave_to_the_slow_ones(items):
    for item in items:
        if not _belongs_here(item):
            item.add_marker(pytest.mark.slow)


def _belongs_here(item):
    folder, *_ = item.path.relative_to(HERE).parts
    if folder == "benchmarks" or item.path.stem == "test_quotes":
        return False
    if folder == "examples":
        return any(name in item.nodeid for name in OF_EXAMPLES)
    if item.path.stem == "test_laws":
        return not any(name in item.name for name in NOT_CHOSEN)
    if item.name.startswith(OF_CASES):
        long = any(name in item.name for name in LONG_TO_COMPILE)
        return not long or any(case in item.name for case in CASES)
    return True


def _configure_jax():
    import jax

    jax.config.update("jax_default_matmul_precision", "highest")
    # What one module has compiled, others read until the session ends.
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    jax.config.update("jax_compilation_cache_dir", folder.name)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _configure_tensorflow():
    import tensorflow as tf

    tf.config.experimental.enable_tensor_float_32_execution(False)


def _configure_torch():
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    # In this mode `torch.empty` holds NaN, so that an output which a kernel
    # forgets to write is seen.
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True, warn_only=True)


@pytest.fixture
def float64():
    """Lets JAX compute in float64; other backends always can."""
    if keras.config.backend() != "jax":
        yield
        return
    import jax

    with jax.enable_x64(True):
        yield


@pytest.fixture
def uninitialized_memory():
    """Undoes `_configure_torch`, which also picks deterministic kernels."""
    if keras.config.backend() != "torch":
        yield
        return
    import torch

    torch.use_deterministic_algorithms(False)
    yield
    torch.use_deterministic_algorithms(True, warn_only=True)
