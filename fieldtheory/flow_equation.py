"""Couplings under diffusion: an exact renormalization-group flow.

Noise of variance s, y = x + √s ε, smooths the density by the heat equation ∂_s p = ½ Δp, so that its action S = ln p obeys

    ∂_s S = ½ (ΔS + |∇S|²),

and its couplings, at a base point that stays,

    ∂_s A^(k) = ½ [ (k+2)(k+1) tr A^(k+2) + Σ_{j=1}^{k+1} j (k+2−j) Sym(A^(j)·A^(k+2−j)) ].

The first is the *loop term*, a vertex that closes two of its legs; the second the *tree term*, two vertices joined by a line:
Polchinski's equation. Gaussians stay Gaussians, A^(2) = −½ (C + s)^{-1}. In any other theory the tree term makes ever higher orders,
which the loop term feeds back. Cut at K, the flow leaves out A^(K+1) and A^(K+2); the error enters at the top and works its way down:
in the theory −½x² + x³/20 − x⁴/50 that of A^(3) at s = 0.1 is 4e-4, 3e-6, 3e-8, 4e-10 for K = 4, 6, 8, 10. Two values of K tell how
far the result can be trusted. Backwards the equation is unstable: `diffuse` goes forward only.

In the variables of a variance-preserving diffusion, x_t = √ᾱ_t y, the couplings are ᾱ_t^(−k/2) A^(k) at s = σ_t².
"""

from __future__ import annotations

import numpy as np

from .action import Action
from .arrays import as_count
from .errors import GaugeError, InputError
from .schedule import NoiseSchedule
from .series import product_matrix, product_ranks
from .tensors import SymmetricTensor, colex_indices, multiplicity, packed_size

_TIGHTEST = 1e-13  # relative tolerance that float64 can keep


def loop_term(action: Action, order: int | None = None) -> dict[int, SymmetricTensor]:
    """½ΔS by order: ½ (k+2)(k+1) tr A^(k+2) for k = 0 … order.

    Parameters
    ----------
    action : Action
        exact, or taylor: there A^(k+2) beyond its own order is left out, as in the cut flow.
    order : int, optional
        K, the action's own by default.

    Returns
    -------
    dict of int to SymmetricTensor
        At the action's base point.

    Raises
    ------
    GaugeError
        The couplings are no derivatives at a point.
    """
    packed = _packed(action, action.order if order is None else as_count(order, "order"))
    return _as_tensors(_loops(packed, action.n_dim), action.n_dim)


def tree_term(action: Action, order: int | None = None) -> dict[int, SymmetricTensor]:
    """½|∇S|² by order: ½ Σ_j j (k+2−j) Sym(A^(j)·A^(k+2−j)) for k = 0 … order; arguments and errors as `loop_term`.

    All of it has order 2K − 2 for an exact action of order K.
    """
    packed = _packed(action, action.order if order is None else as_count(order, "order"))
    return _as_tensors(_trees(packed, action.n_dim), action.n_dim)


def diffuse(action: Action, variance: float, order: int | None = None, rtol: float = 1e-10) -> Action:
    """The action of y = x + √s ε, by the flow equation cut at `order`.

    Parameters
    ----------
    action : Action
        exact, or taylor.
    variance : float
        s ≥ 0, of the noise.
    order : int, optional
        K, the action's own by default. An exact action may be followed to higher orders, which is how the error of the cut is seen
        and lowered; the orders that a taylor action lacks are unknown.
    rtol : float
        Relative tolerance of the integrator (DOP853), from 1e-13 on; that of an order k which vanishes is meant in units of the
        width of S, (−2 tr A^(2)/n_dim)^{k/2}.

    Returns
    -------
    Action
        At the same base point, A^(0) included; exact for an exact Gaussian, else taylor: the flow of a polynomial has all orders.

    Raises
    ------
    GaugeError
        The couplings are no derivatives at a point.
    InputError
        A negative variance, an order that a taylor action does not know, or couplings that diverge before s.
    """
    variance, rtol = _checked(variance, rtol)
    order = action.order if order is None else as_count(order, "order")
    if action.gauge == "taylor" and order > action.order:
        raise InputError(f"order must be at most {action.order}, which is all that this cut action knows, got {order}; extract it "
                         "with more orders.")
    final = _integrate(np.concatenate(_packed(action, order)), action.n_dim, order, variance, rtol)
    gaussian = not any(T.values.any() for k, T in action.couplings.items() if k > 2)
    gauge = "exact" if action.gauge == "exact" and gaussian and order >= min(action.order, 2) else "taylor"
    return Action(_as_tensors(_split(final, action.n_dim, order), action.n_dim), action.at, gauge, names=action.names)


