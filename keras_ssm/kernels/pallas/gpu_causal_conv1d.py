"""The causal convolution on a GPU, forward and backward.

A program has a tile of steps and channels and reads it once for each tap; all
but the first of these find it in the cache. The backward pass computes the
gradient before the activation, `g`, first, and with it the sums over a tile of
what the weight and the bias get; then `dx[t] = sum_j weight[k-1-j] g[t+j]`.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from keras_ssm.kernels.pallas.calls import call
from keras_ssm.kernels.pallas.conv_taps import activate, over_taps, visible

# Steps and channels of a tile, and warps of a program.
TILE = (32, 128, 4)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a convolution is cut into programs.

    Args:
        b: Batch.
        l: Length.
        d: Channels.
        k: Width.
        steps: Steps in a tile.
        channels: Channels in a tile.
        warps: Warps of a program.
        activation: `None` or "silu".
        reverse: Whether to run from the end.
        interpret: Whether Pallas interprets the kernel.
    """

    b: int
    l: int
    d: int
    k: int
    steps: int
    channels: int
    warps: int
    activation: str | None
    reverse: bool
    interpret: bool

    @property
    def blocks(self):
        """Tiles in a row of time."""
        return -(-self.l // self.steps)


def make_plan(tensors, activation, reverse, interpret):
    """The plan for canonical tensors."""
    (b, l, d), k = tensors[0].shape, tensors[1].shape[0]
    steps, channels, warps = TILE
    steps = min(steps, pl.next_power_of_2(l))
    channels = min(channels, pl.next_power_of_2(d))
    options = activation, reverse, interpret
    return Plan(b, l, d, k, steps, channels, warps, *options)


def forward(plan, x, weight, bias, state, resets):
    """y"""
    given = {
        "x": x,
        "weight": weight,
        "bias": bias,
        "state": state if plan.k > 1 else None,
        "visible": visible(resets, plan.k, plan.reverse),
    }
    outputs = {"y": (x.shape, x.dtype)}
    return _call(_forward_kernel, plan, plan.blocks, given, outputs)["y"]


def backward(plan, x, weight, bias, state, resets, dy):
    """The gradients of x, the weight, the bias (or `None`) and the state."""
    f32 = jnp.float32
    seen = visible(resets, plan.k, plan.reverse)
    before = state if plan.k > 1 else None
    given = {
        "x": x,
        "weight": weight,
        "bias": bias,
        "state": before,
        "visible": seen,
        "dy": dy,
    }
    tiles = (plan.b, plan.blocks)
    outputs = {
        "g": plan.activation is not None and (x.shape, f32),
        "dweight": ((*tiles, plan.k, plan.d), f32),
        "dbias": bias is not None and ((*tiles, plan.d), f32),
    }
    sums = _call(_sums_kernel, plan, plan.blocks, given, outputs)
    given = {"g": sums.get("g", dy), "weight": weight, "visible": seen}
    outputs = {
        "dx": (x.shape, x.dtype),
        "dstate": plan.k > 1 and (state.shape, f32),
    }
    # The inputs in the state have gradients, too.
    blocks = -(-(plan.l + plan.k - 1) // plan.steps)
    found = _call(_inputs_kernel, plan, blocks, given, outputs)
    return [
        found["dx"],
        sums["dweight"].sum((0, 1)),
        None if bias is None else sums["dbias"].sum((0, 1)),
        found.get("dstate", jnp.zeros(state.shape, f32)),
    ]


def _call(kernel, plan, blocks, given, outputs):
    """Runs a kernel on whole arrays; returns its outputs by name."""
    return call(
        lambda refs: kernel(_Program(plan, refs)),
        given,
        outputs,
        grid=(-(-plan.d // plan.channels), blocks, plan.b),
        compiler_params=plgpu.CompilerParams(
            num_warps=plan.warps, num_stages=1
        ),
        interpret=plan.interpret,
        name=f"causal_conv1d{kernel.__name__}",
    )


def _forward_kernel(p):
    y, _ = activate(p.products(p.t), p.plan.activation)
    p.store(p.refs.y, y, p.t, p.is_step(p.t))


def _sums_kernel(p):
    within = p.is_step(p.t)
    g = p.load(p.refs.dy, p.t, within)
    if p.plan.activation is not None:
        _, slope = activate(p.products(p.t), p.plan.activation)
        g = g * slope
        p.store(p.refs.g, g, p.t, within)

    def tap(j, carry):
        product = p.seen(p.t, j, g) * p.history(p.t, j)
        k = p.plan.k - 1 - j
        p.store_sum(p.refs.dweight, product, k)
        return carry

    over_taps(p.plan.k, tap, 0)
    if p.refs.dbias is not None:
        p.store_sum(p.refs.dbias, g)


def _inputs_kernel(p):
    plan = p.plan
    # Here the tiles begin with the state, which lies before step 0.
    t = p.t if plan.reverse else p.t - (plan.k - 1)

    def tap(j, total):
        later = t - j if plan.reverse else t + j
        g = p.load(p.refs.g, later, p.is_step(later))
        return total + p.seen(later, j, g) * p.weight(j)

    total = over_taps(plan.k, tap, p.zeros())
    p.store(p.refs.dx, total, t, p.is_step(t))
    if plan.k > 1:
        p.store(p.refs.dstate, total, *p.in_state(t))


class _Program:
    """A tile of steps and channels, `(steps, channels)`.

    Steps are vectors `(steps,)`, and may lie beside those that there are.
    """

    def __init__(self, plan, refs):
        self.plan, self.refs = plan, refs
        self.block, self.row = pl.program_id(1), pl.program_id(2)
        self._shape = plan.steps, plan.channels
        step = jax.lax.iota(jnp.int32, plan.steps)
        channel = jax.lax.iota(jnp.int32, plan.channels)
        self.t = self.block * plan.steps + step
        self._channel = pl.program_id(0) * plan.channels + channel
        self._exists = self._channel < plan.d
        self._inside = jnp.minimum(self._channel, plan.d - 1)

    def zeros(self):
        """A tile of zeros."""
        return jnp.zeros(self._shape, jnp.float32)

    def is_step(self, t):
        """Which of these are steps."""
        return (t >= 0) & (t < self.plan.l)

    def in_state(self, t):
        """Where the state has what lies before the first step, if it has."""
        taps = self.plan.k - 1
        at = taps - 1 - (t - self.plan.l) if self.plan.reverse else t + taps
        before = t >= self.plan.l if self.plan.reverse else t < 0
        return at, before & (at >= 0) & (at < taps)

    def load(self, ref, t, mask):
        """Rows of an array, 0 where the mask is False."""
        t = jnp.clip(t, 0, ref.shape[1] - 1)
        at = ref.at[self.row, self._steps(t), self._channels(self._inside)]
        none = jnp.zeros((), ref.dtype)
        v = plgpu.load(at, mask=self._both(mask), other=none)
        return v.astype(jnp.float32)

    def store(self, ref, v, t, mask):
        """Writes rows of an array where the mask is True."""
        # The interpreter leaves alone what is written behind the array.
        t = jnp.where(mask, t, ref.shape[1])
        at = ref.at[self.row, self._steps(t), self._channels(self._channel)]
        plgpu.store(at, v.astype(ref.dtype), mask=self._both(mask))

    def store_sum(self, ref, v, *index):
        """Writes the sum over the steps of a tile."""
        at = ref.at[(self.row, self.block, *index, self._channel)]
        plgpu.store(at, v.sum(0), mask=self._exists)

    def history(self, t, j):
        """The inputs j steps before."""
        earlier = t + j if self.plan.reverse else t - j
        v = self.load(self.refs.x, earlier, self.is_step(earlier))
        if self.plan.k == 1:
            return v
        # Where the one has something, the other is 0.
        return v + self.load(self.refs.state, *self.in_state(earlier))

    def weight(self, j):
        """The tap that weighs the inputs j steps before."""
        ref = self.refs.weight
        return self._channels(ref[self.plan.k - 1 - j, self._inside])

    def seen(self, t, j, v):
        """`v` where the step t sees what lies j steps before it."""
        if self.refs.visible is None:
            return v
        t = jnp.clip(t, 0, self.plan.l - 1)
        sees = j <= self.refs.visible[self.row, t]
        return jnp.where(self._steps(sees), v, 0)

    def products(self, t):
        """The convolution before its activation."""

        def tap(j, total):
            seen = self.seen(t, j, self.history(t, j))
            return total + seen * self.weight(j)

        total = over_taps(self.plan.k, tap, self.zeros())
        if self.refs.bias is None:
            return total
        return total + self._channels(self.refs.bias[self._inside])

    def _steps(self, v):
        return jax.lax.broadcast_in_dim(v, self._shape, (0,))

    def _channels(self, v):
        return jax.lax.broadcast_in_dim(v, self._shape, (1,))

    def _both(self, mask):
        return self._steps(mask) & self._channels(self._exists)
