"""How state space models start, against the formulas of their papers."""

import keras
import numpy as np
import pytest
from compare import as_array
from layer_harness import value
from test_parameters import check_uniform

import keras_ssm
from keras_ssm.layers import (
    HiPPOBasis,
    HiPPOLegS,
    LogUniformDt,
    LRURing,
    RGLRURing,
    S4DInv,
    S4DLin,
    S4DReal,
    UniformDecay,
)
from keras_ssm.layers.hippo import normal_plus_low_rank

CONFIGURED = {
    "part_of_a_map": HiPPOBasis(
        keras.initializers.LecunNormal(3), "outputs", "imag", 2
    ),
    "map_of_blocks": HiPPOBasis(keras.initializers.LecunNormal(3), blocks=4),
    "hippo_of_blocks": HiPPOLegS("P", blocks=2),
    "part_of_hippo": HiPPOLegS("A", "imag"),
    "ring": LRURing(0.5, 0.9, 1.5, part="log_phase", seed=4),
    "step_sizes": LogUniformDt(0.01, 0.2, 0.02, seed=5, activation="exp"),
    "real_ring": RGLRURing(0.8, 0.99, c=4.0, seed=6),
    "inverse": S4DInv("imag"),
    "linear": S4DLin("log_decay"),
    "real": S4DReal(),
    "decay": UniformDecay(0.5, 2.0, seed=7),
}
each_configured = pytest.mark.parametrize(
    "initializer", CONFIGURED.values(), ids=CONFIGURED
)


def hippo(size):
    """The matrix and the input map of HiPPO-LegS, entry by entry."""
    A, B = np.zeros((size, size)), np.zeros(size)
    for n in range(size):
        B[n] = np.sqrt(2 * n + 1)
        for k in range(n):
            A[n, k] = -np.sqrt((2 * n + 1) * (2 * k + 1))
        A[n, n] = -(n + 1)
    return A, B


def values(initializer, *shape):
    return as_array(initializer(shape, dtype="float32")).astype("float64")


@pytest.mark.parametrize("size", (2, 4, 16, 64))
def test_hippo_is_diagonal_plus_low_rank_in_its_basis(size):
    A, B = hippo(size)
    eigenvalues, P, V = normal_plus_low_rank(size)
    # With the other half of each pair.
    eigenvalues, P = (np.append(v, v.conj()) for v in (eigenvalues, P))
    V = np.concatenate([V, V.conj()], axis=1)
    identity = V.conj().T @ V
    assert np.abs(identity - np.eye(size)).max() < 1e-12
    diagonal = np.diag(eigenvalues) - np.outer(P, P.conj())
    assert np.abs(V @ diagonal @ V.conj().T - A).max() < 1e-10
    assert np.abs(V @ (np.sqrt(2) * P) - B).max() < 1e-11


