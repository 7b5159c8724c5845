"""HiPPO-LegS: the state that remembers the past as Legendre coefficients.

The matrix of its dynamics is normal up to rank one: with `P_n = sqrt(n + 1/2)`,

    A + P P^T = -1/2 + skew-symmetric = V diag(eigenvalues) V*    (HiPPO-N)

so that in the basis V it is diagonal plus low rank, `eigenvalues - P P*`. V is
fixed by making `V* P` positive; `B_n = sqrt(2n + 1)`, a multiple of P, then is
positive, too.
"""

import functools

import keras
import numpy as np
from keras import initializers, ops

from keras_ssm.layers.arguments import check_choice, check_positive
from keras_ssm.layers.initializers import PARTS, constant


@keras.saving.register_keras_serializable(package="keras_ssm")
class HiPPOLegS(initializers.Initializer):
    """HiPPO-LegS in the basis in which it is diagonal plus low rank.

    For `n` numbers, one of each conjugate pair, it is the system of size `2n`.
    `A` with `P` and `B` starts S4; `A` and `B` alone start S4D-LegS; with
    several blocks on the diagonal, `A` starts S5. Pairs come in the order of
    their frequencies. Computed in float64.

    Args:
        parameter: `"A"`, the eigenvalues of HiPPO-N, `"P"` or `"B"`.
        part: `"real"`, `"imag"`, or `"log_decay"` for `log(-real)`. `P` and
            `B` are real.
        blocks: How many equal systems share the numbers.

    Raises:
        ValueError: If an argument is out of its range, or the last axis of a
            parameter is not a multiple of the blocks.

    Example:

    ```python
    A_log = HiPPOLegS("A", "log_decay")((8, 32))
    A_imag = HiPPOLegS("A", "imag")((8, 32))
    P = HiPPOLegS("P")((8, 32))
    ```

    Reference:
        [Gu et al., 2021](https://arxiv.org/abs/2111.00396), appendix C.1;
        [Gu et al., 2022](https://arxiv.org/abs/2206.11893), equation 7;
        [Smith et al., 2022](https://arxiv.org/abs/2208.04933), section 4.3.
    """

    def __init__(
        self, parameter: str = "A", part: str = "real", blocks: int = 1
    ):
        check_choice("HiPPOLegS", "parameter", parameter, ("A", "P", "B"))
        parts = PARTS if parameter == "A" else PARTS[:2]
        check_choice("HiPPOLegS", "part", part, parts)
        check_positive("HiPPOLegS", blocks=blocks)
        self.parameter = parameter
        self.part = part
        self.blocks = blocks

    def __call__(self, shape, dtype=None):
        n = _block_size("HiPPOLegS", shape[-1], self.blocks)
        eigenvalues, P, _ = normal_plus_low_rank(2 * n)
        numbers = {"A": eigenvalues, "P": P, "B": np.sqrt(2) * P}
        numbers = np.tile(numbers[self.parameter], self.blocks)
        return constant(numbers, self.part, shape, dtype)

    def get_config(self):
        return {
            "parameter": self.parameter,
            "part": self.part,
            "blocks": self.blocks,
        }


@keras.saving.register_keras_serializable(package="keras_ssm")
class HiPPOBasis(initializers.Initializer):
    """Input or output maps of real systems, in the basis of HiPPO-N.

        inputs:   V* B,  (n, m) from B (2n, m)
        outputs:  C V,   (m, n) from C (m, 2n)

    for `n` numbers, one of each conjugate pair. The parts of a map need the
    same initializer object, or the same seed.

    Args:
        initializer: Draws `B` or `C`, real.
        side: `"inputs"` or `"outputs"`.
        part: `"real"` or `"imag"`.
        blocks: How many equal systems share the numbers.

    Raises:
        ValueError: If an argument is out of its range, or the axis of the
            numbers is not a multiple of the blocks.

    Example:

    ```python
    drawn = keras.initializers.LecunNormal(seed=1)
    B_real = HiPPOBasis(drawn, part="real", blocks=8)((64, 16))
    B_imag = HiPPOBasis(drawn, part="imag", blocks=8)((64, 16))
    ```

    Reference:
        [Smith et al., 2022](https://arxiv.org/abs/2208.04933), appendix B.1.
    """

    def __init__(
        self,
        initializer="lecun_normal",
        side: str = "inputs",
        part: str = "real",
        blocks: int = 1,
    ):
        check_choice("HiPPOBasis", "side", side, ("inputs", "outputs"))
        check_choice("HiPPOBasis", "part", part, PARTS[:2])
        check_positive("HiPPOBasis", blocks=blocks)
        self.initializer = initializers.get(initializer)
        self.side = side
        self.part = part
        self.blocks = blocks

    def __call__(self, shape, dtype=None):
        inputs = self.side == "inputs"
        numbers, others = shape if inputs else reversed(shape)
        n = _block_size("HiPPOBasis", numbers, self.blocks)
        _, _, V = normal_plus_low_rank(2 * n)
        V = np.kron(np.eye(self.blocks), V)  # (2 numbers, numbers)
        full = (2 * numbers, others) if inputs else (others, 2 * numbers)
        basis = V.conj().T if inputs else V
        basis = constant(basis, self.part, basis.shape, "float32")
        drawn = self.initializer(full, dtype="float32")
        pair = (basis, drawn) if inputs else (drawn, basis)
        return ops.cast(ops.matmul(*pair), dtype or keras.config.floatx())

    def get_config(self):
        return {
            "initializer": initializers.serialize(self.initializer),
            "side": self.side,
            "part": self.part,
            "blocks": self.blocks,
        }


@functools.cache
def normal_plus_low_rank(size):
    """HiPPO-LegS in the basis of HiPPO-N, half of each conjugate pair.

    Args:
        size: Of the state, even.

    Returns:
        Eigenvalues `(size/2,)` by rising frequency, `V* P` `(size/2,)`, and
        `V` `(size, size/2)`, in float64.
    """
    order = np.arange(size)
    P = np.sqrt(order + 0.5)
    # A + P P^T + 1/2: half of B_n B_k, of opposite signs.
    skew = np.sign(order - order[:, None]) * np.outer(P, P)
    frequencies, V = np.linalg.eigh(-1j * skew)
    frequencies, V = frequencies[size // 2 :], V[:, size // 2 :]
    P = V.conj().T @ P
    V = V * (P / np.abs(P))
    return -0.5 + 1j * frequencies, np.abs(P).astype(complex), V


def _block_size(name, numbers, blocks):
    if numbers % blocks:
        raise ValueError(
            f"`{name}`: the numbers of the shape must be a multiple of "
            f"`blocks`. Received: {numbers} numbers, blocks={blocks}."
        )
    return numbers // blocks
