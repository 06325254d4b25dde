"""The door: what passes is real, finite, float64 and of the shape promised; everything else is one sentence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fieldtheory.arrays import Columns, as_count, as_covariance, as_points, as_samples, as_vector
from fieldtheory.errors import FieldTheoryError, InputError

TYPES = ["float64", "float32", "float16", "int64", "int8", "uint8", "bool"]


@pytest.mark.parametrize("dtype", TYPES)
def test_every_real_type_becomes_float64_with_the_same_numbers(dtype):
    given_array = np.array([[0, 1], [1, 0], [1, 1]], dtype=dtype)
    found = as_samples(given_array)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, given_array)


def test_what_looks_like_an_array_is_one():
    frame = pytest.importorskip("pandas").DataFrame({"a": [1, 2], "b": [3.5, 4]})
    np.testing.assert_array_equal(as_samples(frame), [[1, 3.5], [2, 4]])
    np.testing.assert_array_equal(as_samples(((1, 2), (3, 4))), [[1, 2], [3, 4]])


def test_points_keep_their_leading_axes():
    assert as_points(np.zeros((2, 3, 4)), 4).shape == (2, 3, 4)
    assert as_points(np.zeros((0, 4)), 4).shape == (0, 4)
    assert as_vector([1, 2], 2, "at").shape == (2,)


@given(st.integers(1, 6), st.integers(0, 10**6))
def test_covariances_pass_whatever_the_units(n_dim, seed):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(n_dim, n_dim))
    C, units = A @ A.T + 0.1 * np.eye(n_dim), 10 ** rng.uniform(-8, 8, n_dim)
    scaled = C * np.outer(units, units)
    np.testing.assert_allclose(as_covariance(scaled), scaled, rtol=1e-15)
    with pytest.raises(InputError, match="must be positive definite"):
        as_covariance((C - (np.linalg.eigvalsh(C)[0] + 0.01) * np.eye(n_dim)) * np.outer(units, units))


def test_rounding_is_symmetrized_away():
    C = np.array([[1, 0.5], [0.5 + 1e-13, 1]])
    np.testing.assert_array_equal(as_covariance(C), as_covariance(C).T)


@given(st.integers(1, 2**40))
def test_counts_are_whole_numbers_of_any_integer_type(value):
    assert as_count(value, "n") == as_count(np.int64(value), "n") == value
    assert type(as_count(np.int64(value), "n")) is int


tables = hnp.arrays(np.float64, st.tuples(st.integers(2, 6), st.integers(1, 6)), elements=st.integers(0, 2).map(float))


@given(tables)
def test_columns_leave_out_what_never_varies_and_put_it_back(samples):
    varying = [j for j in range(samples.shape[1]) if len(set(samples[:, j])) > 1]
    if not varying:
        with pytest.raises(InputError, match=f"all {samples.shape[1]} columns are constant"):
            Columns.of(samples)
        return
    columns = Columns.of(samples)
    assert columns.kept.tolist() == varying and sorted([*columns.kept, *columns.dropped]) == list(range(samples.shape[1]))
    np.testing.assert_array_equal(columns.restore(columns.drop(samples)), samples)
    stacked = np.stack([samples, samples])
    np.testing.assert_array_equal(columns.restore(columns.drop(stacked)), stacked)
    assert all(str(j) in columns.describe() for j in columns.dropped)


def test_columns_of_nothing_left_out():
    columns, x = Columns.all(3), np.ones((2, 3))
    np.testing.assert_array_equal(columns.restore(columns.drop(x)), x)
    assert columns.describe() == "all columns vary" and columns.dropped.size == 0


def test_restored_samples_are_new_and_the_constants_do_not_follow_the_data():
    samples = np.array([[7.0, 1], [7, 2]])
    columns = Columns.of(samples)
    samples[:] = 0
    restored = columns.restore(np.array([[5.0]]))
    np.testing.assert_array_equal(restored, [[7, 5]])
    restored[:] = 0
    np.testing.assert_array_equal(columns.constants, [7, 1])


masked = np.ma.masked_greater(np.array([[1.0, 2], [3, 99]]), 50)
REFUSED = {
    "ragged": (lambda: as_samples([[1, 2], [3]]), "samples must be a rectangular array of real numbers, got rows of different lengths"),
    "complex": (lambda: as_samples(np.eye(2) * 1j), "samples must be real, got complex128; pass real and imaginary parts"),
    "text": (lambda: as_samples([["1", "2"], ["3", "4"]]), "array of real numbers, got dtype <U1"),
    "objects": (lambda: as_samples(np.array([[1, None], [2, 3]])), "array of real numbers, got dtype object"),
    "dates": (lambda: as_samples(np.array([["2020-01-01"]] * 2, dtype="datetime64[D]")), r"got dtype datetime64\[D\]"),
    "vector": (lambda: as_samples([1.0, 2]), r"shape \(n_samples, n_dim\), got an array of rank 1 and shape \(2,\)"),
    "images": (lambda: as_samples(np.ones((2, 3, 4))), "of rank 3"),
    "number": (lambda: as_samples(3.0), "of rank 0"),
    "one row": (lambda: as_samples([[1.0, 2]]), r"at least 2 rows and one column, got shape \(1, 2\)"),
    "no columns": (lambda: as_samples(np.ones((5, 0))), r"at least 2 rows and one column, got shape \(5, 0\)"),
    "more rows": (lambda: as_samples(np.eye(2), min_samples=3), "at least 3 rows"),
    "name": (lambda: as_samples(np.ones(3), name="held_out"), "^held_out must have shape"),
    "nan": (lambda: as_samples([[1, np.nan], [np.inf, 2]]), r"finite, got 2 NaN or infinite entries, the first at index \(0, 1\)"),
    "masked": (lambda: as_samples(masked), r"finite, got 1 NaN or infinite entries, the first at index \(1, 1\)"),
    "masked integers": (lambda: as_samples(np.ma.masked_greater([[1, 2], [3, 99]], 50)), r"the first at index \(1, 1\)"),
    "point": (lambda: as_points([1.0, 2], 3), r"x must have shape \(\.\.\., 3\), got \(2,\); the last axis runs over the 3 variables"),
    "scalar point": (lambda: as_points(1.0, 1), r"must have shape \(\.\.\., 1\), got \(\)"),
    "vectors": (lambda: as_vector(np.ones((2, 2)), 2, "at"), r"at must be one point of shape \(2,\), got shape \(2, 2\)"),
    "wide": (lambda: as_covariance(np.ones((2, 3))), r"covariance must be a square matrix \(n_dim, n_dim\), got shape \(2, 3\)"),
    "empty": (lambda: as_covariance(np.ones((0, 0))), r"must be a square matrix"),
    "nan covariance": (lambda: as_covariance([[np.nan]]), "covariance must be finite"),
    "asymmetric": (lambda: as_covariance([[1, 0.5], [0.4, 1]]), r"its largest asymmetry is 1\.0e-01; use \(C \+ C\.T\) / 2"),
    "indefinite": (lambda: as_covariance([[4, 8], [8, 4]]), "positive definite, its smallest eigenvalue is -1 in units of its diagonal"),
    "negative variance": (lambda: as_covariance([[-3.0]]), "its smallest eigenvalue is -3"),
    "zero variance": (lambda: as_covariance(np.diag([1.0, 0])), "its smallest eigenvalue is 0"),
    "fraction": (lambda: as_count(2.0, "order"), "order must be a whole number of at least 1, got 2.0"),
    "truth": (lambda: as_count(True, "order"), "order must be a whole number of at least 1, got True"),
    "small": (lambda: as_count(0, "order"), "at least 1, got 0"),
    "negative": (lambda: as_count(-1, "n", minimum=0), "at least 0, got -1"),
    "word": (lambda: as_count("3", "n"), "got '3'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case):
    request, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        request()


def test_one_except_clause_catches_all_refusals():
    with pytest.raises(ValueError, match="at least 2 rows"):
        as_samples([[1.0]])
    assert issubclass(InputError, FieldTheoryError) and issubclass(FieldTheoryError, ValueError)
