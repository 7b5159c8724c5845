"""S4D and S4: one system as convolution, recurrence and step, and others."""

import keras
import numpy as np
import pytest
from layer_harness import (
    BACKEND,
    LENGTH,
    WIDTH,
    as_array,
    assert_close,
    both_directions,
    layer_gradients,
    needs_gradients,
    randomize,
    sequences,
    slow_unless,
    twin,
    value,
)

from keras_ssm.layers import (
    S4,
    S4D,
    HiPPOLegS,
    LogUniformDt,
    S4Block,
    S4DBlock,
    S4DInv,
    S4DLin,
    S4DReal,
    state_space,
)

# More than two chunks of 64 steps, the last not full.
LONG = 131
SYSTEMS = {
    "zoh": (S4D, {}),
    "bilinear": (S4D, {"discretization": "bilinear", "state_dim": 2}),
    "dplr": (S4, {}),
}
# These two discretizations differ in a formula alone.
each_system = pytest.mark.parametrize(
    "system",
    [
        pytest.param(name, marks=slow_unless(name != "bilinear"))
        for name in SYSTEMS
    ],
)
each_class = pytest.mark.parametrize(
    "layer_class",
    [
        pytest.param(layer, marks=slow_unless(some))
        for layer, some in {S4D: 1, S4: 0, S4DBlock: 0, S4Block: 1}.items()
    ],
    ids=lambda c: c.__name__,
)


def build(system, **options):
    """A small layer, built, every weight of it random."""
    layer_class, of_system = SYSTEMS[system]
    layer = layer_class(**{"state_dim": 6, **of_system, **options})
    layer.build((None, None, WIDTH))
    randomize(layer)
    return layer


def holes(length):
    """Rows with every step, with holes, and with a few steps only."""
    step = np.arange(length)
    return np.stack([step >= 0, step % 3 != 1, step % 70 == 0])


def by_steps(layer, x, mask):
    state, outputs = layer.get_initial_state(x.shape[0]), []
    for t in range(x.shape[1]):
        live = None if mask is None else mask[:, t]
        y, state = layer.step(x[:, t], state, mask=live)
        outputs.append(as_array(y))
    return np.stack(outputs, axis=1), state[0]


def check_forms(system, length, mask, kind=("float32", "gradient"), **options):
    """Compares the convolution with the recurrence, and it with steps."""
    layer = build(system, mode="convolution", **options)
    recurrence = twin(layer, mode="recurrence", return_state=True)
    x = sequences(length).astype(kind[0])
    y, state = recurrence(x, mask=mask)
    assert_close(layer(x, mask=mask), as_array(y), *kind)
    if layer.go_backwards:
        layer = twin(layer, go_backwards=False)
        x = x[:, ::-1]
        mask = None if mask is None else mask[:, ::-1]
    stepped, end = by_steps(layer, x, mask)
    assert_close(stepped, as_array(y), *kind)
    assert_close(end, as_array(state), *kind)


@each_system
@both_directions
def test_convolution_recurrence_and_steps_are_equal(system, go_backwards):
    check_forms(system, LONG, holes(LONG), go_backwards=go_backwards, rate=0.5)


@each_system
@pytest.mark.parametrize(
    "length",
    # JAX and TensorFlow compile for each of them.
    [
        pytest.param(length, marks=() if quick else pytest.mark.slow)
        for length in (1, 2, 63, 64, 65)
        for quick in (BACKEND == "torch" or length in (1, 64),)
    ],
)
def test_they_are_at_lengths_about_those_of_chunks(system, length):
    layer = build(system, mode="convolution")
    recurrence = twin(layer, mode="recurrence")
    x = sequences(length)
    expected = as_array(layer(x))
    assert_close(recurrence(x), expected, "float32", "gradient")


@pytest.mark.skipif(
    BACKEND not in ("jax", "tensorflow"),
    reason="Keras computes `Dense` in float32 on PyTorch and NumPy",
)
@each_system
@pytest.mark.usefixtures("float64")
def test_they_are_in_double_precision(system):
    kind = ("float64", "gradient")
    check_forms(system, 67, holes(67), kind, dtype="float64")


@needs_gradients
@each_system
def test_gradients_of_convolution_and_recurrence_are_equal(system):
    layer = build(system, mode="convolution")
    recurrence = twin(layer, mode="recurrence")
    x, cotangent = sequences(70), sequences(70, seed=5)
    mask = holes(70)
    _, expected = layer_gradients(layer, x, cotangent, mask=mask)
    _, actual = layer_gradients(recurrence, x, cotangent, mask=mask)
    for path, gradient in actual.items():
        wanted = expected[path.replace(recurrence.name, layer.name)]
        assert np.abs(wanted).max() > 0, path
        error = np.abs(gradient - wanted).max()
        assert error <= 1e-4 * np.abs(wanted).max(), path


