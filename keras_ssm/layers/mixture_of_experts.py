"""Many MLPs, of which every step passes through a few."""

import math

import keras
from keras import activations, initializers, ops, regularizers

from keras_ssm.layers.arguments import check_positive
from keras_ssm.layers.dense import (
    ProjectionLayer,
    another,
    build_dense,
    contract,
    project,
)
from keras_ssm.layers.expert_blocks import ExpertBlocks, block_size


@keras.saving.register_keras_serializable(package="keras_ssm")
class MixtureOfExperts(ProjectionLayer):
    """Mixes the channels of every step by the few experts that it chooses.

        p = softmax(inputs router_kernel)
        outputs = sum over the `top_k` experts e of largest p of
            p[e] down_e(activation(gate_e(inputs)) * up_e(inputs))

    Each expert is a `GatedMLP`. No expert has a capacity: a step reaches those
    it chooses, however many others chose them. So steps do not know of each
    other, and a step of generation gives what the sequence gives. Of experts
    with equal probabilities the first ones are chosen, on every backend.

    In training, a loss is added that is least where all experts are chosen
    equally often: with `f[e]` how many of all choices, per step, fell on the
    expert `e`, and `P[e]` the mean of its probability,

        balance_loss * experts * sum over e of f[e] P[e]

    Masked steps do not count in it.

    Parameters, with `m` the width, `E = experts`, `u = units`:

    | name | shape | start |
    |---|---|---|
    | `router_kernel` | (m, E) | N(0, 1/m), truncated |
    | `gate_proj/kernel`, `up_proj/kernel` | (m, Eu) | N(0, 1/m), truncated |
    | `down_proj/kernel` | (Eu, m) | N(0, 1/u), truncated |

    `router_kernel`, and all that decides on the experts, is float32 under every
    dtype policy. The columns (rows) `e u` to `(e + 1) u` of the others are
    those of the expert `e`.

    Args:
        experts: Number E of experts.
        units: Width u of each.
        top_k: How many experts a step passes through.
        normalize: Whether their weights `p[e]` are divided by their sum. They
            are in Mixtral, and are not in Jamba.
        balance_loss: Weight of the loss that balances the experts; 0 for none.
        activation: Of the gates.
        remat: Whether to compute the experts again in the backward pass of
            training, instead of keeping what is inside.
        kernel_initializer: For the kernels of each expert and the router.
        kernel_regularizer: For the kernels of the experts.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`,
            `trainable`.

    Call arguments:
        inputs: `(..., width)`.
        mask: Boolean, `(...)`. Masked steps give 0, whatever they hold, and do
            not count in the loss.
        training: Whether the loss is added.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    ```python
    x = keras.random.normal((2, 100, 64))
    layer = keras_ssm.layers.MixtureOfExperts(experts=8, units=96)
    y = layer(x, training=True)  # (2, 100, 64)
    layer.losses  # one
    ```

    Reference:
        [Fedus et al., 2021](https://arxiv.org/abs/2101.03961), section 2;
        [Lieber et al., 2024](https://arxiv.org/abs/2403.19887), section 2.
    """

    def __init__(
        self,
        experts: int,
        units: int,
        *,
        top_k: int = 2,
        normalize: bool = False,
        balance_loss: float = 0.001,
        activation="silu",
        remat: bool = False,
        kernel_initializer="lecun_normal",
        kernel_regularizer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive(
            "MixtureOfExperts", experts=experts, units=units, top_k=top_k
        )
        if top_k > experts:
            raise ValueError(
                "`MixtureOfExperts`: `top_k` must be at most `experts`. "
                f"Received: top_k={top_k}, experts={experts}."
            )
        if not balance_loss >= 0:
            raise ValueError(
                "`MixtureOfExperts`: `balance_loss` must not be negative. "
                f"Received: balance_loss={balance_loss}."
            )
        self.experts = experts
        self.units = units
        self.top_k = top_k
        self.normalize = normalize
        self.balance_loss = balance_loss
        self.activation = activations.get(activation)
        self.remat = remat
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.supports_masking = True

    @property
    def router_dtype(self) -> str:
        """float32; float64 where the layer computes in float64."""
        return "float64" if self.compute_dtype == "float64" else "float32"

    def build(self, input_shape):
        width = input_shape[-1]
        self.router_kernel = self.add_weight(
            shape=(width, self.experts),
            initializer=another(self.kernel_initializer),
            dtype=self.router_dtype,
            autocast=False,
            name="router_kernel",
        )
        units = self.experts * self.units
        for name, shape, axis in (
            ("gate_proj", (width, units), 1),
            ("up_proj", (width, units), 1),
            ("down_proj", (units, width), 0),
        ):
            each = _for_each(self.kernel_initializer, self.experts, axis)
            dense = build_dense(
                self, name, *shape, use_bias=False, kernel_initializer=each
            )
            setattr(self, name, dense)

    def call(self, inputs, mask=None, training=None):
        if mask is not None:
            live = ops.expand_dims(ops.cast(mask, "bool"), -1)
            inputs = ops.where(live, inputs, ops.zeros_like(inputs))
        probabilities = self._route(inputs)
        chosen = _largest(probabilities, self.top_k)
        if training and self.balance_loss:
            self.add_loss(self._imbalance(probabilities, chosen, mask))
        weights = ops.where(chosen, probabilities, 0.0)
        if self.normalize:
            weights = weights / ops.sum(weights, axis=-1, keepdims=True)

        def experts(inputs, weights):
            return self._experts(inputs, weights, chosen)

        if self.remat and training:
            experts = keras.remat(experts)
        return experts(inputs, weights)

    def _route(self, x):
        """The probability of each expert, `(..., E)`."""
        logits = contract(
            "...m,me->...e",
            ops.cast(x, self.router_dtype),
            ops.convert_to_tensor(self.router_kernel),
        )
        return ops.softmax(logits, axis=-1)

    def _experts(self, x, weights, chosen):
        """The sum of the chosen experts with these weights, `(..., E)`."""
        size = self._block_size(x)
        if size is None:
            return self._all_experts(x, weights)
        return self._chosen_experts(x, weights, chosen, size)

    def _block_size(self, x):
        """Steps of a block, or `None` to run all experts on all steps."""
        quantized = self.gate_proj.dtype_policy.quantization_mode is not None
        if quantized or None in x.shape:
            return None
        steps = math.prod(x.shape[:-1])
        return block_size(steps, self.experts, self.top_k)

    def _chosen_experts(self, x, weights, chosen, size):
        """The sum of the chosen experts, `(..., m)`."""
        width, shape = x.shape[-1], (-1, self.experts)
        blocks = ExpertBlocks(ops.reshape(chosen, shape), self.top_k, size)
        by_columns = width, self.experts, self.units
        by_rows = self.experts, self.units, width
        gate, up, down = (
            ops.take(
                ops.reshape(ops.cast(dense.kernel, self.compute_dtype), axes),
                blocks.experts,
                axis=axis,
            )
            for dense, axes, axis in (
                (self.gate_proj, by_columns, 1),
                (self.up_proj, by_columns, 1),
                (self.down_proj, by_rows, 0),
            )
        )
        inputs = blocks.gather(ops.reshape(x, (-1, width)))
        hidden = self.activation(ops.einsum("nqm,mnu->nqu", inputs, gate))
        hidden = hidden * ops.einsum("nqm,mnu->nqu", inputs, up)
        y = ops.einsum("nqu,num->nqm", hidden, down)
        y = blocks.scatter(y, ops.reshape(weights, shape))
        return ops.cast(ops.reshape(y, x.shape), self.compute_dtype)

    def _all_experts(self, x, weights):
        """The sum of all experts with these weights, `(..., E)`."""
        weights = ops.cast(weights, self.compute_dtype)
        gate = self.activation(project(self.gate_proj, x))
        hidden = gate * project(self.up_proj, x)
        shape = ops.shape(hidden)
        # `down_proj` sums over the channels of an expert and over experts.
        hidden = ops.reshape(hidden, (*shape[:-1], self.experts, self.units))
        hidden = hidden * ops.expand_dims(weights, -1)
        return project(self.down_proj, ops.reshape(hidden, shape))

    def _imbalance(self, probabilities, chosen, mask):
        """The loss, which is `balance_loss * top_k` where all is even."""
        axes = tuple(range(len(probabilities.shape) - 1))
        count = ops.ones_like(probabilities[..., :1])
        if mask is not None:
            count = ops.cast(ops.expand_dims(mask, -1), count.dtype)
        steps = ops.maximum(ops.sum(count), 1.0)
        chosen = ops.cast(chosen, count.dtype) * count
        often = ops.sum(chosen, axis=axes) / steps
        likely = ops.sum(probabilities * count, axis=axes) / steps
        return self.balance_loss * self.experts * ops.sum(often * likely)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "experts": self.experts,
            "units": self.units,
            "top_k": self.top_k,
            "normalize": self.normalize,
            "balance_loss": self.balance_loss,
            "activation": activations.serialize(self.activation),
            "remat": self.remat,
            "kernel_initializer": initializers.serialize(
                self.kernel_initializer
            ),
            "kernel_regularizer": regularizers.serialize(
                self.kernel_regularizer
            ),
        }


def _for_each(initializer, experts, axis):
    """Draws the kernel of each expert by itself; they lie along an axis."""

    def draw(shape, dtype=None):
        shape = list(shape)
        shape[axis] //= experts
        kernels = [
            another(initializer, number)(shape, dtype=dtype)
            for number in range(experts)
        ]
        return ops.concatenate(kernels, axis=axis)

    return draw


def _largest(x, count):
    """Which entries are among the largest of the last axis; ties to the first.

    By comparing all pairs: `top_k` breaks ties differently on each backend.
    """
    one, other = ops.expand_dims(x, -1), ops.expand_dims(x, -2)
    index = ops.arange(x.shape[-1], dtype="int32")
    first = index[None] < index[:, None]
    before = ops.logical_or(
        other > one, ops.logical_and(ops.equal(other, one), first)
    )
    return ops.sum(ops.cast(before, "int32"), axis=-1) < count
