"""Normalizability: verdicts that are known, thresholds in closed form, and what must not change it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fieldtheory as ft
from fieldtheory.calculus import direct_sum
from fieldtheory.errors import NotNormalizableError
from fieldtheory.normalizability import normalizability, require_normalizable
from fieldtheory.tensors import packed_size
from fieldtheory.theories import lattice, phi4, random_interactions


def polynomial(monomials, n_dim=2):
    """From coefficients of monomials, {(0, 0, 1): c} for c x0² x1."""
    by_order = {}
    for index, c in monomials.items():
        by_order.setdefault(len(index), {})[index] = c
    couplings = {}
    for k, part in by_order.items():
        ones = ft.SymmetricTensor.from_entries(list(part), np.ones(len(part)), n_dim)
        multiplicity = {tuple(i): m for i, m in zip(ones.indices.tolist(), ones.multiplicity.tolist())}
        couplings[k] = ft.SymmetricTensor.from_entries(list(part), [c / multiplicity[i] for i, c in part.items()], n_dim)
    return ft.Action(couplings)


def turned(S, seed=0):
    return S.pullback(np.linalg.qr(np.random.default_rng(seed).normal(size=(S.n_dim, S.n_dim)))[0])


x4, y4, x2y2 = (0,) * 4, (1,) * 4, (0, 0, 1, 1)
VERDICTS = {
    "constant": (ft.Action({0: 1.0, 1: [0.0]}), False, "exact", "is constant"),
    "linear": (ft.Action({1: [1.0]}), False, "exact", "leading order 1 is odd"),
    "gaussian": (ft.theories.gaussian(np.eye(3)), True, "exact", "outweigh all others"),
    "correlated gaussian": (ft.theories.gaussian([[1, 0.9, 0.1], [0.9, 1, 0.5], [0.1, 0.5, 1]]), True, "exact", "normalizable Gaussian"),
    "flat gaussian": (ft.Action({2: np.diag([-1.0, 0])}), False, "exact", "positive definite"),
    "cubic": (random_interactions(3) + ft.Action({5: np.full((3,) * 5, 1e-6)}), False, "exact", "leading order 5 is odd"),
    "phi4": (phi4(lattice((3, 3)), -1.0, 1.0), True, "exact", "outweigh all others"),
    "turned phi4": (turned(phi4(lattice((2, 3)), -1.0, 1.0)), True, "exact", "leading form, of order 4, is negative"),
    "random interactions": (random_interactions(7), True, "exact", "leading form, of order 4, is negative"),
    "wrong sign on one site": (polynomial({x4: -1, y4: 1}), False, "exact", "variable 1 alone, 4, is positive"),
    "odd power on one site": (polynomial({x4: -1, (1, 1, 1): -1}), False, "exact", "variable 1 alone, 3, is negative and odd"),
    "one quartic site, both held": (polynomial({x4: -1, (0, 0): -1, (1, 1): -1}), True, "exact", "outweigh all others"),
    "one quartic site, other free": (polynomial({x4: -1, (0, 0): -1, (1, 1): 1}), False, "exact", "variable 1 alone, 2, is positive"),
    "one quartic site, other absent": (polynomial({x4: -1, (0, 0): -1}), False, "sampled", "along which S stays constant"),
    "sextic on a line": (ft.Action({2: [[5.0]], 5: np.full((1,) * 5, 40.0), 6: np.full((1,) * 6, -1e-3)}), True, "exact", "outweigh"),
    "harmless high order": (polynomial({x4: -1, (1, 1): -1, x2y2: -7, (0, 0, 0, 0, 1, 1): -5}), True, "exact", "outweigh all others"),
    "harmful high order": (polynomial({x4: -1, y4: -1, (0, 0, 0, 1, 1, 1): 1}), False, "exact", "leading order 6 is positive along"),
    "bonds alone": (polynomial({(0, 0, 0, 0): -1, (0, 0, 0, 1): 4, x2y2: -6, (0, 1, 1, 1): 4, y4: -1}), False, "sampled", "constant"),
    "bonds with a mass": (polynomial({x4: -1, (0, 0, 0, 1): 4, x2y2: -6, (0, 1, 1, 1): 4, y4: -1, (0, 0): -1}), True, "sampled", "driven"),
    "bonds with the other mass": (polynomial({x4: -1, (0, 0, 0, 1): 4, x2y2: -6, (0, 1, 1, 1): 4, y4: -1, (0, 0): 1}), False, "exact",
                                  "where lower orders rise"),
    "valley at y = -3": (polynomial({(0, 0): -1, (1,) * 6: -1, (0, 0, 1): -2, x2y2: -0.3}), False, "exact", "stay behind the others"),
    "valley along a parabola": (polynomial({x4: -1, (1, 1): -1, (0, 0, 1): 10}), False, "exact", "is positive along"),
}


@pytest.mark.parametrize("case", VERDICTS)
def test_verdicts(case):
    action, normalizable, how, reason = VERDICTS[case]
    verdict = normalizability(action)
    assert (verdict.normalizable, verdict.how) == (normalizable, how), verdict.reason
    assert reason in verdict.reason


# the last coefficient of S at which a form touches 0; below it S is confining
THRESHOLDS = {
    "mean inequality": (lambda c: {x4: -1, y4: -1, x2y2: c}, 2.0),
    "square": (lambda c: {x4: -1, (0, 0, 0, 1): c, y4: -1}, 4 / 3**0.75),
    "parabola": (lambda c: {x4: -1, (1, 1): -1, (0, 0, 1): c}, 2.0),
    "sextic": (lambda c: {(0,) * 6: -1, (1,) * 6: -1, (0, 0, 0, 1, 1, 1): c}, 2.0),
    "cubic parabola": (lambda c: {(0,) * 6: -1, (1, 1): -1, (0, 0, 0, 1): c}, 2.0),
}


@pytest.mark.parametrize("case", THRESHOLDS)
@pytest.mark.parametrize("scales", [(1, 1), (1e-4, 1e3)])
@pytest.mark.parametrize("spectators", [0, 2])
def test_thresholds(case, scales, spectators):
    monomials, threshold = THRESHOLDS[case]
    for factor, normalizable in ((0.99, True), (1.01, False)):
        S = polynomial(monomials(factor * threshold)).pullback(np.diag(scales))
        if spectators:
            S = direct_sum(S, phi4(lattice((spectators,)), -1.0, 3.0))
        verdict = normalizability(S)
        assert verdict.normalizable == normalizable, verdict.reason
        if spectators == 0 or not normalizable:
            assert verdict.how == "exact"


@given(st.integers(0, 999))
@settings(deadline=None, max_examples=60)
def test_two_dimensional_quartics_against_a_scan_of_the_circle(seed):
    rng = np.random.default_rng(seed)
    form = rng.normal(size=packed_size(2, 4)) - 1.5 * np.array([1, 0, 1 / 3, 0, 1])
    S = ft.Action({2: np.eye(2), 4: ft.SymmetricTensor.from_packed(form, 2, 4)})
    angle = np.linspace(0, np.pi, 20001)
    highest = ft.Action({4: S.couplings[4]})(np.stack([np.cos(angle), np.sin(angle)], -1)).max()
    verdict = normalizability(S)
    if abs(highest) > 1e-5:
        assert (verdict.normalizable, verdict.how) == (highest < 0, "exact")


@given(st.integers(2, 5), st.integers(0, 999))
@settings(deadline=None, max_examples=40)
def test_the_verdict_does_not_depend_on_coordinates(n_dim, seed):
    rng = np.random.default_rng(seed)
    packed = rng.normal(size=packed_size(n_dim, 4))
    S = ft.Action({2: np.eye(n_dim), 4: ft.SymmetricTensor.from_packed(packed - 3 * _isotropic(n_dim), n_dim, 4)})
    verdict = normalizability(S)
    for M in (np.diag(10.0 ** rng.uniform(-3, 3, n_dim)), np.eye(n_dim)[rng.permutation(n_dim)]):
        assert normalizability(S.pullback(M)).normalizable == verdict.normalizable
    assert normalizability(S.recenter(rng.normal(size=n_dim))).normalizable == verdict.normalizable


def _isotropic(n_dim):
    """Unique entries of Sym(δδ), that is |x|⁴."""
    pairs = np.zeros((n_dim,) * 4)
    for i in range(n_dim):
        for j in range(n_dim):
            pairs[i, i, j, j] = 1.0
    return ft.SymmetricTensor.symmetrized(pairs, n_dim).packed


@given(st.integers(1, 4), st.integers(0, 999))
@settings(deadline=None, max_examples=40)
def test_what_is_called_normalizable_falls_along_every_curve(n_dim, seed):
    """Random confining powers with random lower and mixed ones: whatever the verdict True rests on, S must fall far out."""
    rng = np.random.default_rng(seed)
    monomials = {(i,) * int(2 * rng.integers(1, 4)): -rng.uniform(0.5, 2) for i in range(n_dim)}
    for _ in range(4):
        index = tuple(sorted(rng.integers(0, n_dim, size=rng.integers(1, 5)).tolist()))
        monomials.setdefault(index, rng.normal())
    S = polynomial(monomials, n_dim)
    if normalizability(S).normalizable:
        degree = {i: max(len(m) for m in monomials if set(m) == {i}) for i in range(n_dim)}
        v = rng.normal(size=(200, n_dim))
        v /= np.abs(v).max(axis=1, keepdims=True)
        far = [S(np.sign(v) * np.abs(v) * t ** np.array([1 / degree[i] for i in range(n_dim)])) for t in (1e8, 1e10)]
        assert max(map(np.max, far)) < 0 and np.all(far[1] < far[0])


def test_the_reason_is_given():
    with pytest.raises(NotNormalizableError, match="to be a density, it is not: the leading order 3 is odd"):
        require_normalizable(ft.Action({3: [[[1.0]]]}))
