"""Taylor couplings of a model at a point: all derivatives of ln p there up to an order, A^(k) = ∇^k S/k!.

The default point is the mode of the density that the way uphill from the middle leads to; for a volume-preserving flow this is the image
of z = 0. The couplings are exact derivatives, however they were computed; what they leave out is the rest of the function, and the action
is ``exact`` where there is no rest.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize

from fieldtheory import Action
from fieldtheory.errors import InputError

from .model import Model, TorchModel
from .smoothness import warn_of_jumps

_STEPS = 200


def taylor(model: Model, order: int, at) -> Action:
    """Couplings at `at`, by default at the mode.

    Raises
    ------
    InputError
        The model has units without derivatives.
    """
    require_smooth(model)
    x = mode(model) if at is None else model.point(at)
    if isinstance(model, TorchModel):
        warn_of_jumps(model.score_function, x, order, model.device)
    gauge = "exact" if order >= model.degree else "taylor"
    return Action(model.couplings(x, order), x, gauge, names=model.columns.names)


def exact(model: Model, order: int, at) -> Action:
    """All of a polynomial action; `InputError` where the order cuts it, or there is no polynomial."""
    if model.degree == np.inf:
        raise InputError("the action of this learner is no polynomial, so that no order is exact. Ask for method='taylor'.")
    if order < model.degree:
        raise InputError(f"the action of this learner has order {model.degree:.0f}; it is exact only in full, got order={order}. "
                         "Ask for method='taylor'.")
    return taylor(model, order, at)


def require_smooth(model: Model) -> None:
    """Raise `InputError` naming the units that have no derivatives."""
    if model.kinks:
        raise InputError(f"taylor must be asked of a smooth ln p, this model has units with kinks, {', '.join(model.kinks[:3])}: between "
                         "them higher derivatives vanish or belong to one piece, and say where the base point is rather than what "
                         "was learned. Ask for method='projection' or method='normal_ordered'.")


def mode(model: Model) -> np.ndarray:
    """Uphill from the middle, by quasi-Newton steps; where that leads nowhere, the middle itself."""
    x = model.centre()

    def descent(x: np.ndarray) -> tuple[float, np.ndarray]:
        return -float(model.log_prob(x[None])[0]), -model.score(x[None])[0]

    found = minimize(descent, x, jac=True, method="BFGS", options={"maxiter": _STEPS, "gtol": 1e-10})
    return found.x if np.isfinite(found.fun) and np.isfinite(found.x).all() else x
