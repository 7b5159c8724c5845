"""A layer of a network of any mixers: a mixer, and what follows it."""

import inspect

import keras
from keras import ops

from keras_ssm.layers.dense import ProjectionLayer
from keras_ssm.layers.mixture_of_experts import MixtureOfExperts
from keras_ssm.layers.residual_block import ResidualBlock
from keras_ssm.layers.sequence_layer import SequenceLayer

# Before the names of its projections.
FEED_FORWARD = "feed_forward/"


@keras.saving.register_keras_serializable(package="keras_ssm")
class HybridBlock(ResidualBlock):
    """One layer of a hybrid network, to be stacked: any mixer, any MLP.

        h = inputs + dropout(mixer(norm(inputs)))
        outputs = h + dropout(feed_forward(feed_forward_norm(h)))

    The second line is left out where there is no `feed_forward`. The residual
    stream stays float32 under every dtype policy. End a stack of blocks with a
    norm. The papers' is `keras.layers.RMSNormalization`, which does not hand
    on a mask; where padding must stay out of what follows, such as an average,
    take `keras.layers.LayerNormalization`.

    The block makes its mixer and its `feed_forward` again, from their configs,
    under its own dtype policy and the names `mixer` and `feed_forward`: those
    that it is given stay as they are.

    Args:
        mixer: A sequence layer of this library, such as `Mamba()`, `Mamba2()`,
            `Mamba3()`, `Griffin()` or `Attention(heads)`.
        feed_forward: A layer of Keras that treats every step by itself and
            keeps the width, such as `GatedMLP(units)` or
            `MixtureOfExperts(experts, units)`. `None` for none.
        remat: Whether to compute what is between norm and dropout again in
            the backward pass of training, instead of keeping it. Of a
            `MixtureOfExperts` these are the experts; another `feed_forward`
            whose call takes `training` is kept: it may be random.
        dropout: Rate of dropout before a residual is added.
        epsilon: Of the RMS norms.
        seed: Integer, for the dropout.
        return_sequences: Whether to return the output of every step, or only
            that of the last unmasked one.
        return_state: Whether to return `(outputs, *states)`, with the states
            of the mixer.
        go_backwards: Whether to process the sequence from its end and return
            the output, residual included, in that order.
        stateful: Whether the states after a batch are the initial states of
            the next one. Needs a fixed batch size.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`,
            `trainable`.

    Call arguments:
        sequences: `(batch, length, width)`.
        initial_state: The states before the first step, see the mixer.
        mask: Boolean, `(batch, length)`. Masked steps are skipped, whatever
            they hold, and give 0.
        training: Whether dropout is on.

    Raises:
        ValueError: If `mixer` is no sequence layer of this library, if
            `feed_forward` is no layer that keeps the width, or a shape does
            not fit.

    Example:

    ```python
    blocks = [
        keras_ssm.layers.HybridBlock(
            keras_ssm.layers.Mamba(), keras.layers.Dense(128, "gelu")
        )
        for _ in range(4)
    ]
    model = keras.Sequential([
        keras.layers.Embedding(256, 128, mask_zero=True),
        *blocks,
        keras.layers.LayerNormalization(epsilon=1e-5),
        keras.layers.Dense(256),
    ])
    ```

    Reference:
        [Lieber et al., 2024](https://arxiv.org/abs/2403.19887), section 2
        (Jamba); [De et al., 2024](https://arxiv.org/abs/2402.19427), section
        2.1 (Griffin).
    """

    def __init__(
        self, mixer, feed_forward=None, *, remat: bool = False, **kwargs
    ):
        super().__init__(**kwargs)
        _check(mixer, feed_forward)
        self.remat = remat
        self.compose(
            keras.layers.RMSNormalization,
            lambda dtype, name: _again(mixer, dtype, name),
        )
        self.feed_forward = None
        if feed_forward is None:
            return
        self.feed_forward_norm = keras.layers.RMSNormalization(
            epsilon=self.epsilon,
            dtype=self.output_dtype,
            name="feed_forward_norm",
        )
        self.feed_forward = _again(
            feed_forward, self.dtype_policy, "feed_forward"
        )
        if isinstance(self.feed_forward, MixtureOfExperts):
            self.feed_forward.remat |= remat
        # Not the seed of the other one, which would drop the same channels.
        self.feed_forward_dropout = self.make_dropout(
            "feed_forward_dropout",
            None if self.seed is None else self.seed + 1,
        )
        self._takes = inspect.signature(self.feed_forward.call).parameters

    def build_mixer(self, width):
        super().build_mixer(width)
        if self.feed_forward is None:
            return
        shape = (None, None, width)
        self.feed_forward_norm.build(shape)
        if isinstance(self.feed_forward, ProjectionLayer):
            self.feed_forward.quantized = {
                name.removeprefix(FEED_FORWARD): arguments
                for name, arguments in self.quantized.items()
                if name.startswith(FEED_FORWARD)
            }
        self.feed_forward.build(shape)
        given = tuple(self.feed_forward.compute_output_shape(shape))
        if given != shape:
            raise ValueError(
                f"{self.name}: `feed_forward` must keep the width of its "
                f"input. Received: output shape {given} for input shape "
                f"{shape}."
            )

    def projection_layers(self):
        layers = super().projection_layers()
        if isinstance(self.feed_forward, ProjectionLayer):
            inner = self.feed_forward.projection_layers()
            layers |= {FEED_FORWARD + name: v for name, v in inner.items()}
        elif self.feed_forward is not None:
            layers[self.feed_forward.name] = self.feed_forward
        return layers

    def mix(self, x, states, mask, reverse, training):
        x, states = super().mix(x, states, mask, reverse, training)
        return self._feed_forward(x, mask, training), states

    def mixed(self, x, states, mask, reverse, training):
        mixed = super().mixed
        if not (self.remat and training):
            return mixed(x, states, mask, reverse, training)
        if states is None:
            y = keras.remat(lambda x: mixed(x, None, mask, reverse, True)[0])
            return y(x), None

        def flat(x, *states):
            y, states = mixed(x, states, mask, reverse, True)
            return y, *states

        y, *states = keras.remat(flat)(x, *states)
        return y, states

    def mix_step(self, x, states, mask):
        x, states = super().mix_step(x, states, mask)
        return self._feed_forward(x, mask, False), states

    def _feed_forward(self, x, mask, training):
        """The second half of the block, for a sequence or a step."""
        if self.feed_forward is None:
            return x
        options = {"mask": mask, "training": training}
        options = {k: v for k, v in options.items() if k in self._takes}

        def fed(x):
            x = ops.cast(self.feed_forward_norm(x), self.compute_dtype)
            return self.feed_forward(x, **options)

        if self.remat and training and "training" not in options:
            fed = keras.remat(fed)
        y = self.feed_forward_dropout(fed(x), training=training)
        return x + ops.cast(y, x.dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "mixer": _serialized(self.mixer),
            "feed_forward": _serialized(self.feed_forward),
            "remat": self.remat,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        for name in ("mixer", "feed_forward"):
            config[name] = keras.saving.deserialize_keras_object(config[name])
        return cls(**config)


def _check(mixer, feed_forward):
    if not isinstance(mixer, SequenceLayer):
        raise ValueError(
            "`HybridBlock`: `mixer` must be a sequence layer of keras_ssm, "
            f"such as `Mamba()`. Received: mixer={mixer!r}."
        )
    if feed_forward is None:
        return
    if not isinstance(feed_forward, keras.layers.Layer) or isinstance(
        feed_forward, SequenceLayer
    ):
        raise ValueError(
            "`HybridBlock`: `feed_forward` must be a layer that treats every "
            "step by itself, such as `keras.layers.Dense(width)`. "
            f"Received: feed_forward={feed_forward!r}."
        )


def _again(layer, dtype, name):
    """A new layer from the config of another one."""
    # A quantized Keras layer says so in its own policy; it stays what it is.
    if getattr(layer.dtype_policy, "quantization_mode", None) is not None:
        dtype = layer.dtype_policy
    config = {**layer.get_config(), "dtype": dtype, "name": name}
    return type(layer).from_config(config)


def _serialized(layer):
    """The config of a layer, without what makes its weights."""
    config = keras.saving.serialize_keras_object(layer)
    if config is not None:
        config.pop("build_config", None)
    return config
