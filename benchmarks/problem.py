"""What an op is asked to compute in a case, and whether an answer is right."""

import dataclasses
import functools

import cases
import harness
import keras
import numpy as np
import oracle
from compare import TOLERANCES, as_array, relative_error

# Random numbers are drawn for as many elements and repeated over time.
DRAWN = 2**22
# States that the float64 reference may hold: (b, l, d, n) of a sample.
HELD = 2**23
# The reference of a longer sequence starts that many steps before its end.
# The first half is there to be forgotten, the second is compared: with the
# step sizes of the cases a state has lost all but exp(-80) after so long.
WINDOW = 8192

CHANNEL_AXES = {
    **dict.fromkeys(("x", "dt", "a", "z"), 2),
    **dict.fromkeys(("A", "D", "dt_bias", "bias", "constant_a"), 0),
    # Those of `system.py`.
    **dict.fromkeys(("log_dt", "A_log", "A_imag", "C_real", "C_imag"), 0),
    "weight": 1,
}


class Problem:
    """The arguments of an op on the device, and a check of what it returns.

    A float64 reference of the whole would hold a state for every step. So the
    check takes a sample of rows, channels and steps, and a gradient with
    respect to y that is 0 outside of it: then the sample alone decides the
    gradients of everything, also of what is summed over channels.

    Args:
        op: "selective_scan", "causal_conv1d", "linear_scan" or "ssd".
        case: The case, without mask, segments and state.
        dtype: Dtype of the tensors.
        bare: Whether to ask for the recurrence alone, `x, dt, A, B, C`.
        checked: Whether `error` compares anything.
    """

    def __init__(
        self, op: str, case, dtype="float32", bare=False, checked=True
    ):
        self.op, self.case, self.dtype, self.bare = op, case, dtype, bare
        self._checked = checked
        drawn = dataclasses.replace(case, l=_period(case))
        arrays, dy = self.draw(drawn)
        self._arrays = harness.rounded(arrays, dtype)
        self._dy = harness.rounded({"dy": dy}, dtype)["dy"]
        # What is constant is known by another name to the reference.
        self._names = {n.removeprefix("constant_"): n for n in arrays}
        window = WINDOW if self.forgets else case.l
        width = case.p if op == "ssd" else 1
        self._sample = _Sample(case, window, self._pairs, width)

    @property
    def forgets(self) -> bool:
        """Whether a state has forgotten what was half a `WINDOW` before."""
        return self.op != "linear_scan"

    def draw(self, case):
        """Sets `options`, and returns the arrays and a gradient of y."""
        arrays, self.options = cases.make_inputs(self.op, case)
        self._pairs = self.options.pop("complex", ())
        self.options.pop("chunk_size", None)  # that of the tests
        if self.bare:
            arrays = _bare(arrays, self.options)
            self.options = {**self.options, "dt_softplus": False}
        return arrays, cases.make_cotangents(self.op, case)[0]

    def solve(self, case, arrays, dy, dtype):
        """The reference of a case: an `oracle.Result`."""
        state = np.zeros_like(cases.make_cotangents(self.op, case)[1])
        options = {**self.options, "complex": self._pairs}
        return oracle.solve(self.op, arrays, options, (dy, state), dtype)

    @functools.cached_property
    def arguments(self) -> dict:
        """The tensors by name, complex numbers as pairs."""
        tensors = harness.tensors(self._arrays, self.dtype)
        tensors = {name: self._long(name, v) for name, v in tensors.items()}
        return self._as_pairs(tensors)

    @functools.cached_property
    def dy(self):
        """A random gradient with respect to y, like y, or a pair."""
        return self._as_pairs({"x": self._all_of_dy()})["x"]

    def sampled_dy(self):
        """The same, 0 outside of the sample."""
        dy = self._all_of_dy()
        masks = (
            keras.ops.convert_to_tensor(mask, self.dtype)
            for mask in self._sample.mask(*dy.shape)
        )
        dy = functools.reduce(keras.ops.multiply, masks, dy)
        return self._as_pairs({"x": dy})["x"]

    def _all_of_dy(self):
        return self._long("x", harness.tensor(self._dy, self.dtype))

    def _as_pairs(self, tensors):
        return harness.as_arguments(tensors, {"complex": self._pairs})[0]

    def error(self, y, gradients=None) -> float | None:
        """The largest relative error, of y and of every gradient.

        Raises:
            ArithmeticError: If one of them misses the float64 reference.
        """
        if not self._checked:
            return None
        expected = self._solve("float64")
        found = {"y": (y, expected.y, "forward")}
        for name, gradient in (gradients or {}).items():
            name = self._names[name]
            found[name] = gradient, expected.gradients[name], "gradient"
        return max(self._error_of(name, *v) for name, v in found.items())

    def _error_of(self, name, actual, expected, kind):
        wide = name in harness.FLOAT32_PARAMETERS
        tolerance = TOLERANCES["float32" if wide else self.dtype][kind]
        actual = self._sample.of_tensor(name, harness.side_by_side(actual))
        actual = as_array(actual)
        if name == "y":
            compared = self._sample.compared
            actual, expected = actual[:, -compared:], expected[:, -compared:]
        try:
            error = relative_error(actual, expected, name)
        except AssertionError as reason:
            raise ArithmeticError(str(reason)) from None
        if error > max(tolerance, 2 * self._float32_error(name, error)):
            raise ArithmeticError(
                f"{name}: relative error {error:.1e} exceeds {tolerance:.0e}"
            )
        return error

    def _float32_error(self, name, error):
        """That of a plain float32 loop, which is not to blame for its own."""
        if error > 100 * TOLERANCES["float32"]["forward"]:
            return 0.0
        exact, plain = self._solve("float64"), self._solve("float32")
        if name == "y":
            return relative_error(plain.y, exact.y)
        return relative_error(plain.gradients[name], exact.gradients[name])

    @functools.cache  # noqa: B019 - a process has few problems
    def _solve(self, dtype):
        sample = self._sample
        arrays = {
            name: sample.of_array(name, array)
            for name, array in self._arrays.items()
        }
        dy = sample.of_array("x", self._dy).copy()
        dy[:, : -sample.compared] = 0
        return self.solve(sample.as_case(self.case), arrays, dy, dtype)

    def _long(self, name, tensor):
        repeats = self.case.l // self._dy.shape[1]
        if name not in cases.PER_STEP or repeats == 1:
            return tensor
        return keras.ops.tile(tensor, (1, repeats, *[1] * (tensor.ndim - 2)))


