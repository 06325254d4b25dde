"""A factored cubic is the tensor its factors multiply to, behind the interface of all symmetric tensors."""

from itertools import combinations_with_replacement

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldtheory import Action, SymmetricTensor
from fieldtheory.errors import InputError
from fieldtheory.factored import FactoredCubic
from fieldtheory.tensors import symmetrize

shapes = st.tuples(st.integers(1, 5), st.integers(0, 7))


def random_cubic(n_dim, n_terms, seed=0):
    return FactoredCubic(tuple(np.random.default_rng(seed).normal(size=(3, n_terms, n_dim))))


def written_out(T):
    return symmetrize(np.einsum("ui,uj,uk->ijk", *T.factors))


@given(shapes, st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_every_way_to_look_at_it_is_the_full_tensor(shape, seed):
    T, rng = random_cubic(*shape, seed), np.random.default_rng(seed + 1)
    full = written_out(T)
    near = {"rtol": 1e-10, "atol": 1e-11}
    np.testing.assert_allclose(T.dense(), full, **near)
    np.testing.assert_allclose(T.packed, SymmetricTensor.from_dense(full).packed, **near)
    np.testing.assert_allclose(T.at(T.indices), T.packed, **near)
    assert (T.order, T.n_dim, T.storage, T.n_terms) == (3, shape[0], "factored", shape[1])
    assert T.multiplicity.sum() == T.n_dim**3
    u, v, w = rng.normal(size=(3, T.n_dim))
    np.testing.assert_allclose(T.contract(u, v, w), np.einsum("ijk,i,j,k", full, u, v, w), **near)
    np.testing.assert_allclose(T.contract(v, v), np.einsum("ijk,j,k->i", full, v, v), **near)
    np.testing.assert_allclose(T.contract(w), np.einsum("ijk,k->ij", full, w), **near)
    M = rng.normal(size=(T.n_dim, 2))
    np.testing.assert_allclose(T.transform(M).dense(), np.einsum("ijk,ia,jb,kc->abc", full, M, M, M), **near)
    np.testing.assert_allclose((-2.0 * T).dense(), -2 * full, **near)


@pytest.mark.parametrize("n_dim, n_terms", [(4, 9), (30, 2)])
def test_norms_and_inner_products_from_entries_and_from_factors(n_dim, n_terms):
    """Few variables: from entries; many: from the products of factors."""
    T, S = random_cubic(n_dim, n_terms), random_cubic(n_dim, n_terms + 1, seed=1)
    assert T.norm() == pytest.approx(np.linalg.norm(written_out(T)), rel=1e-12)
    assert T.inner(S) == pytest.approx(np.sum(written_out(T) * written_out(S)), rel=1e-10, abs=1e-10)
    metric = np.diag(np.linspace(0.5, 2, n_dim))
    assert T.norm(metric) == pytest.approx(SymmetricTensor.from_dense(written_out(T)).norm(metric), rel=1e-10)
    assert T.inner(S.to("packed")) == pytest.approx(T.inner(S), rel=1e-10, abs=1e-10)


def test_it_mixes_with_other_storages():
    T = random_cubic(3, 5)
    B = SymmetricTensor.from_dense(np.diag([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(T.contract(B).packed, np.einsum("ijk,jk->i", written_out(T), B.dense()), rtol=1e-12)
    np.testing.assert_allclose((T + T.to("packed")).packed, 2 * T.packed, rtol=1e-12)
    np.testing.assert_allclose((T - T).packed, 0, atol=1e-12)
    S, x = Action({2: B, 3: T}), np.array([0.3, -0.1, 0.2])
    assert S(x) == pytest.approx(x @ B.dense() @ x + T.contract(x, x, x), rel=1e-12)
    for index in combinations_with_replacement(range(3), 3):
        assert T[index] == pytest.approx(written_out(T)[index], rel=1e-10, abs=1e-12)


def test_entries_that_would_not_fit_are_refused_and_contractions_are_not():
    T = FactoredCubic(tuple(np.ones((1, 20_000)) for _ in range(3)))
    with pytest.raises(InputError, match=r"the unique entries of a cubic coupling in 20000 variables must fit in memory, .* contract it"):
        T.packed  # noqa: B018
    assert T.contract(*np.eye(3, 20_000)) == 1.0