@pytest.mark.parametrize("size", (2, 10, 64))
def test_eigenvalues_of_the_normal_part_decay_by_a_half(size):
    A, B = hippo(size)
    expected = np.linalg.eigvals(A + np.outer(B, B) / 2)
    expected = expected[expected.imag > 0]
    expected = expected[np.argsort(expected.imag)]
    real = values(HiPPOLegS("A"), 3, size // 2)
    imag = values(HiPPOLegS("A", "imag"), 3, size // 2)
    assert (real == -0.5).all()
    assert np.abs(expected.real + 0.5).max() < 1e-9
    assert np.abs(imag / expected.imag - 1).max() < 1e-6
    log_decay = values(HiPPOLegS("A", "log_decay"), 3, size // 2)
    assert np.abs(log_decay - np.log(0.5)).max() < 1e-7


def test_low_rank_and_input_parts_are_positive_and_parallel():
    P, B = (values(HiPPOLegS(name), 2, 8) for name in "PB")
    assert (P > 0).all()
    assert np.abs(B / P - np.sqrt(2)).max() < 1e-6
    # The two halves of each pair have the norm of sqrt(n + 1/2), n < 16.
    assert np.isclose(2 * (P[0] ** 2).sum(), np.sum(np.arange(16) + 0.5))
    assert (values(HiPPOLegS("P", "imag"), 2, 8) == 0).all()


def test_blocks_repeat_a_smaller_system():
    for parameter, part in (("A", "imag"), ("P", "real"), ("B", "real")):
        one = values(HiPPOLegS(parameter, part), 5)
        three = values(HiPPOLegS(parameter, part, blocks=3), 2, 15)
        assert (three == np.tile(one, (2, 3))).all()


@pytest.mark.parametrize("blocks", (1, 2))
def test_maps_in_the_basis_are_those_of_the_real_system(blocks):
    n, m = 6, 3
    drawn = keras.initializers.RandomNormal(seed=2)
    _, _, V = normal_plus_low_rank(2 * n // blocks)
    V = np.kron(np.eye(blocks), V)
    B, C = values(drawn, 2 * n, m), values(drawn, m, 2 * n)
    for side, expected, shape in (
        ("inputs", V.conj().T @ B, (n, m)),
        ("outputs", C @ V, (m, n)),
    ):
        real, imag = (
            values(HiPPOBasis(drawn, side, part, blocks), *shape)
            for part in ("real", "imag")
        )
        assert np.abs(real + 1j * imag - expected).max() < 1e-7
    # Both halves of the pairs together are the real system again.
    assert np.abs(2 * (V @ (V.conj().T @ B)).real - B).max() < 1e-12


def test_s4d_lin_and_inv_are_those_of_the_paper():
    n = np.arange(32)
    for name, expected in (
        (S4DLin, np.pi * n),
        (S4DInv, 64 / np.pi * (64 / (2 * n + 1) - 1)),
    ):
        assert (values(name(), 3, 32) == -0.5).all()
        log_decay = values(name("log_decay"), 3, 32)
        assert np.abs(log_decay - np.log(0.5)).max() < 1e-7
        imag = values(name("imag"), 3, 32)
        assert np.abs(imag - expected).max() <= 1e-7 * expected.max()


def test_s4d_inv_is_close_to_hippo():
    # Its frequencies follow those of HiPPO-N, which it approximates.
    imag = np.sort(values(S4DInv("imag"), 32))
    expected = values(HiPPOLegS("A", "imag"), 32)
    assert np.abs(imag / expected - 1)[16:].max() < 0.25


@pytest.mark.parametrize(("r_min", "r_max"), ((0.0, 1.0), (0.9, 0.999)))
def test_eigenvalues_of_an_lru_are_uniform_on_a_ring(r_min, r_max):
    shape = (4000,)
    decay, phase, gain = (
        values(LRURing(r_min, r_max, 2.0, part, seed=1), *shape)
        for part in ("log_decay", "log_phase", "log_gain")
    )
    radius, phase = np.exp(-np.exp(decay)), np.exp(phase)
    assert radius.min() >= r_min and radius.max() <= r_max + 1e-7
    check_uniform((radius**2 - r_min**2) / (r_max**2 - r_min**2))
    check_uniform(phase / 2.0)
    assert abs(np.corrcoef(radius, phase)[0, 1]) < 0.1
    # From the decay: the radius itself has no digits left near 1.
    expected = np.log(-np.expm1(-2 * np.exp(decay))) / 2
    assert np.abs(gain - expected).max() < 1e-5


@pytest.mark.parametrize("c", (8.0, 1.0))
def test_decays_of_an_rg_lru_are_uniform_on_a_ring(c):
    parameter = values(RGLRURing(c=c, seed=1), 4000)
    decay = np.exp(-c * np.logaddexp(parameter, 0))
    assert decay.min() >= 0.9 - 1e-6 and decay.max() <= 0.999 + 1e-6
    check_uniform((decay**2 - 0.9**2) / (0.999**2 - 0.9**2))


def test_step_sizes_can_be_exponentials():
    log_dt = values(LogUniformDt(0.001, 0.1, activation="exp"), 4000)
    check_uniform((log_dt - np.log(0.001)) / np.log(100))
    seeded = [
        values(LogUniformDt(seed=2, activation=activation), 9)
        for activation in ("exp", "softplus")
    ]
    dt = np.exp(seeded[0]), np.logaddexp(seeded[1], 0)
    assert np.allclose(*dt, rtol=1e-5)


@each_configured
def test_a_config_gives_the_same_values_again(initializer):
    config = keras.initializers.serialize(initializer)
    assert config["registered_name"].startswith("keras_ssm>")
    copy = keras.initializers.deserialize(config)
    assert copy.get_config() == initializer.get_config()
    expected = values(initializer, 4, 8)
    assert np.isfinite(expected).all()
    assert (values(copy, 4, 8) == expected).all()
    assert (values(initializer.clone(), 4, 8) == expected).all()


@each_configured
def test_values_have_the_dtype_that_is_asked_for(initializer):
    assert str(as_array(initializer((4, 8))).dtype) == "float32"
    value = initializer((4, 8), dtype="float16")
    assert keras.backend.standardize_dtype(value.dtype) == "float16"


@pytest.mark.parametrize("initializer", (LRURing, RGLRURing, LogUniformDt))
def test_without_a_seed_each_call_draws_anew(initializer):
    drawn = initializer()
    assert (values(drawn, 50) != values(drawn, 50)).all()
    keras.utils.set_random_seed(3)
    first = values(drawn, 50)
    keras.utils.set_random_seed(3)
    assert (values(drawn, 50) == first).all()


def test_variables_that_start_so_can_be_assigned_to():
    for initializer in CONFIGURED.values():
        variable = keras.Variable(initializer, shape=(4, 8))
        variable.assign(keras.ops.ones((4, 8)))
        assert (value(variable) == 1).all()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: S4DLin("phase"),
            "`S4DLin`: `part` must be one of ('real', 'imag', 'log_decay'). "
            "Received: part='phase'.",
        ),
        (
            lambda: HiPPOLegS("C"),
            "`HiPPOLegS`: `parameter` must be one of ('A', 'P', 'B'). "
            "Received: parameter='C'.",
        ),
        (
            lambda: HiPPOLegS("P", "log_decay"),
            "`HiPPOLegS`: `part` must be one of ('real', 'imag'). "
            "Received: part='log_decay'.",
        ),
        (
            lambda: HiPPOLegS(blocks=0),
            "`HiPPOLegS`: `blocks` must be a positive integer. "
            "Received: blocks=0.",
        ),
        (
            lambda: HiPPOLegS(blocks=3)((2, 8)),
            "`HiPPOLegS`: the numbers of the shape must be a multiple of "
            "`blocks`. Received: 8 numbers, blocks=3.",
        ),
        (
            lambda: HiPPOBasis(side="left"),
            "`HiPPOBasis`: `side` must be one of ('inputs', 'outputs'). "
            "Received: side='left'.",
        ),
        (
            lambda: LRURing(0.9, 0.8),
            "`LRURing` needs 0 <= r_min < r_max <= 1. "
            "Received: r_min=0.9, r_max=0.8.",
        ),
        (
            lambda: LRURing(max_phase=0),
            "`LRURing` needs max_phase > 0. Received: max_phase=0.",
        ),
        (
            lambda: RGLRURing(r_max=1.1),
            "`RGLRURing` needs 0 <= r_min < r_max <= 1. "
            "Received: r_min=0.9, r_max=1.1.",
        ),
        (lambda: RGLRURing(c=0), "`RGLRURing` needs c > 0. Received: c=0."),
        (
            lambda: LogUniformDt(activation="relu"),
            "`LogUniformDt`: `activation` must be one of ('softplus', 'exp'). "
            "Received: activation='relu'.",
        ),
    ],
)
def test_arguments_out_of_range(make, sentence):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == sentence


def test_all_of_them_are_public():
    names = {type(initializer).__name__ for initializer in CONFIGURED.values()}
    assert names <= set(keras_ssm.layers.__all__)