class _Sample:
    """Some rows and channels of a case, and its last steps.

    Args:
        case: The case.
        window: How many steps a state depends on, and as many to compare.
        pairs: Names of what has two channels for each of the case.
        width: What a channel of the case holds: the channels of a head.
    """

    def __init__(self, case, window, pairs, width=1):
        self.window = min(case.l, window)
        self.compared = case.l if case.l <= window else window // 2
        self._length, self._pairs = case.l, pairs
        count = HELD // (self.window * case.n * width)
        # Two channels at least: the gradient of one may be next to 0.
        self._rows = _spread(case.b, 2 if count >= 4 else 1)
        self._channels = _spread(case.d, max(2, count // len(self._rows)))
        self._imaginary = self._channels + case.d

    def as_case(self, case):
        sizes = dict(b=len(self._rows), d=len(self._channels), l=self.window)
        return dataclasses.replace(case, **sizes)

    def mask(self, *shape):
        """What is in the sample, along each of the first axes of y."""
        rows, steps, channels = (np.zeros(size) for size in shape[:3])
        rows[self._rows] = channels[self._channels_of("x")] = 1
        steps[-self.compared :] = 1
        return (
            v.reshape(-1, *[1] * (len(shape) - 1 - axis))
            for axis, v in enumerate((rows, steps, channels))
        )

    def of_tensor(self, name, tensor):
        """Of what an op returns."""
        name = "x" if name == "y" else name
        if name in cases.PER_STEP:
            tensor = tensor[:, -self.window :]
            tensor = keras.ops.take(tensor, self._rows, axis=0)
        if name in CHANNEL_AXES:
            axis = CHANNEL_AXES[name]
            tensor = keras.ops.take(tensor, self._channels_of(name), axis=axis)
        return tensor

    def of_array(self, name, array):
        """Of an argument, which may yet have to be repeated over time."""
        if name in CHANNEL_AXES:
            array = array.take(self._channels_of(name), CHANNEL_AXES[name])
        if name in cases.PER_STEP:
            steps = np.arange(self._length - self.window, self._length)
            array = array[self._rows].take(steps, 1, mode="wrap")
        return array

    def _channels_of(self, name):
        if name not in self._pairs:
            return self._channels
        return np.concatenate([self._channels, self._imaginary])


def _bare(arrays, options):
    """The arguments of the recurrence, with step sizes made positive before."""
    arrays = {name: arrays[name] for name in ("x", "dt", "A", "B", "C")}
    if options["dt_softplus"]:
        arrays["dt"] = np.logaddexp(arrays["dt"], 0)
    return arrays


def _period(case):
    """The longest part of the length that is drawn before it is repeated."""
    longest = max(1, min(case.l, DRAWN // (case.b * case.d)))
    return next(l for l in range(longest, 0, -1) if case.l % l == 0)


def _spread(size, count):
    """Indices from the first to the last."""
    return np.unique(np.linspace(0, size - 1, min(size, count)).astype("int32"))
