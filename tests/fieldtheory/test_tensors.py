"""Symmetric tensors: packing order, norms and contractions against dense arrays and published packing ranks."""

import json
import pathlib
from itertools import permutations
from math import comb

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldtheory import SymmetricTensor
from fieldtheory.errors import InputError
from fieldtheory.tensors import colex_indices, colex_rank, contraction_matrix, leg_matrix, packed_size, symmetrize

REFERENCE = json.loads((pathlib.Path(__file__).parents[1] / "data/action.json").read_text())
shapes = st.tuples(st.integers(1, 5), st.integers(1, 4))


def random_tensor(n_dim, order, seed=0):
    return SymmetricTensor.from_packed(np.random.default_rng(seed).normal(size=packed_size(n_dim, order)), n_dim, order)


@given(shapes)
def test_packing_is_a_bijection_that_does_not_depend_on_n_dim(shape):
    n_dim, order = shape
    indices = colex_indices(n_dim, order)
    np.testing.assert_array_equal(colex_rank(indices), np.arange(comb(n_dim + order - 1, order)))
    np.testing.assert_array_equal(colex_indices(n_dim + 1, order)[: len(indices)], indices)
    assert np.all(np.diff(indices, axis=1) >= 0)


def test_packing_order_against_reference():
    np.testing.assert_array_equal(colex_indices(3, 3), REFERENCE["packing_order_d3_k3"])


@given(shapes, st.integers(0, 99))
def test_dense_round_trip_is_exact_and_symmetric(shape, seed):
    T = random_tensor(*shape, seed)
    full = T.dense()
    for p in permutations(range(T.order)):
        np.testing.assert_array_equal(full.transpose(p), full)
    np.testing.assert_array_equal(SymmetricTensor.from_dense(full).packed, T.packed)
    assert T.multiplicity.sum() == T.n_dim**T.order


