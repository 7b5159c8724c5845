"""What the blocks of all networks have in common: norm, mixer, residual."""

import keras
from keras import ops

from keras_ssm.layers.sequence_layer import SequenceLayer


class ResidualBlock(SequenceLayer):
    """Base of blocks, each one layer of a network, to be stacked.

        outputs = inputs + dropout(mixer(norm(inputs)))

    The residual stream stays float32 under every dtype policy.

    A subclass passes on what `SequenceLayer` takes, and calls `compose` at the
    end of its constructor.

    Args:
        dropout: Rate of dropout before the residual is added.
        epsilon: Of the norm.
        seed: Integer, for the dropout.
        **kwargs: Arguments of `SequenceLayer`.
    """

    def __init__(
        self,
        *,
        dropout: float = 0.0,
        epsilon: float = 1e-5,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.dropout = dropout
        self.epsilon = epsilon
        self.seed = seed

    def compose(self, norm, mixer, **options) -> None:
        """Makes the sublayers, called `norm`, `mixer` and `dropout`.

        Args:
            norm: Class of the norm.
            mixer: Class of the mixer, a `SequenceLayer`, or what makes one of
                its dtype policy and name.
            **options: Arguments of the mixer, which are those of the block.
        """
        self.norm = norm(
            epsilon=self.epsilon, dtype=self.output_dtype, name="norm"
        )
        self.mixer = mixer(dtype=self.dtype_policy, name="mixer", **options)
        self.dropout_layer = self.make_dropout("dropout", self.seed)
        self._options = tuple(options)

    def make_dropout(self, name, seed):
        """Dropout before a residual is added."""
        return keras.layers.Dropout(
            self.dropout, seed=seed, dtype=self.dtype_policy, name=name
        )

    @property
    def output_dtype(self):
        """That of the residual stream."""
        return self.state_dtype

    def build_mixer(self, width):
        self.norm.build((None, None, width))
        self.mixer.quantized = self.quantized
        self.mixer.build((None, None, width))

    def projection_layers(self):
        return self.mixer.projection_layers()

    def state_shapes(self, width):
        return self.mixer.state_shapes(width)

    @property
    def state_dtypes(self):
        return self.mixer.state_dtypes

    def mix(self, x, states, mask, reverse, training):
        y, states = self.mixed(x, states, mask, reverse, training)
        y = self.dropout_layer(y, training=training)
        return x + ops.cast(y, x.dtype), states

    def mixed(self, x, states, mask, reverse, training):
        """What is added to the residual stream, before dropout."""
        y = ops.cast(self.norm(x), self.compute_dtype)
        return self.mixer.mix(y, states, mask, reverse, training)

    def mix_step(self, x, states, mask):
        y = ops.cast(self.norm(x), self.compute_dtype)
        y, states = self.mixer.mix_step(y, states, mask)
        return x + ops.cast(y, x.dtype), states

    def get_config(self):
        of_mixer = self.mixer.get_config()
        return {
            **super().get_config(),
            **{name: of_mixer[name] for name in self._options},
            "dropout": self.dropout,
            "epsilon": self.epsilon,
            "seed": self.seed,
        }
