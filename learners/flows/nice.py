"""NICE: L. Dinh, D. Krueger, Y. Bengio, *NICE: Non-linear independent components estimation*, arXiv:1410.8516.

    z = e^s · (c_L ∘ … ∘ c_1)(W x + b),    c_l additive coupling layers that take turns in a checkerboard.

W and b whiten. All Jacobians are constant, so Var_p[ln p] = n_dim/2 whatever the flow has learned (`learners.flows.base`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from fieldtheory.arrays import as_count

from .base import Flow
from .conditioners import MLP, plain
from .coupling import AdditiveCouplingLayer, checkerboard
from .layer import Layer
from .linear import ScalingLayer


class NICE(Flow):
    """Additive coupling layers and a diagonal scaling.

    Parameters
    ----------
    n_dim : int
        Number of variables, at least 2.
    n_layers : int
        Coupling layers. Layers 1, 3, … read variables 0, 2, 4, … and write the others, layers 2, 4, … the other way round.
    hidden : sequence of int
        Units in each hidden layer of the networks that shift.
    unit : {"tanh", "softplus", "silu"} or a sequence of them
        Of all hidden layers, or of each.

    Examples
    --------
    >>> NICE(n_dim=3).log_prob([0.0, 0.0, 0.0])
    array(-2.7568156)
    """

    recipe: ClassVar[dict] = {"learning_rate": 3e-3, "precision": "float32"}

    def __init__(self, n_dim: int, n_layers: int = 6, hidden: Sequence[int] = (64, 64), unit: str | Sequence[str] = "tanh"):
        super().__init__(n_dim)
        self.n_layers, self.hidden, self.unit = as_count(n_layers, "n_layers"), list(hidden), plain(unit)
        self.set_columns(self.columns)

    def build(self, n_dim: int) -> list[Layer]:
        """Coupling layers that change nothing yet, and the scaling."""
        couplings = [AdditiveCouplingLayer(MLP(len(read), len(written), self.hidden, self.unit), read, written)
                     for read, written in checkerboard(n_dim, self.n_layers)]
        return [*couplings, ScalingLayer(n_dim)]

    def config(self) -> dict:
        """Arguments of the constructor."""
        return {"n_dim": self.n_dim, "n_layers": self.n_layers, "hidden": self.hidden, "unit": self.unit}
