"""Speed of conversion as ratios in one run: against nested derivatives, and against its own count of operations.

    python -m pytest -m benchmark -s tests/benchmarks/test_conversion_speed.py

Seconds are CPU seconds of one thread; memory is the peak of what numpy allocates, over what was there before.
"""

import time
import tracemalloc
from math import factorial

import numpy as np
import pytest
import torch

import learners as ln
from fieldtheory.tape import Linear, Product, Quadratic
from learners.conversion.model import as_model

pytestmark = pytest.mark.benchmark


def seconds(function, repeats=3):
    """The fastest of several runs, the first left out."""
    function()
    spent = []
    for _ in range(repeats):
        began = time.process_time()
        function()
        spent.append(time.process_time() - began)
    return min(spent)


def peak(function):
    """MB."""
    tracemalloc.start()
    function()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most / 1e6


def matrix_product_rate():
    """Operations per second of a large matrix product."""
    A = np.random.default_rng(0).normal(size=(1500, 1500))
    C = np.empty_like(A)
    return 2 * 1500**3 / seconds(lambda: np.dot(A, A, C), 5)


def operations(tape, order):
    """Of the matrix products of an assembly in all directions: multiplications and additions, sparse maps left out."""
    n, total = tape.n_in, 0.0
    pairs = n * (n + 1) / 2
    for v, node in enumerate(tape.nodes[1:], start=1):
        m = tape.size(v)
        if isinstance(node, Linear):
            dense = sum(M.size for M in node.matrices if isinstance(M, np.ndarray))
            total += 4 * dense * n + (2 * dense * pairs if order == 4 else 0)
        elif isinstance(node, Quadratic):
            r = node.chi.shape[1]
            total += 6 * m * r * n + 2 * r * r * n + 2 * m * r * r * n + 2 * m * r * n * n + 2 * m * pairs * n
            total += 2 * r * pairs**2 + 4 * m * r * pairs + 2 * m * r * r * n + 2 * r * r * n * n if order == 4 else 0
        else:
            products = 2 if isinstance(node, Product) or not _is_square(node) else 1
            total += 2 * m * pairs * n + (2 * products * m * pairs**2 if order == 4 else 0)
    return total


def _is_square(node):
    return not node.unit(np.ones(1))[3:].any()


def quadratic(n_dim, n_layers=20):
    return ln.QuadraticFlow.random(n_dim, n_layers, chi_scale=0.1 / n_dim, weight_scale=0.02, bias_scale=0.02)


def real_nvp(n_dim, n_layers, hidden, mix=False):
    flow, rng = ln.RealNVP(n_dim, n_layers, hidden, mix=mix), np.random.default_rng(0)
    with torch.no_grad():
        for weights in flow.parameters():
            weights.add_(torch.as_tensor(0.2 * rng.normal(size=tuple(weights.shape)) / np.sqrt(n_dim)))
    return flow


def report(what, spent, flow, order, limit, most):
    ratio = spent * matrix_product_rate() / operations(as_model(flow).tape, order)
    print(f"\n{what}: {spent:.3f} s (limit {limit}), {ratio:.2f} times what its operations take as one matrix product, "
          f"peak {most:.0f} MB")
    assert spent <= limit
    return ratio


def test_against_nested_derivatives():
    flow, at = quadratic(50), np.zeros(50)
    ours = seconds(lambda: ln.to_action(flow, 3, at=at))
    third = torch.func.jacfwd(torch.func.jacfwd(torch.func.jacrev(lambda x: flow._log_prob(x[None])[0])))
    began = time.process_time()
    expected = third(torch.zeros(50, dtype=torch.float64)).detach().numpy() / factorial(3)
    theirs = time.process_time() - began
    found = ln.to_action(flow, 3, at=at).couplings[3].dense()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max())
    print(f"\nquadratic flow, n_dim 50, 20 layers, order 3: nested torch.func {theirs:.2f} s, ours {ours:.4f} s: {theirs / ours:.0f} times "
          "faster")
    assert theirs > 100 * ours


@pytest.mark.parametrize("order, limit", [(3, 0.3), (4, 4.0)])
def test_quadratic_flow_in_100_variables(order, limit):
    flow, at = quadratic(100), np.zeros(100)
    spent, most = seconds(lambda: ln.to_action(flow, order, at=at), 2), peak(lambda: ln.to_action(flow, order, at=at))
    assert report(f"quadratic flow, n_dim 100, 20 layers, order {order}", spent, flow, order, limit, most) <= 3


def test_real_nvp_to_order_4():
    flow, at = real_nvp(20, 8, (64,)), np.zeros(20)
    spent = seconds(lambda: ln.to_action(flow, 4, at=at))
    report("RealNVP, n_dim 20, 8 layers of 64, order 4", spent, flow, 4, 0.25, peak(lambda: ln.to_action(flow, 4, at=at)))
    assert spent <= 0.25


@pytest.mark.parametrize("n_dim, n_layers, hidden, mix, limit", [(100, 20, 64, False, 0.3), (100, 20, 64, True, 0.3),
                                                                  (784, 8, 128, False, 4.0), (784, 8, 128, True, 4.0)])
def test_cubic_couplings_in_factored_form(n_dim, n_layers, hidden, mix, limit):
    flow, at, v = real_nvp(n_dim, n_layers, (hidden,), mix), np.zeros(n_dim), np.random.default_rng(1).normal(size=(3, n_dim))
    spent = seconds(lambda: ln.factored_cubic(flow, at=at), 2)
    T = ln.factored_cubic(flow, at=at)
    contraction, along = seconds(lambda: T.contract(*v)), seconds(lambda: ln.coupling_along(flow, *v, at=at))
    print(f"\nRealNVP, n_dim {n_dim}, {n_layers} layers of {hidden}{', mixed' if mix else ''}: order 3 factored {spent:.3f} s (limit "
          f"{limit}), peak {peak(lambda: ln.factored_cubic(flow, at=at)):.0f} MB, {T.n_terms} products; A³[v1, v2, v3] "
          f"{1e3 * contraction:.1f} ms (limit 50), without factors {1e3 * along:.1f} ms")
    assert T.contract(*v) == pytest.approx(ln.coupling_along(flow, *v, at=at), rel=1e-8)
    assert spent <= limit and contraction <= 0.05


def test_leading_directions_in_784_variables():
    flow, at = real_nvp(784, 8, (128,)), np.zeros(784)
    for order in (3, 4):
        began = time.process_time()
        found = ln.leading_directions(flow, order, at=at, n_starts=4)
        print(f"\nRealNVP, n_dim 784, 8 layers of 128: leading directions of order {order} from 4 starts in "
              f"{time.process_time() - began:.1f} s, λ = {', '.join(f'{v:.3g}' for v in found.values)}, "
              f"residual {found.residual.max():.1g}")
        assert found.residual.max() < 1e-6