@each_system
@pytest.mark.parametrize("cut", (1, 64, 100))
def test_parts_of_several_chunks_are_the_whole(system, cut):
    layer = build(system, return_state=True)
    x, mask = sequences(LONG), holes(LONG)
    whole, end = layer(x, mask=mask)
    first, state = layer(x[:, :cut], mask=mask[:, :cut])
    second, state = layer(x[:, cut:], initial_state=state, mask=mask[:, cut:])
    both = np.concatenate([as_array(first), as_array(second)], axis=1)
    assert_close(both, as_array(whole), "float32", "gradient")
    assert_close(state, as_array(end), "float32", "gradient")


# Against the formulas of the papers.


def gelu(v):
    from math import erf

    return v * (1 + np.vectorize(erf)(v / np.sqrt(2))) / 2


def full_system(w, name="C"):
    """A, B and C of each channel as dense complex matrices of all numbers."""

    def pair(of):
        v = w[f"{of}_real"] + 1j * w[f"{of}_imag"]
        return np.concatenate([v, v.conj()], axis=-1)

    A = -np.exp(w["A_log"]) + 1j * w["A_imag"]
    A = np.concatenate([A, A.conj()], axis=-1)
    matrix = A[:, :, None] * np.eye(A.shape[-1])
    if "P_real" not in w:
        return matrix, np.ones_like(A), pair(name)
    P = pair("P")
    return matrix - P[:, :, None] * P.conj()[:, None], pair("B"), pair(name)


def formula(w, x, rule, rate=1.0):
    """The layer in NumPy, step by step, with dense matrices.

    Gu et al., 2021 (https://arxiv.org/abs/2111.00396), equation 3, and Gu et
    al., 2022 (https://arxiv.org/abs/2206.11893), section 3.1.
    """
    y = w["D"] * x + run_system(w, x, rule, rate)
    if "C_backward_real" in w:
        # The next input is the first that the second kernel sees.
        later = np.concatenate([x[:, 1:], 0 * x[:, :1]], axis=1)[:, ::-1]
        y = y + run_system(w, later, rule, rate, "C_backward")[:, ::-1]
    y = gelu(y) @ w["out_proj/kernel"] + w["out_proj/bias"]
    y, gate = np.split(y, 2, axis=-1)
    return y / (1 + np.exp(-gate))


def run_system(w, x, rule, rate, name="C"):
    A, B, C = full_system(w, name)
    dt = (np.exp(w["log_dt"]) * rate)[:, None, None]
    unit = np.eye(A.shape[-1])
    if rule == "zoh":
        step = unit * np.exp(dt * A)  # of diagonal matrices
        gain = np.linalg.solve(A, (step - unit) @ B[..., None])
    else:
        step = np.linalg.solve(unit - dt / 2 * A, unit + dt / 2 * A)
        gain = np.linalg.solve(unit - dt / 2 * A, dt * B[..., None])
    h, y = np.zeros((len(x), *B.shape, 1), complex), []
    for t in range(x.shape[1]):
        h = step @ h + gain * x[:, t, :, None, None]
        y.append((C * h[..., 0]).sum(-1).real)
    return np.stack(y, axis=1)


def weights_of(layer):
    return {
        v.path.removeprefix(f"{layer.name}/"): value(v).astype("float64")
        for v in layer.weights
    }


@each_system
@pytest.mark.parametrize(
    "options",
    [{}, {"rate": 2.5, "mode": "recurrence"}, {"bidirectional": True}],
    ids=["convolution", "recurrence", "bidirectional"],
)
def test_layer_computes_the_formulas_of_the_papers(system, options):
    layer = build(system, **options)
    x = sequences()
    rule = "zoh" if system == "zoh" else "bilinear"
    expected = formula(weights_of(layer), x.astype("float64"), rule, layer.rate)
    assert_close(layer(x), expected, "float32", "gradient")


@each_class
def test_a_block_adds_what_the_mixer_makes_of_the_normalised_input(layer_class):
    if not layer_class.__name__.endswith("Block"):
        layer_class = {S4D: S4DBlock, S4: S4Block}[layer_class]
    block = layer_class(state_dim=4, bidirectional=True)
    block.build((None, None, WIDTH))
    randomize(block)
    x = sequences()
    scale = np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    normed = (x - x.mean(-1, keepdims=True)) / scale
    normed = normed * value(block.norm.gamma) + value(block.norm.beta)
    expected = x + as_array(block.mixer(normed.astype("float32")))
    assert_close(block(x), expected, "float32")


# What these layers promise beyond others.


