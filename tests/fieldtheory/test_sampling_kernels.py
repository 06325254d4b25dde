"""Compiled motion against its Python body, against conservation laws, and the tree of the no-U-turn sampler against brute force."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fieldtheory as ft
from fieldtheory.sampling import _hmc_kernel, _motion_kernel, _nuts_kernel, _tempering_kernel
from fieldtheory.sampling._motion_kernel import Frame, Lanes

PACKAGE = Path(ft.__file__).parent


def frame_of(kind, n_dim):
    rng = np.random.default_rng(n_dim)
    root = np.linalg.cholesky(np.eye(n_dim) + 0.3 * np.ones((n_dim, n_dim))) if kind == "dense" else rng.uniform(0.5, 2, (n_dim, 1))
    return Frame(rng.normal(size=(n_dim, 1)), root)


def standing(S, frame, y, settle=_motion_kernel.settle):
    lanes = Lanes(y.copy(), np.empty_like(y), np.empty_like(y), np.empty(y.shape[1]))
    settle(S.polynomial, frame, lanes, np.empty_like(y))
    return lanes


def energy(lanes, v):
    return -lanes.value + 0.5 * (v**2).sum(axis=0)


@pytest.mark.parametrize("n_lanes", [1, 5])
@pytest.mark.parametrize("kind", ["diagonal", "dense"])
def test_force_is_the_score_of_what_the_frame_leaves(kind, n_lanes):
    S, frame = ft.theories.random_interactions(4), frame_of(kind, 4)
    y = np.random.default_rng(1).normal(size=(4, n_lanes))
    lanes = standing(S, frame, y)
    L = np.diagflat(frame.root) if kind == "diagonal" else frame.root
    np.testing.assert_allclose(lanes.x, frame.mean + L @ y, rtol=1e-13)
    np.testing.assert_allclose(lanes.value, S(lanes.x.T) - S[()], rtol=1e-12)
    np.testing.assert_allclose(lanes.force, L.T @ S.score(lanes.x.T).T + y, rtol=1e-12)
    plain = standing(S, frame, y, _motion_kernel.settle.py_func)
    for compiled, interpreted in zip(lanes, plain):
        np.testing.assert_allclose(compiled, interpreted, rtol=1e-13)


@pytest.mark.parametrize("n_turns", [1, 2, 8])
@pytest.mark.parametrize("kind", ["diagonal", "dense"])
def test_trajectories_are_reversible_and_of_second_order(kind, n_turns):
    S, frame, rng = ft.theories.random_interactions(4), frame_of(kind, 4), np.random.default_rng(0)
    y, v, P = rng.normal(size=(4, 64)), rng.normal(size=(4, 64)), S.polynomial
    lanes, w = standing(S, frame, y), v.copy()
    _hmc_kernel.fly(P, frame, lanes, w, np.empty_like(y), 0.05, n_turns)
    w *= -1
    _hmc_kernel.fly(P, frame, lanes, w, np.empty_like(y), 0.05, n_turns)
    np.testing.assert_allclose(lanes.y, y, atol=1e-11)
    np.testing.assert_allclose(w, -v, atol=1e-11)
    errors = []
    for k in (1, 2, 4):
        lanes, w = standing(S, frame, y), v.copy()
        before = energy(lanes, w)
        for _ in range(k if n_turns == 1 else 1):
            _hmc_kernel.fly(P, frame, lanes, w, np.empty_like(y), 0.05 / k, n_turns if n_turns == 1 else k * n_turns)
        errors.append(np.abs(energy(lanes, w) - before).mean())
    assert 3.4 < errors[0] / errors[1] < 4.6 and 3.4 < errors[1] / errors[2] < 4.6


@pytest.mark.parametrize("n_turns", [1, 2, 4, 6])
def test_kicks_last_as_long_as_the_turns(n_turns):
    times = [_hmc_kernel._kick_time(s, n_turns) for s in range(n_turns + 1)]
    np.testing.assert_allclose(sum(times), n_turns, rtol=1e-14)
    np.testing.assert_allclose(times, times[::-1])


@given(angle=st.floats(0.01, 3.0), n_turns=st.sampled_from([1, 2, 6]))
@settings(max_examples=20, deadline=None)
def test_a_gaussian_moves_without_error(angle, n_turns):
    """In the frame of its own covariance: y' = y cos t + v sin t after any time t."""
    C, mu, rng = np.array([[2.0, 0.9], [0.9, 1.0]]), np.array([1.0, -3.0]), np.random.default_rng(0)
    S, frame = ft.theories.gaussian(C).recenter(-mu), Frame(mu[:, None], np.linalg.cholesky(C))
    y, v = rng.normal(size=(2, 2, 7))
    lanes, w, t = standing(S, frame, y), v.copy(), angle * n_turns
    _hmc_kernel.fly(S.polynomial, frame, lanes, w, np.empty_like(y), angle, n_turns)
    np.testing.assert_allclose(lanes.y, y * np.cos(t) + v * np.sin(t), atol=1e-11)
    np.testing.assert_allclose(w, v * np.cos(t) - y * np.sin(t), atol=1e-11)