def noised(action: Action, schedule: NoiseSchedule, t: int, order: int | None = None, rtol: float = 1e-10) -> Action:
    """The action of x_t = √ᾱ_t x + s_t ε: A_t^(k) = ᾱ_t^(−k/2) A^(k)(s = σ_t²), with ln p's constant −(n_dim/2) ln ᾱ_t.

    Parameters
    ----------
    action : Action
        Of the data x.
    schedule : NoiseSchedule
    t : int
        Step, 1 … n_steps.
    order, rtol
        As in `diffuse`.

    Returns
    -------
    Action
        In the noised coordinates, at √ᾱ_t times the base point.

    Raises
    ------
    GaugeError, InputError
        As `diffuse`; t is no step of the schedule.
    """
    if as_count(t, "t") > schedule.n_steps:
        raise InputError(f"t must be a step of the schedule, 1 … {schedule.n_steps}, got {t}.")
    root = np.sqrt(schedule.alpha_bar[t - 1])
    y = diffuse(action, schedule.sigma2[t - 1], order, rtol)
    couplings = {k: root**-k * T for k, T in y.couplings.items()}
    couplings[0] = SymmetricTensor.from_packed([y[()] - y.n_dim * np.log(root)], y.n_dim, 0)
    return Action(couplings, root * y.at, y.gauge, names=y.names)


def _loops(packed: list[np.ndarray], n_dim: int) -> list[np.ndarray]:
    """½ (k+2)(k+1) Σ_i A_{I ∪ ii} on unique entries."""
    terms = [np.zeros_like(A) for A in packed]
    for k, A in enumerate(packed[2:]):
        closed = product_ranks(n_dim, k + 1, 1)[product_ranks(n_dim, k, 1), np.arange(n_dim)]
        terms[k] = 0.5 * (k + 2) * (k + 1) * A[closed].sum(axis=1)
    return terms


def _trees(packed: list[np.ndarray], n_dim: int) -> list[np.ndarray]:
    """½ Σ_i (∂_i S)² on unique entries; (∂_i S)_a, of degree a, has the monomials (a+1) A_{I ∪ i} mult(I) u_I."""
    gradient = [(k * A[product_ranks(n_dim, k - 1, 1)].T * multiplicity(colex_indices(n_dim, k - 1))).T
                for k, A in enumerate(packed) if k > 0]
    terms = [np.zeros_like(A) for A in packed]
    for k in range(len(packed)):
        for a in range(max(0, k - len(gradient) + 1), k // 2 + 1):
            pairs = gradient[a] @ gradient[k - a].T
            terms[k] += (0.5 if 2 * a == k else 1.0) * (product_matrix(n_dim, a, k - a) @ pairs.ravel())
        terms[k] /= multiplicity(colex_indices(n_dim, k))
    return terms


def _integrate(start: np.ndarray, n_dim: int, order: int, variance: float, rtol: float) -> np.ndarray:
    from scipy.integrate import solve_ivp

    def velocity(_, flat: np.ndarray) -> np.ndarray:
        packed = _split(flat, n_dim, order)
        return np.concatenate(_loops(packed, n_dim)) + np.concatenate(_trees(packed, n_dim))

    with np.errstate(all="ignore"):  # a flow that diverges is told below
        run = solve_ivp(velocity, (0.0, variance), start, method="DOP853", rtol=rtol, atol=rtol * _scales(start, n_dim, order))
    if not run.success or not np.isfinite(run.y[:, -1]).all():
        raise InputError(f"couplings must stay finite up to the variance {variance:.4g}, the flow cut at order {order} diverges near "
                         f"{run.t[-1]:.4g}; take another order or less noise.")
    return run.y[:, -1]


def _scales(start: np.ndarray, n_dim: int, order: int) -> np.ndarray:
    """Typical A^(k) of a theory as wide as this one, (−2 tr A^(2)/n_dim)^{k/2}, for every entry."""
    packed = _split(start, n_dim, order)
    trace = abs(2 * packed[2][product_ranks(n_dim, 1, 1).diagonal()].sum()) if order > 1 else 0.0
    width = np.sqrt(n_dim / trace) if trace > 0 else 1.0
    return np.concatenate([np.full(A.size, width**-k) for k, A in enumerate(packed)])


def _packed(action: Action, order: int) -> list[np.ndarray]:
    if action.gauge not in ("exact", "taylor"):
        raise GaugeError("couplings must be derivatives at a point to flow by this equation, those of this action are "
                         f"{action.gauge}; start from an exact or a taylor one.")
    return [action.couplings[k].packed if k in action.couplings else np.zeros(packed_size(action.n_dim, k)) for k in range(order + 1)]


def _split(flat: np.ndarray, n_dim: int, order: int) -> list[np.ndarray]:
    return np.split(flat, np.cumsum([packed_size(n_dim, k) for k in range(order)]))


def _as_tensors(packed: list[np.ndarray], n_dim: int) -> dict[int, SymmetricTensor]:
    return {k: SymmetricTensor.from_packed(A, n_dim, k) for k, A in enumerate(packed)}


def _checked(variance: float, rtol: float) -> tuple[float, float]:
    if not (isinstance(variance, int | float | np.number) and 0 <= variance < np.inf):
        raise InputError(f"variance of the noise must be a finite number of at least 0, got {variance!r}; the flow is unstable "
                         "backwards.")
    if not (isinstance(rtol, float | np.floating) and _TIGHTEST <= rtol < 1):
        raise InputError(f"rtol must lie between {_TIGHTEST:g} and 1, got {rtol!r}.")
    return float(variance), float(rtol)