@pytest.mark.parametrize("mode", ("convolution", "recurrence"))
def test_half_the_step_size_is_for_every_sample_twice(mode):
    # Exactly, where inputs are held for the length of a step.
    layer = build("zoh", mode=mode)
    x = sequences()
    twice = twin(layer, rate=0.5)(np.repeat(x, 2, axis=1))
    expected = as_array(layer(x))
    assert_close(as_array(twice)[:, 1::2], expected, "float32", "gradient")


@each_system
def test_a_bidirectional_layer_skips_masked_steps(system):
    layer = build(system, bidirectional=True)
    x, mask = sequences(), holes(LENGTH)
    y = as_array(layer(np.where(mask[..., None], x, np.nan), mask=mask))
    assert (y[~mask] == 0).all()
    for row, live in enumerate(mask):
        expected = as_array(layer(x[row : row + 1, live]))
        assert_close(y[row : row + 1, live], expected, "float32")


def test_the_future_reaches_the_past_in_a_bidirectional_layer_only():
    x = sequences()
    changed = x.copy()
    changed[:, -1] += 1
    for bidirectional in (False, True):
        layer = build("zoh", bidirectional=bidirectional)
        moved = np.abs(as_array(layer(changed)) - as_array(layer(x)))
        assert (moved[:, :-1].max() > 1e-3) == bidirectional
        assert moved[:, -1].max() > 1e-3


@each_system
def test_the_convolution_runs_unless_there_are_states(system, monkeypatch):
    def run(*args, **options):
        raise AssertionError("a recurrence ran")

    monkeypatch.setattr(state_space, "ssm_scan", run)
    layer = build(system)
    layer(sequences())
    for options, call in (
        ({"return_state": True}, {}),
        ({"mode": "recurrence"}, {}),
        ({}, {"initial_state": layer.get_initial_state(3)}),
    ):
        with pytest.raises(Exception, match="a recurrence ran"):
            twin(layer, **options)(sequences(), **call)


@each_system
@pytest.mark.skipif(BACKEND != "jax", reason="about JAX's exporter")
def test_jax_exports_an_unknown_length(system):
    import jax
    from jax import export

    layer = build(system)
    b, length = export.symbolic_shape("b, length")
    shape = jax.ShapeDtypeStruct((b, length, WIDTH), "float32")
    exported = export.export(jax.jit(layer))(shape)
    for size in (1, LONG):
        x = sequences(size)
        expected = as_array(layer(x))
        assert_close(exported.call(x), expected, "float32", "gradient")


@each_system
@pytest.mark.skipif(BACKEND != "tensorflow", reason="about its graphs")
@pytest.mark.parametrize("mode", ("convolution", "recurrence"))
def test_tensorflow_traces_an_unknown_length(system, mode):
    import tensorflow as tf

    layer = build(system, mode=mode)
    shape = tf.TensorSpec((None, None, WIDTH), "float32")
    traced = tf.function(lambda x: layer(x), input_signature=[shape])
    for size in (1, 63, 64, LONG):
        x = sequences(size)
        expected = as_array(layer(x))
        assert_close(traced(x), expected, "float32", "gradient")


@pytest.mark.parametrize("system", ("zoh", "dplr"))
@pytest.mark.skipif(BACKEND != "torch", reason="about PyTorch's exporter")
def test_pytorch_exports_an_unknown_length(system):
    import torch

    class Module(torch.nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x)

    def export(layer):
        shapes = {0: torch.export.Dim("b"), 1: torch.export.Dim("length")}
        x = torch.tensor(sequences(20))
        return torch.export.export(
            Module(layer), (x,), dynamic_shapes=(shapes,)
        )

    layer = build(system)
    program = export(layer).module()
    for size, batch in ((1, 1), (64, 2), (LONG, 3)):
        x = torch.tensor(sequences(size, batch))
        expected = as_array(layer(x))
        assert_close(program(x), expected, "float32", "gradient")
    with pytest.raises(NotImplementedError, match="no kernel of unknown"):
        export(twin(layer, mode="convolution"))


@each_system
def test_an_empty_sequence_gives_an_empty_output(system):
    layer = build(system, return_state=True)
    given = np.ones((3, WIDTH, layer.state_dim), "float32")
    y, state = layer(sequences(0), initial_state=given)
    assert y.shape == (3, 0, WIDTH)
    assert (as_array(state) == given).all()
    assert build(system)(sequences(0)).shape == (3, 0, WIDTH)


# How the layers start.


