"""What a scan is called with, as its kernels read it: padded, states first."""

import dataclasses

import jax
import jax.numpy as jnp

# Which steps count, and which of them start anew.
LIVE, RESET = 1, 2


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of a scan, as given and as its kernels see them.

    Kernels see each group of channels padded to whole blocks and the state
    padded to `states`; what is added is 0 and stays 0.

    Args:
        b: Batch.
        l: Length.
        d: Channels.
        g: Groups.
        n: State.
        block: Channels in a block.
        states: Size of the padded state.
    """

    b: int
    l: int
    d: int
    g: int
    n: int
    block: int
    states: int

    @property
    def blocks(self):
        """Blocks in a group."""
        return -(-self.d // (self.g * self.block))

    @property
    def channels(self):
        """Channels with those added."""
        return self.g * self.blocks * self.block

    def place(self, block):
        """The group of a block, and its number in it."""
        if self.g == 1:
            return 0, block
        # Not `//`: to round, it asks what device this is.
        blocks = jnp.int32(self.blocks)
        return jax.lax.div(block, blocks), jax.lax.rem(block, blocks)

    def widen(self, v):
        """(..., d) -> (..., channels)."""
        if v is None or self.channels == self.d:
            return v
        v = v.reshape(*v.shape[:-1], self.g, self.d // self.g)
        added = self.blocks * self.block - self.d // self.g
        v = jnp.pad(v, [*[(0, 0)] * (v.ndim - 1), (0, added)])
        return v.reshape(*v.shape[:-2], self.channels)

    def narrow(self, v):
        """The inverse of `widen`."""
        if self.channels == self.d:
            return v
        v = v.reshape(*v.shape[:-1], self.g, self.blocks * self.block)
        return v[..., : self.d // self.g].reshape(*v.shape[:-2], self.d)

    def deepen(self, v):
        """(..., n) -> (..., states)."""
        added = self.states - self.n
        if added == 0:
            return v
        return jnp.pad(v, [*[(0, 0)] * (v.ndim - 1), (0, added)])

    def from_state(self, h):
        """(..., d, n) -> (..., states, channels)."""
        return self.widen(jnp.swapaxes(self.deepen(h), -1, -2))

    def to_state(self, h):
        """The inverse of `from_state`."""
        return jnp.swapaxes(self.narrow(h)[..., : self.n, :], -1, -2)

    def from_starts(self, h):
        """(b, c, n, d) -> (b, c, states, channels)."""
        added = self.states - self.n
        if added:
            h = jnp.pad(h, [(0, 0), (0, 0), (0, added), (0, 0)])
        return self.widen(h)

    def to_starts(self, h):
        """The inverse of `from_starts`."""
        return self.narrow(h)[:, :, : self.n]


def marks(mask, resets):
    """Mask and resets in one array of bits, (b, l), or `None`."""
    if mask is None and resets is None:
        return None
    live = LIVE if mask is None else jnp.where(mask, LIVE, 0)
    new = 0 if resets is None else jnp.where(resets, RESET, 0)
    return (live | new).astype(jnp.int32)