@given(shapes, st.integers(0, 99))
def test_norm_and_inner_product_are_those_of_the_full_tensor(shape, seed):
    S, T = random_tensor(*shape, seed), random_tensor(*shape, seed + 1)
    np.testing.assert_allclose(S.inner(T), np.sum(S.dense() * T.dense()), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(T.norm(), np.linalg.norm(T.dense()), rtol=1e-12)


@given(shapes, st.integers(0, 99))
@settings(deadline=None)
def test_norm_is_invariant_under_rotations_and_the_metric_makes_it_so_under_all_maps(shape, seed):
    T, rng = random_tensor(*shape, seed), np.random.default_rng(seed)
    Q, _ = np.linalg.qr(rng.normal(size=(T.n_dim, T.n_dim)))
    np.testing.assert_allclose(T.transform(Q).norm(), T.norm(), rtol=1e-10)
    M = rng.normal(size=(T.n_dim, T.n_dim)) + 3 * np.eye(T.n_dim)
    inverse = np.linalg.inv(M)
    np.testing.assert_allclose(T.transform(M).norm(metric=inverse @ inverse.T), T.norm(), rtol=1e-8)


@given(shapes, st.integers(0, 99))
@settings(deadline=None)
def test_vectors_contract_one_leg_each(shape, seed):
    """All legs leave a number, fewer a dense array."""
    T, rng = random_tensor(*shape, seed), np.random.default_rng(seed + 1)
    full, vectors = T.dense(), rng.normal(size=(T.order, T.n_dim))
    for r, v in enumerate(vectors, 1):
        full = np.tensordot(full, v, axes=(0, 0))
        np.testing.assert_allclose(T.contract(*vectors[:r]), full, rtol=1e-10, atol=1e-11)
    assert isinstance(T.contract(*vectors), float)


@pytest.mark.parametrize(("order", "lower"), [(1, 1), (2, 1), (3, 1), (3, 2), (4, 2), (4, 4)])
def test_contraction_against_dense(order, lower):
    T, B = random_tensor(4, order), random_tensor(4, lower, 1)
    expected = np.tensordot(T.dense(), B.dense(), axes=(range(order - lower, order), range(lower)))
    result = T.contract(B)
    found = result.dense() if result.order else result.packed[0]
    np.testing.assert_allclose(found, expected, atol=1e-12)


@given(shapes, st.integers(1, 4))
@settings(deadline=None)
def test_matrices_on_packed_entries_are_the_maps_they_stand_for(shape, n_new):
    T, rng = random_tensor(*shape), np.random.default_rng(3)
    M, c = rng.normal(size=(T.n_dim, n_new)), rng.normal(size=T.n_dim)
    np.testing.assert_allclose(leg_matrix(M, T.order) @ T.packed, T.transform(M).packed, atol=1e-12)
    vector = SymmetricTensor.from_packed(c, T.n_dim, 1)
    np.testing.assert_allclose(contraction_matrix(c, T.order) @ T.packed, T.contract(vector).packed, atol=1e-12)


def test_symmetrized_averages_over_permutations():
    full = np.random.default_rng(0).normal(size=(3, 3, 3))
    np.testing.assert_allclose(SymmetricTensor.symmetrized(full, 3).dense(), symmetrize(full), atol=1e-15)


def test_entries_in_any_order():
    T = SymmetricTensor.from_entries([(2, 0, 1), (1, 1, 0)], [5.0, 7.0], n_dim=3)
    assert T[0, 1, 2] == T[1, 2, 0] == 5.0 and T[1, 0, 1] == 7.0 and T[0, 0, 0] == 0.0
    assert np.count_nonzero(T.packed) == 2


def test_algebra():
    S, T = random_tensor(3, 2), random_tensor(3, 2, 1)
    np.testing.assert_allclose((S - 2 * T).packed, S.packed - 2 * T.packed, atol=1e-15)
    with pytest.raises(ValueError, match="read-only"):
        S.packed[0] = 1
    with pytest.raises(TypeError, match="unsupported operand"):
        S + 1.0


REFUSED = {
    "asymmetric": (lambda: SymmetricTensor.from_dense([[0, 1.0], [2, 0]]), "order 2 must be symmetric; its largest asymmetry is 1.0"),
    "ragged shape": (lambda: SymmetricTensor.from_dense(np.ones((2, 3))), r"shape \(n_dim,\)\*order"),
    "not finite": (lambda: SymmetricTensor.from_dense([np.nan, 1]), "must be finite"),
    "complex": (lambda: SymmetricTensor.from_dense([1j, 1]), "must be real"),
    "count": (lambda: SymmetricTensor.from_packed(np.ones(5), 2, 2), "must have 3 unique entries"),
    "n_dim": (lambda: SymmetricTensor.from_packed(np.ones(5), 0, 2), "n_dim must be a whole number of at least 1"),
    "twice": (lambda: SymmetricTensor.from_entries([(0, 1), (1, 0)], [1, 2], 2), "name each entry once"),
    "range": (lambda: SymmetricTensor.from_entries([(0, 3)], [1], 2), "must lie in 0 … 1"),
    "values": (lambda: SymmetricTensor.from_entries([(0, 1)], [1, 2], 2), "one number per index tuple"),
    "index": (lambda: random_tensor(2, 2)[0, 5], "named by 2 indices in 0 … 1"),
    "sizes": (lambda: random_tensor(2, 2) + random_tensor(3, 2), "must agree in n_dim and order"),
    "memory": (lambda: SymmetricTensor.zeros(5000, 4).packed, r"the packed tensor must fit in memory, 208,\d+ GB are needed and"),
    "endless": (lambda: SymmetricTensor.zeros(10**9, 10**9).packed,
                r"the packed tensor must fit in memory, 10\^11 GB are needed"),
    "no float holds their number": (lambda: SymmetricTensor.zeros(10**400, 2).packed, r"10\^791 GB are needed"),
    "count of a packed one": (lambda: SymmetricTensor.from_packed([1.0], 5000, 4),
                              "packed couplings of order 4 in 5000 variables must fit in memory, 208,.* give couplings of few entries"),
    "storage": (lambda: random_tensor(2, 2).to("csr"), "storage must be one of packed, sparse, got 'csr'"),
    "fraction": (lambda: random_tensor(2, 2)[0.7, 1], r"indices must be whole numbers, got \(0.7, 1\)"),
    "fraction of an entry": (lambda: SymmetricTensor.from_entries([(0.5, 1)], [1], 2), "indices must be whole numbers"),
    "contract up": (lambda: random_tensor(2, 1).contract(random_tensor(2, 2)), "of order at most 1, got n_dim 2 and order 2"),
    "contract sizes": (lambda: random_tensor(2, 2).contract(random_tensor(3, 1)), "same n_dim 2 and of order at most 2, got n_dim 3"),
    "legs": (lambda: random_tensor(2, 2).transform(np.eye(3)), r"matrix must have shape \(2, n_new\), got \(3, 3\)"),
    "dense memory": (lambda: SymmetricTensor.zeros(15, 10).dense(),
                     "the dense tensor of order 10 in 15 variables must fit in memory, 4,613 GB are needed and this machine has"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case):
    request, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        request()


def two_storages(n_dim, order, seed):
    """One tensor with a third of its entries, packed and sparse."""
    rng = np.random.default_rng(seed)
    T = random_tensor(n_dim, order, seed)
    T = T.with_values(T.values * (rng.uniform(size=T.values.size) < 0.34))
    return T, T.to("sparse")


@given(shapes, st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_both_storages_are_the_same_tensor(shape, seed):
    n_dim, order = shape
    (packed, sparse), (other, other_sparse) = two_storages(n_dim, order, seed), two_storages(n_dim, order, seed + 1)
    assert (packed.storage, sparse.storage) == ("packed", "sparse") and np.all(sparse.values != 0)
    np.testing.assert_array_equal(sparse.packed, packed.packed)
    np.testing.assert_array_equal(sparse.to("packed").to("sparse").indices, sparse.indices)
    np.testing.assert_array_equal(sparse.at(packed.indices), packed.values)
    np.testing.assert_array_equal(sparse.multiplicity, packed.multiplicity[packed.values != 0])
    np.testing.assert_array_equal(sparse.dense(), packed.dense())
    pairs = [(sparse, other_sparse), (sparse, other), (packed, other_sparse)]
    np.testing.assert_allclose([a.inner(b) for a, b in pairs], packed.inner(other), rtol=1e-12, atol=1e-12)
    for a, b in pairs:
        np.testing.assert_allclose((a + b).packed, (packed + other).packed, atol=1e-15)
        np.testing.assert_allclose((2 * a - b).packed, (2 * packed - other).packed, atol=1e-15)
    M = np.random.default_rng(seed).normal(size=(n_dim, 2)) * [1, 0]
    np.testing.assert_allclose(sparse.transform(M).packed, packed.transform(M).packed, atol=1e-12)
    np.testing.assert_allclose(packed.transform(scipy.sparse.csr_array(M)).packed, packed.transform(M).packed, atol=1e-15)
    for lower in range(order + 1):
        B, B_sparse = two_storages(n_dim, lower, seed + 2)
        for factor in (B, B_sparse):
            np.testing.assert_allclose(sparse.contract(factor).packed, packed.contract(factor).packed, atol=1e-12)


@given(shapes, st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_monomials_in_any_order_add_up(shape, seed):
    n_dim, order = shape
    T, rng = random_tensor(n_dim, order, seed), np.random.default_rng(seed)
    indices, coefficients = np.concatenate([T.indices] * 2), np.outer([0.25, 0.75], T.values * T.multiplicity).ravel()
    shuffled = rng.permutation(len(indices))
    mixed = rng.permuted(indices[shuffled], axis=1)
    np.testing.assert_allclose(SymmetricTensor.from_monomials(mixed, coefficients[shuffled], n_dim).packed, T.packed, rtol=1e-14)


def test_large_tensors_of_few_entries_are_sparse_unasked():
    n = 10**5
    sites = np.repeat(np.arange(n)[:, None], 4, axis=1)
    T = SymmetricTensor.from_entries(sites[::-1], np.arange(n)[::-1] + 1.0, n)
    assert T.storage == "sparse" and T.bytes_as("sparse") == 40 * n and T.bytes_as("packed") > 1e19
    assert T[7, 7, 7, 7] == 8 and T[7, 7, 7, 8] == 0
    doubled = T + T
    assert doubled.storage == "sparse" and doubled[9, 9, 9, 9] == 20
    assert T.inner(doubled) == pytest.approx(2 * np.sum(np.arange(1.0, n + 1) ** 2))
    swapped = scipy.sparse.csr_array((np.full(n, 2.0), (np.arange(n), np.arange(n)[::-1])), shape=(n, n))
    assert T.transform(swapped)[(n - 1,) * 4] == 16
    assert T.contract(SymmetricTensor.from_packed(np.full(n, 0.5), n, 1))[3, 3, 3] == 2
    assert repr(T).startswith("SymmetricTensor(order=4, n_dim=100000, 100000 entries")
    assert SymmetricTensor.from_entries([(0, 1)], [1.0], 3).storage == "packed"
    wide = scipy.sparse.csr_array((np.ones(3000), (np.zeros(3000, dtype=int), np.arange(3000))), shape=(n, 3000))
    with pytest.raises(InputError, match=r"the transformed coupling must fit in memory, 10\^6 GB are needed"):
        T.transform(wide)
