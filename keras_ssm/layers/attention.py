"""Causal self-attention whose state is a ring of keys and values."""

import keras
from keras import initializers, ops, regularizers

from keras_ssm.layers.arguments import check_positive
from keras_ssm.layers.causal_attention import (
    attend_causally,
    attend_in_blocks,
    attend_to_one_query,
)
from keras_ssm.layers.dense import build_dense, project
from keras_ssm.layers.ring import Ring
from keras_ssm.layers.sequence_layer import SequenceLayer
from keras_ssm.ops.rotary import turn_pairs
from keras_ssm.ops.shapes import check_shapes
from keras_ssm.ops.steps import Packing


@keras.saving.register_keras_serializable(package="keras_ssm")
class Attention(SequenceLayer):
    """Looks back at all steps, or at a window of them.

        q, k, v = q_proj(inputs), k_proj(inputs), v_proj(inputs)
        a[t, s] = softmax over s of q[t]' k[s] / sqrt(p),    t - window < s <= t
        outputs = out_proj(sum over s of a[t, s] v[s])

    for each head, with `p` channels. Heads share keys and values in groups if
    `kv_heads` is smaller than `heads`. Positions count unmasked steps alone.
    With `rotary_base`, pairs of channels of queries and keys are turned by
    their position, by `angle[i] = position * rotary_base ** (-2i / p)`, the
    pair `i` being the channels `i` and `i + p/2`.

    It has the conventions of `keras.layers.LSTM`, as the other layers of this
    library: masks anywhere, states, steps. Its state is a ring: the slot `j` of
    `c` holds the key and value of the last unmasked step whose position is `j`
    modulo `c`. Whoever makes the state chooses `c`, and with it how many steps
    can be looked at from then on, a step itself among them:
    `layer.get_initial_state(batch_size, length=c)`. With a window, `c` is the
    window; time and memory of a sequence are linear in its length then.

    Parameters, with `m` the width, `h = heads`, `g = kv_heads`:

    | name | shape | start |
    |---|---|---|
    | `q_proj/kernel` | (m, hp) | N(0, 1/m), truncated |
    | `k_proj/kernel`, `v_proj/kernel` | (m, gp) | N(0, 1/m), truncated |
    | `out_proj/kernel` | (hp, m) | N(0, 1/hp), truncated |

    Args:
        heads: Number h of heads.
        kv_heads: Number g of heads of keys and values; a divisor of `heads`.
            `None` for as many, 1 for a single one.
        head_dim: Channels p of a head. `None` for `width / heads`.
        window: How many steps are looked at, the step itself among them.
            `None` for all of them.
        rotary_base: Base of the wavelengths of rotary positions, in general
            10,000. `None` for no positions, as among recurrent layers.
        rotary_dim: How many channels of a head are turned, the first ones; an
            even number. `None` for all.
        use_bias: Whether the projections have biases.
        kernel_initializer: For the kernels of the projections.
        kernel_regularizer: For the same kernels.
        return_sequences: Whether to return the output of every step, or only
            that of the last unmasked one.
        return_state: Whether to return `(outputs, keys, values, count)`.
            Without a window, needs an `initial_state`.
        go_backwards: Whether to process the sequence from its end and return
            the output in that order.
        stateful: Whether the states after a batch are the initial states of
            the next one. Needs a window and a fixed batch size.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`,
            `trainable`.

    Call arguments:
        sequences: `(batch, length, width)`.
        initial_state: The states before the first step: keys and values,
            `(batch, c, g, p)` each in the compute dtype, keys turned, and the
            number of unmasked steps so far, `(batch, 1)` in int32. Nothing if
            `None`.
        mask: Boolean, `(batch, length)`. Masked steps are skipped, whatever
            they hold, and give 0.

    Raises:
        ValueError: If an argument is out of its range, or a shape does not
            fit.

    Example:

    ```python
    x = keras.random.normal((2, 100, 64))
    layer = keras_ssm.layers.Attention(heads=4, kv_heads=1, rotary_base=1e4)
    y = layer(x)
    state = layer.get_initial_state(batch_size=2, length=1000)
    y, state = layer.steps(x, state)
    y_next, state = layer.step(x[:, 0], state)
    ```

    Reference:
        [Vaswani et al., 2017](https://arxiv.org/abs/1706.03762);
        [Ainslie et al., 2023](https://arxiv.org/abs/2305.13245), groups;
        [Su et al., 2021](https://arxiv.org/abs/2104.09864), positions;
        [Beltagy et al., 2020](https://arxiv.org/abs/2004.05150), windows.
    """

    def __init__(
        self,
        heads: int,
        *,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        window: int | None = None,
        rotary_base: float | None = None,
        rotary_dim: int | None = None,
        use_bias: bool = False,
        kernel_initializer="lecun_normal",
        kernel_regularizer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        sizes = {
            "kv_heads": kv_heads,
            "head_dim": head_dim,
            "window": window,
            "rotary_dim": rotary_dim,
        }
        given = {name: v for name, v in sizes.items() if v is not None}
        check_positive("Attention", heads=heads, **given)
        if heads % (kv_heads or heads):
            raise ValueError(
                "`Attention`: `kv_heads` must divide `heads`. "
                f"Received: kv_heads={kv_heads}, heads={heads}."
            )
        if rotary_base is not None and not rotary_base > 1:
            raise ValueError(
                "`Attention`: `rotary_base` must be greater than 1. "
                f"Received: rotary_base={rotary_base}."
            )
        self.heads = heads
        self.kv_heads = kv_heads
        self.head_dim = head_dim
        self.window = window
        self.rotary_base = rotary_base
        self.rotary_dim = rotary_dim
        self.use_bias = use_bias
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)

    @property
    def state_dtypes(self):
        return self.compute_dtype, self.compute_dtype, "int32"

    def build_mixer(self, width):
        kv_heads, head_dim = self._sizes(width)
        outer, inner = self.heads * head_dim, kv_heads * head_dim
        for name, size, units in (
            ("q_proj", width, outer),
            ("k_proj", width, inner),
            ("v_proj", width, inner),
            ("out_proj", outer, width),
        ):
            dense = build_dense(self, name, size, units, use_bias=self.use_bias)
            setattr(self, name, dense)

    def _sizes(self, width):
        """Heads of keys and values, and channels of a head."""
        head_dim = self.head_dim or width // self.heads
        if self.head_dim is None and width % self.heads:
            raise ValueError(
                f"{self.name}: the width must be a multiple of `heads`, unless "
                "`head_dim` is given. "
                f"Received: width={width}, heads={self.heads}."
            )
        turned = self.rotary_dim or head_dim
        if self.rotary_base is not None and (turned % 2 or turned > head_dim):
            raise ValueError(
                f"{self.name}: rotary positions turn pairs of channels of a "
                "head: `rotary_dim`, or else `head_dim`, must be even, and "
                "`rotary_dim` at most `head_dim`. Received: "
                f"rotary_dim={self.rotary_dim}, head_dim={head_dim}."
            )
        return self.kv_heads or self.heads, head_dim

    def state_shapes(self, width):
        kv_heads, head_dim = self._sizes(width)
        ring = (self.window, kv_heads, head_dim)
        return ring, ring, (1,)

    def mix(self, x, states, mask, reverse, training):
        if reverse:
            x = ops.flip(x, axis=1)
            mask = None if mask is None else ops.flip(mask, axis=1)
        # Without gaps, what is masked lies in the future of what is not.
        packing = None if mask is None else Packing(mask)
        if packing is not None:
            x = packing.pack(x)
        y, states = self._attend(x, states, packing)
        y = self._outputs(y)
        if packing is not None:
            y = packing.unpack(y)
        return ops.flip(y, axis=1) if reverse else y, states

    def _attend(self, x, states, packing):
        """What a sequence without gaps sees, and the states after it."""
        length = ops.shape(x)[1]
        position = ops.arange(length, dtype="int32")[None]
        if states is None:
            q, k, v = self._heads(x, position)
            return attend_causally(q, k, v, self.window), None
        *rings, count = states
        ring = _ring_of(x, *states)
        q, *kv = self._heads(x, count + position)
        kv = [
            ops.concatenate([ring.in_order(v), new], axis=1)
            for v, new in zip(rings, kv, strict=True)
        ]
        y = attend_in_blocks(q, *kv, ring.is_filled(), ring.size)
        live = length if packing is None else packing.count[:, None]
        return y, (*(ring.after(v, live) for v in kv), count + live)

    def mix_step(self, x, states, mask):
        *rings, count = states
        x = ops.expand_dims(x, 1)
        ring = _ring_of(x, *states)
        q, *kv = self._heads(x, count)
        live = ops.ones_like(count, dtype="bool")
        if mask is not None:
            live = ops.expand_dims(ops.cast(mask, "bool"), 1)
        rings = [
            ring.after_step(v, new, live)
            for v, new in zip(rings, kv, strict=True)
        ]
        count = count + ops.cast(live, "int32")
        # A masked row that has seen nothing looks at an empty slot.
        seen = ops.arange(ring.size, dtype="int32") < ops.maximum(count, 1)
        y = attend_to_one_query(q, *rings, seen[:, None, None])
        return self._outputs(y)[:, 0], (*rings, count)

    def _heads(self, x, position):
        """Queries, keys and values, `(b, l, heads, p)`, the first two turned.

        Args:
            x: Sequence, `(b, l, m)`.
            position: Of its steps, `(b, l)` or `(1, l)`.
        """
        head_dim = self._sizes(x.shape[-1])[1]
        q, k, v = (
            ops.reshape(
                y, (*ops.shape(y)[:2], y.shape[-1] // head_dim, head_dim)
            )
            for y in (
                project(dense, x)
                for dense in (self.q_proj, self.k_proj, self.v_proj)
            )
        )
        if self.rotary_base is None:
            return q, k, v
        size = self.rotary_dim or head_dim
        power = ops.arange(0, size, 2, dtype=self.state_dtype) / size
        angle = ops.cast(position, self.state_dtype)[..., None]
        angle = angle * self.rotary_base**-power  # (b, l, p/2)
        angle = ops.expand_dims(angle, 2)
        turn = ops.cos(angle), ops.sin(angle)
        return turn_pairs(q, *turn), turn_pairs(k, *turn), v

    def _outputs(self, y):
        shape = (*ops.shape(y)[:2], y.shape[2] * y.shape[3])
        return project(self.out_proj, ops.reshape(y, shape))

    def get_config(self):
        return {
            **super().get_config(),
            "heads": self.heads,
            "kv_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "window": self.window,
            "rotary_base": self.rotary_base,
            "rotary_dim": self.rotary_dim,
            "use_bias": self.use_bias,
            "kernel_initializer": initializers.serialize(
                self.kernel_initializer
            ),
            "kernel_regularizer": regularizers.serialize(
                self.kernel_regularizer
            ),
        }


def _ring_of(x, keys, values, count):
    """The ring that a state describes, which must fit the steps `x`."""
    check_shapes(
        "Attention",
        x=(x, "b l m"),
        initial_state=(keys, "b c g p"),
        values=(values, "b c g p"),
        count=(count, "b 1"),
    )
    return Ring(count, ops.shape(keys)[1])
