"""Speed of actions as ratios in one run: against the machine's matrix products, its memory, and numpy.einsum.

    python -m pytest -m benchmark -s tests/benchmarks/test_action_speed.py
"""

import subprocess
import sys
import time

import numpy as np
import pytest

import fieldtheory as ft
from fieldtheory.packing import packed_size

pytestmark = pytest.mark.benchmark


def seconds(function, repeats=9):
    """The fastest of several runs, the first left out."""
    function()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return min(times)


def dense_action(n_dim, order=4):
    rng = np.random.default_rng(0)
    return ft.Action({k: ft.SymmetricTensor.from_packed(rng.normal(size=packed_size(n_dim, k)), n_dim, k) for k in range(1, order + 1)})


def operations(n_dim):
    """Of the matrix products of order 4, per point: 2 Σ_{k ≤ l} (k + 1)²."""
    return 2 * sum((k + 1) ** 2 * (n_dim - k) for k in range(n_dim))


def matrix_product_rate():
    """Operations per second of a large matrix product."""
    A = np.random.default_rng(0).normal(size=(1500, 1500))
    C = np.empty_like(A)
    return 2 * 1500**3 / seconds(lambda: np.dot(A, A, C), 5)


@pytest.mark.parametrize("n_dim", [10, 20, 50, 100])
def test_batches_of_a_dense_action_against_matrix_products(n_dim):
    S, x, rate = dense_action(n_dim), np.random.default_rng(1).normal(size=(2000, n_dim)), matrix_product_rate()
    spent, alone = seconds(lambda: S.value_and_score(x), 5) / len(x), seconds(lambda: S.value_and_score(x[0]))
    few = x[:64]
    hessian, product = seconds(lambda: S.hessian(few), 3) / 64, seconds(lambda: S.hessian_vector(few, few), 3) / 64
    print(f"\norder 4, n_dim {n_dim}: value and score of 2000 points at {100 * operations(n_dim) / spent / rate:.1f} % of the "
          f"{rate / 1e9:.1f} GFLOP/s of matrix products; µs per point: {1e6 * spent:.2f}, alone {1e6 * alone:.1f}, "
          f"Hessian {1e6 * hessian:.1f}, Hessian·vector {1e6 * product:.1f}")
    assert n_dim < 50 or operations(n_dim) / spent >= 0.45 * rate


def einsum_in_one_call(A, x):
    """Value and score as they are written down."""
    score = 4 * np.einsum("ijkl,nj,nk,nl->ni", A, x, x, x)
    return 0.25 * np.einsum("ni,ni->n", score, x), score


def einsum_in_steps(A, x):
    """The same, one contraction at a time, which einsum hands on to matrix products."""
    pulled = np.einsum("ijkl,nl->nijk", A, x, optimize=True)
    score = 4 * np.einsum("nijk,nk,nj->ni", pulled, x, x, optimize=True)
    return 0.25 * np.einsum("ni,ni->n", score, x), score


@pytest.mark.parametrize(("peer", "n_points"), [(einsum_in_one_call, 4), (einsum_in_steps, 20)])
def test_batches_of_a_dense_action_against_einsum(peer, n_points):
    S, x = dense_action(50), np.random.default_rng(1).normal(size=(2000, 50))
    A, quartic = S.couplings[4].dense(), ft.Action({4: S.couplings[4]})
    np.testing.assert_allclose(peer(A, x[:n_points])[1], quartic.score(x[:n_points]), rtol=1e-9, atol=1e-9)
    theirs, ours = seconds(lambda: peer(A, x[:n_points]), 3) / n_points, seconds(lambda: quartic.value_and_score(x), 5) / len(x)
    print(f"\norder 4, n_dim 50: {peer.__name__} {1e6 * theirs:.0f} µs, ours {1e6 * ours:.1f} µs per point, "
          f"{theirs / ours:.0f} times faster")
    assert peer is einsum_in_steps or theirs >= 20 * ours


def test_a_lattice_against_copying_it():
    S = ft.theories.phi4(ft.theories.lattice((316, 316)), 1.0, 4.0)
    x = np.random.default_rng(2).normal(size=S.n_dim)
    result = S.score(x)
    arrays = [x, result, *(a for T in S.couplings.values() for a in (T.indices, T.values))]
    rooms = [np.empty_like(a) for a in arrays]
    copying = seconds(lambda: [np.copyto(room, a) for room, a in zip(rooms, arrays)], 50)
    spent, product = seconds(lambda: S.value_and_score(x), 50), seconds(lambda: S.hessian_vector(x, x), 20)
    print(f"\nφ⁴ 316×316: value and score {1e3 * spent:.2f} ms, copying indices, entries, x and result {1e3 * copying:.2f} ms: "
          f"ratio {spent / copying:.2f}; Hessian·vector {1e3 * product:.2f} ms, ratio {product / copying:.2f}")
    assert spent <= 3.3 * copying


def test_import():
    code = ("import time; t = time.perf_counter(); import fieldtheory as ft; ft.Action, ft.sample, ft.theories; "
            "print(time.perf_counter() - t)")
    spent = [float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout) for _ in range(3)]
    print(f"\nimport, with actions, theories and samplers: {min(spent):.2f} s")
    assert min(spent) < 1.5