def test_metropolis_refuses_what_ran_away():
    S, frame = ft.theories.gaussian([[1.0]]), Frame(np.zeros((1, 1)), np.ones((1, 1)))
    lanes, trial = standing(S, frame, np.zeros((1, 3))), standing(S, frame, np.ones((1, 3)))
    gain = np.array([np.nan, -np.inf, 50.0])
    _hmc_kernel.accept(lanes, trial, np.ones(3), np.random.default_rng(0), gain)
    assert gain.tolist() == [-np.inf, -np.inf, 50.0] and lanes.y.tolist() == [[0, 0, 1]] and lanes.x.tolist() == [[0, 0, 1]]


def first_turn_by_brute_force(v):
    """The first leaf at which an aligned part of 2^k ≥ 2 leaves turns back, by all sums anew."""
    for leaf in range(len(v)):
        for size in 2 ** np.arange(1, 5):
            start = leaf + 1 - size
            if start >= 0 and start % size == 0:
                inner = v[start : leaf + 1].sum(axis=0) - 0.5 * (v[start] + v[leaf])
                if v[start] @ inner <= 0 or v[leaf] @ inner <= 0:
                    return leaf
    return None


@pytest.mark.parametrize("seed", range(40))
def test_open_parts_of_the_tree_against_brute_force(seed):
    rng = np.random.default_rng(seed)
    angles = np.cumsum(rng.uniform(0, 0.2 * 1.1**seed, size=16))  # from no turn at all to turns between neighbours
    v = np.stack([np.cos(angles), np.sin(angles), 0.2 * rng.normal(size=16)], axis=1)
    v *= rng.lognormal(sigma=0.5, size=(16, 1))  # two points turn back only if the second is the faster
    v_open, sum_open, v_sum, found = np.empty((5, 3)), np.empty((5, 3)), np.zeros((3, 1)), None
    for leaf in range(16):
        v_sum += v[leaf][:, None]
        if _nuts_kernel._part_turns_back(leaf, v[leaf][:, None].copy(), v_sum, v_open, sum_open):
            found = leaf
            break
    assert found == first_turn_by_brute_force(v)


def test_exchanges_keep_the_joint_density():
    """Two temperatures, two values: the stationary weights of p(a) p(b)^β under exchange alone are those of the product."""
    betas, values, rng = np.array([1.0, 0.4]), np.array([0.0, -1.5]), np.random.default_rng(0)
    lane, beta, swaps = np.array([[0, 1]]), np.array([1.0, 0.4]), np.zeros(1)
    colder_has_first, n = 0, 40_000
    for _ in range(n):
        _tempering_kernel.exchange(betas, lane, beta, values, 0, rng, swaps)
        colder_has_first += lane[0, 0] == 0
        assert beta[lane[0, 0]] == 1.0 and beta[lane[0, 1]] == 0.4
    p = 1 / (1 + np.exp((1 - 0.4) * (values[1] - values[0])))
    assert abs(colder_has_first / n - p) < 0.02
    np.testing.assert_allclose(swaps[0] / n, 2 * (1 - p), atol=0.02)


def test_compiled_code_follows_its_callees(tmp_path):
    """A kernel in one file notices a change in a kernel of another, in a package of its own."""
    package = tmp_path / "toy"
    package.mkdir()
    shutil.copy(PACKAGE / "_jit.py", package)
    (package / "__init__.py").write_text("")
    (package / "_outer_kernel.py").write_text("from ._jit import njit\nfrom ._inner_kernel import inner\n\n\n@njit\ndef outer(x):\n"
                                              "    return inner(x) + 1\n")
    shown = []
    for factor in (2, 2, 30):
        (package / "_inner_kernel.py").write_text(f"from ._jit import njit\n\n\n@njit\ndef inner(x):\n    return {factor} * x\n")
        code = ("import numba\nfrom toy._outer_kernel import outer\nprint(outer(1), sum(outer.stats.cache_hits.values()), "
                "repr(numba.config.CACHE_DIR))")
        result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
        shown.append(result.stdout.split())
    assert [line[0] for line in shown] == ["3", "3", "31"]
    assert [line[1] for line in shown] == ["0", "1", "0"]  # compiled, read, compiled
    assert {line[2] for line in shown} == {"''"}  # numba's own setting is as it was


def test_kernels_live_in_files_that_the_cache_watches():
    for path in PACKAGE.rglob("*.py"):
        if "_jit import njit" in path.read_text():
            assert path.match("_*kernel*.py"), path


def test_borrowed_arrays_are_the_same_memory_in_the_same_kind_of_tuple():
    """What compiled code writes into them arrives, through views and nested tuples too, and owners keep their references."""
    from fieldtheory._jit import borrowed, njit

    lanes = _motion_kernel.Lanes(*(np.zeros((2, 3)) for _ in range(3)), np.zeros(3))
    frame, column, before = _motion_kernel.Frame(np.ones((2, 1)), np.ones((2, 1))), np.zeros((4, 3))[:, 1], sys.getrefcount(lanes.value)

    @njit
    def write(lanes, frame, column):
        (lanes, frame), column = borrowed((lanes, frame)), borrowed(column)
        lanes.y[:] = frame.root
        lanes.value[1], column[2] = 2.0, 3.0
        return lanes.x.shape[1]

    width, after = write(lanes, frame, column), sys.getrefcount(lanes.value)
    assert width == 3 and after == before
    assert np.all(lanes.y == 1) and lanes.value.tolist() == [0, 2, 0] and column.tolist() == [0, 0, 3, 0]
    assert borrowed(column) is column
