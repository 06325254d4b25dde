"""Polarization gives back any symmetric tensor."""

import numpy as np
import pytest

from fieldtheory import SymmetricTensor
from fieldtheory.errors import InputError
from fieldtheory.polarization import directions, from_slopes
from fieldtheory.tensors import packed_size


@pytest.mark.parametrize("n_dim, order", [(1, 1), (1, 4), (2, 2), (3, 3), (4, 4), (3, 5), (2, 6), (12, 3)])
def test_a_tensor_comes_back_from_its_slopes(n_dim, order):
    T = SymmetricTensor.from_packed(np.random.default_rng(0).normal(size=packed_size(n_dim, order)), n_dim, order)
    points = directions(n_dim, order - 1)
    slopes = np.array([T.contract(*[v] * (order - 1)) if order > 1 else T.packed for v in points])
    np.testing.assert_allclose(from_slopes(slopes, order).packed, T.packed, rtol=0, atol=1e-11 * np.abs(T.packed).max())


def test_directions_are_sums_of_unit_vectors():
    np.testing.assert_array_equal(directions(2, 2), [[2, 0], [1, 1], [0, 2]])
    np.testing.assert_array_equal(directions(3, 0), [[0, 0, 0]])


def test_directions_that_would_not_fit_are_refused():
    with pytest.raises(InputError, match=r"directions that determine order 3 in 700 variables must fit in memory, .* along a few"):
        directions(700, 3)


def test_what_is_not_symmetric_is_averaged_out():
    """A linear map as T[v, ·] = v M: its symmetric part."""
    M = np.array([[1.0, 2.0], [5.0, 3.0]])
    np.testing.assert_allclose(from_slopes(directions(2, 1) @ M, 2).dense(), 0.5 * (M + M.T))