@pytest.mark.parametrize(
    "initializer",
    (S4DLin(), S4DInv(), HiPPOLegS()),
    ids=lambda initializer: type(initializer).__name__,
)
def test_the_diagonal_starts_as_its_initializer_says(initializer):
    layer = S4D(state_dim=16, A_initializer=initializer)
    layer.build((None, None, WIDTH))
    config = initializer.get_config()
    imag = type(initializer).from_config({**config, "part": "imag"})
    real = type(initializer).from_config({**config, "part": "real"})
    shape = (WIDTH, 8)
    assert np.allclose(value(layer.A_imag), as_array(imag(shape)))
    decay = -np.exp(value(layer.A_log))
    assert np.allclose(decay, as_array(real(shape)), rtol=1e-6)


def test_s4_starts_as_hippo():
    layer = S4(state_dim=16)
    layer.build((None, None, WIDTH))
    A, B, _ = full_system(weights_of(layer))
    order = np.arange(16)
    root = np.sqrt(2 * order + 1)
    expected = -np.tril(np.outer(root, root), -1) - np.diag(order + 1.0)
    # The same system in another basis.
    for power in range(4):
        moment = np.linalg.matrix_power(expected, power) @ root
        ours = (np.linalg.matrix_power(A[0], power) @ B[0][:, None])[:, 0]
        norm = np.linalg.norm(moment)
        assert np.isclose(np.linalg.norm(ours), norm, rtol=1e-4)


@pytest.mark.parametrize("layer_class", (S4D, S4))
def test_output_maps_and_skips_start_normal(layer_class):
    layer = layer_class(bidirectional=True)
    layer.build((None, None, 256))
    for C in (layer.C, layer.C_backward):
        assert np.isclose(value(C[0]).std() ** 2, 0.5, rtol=0.05)
        assert np.isclose(value(C[1]).std() ** 2, 0.5, rtol=0.05)
        correlation = np.corrcoef(value(C[0]).ravel(), value(C[1]).ravel())
        assert abs(correlation[0, 1]) < 0.05
    assert 0.8 < value(layer.D).std() < 1.2
    dt = np.exp(value(layer.log_dt))
    assert 1e-3 * (1 - 1e-5) <= dt.min() < 2e-3
    assert 0.05 < dt.max() <= 0.1 * (1 + 1e-5)
    different = [value(v) for C in (layer.C, layer.C_backward) for v in C]
    assert len({v.tobytes() for v in different}) == 4


def test_step_sizes_start_where_they_are_asked_to():
    layer = S4(dt_initializer=LogUniformDt(0.5, 0.6, activation="exp"))
    layer.build((None, None, WIDTH))
    dt = np.exp(value(layer.log_dt))
    assert 0.499 < dt.min() and dt.max() < 0.601


# What is wrong is said in a sentence.


@each_class
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"state_dim": 5}, "`state_dim` must be even.*state_dim=5"),
        ({"mode": "scan"}, "`mode` must be one of.*mode='scan'"),
        ({"rate": 0}, "`rate` must be positive. Received: rate=0"),
        (
            {"bidirectional": True, "return_state": True},
            "neither a state nor a direction.*return_state=True",
        ),
        (
            {"bidirectional": True, "go_backwards": True, "stateful": True},
            "Received: bidirectional=True, stateful=True, go_backwards=True",
        ),
        (
            {"bidirectional": True, "mode": "recurrence"},
            "always a convolution.*mode='recurrence'",
        ),
        (
            {"mode": "convolution", "return_state": True},
            "a convolution has no state; take `mode=None`.*return_state=True",
        ),
    ],
)
def test_arguments_that_do_not_fit(layer_class, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        layer_class(**options)


@each_class
def test_states_where_there_are_none(layer_class):
    layer = layer_class(bidirectional=True, state_dim=4)
    layer.build((None, None, WIDTH))
    state = np.zeros((3, WIDTH, 4), "float32")
    with pytest.raises(ValueError, match="has no state: its output depends"):
        layer.step(sequences()[:, 0], state)
    with pytest.raises(ValueError, match="has no state: its output depends"):
        layer.get_initial_state(3)
    with pytest.raises(ValueError, match="has no state: its output depends"):
        layer(sequences(), initial_state=state)
    layer = layer_class(mode="convolution", state_dim=4)
    with pytest.raises(ValueError, match="a convolution has no state. Set"):
        layer(sequences(), initial_state=state)


def test_a_layer_that_is_bidirectional_is_not_wrapped():
    with pytest.raises(Exception, match="neither a state nor a direction"):
        keras.layers.Bidirectional(S4D(bidirectional=True))


def test_an_unknown_discretization():
    with pytest.raises(ValueError, match="`discretization` must be one of"):
        S4D(discretization="euler")


@pytest.mark.parametrize(
    "initializer",
    ("zeros", S4DReal(), lambda s: s),
    ids=("name", "without_parts", "function"),
)
def test_an_initializer_of_the_diagonal_has_parts(initializer):
    with pytest.raises(ValueError, match="an initializer with parts, such as"):
        S4D(A_initializer=initializer)
