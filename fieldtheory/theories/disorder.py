"""Theories with random couplings between all variables: one draw of the disorder per seed."""

from __future__ import annotations

from collections.abc import Mapping
from math import factorial

import numpy as np

from ..action import Action
from ..arrays import as_count, as_number
from ..errors import InputError, NotNormalizableError
from ..normalizability import normalizability
from ..tensors import SymmetricTensor, colex_indices
from .local import Entries, distinct, local_action, squared_lengths


def random_interactions(n_dim: int, strengths: Mapping[int, float] | None = None, seed: int = 0) -> Action:
    """Random dense couplings around a unit Gaussian, S = −½|x|² + A^(3)·x³ + A^(4)·x⁴, concave everywhere.

    With n_dim(n_dim + 1)/2 directions v_a, uniform on the sphere, so that all variables mix,

        A^(3) = Σ_a c_a v_a⊗v_a⊗v_a,    A^(4) = −Σ_a w_a v_a⊗v_a⊗v_a⊗v_a,    w_a > 0, c_a of either sign.

    With t_a = v_a·x the Hessian is −1 + Σ_a (6 c_a t_a − 12 w_a t_a²) v_a v_aᵀ, and 6ct − 12wt² ≤ ¾ c²/w, hence

        ∇²S ≤ −1 + ‖Σ_a ¾ (c_a²/w_a) v_a v_aᵀ‖ < 0

    is sufficient for S to be concave: normalizable with one mode. It is checked, and implies that cubic interactions need quartic
    ones to hold them.

    Parameters
    ----------
    n_dim : int
    strengths : mapping of int to float, optional
        Norms of A^(3) and A^(4) where A^(2) = −½·1; {3: 0.1, 4: 0.05} by default. Order 3 may be missing.
    seed : int

    Raises
    ------
    InputError
        Orders other than 3 and 4, or strengths that are not positive and finite.
    NotNormalizableError
        The bound does not hold: A^(3) is too strong for A^(4).
    """
    n_dim = as_count(n_dim, "n_dim")
    strengths = {3: 0.1, 4: 0.05} if strengths is None else dict(strengths)
    if not strengths or not set(strengths) <= {3, 4} or not all(0 < s < np.inf for s in strengths.values()):
        raise InputError(f"strengths must give positive norms for the orders 3 and 4, got {strengths}.")
    rng = np.random.default_rng(as_count(seed, "seed", minimum=0))
    v = rng.normal(size=(n_dim * (n_dim + 1) // 2, n_dim))
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    weights = {3: rng.normal(size=len(v)), 4: -rng.uniform(0.5, 1.5, size=len(v))}
    couplings = {2: SymmetricTensor.from_dense(-0.5 * np.eye(n_dim))}
    for k, strength in strengths.items():
        T = _sum_of_powers(v, weights[k], k)
        weights[k] = weights[k] * strength / T.norm()
        couplings[k] = (strength / T.norm()) * T
    _require_concave(v, weights, strengths)
    return Action(couplings)


def _sum_of_powers(v: np.ndarray, weights: np.ndarray, order: int) -> SymmetricTensor:
    """Σ_a weights_a v_a⊗…⊗v_a, by unique entry."""
    indices = colex_indices(v.shape[1], order)
    packed = sum(w * u[indices].prod(axis=1) for u, w in zip(v, weights))
    return SymmetricTensor.from_packed(packed, v.shape[1], order)


def _require_concave(v: np.ndarray, weights: dict[int, np.ndarray], strengths: Mapping[int, float]) -> None:
    if 3 not in strengths:
        return
    if 4 not in strengths:
        raise NotNormalizableError("strengths must hold an order 4 that confines the odd order 3, got order 3 alone.")
    bound = np.linalg.norm((0.75 * weights[3] ** 2 / -weights[4] * v.T) @ v, ord=2)
    if bound >= 1:
        allowed = 0.99 * strengths[3] / np.sqrt(bound)
        raise NotNormalizableError(f"strengths must keep S concave: the bound on the cubic part is {bound:.3g}, it must stay below "
                                   f"1. Lower the strength of order 3 to {allowed:.2g} or raise that of order 4.")


def p_spin(n_dim: int, order: int = 3, strength: float = 1.0, confinement: float = 1.0, seed: int = 0) -> Action:
    """The p-spin model on a soft sphere, with n = n_dim and p = order,

        S = Σ_{i1<…<ip} J_{i1…ip} x_{i1} ⋯ x_{ip} − (κ/4n) (|x|² − n)² + κn/4,    J ~ N(0, β² p!/(2 n^{p−1})).

    Hence A^(p)_{i1…ip} = J_{i1…ip}/p! on different indices, A^(2)_ii = κ/2, A^(4)_iiii = −κ/4n and A^(4)_iijj = −κ/12n. For κ → ∞ it
    is the spherical p-spin glass of A. Crisanti and H.-J. Sommers, Z. Phys. B 87, 341 (1992), at inverse temperature β; p = 3 is the
    mean-field model of structural glasses (T. R. Kirkpatrick and D. Thirumalai, Phys. Rev. B 36, 5388 (1987)). S per spin stays
    finite for n → ∞. The constant κn/4 makes A^(0) = 0.

    Parameters
    ----------
    n_dim : int
        Number of spins, at least p.
    order : {2, 3, 4}
        p. The confinement holds p = 2 and 3 at any strength, and p = 4 where it is strong enough, judged from sampled directions.
    strength : float
        β ≥ 0, that of the disorder.
    confinement : float
        κ > 0, of the sphere.
    seed : int

    Raises
    ------
    InputError
        An order that is not 2, 3 or 4, fewer spins than p, or a parameter that is not a finite number.
    NotNormalizableError
        κ ≤ 0, or p = 4 with disorder that the confinement does not hold.
    """
    n, p = as_count(n_dim, "n_dim"), as_count(order, "order")
    beta, kappa = as_number(strength, "strength"), as_number(confinement, "confinement")
    if p not in (2, 3, 4) or n < p:
        raise InputError(f"order must be 2, 3 or 4, which a quartic confinement can hold, and at most n_dim, got {p} for n_dim {n}.")
    tuples, rng = distinct(n, p), np.random.default_rng(as_count(seed, "seed", minimum=0))
    J = beta * np.sqrt(factorial(p) / (2 * n ** (p - 1))) * rng.normal(size=len(tuples))
    sphere = squared_lengths(np.arange(n)[None, :])
    mixed = [Entries(tuples, J / factorial(p)), Entries(sphere.indices, -kappa / (4 * n) * sphere.values)]
    powers = {2: np.full(n, kappa / 2), 4: np.full(n, -kappa / (4 * n))}
    action = local_action(powers, mixed, "confinement", "take κ > 0")
    if p == 4:
        _require_held(action)
    return action


def _require_held(action: Action) -> None:
    verdict = normalizability(action)
    if not verdict.normalizable:
        raise NotNormalizableError(f"confinement must hold the disorder: {verdict.reason.rstrip('.')}; raise κ or lower β.")
