"""What one selective scan did to its input."""

import dataclasses

import numpy as np

from keras_ssm.visualize.arrays import array, cumulative, step_sizes
from keras_ssm.visualize.attention import implied_attention


@dataclasses.dataclass(frozen=True, eq=False)
class Scan:
    """What one selective scan did to its input, as `record` found it.

        h[t] = exp(step_size[t] A) h[t-1] + step_size[t] B[t] inputs[t]
        y[t] = C[t] h[t] + D inputs[t]

    Arrays are float64. Sizes: `b` batch, `l` length, `d` channels, `n` state,
    `g` groups of channels that share B and C. The heads of a Mamba-2 are
    channels here, with `p` inputs each; a channel of a Mamba has `p = 1`.

    Attributes:
        layer: Path of the layer in its model.
        inputs: What the scan mixes, `(b, l, d, p)`.
        step_size: How far each channel moves in time, `(b, l, d)`: a large
            step forgets the past and writes the present. 0 at masked steps.
        A: Decay rates, `(d, n)`; `(d,)` of a Mamba-2.
        B: Input maps, `(b, l, g, n)`.
        C: Output maps, `(b, l, g, n)`.
        D: Skip weights, `(d,)`, or `None`.
        gate: What `y` is multiplied with after an SiLU, `(b, l, d)`, or `None`
            where that is not part of the scan.
        mask: Boolean, `(b, l)`, or `None`: False at masked steps.
        segments: Integers, `(b, l)`, or `None`: steps of one segment share a
            state.
        reverse: Whether the scan runs from the end.
    """

    layer: str
    inputs: np.ndarray
    step_size: np.ndarray
    A: np.ndarray
    B: np.ndarray
    C: np.ndarray
    D: np.ndarray | None = None
    gate: np.ndarray | None = None
    mask: np.ndarray | None = None
    segments: np.ndarray | None = None
    reverse: bool = False

    @property
    def retention(self):
        """How much of the state a step keeps, `(b, l, d)`.

        The mean of `exp(step_size A)` over the numbers of a state: 1 at masked
        steps, 0 where a packed sequence starts anew.
        """
        kept = sum(np.exp(self.step_size * rate) for rate in self._rates)
        return np.where(self._starts[..., None], 0, kept / len(self._rates))

    @property
    def half_life(self):
        """After how many such steps half of the state is left, `(b, l, d)`.

        Infinite at masked steps.
        """
        with np.errstate(divide="ignore"):
            return np.log(2) / abs(np.log(self.retention))

    @property
    def written(self):
        """The size of what each step adds to the state, `(b, l)`.

        The Euclidean norm of `step_size B inputs` over all channels.
        """
        return self._size(1.0 for _ in self._rates)

    @property
    def remembered(self):
        """The size of what is left of it behind the last step, `(b, l)`.

        `exp(sum of the step sizes that follow, times A)` times what was
        written. The last step is the first one where the scan runs backwards.
        """
        return self._size(map(self._left, self._rates))

    def attention(self, channels=None):
        """The matrices M that channels are multiplied with, `(b, d, l, l)`.

        `M[c] @ inputs[:, c] = y[:, c]`, but for an initial state.

        Args:
            channels: Indices of those to compute. `None` for all.
        """
        return implied_attention(
            self.step_size,
            self.A,
            self.B,
            self.C,
            self.D,
            mask=self.mask,
            segment_ids=self.segments,
            reverse=self.reverse,
            channels=channels,
        )

    def mean_attention(self):
        """The mean of the absolute values of M over channels, `(b, l, l)`.

        Without `D`: what a step gets past the state is no memory.
        """
        memory = dataclasses.replace(self, D=None)
        channels = range(self.step_size.shape[-1])
        # One by one: all of them at once would be `d` times as large.
        total = sum(abs(memory.attention([c])[:, 0]) for c in channels)
        return total / len(channels)

    def row(self, index: int) -> "Scan":
        """A row of the batch by itself."""
        of_batch = ("inputs", "step_size", "B", "C", "gate", "mask", "segments")
        values = {name: getattr(self, name) for name in of_batch}
        rows = {
            name: None if v is None else v[index : index + 1 or None]
            for name, v in values.items()
        }
        return dataclasses.replace(self, **rows)

    @property
    def _rates(self):
        """Decay rates of all channels, for one number of their states each.

        Those of a Mamba-2 are of all numbers at once.
        """
        return self.A[None] if self.A.ndim == 1 else self.A.T

    @property
    def _starts(self):
        """Where a sequence starts anew, boolean, `(b, l)`."""
        if self.segments is None:
            return np.zeros(self.step_size.shape[:2], bool)
        previous = np.roll(self.segments, -1 if self.reverse else 1, axis=1)
        found = self.segments != previous
        found[:, -1 if self.reverse else 0] = False
        return found

    def _left(self, rate):
        """What is left of a step behind the last one, `(b, l, d)`."""
        total = cumulative(self.step_size * rate, self.reverse)
        end = 0 if self.reverse else -1
        left = np.exp(total[:, [end]] - total)
        if self.segments is None:
            return left
        same = self.segments == self.segments[:, [end]]
        return np.where(same[..., None], left, 0)

    def _size(self, left):
        """The norm of what steps write, `(b, l)`, by what is left of it."""
        squares = np.square(self.B)  # (b, l, g, n)
        if self.A.ndim == 1:
            squares = squares.sum(-1, keepdims=True)
        channels = self.step_size.shape[-1]
        squares = np.repeat(squares, channels // self.B.shape[2], axis=2)
        given = np.square(self.step_size) * np.square(self.inputs).sum(-1)
        total = sum(
            (given * squares[..., j] * np.square(v)).sum(-1)
            for j, v in enumerate(left)
        )
        return np.sqrt(total)


def scan_of(layer: str, op: str, tensors: tuple, options: dict) -> Scan:
    """What a call of `selective_scan` or `ssd` did.

    Args:
        layer: Path of the layer.
        op: Name of the op.
        tensors: Its canonical tensors.
        options: Its plain arguments.
    """
    x, dt, A, B, C, D, *others = map(array, tensors)
    gate = others.pop(0) if op == "selective_scan" else None
    dt_bias, _, mask, resets = others
    reverse = options["reverse"]
    return Scan(
        layer=layer,
        inputs=x if x.ndim == 4 else x[..., None],
        step_size=step_sizes(dt, dt_bias, options["dt_softplus"], mask),
        A=A,
        B=B,
        C=C,
        D=D,
        gate=gate,
        mask=mask,
        segments=None if resets is None else cumulative(resets, reverse),
        reverse=reverse,
    )
