"""The options that `sequential_pixels.py` and `raw_audio.py` share."""


def add(parser, **defaults) -> None:
    """Adds what `networks.build` and `training.train` read."""
    argument = parser.add_argument
    argument("--width", type=int, help="of the blocks")
    argument("--depth", type=int, help="blocks")
    argument("--state-dim", type=int, help="instead of the layer's usual one")
    argument("--dropout", type=float, help="rate, in the blocks")
    argument("--seconds", type=float, help="budget; 0: no limit")
    argument("--epochs", type=int, help="at most")
    argument("--batch-size", type=int, help="signals")
    argument("--learning-rate", type=float, help="the highest")
    argument("--dynamics-factor", type=float, help="of that rate")
    argument("--weight-decay", type=float, help="of AdamW")
    argument("--seed", type=int, help="of split, weights and order")
    argument("--verbose", type=int, choices=(0, 1, 2), help="as Keras")
    parser.set_defaults(**{"seed": 0, "verbose": 1, **defaults})
