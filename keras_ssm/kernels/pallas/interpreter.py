"""How tests run the kernels where the device is missing."""

import contextlib

import jax

_platform: list[str] = []


@contextlib.contextmanager
def interpreted(platform: str):
    """Runs the kernels for a GPU or a TPU in Pallas' interpreter.

    What was compiled before is forgotten, and so is what is compiled within.

    Args:
        platform: "gpu" or "tpu".
    """
    _platform.append(platform)
    jax.clear_caches()
    try:
        yield
    finally:
        _platform.pop()
        jax.clear_caches()


def resolve(platform: str):
    """The platform whose kernel runs, and whether it is interpreted.

    Args:
        platform: What a program is lowered for.
    """
    if platform != "cpu":
        return platform, False
    if _platform:
        return _platform[-1], True
    raise NotImplementedError(
        "The implementation 'pallas' needs a GPU or a TPU. Choose another by "
        "`implementation=None` or `keras_ssm.use_implementation`."
    )
