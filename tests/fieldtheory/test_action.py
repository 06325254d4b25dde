"""Actions: values, derivatives, changes of base point and variables, files, against sympy, dense sums and reference numbers."""

import json
import pathlib

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

import fieldtheory as ft
from fieldtheory import _kernels
from fieldtheory.errors import FileFormatError, GaugeError, InputError
from fieldtheory.tensors import packed_size

REFERENCE = json.loads((pathlib.Path(__file__).parents[1] / "data/action.json").read_text())


def random_action(n_dim=3, order=4, seed=0, **options):
    rng = np.random.default_rng(seed)
    couplings = {k: ft.SymmetricTensor.from_packed(rng.normal(size=packed_size(n_dim, k)), n_dim, k) for k in range(order + 1)}
    return ft.Action(couplings, **options)


def from_lists(lists):
    return ft.Action({0: lists[0], **{k: np.array(lists[k]) for k in range(1, len(lists))}})


def dense_value(S, x):
    """The defining sum, one full tensor at a time."""
    u, total = x - S.at, S[()]
    for k in range(1, S.order + 1):
        full = S.couplings[k].dense()
        for _ in range(k):
            full = full @ u
        total += full
    return total


ACTIONS = {"one variable": (1, 4), "two": (2, 3), "three, order 5": (3, 5), "linear": (2, 1), "seven, order 2": (7, 2)}


@pytest.mark.parametrize("case", ACTIONS)
def test_value_is_the_defining_sum(case):
    n_dim, order = ACTIONS[case]
    S = random_action(n_dim, order, at=np.linspace(-1, 1, n_dim))
    x = np.random.default_rng(1).normal(size=(70, n_dim))  # more than one block of lanes
    np.testing.assert_allclose(S(x), [dense_value(S, point) for point in x], rtol=1e-11, atol=1e-11)
    assert S(x[0]).shape == () and S(x.reshape(7, 10, n_dim)).shape == (7, 10)


@pytest.mark.parametrize("case", ACTIONS)
def test_score_and_hessian_against_sympy(case):
    n_dim, order = ACTIONS[case]
    S = random_action(n_dim, order)
    symbols = sympy.symbols(f"x:{n_dim}")
    expression = sum(float(w) * sympy.prod([symbols[i] for i in index]) for k, T in S.couplings.items()
                     for index, w in zip(T.indices.tolist(), T.packed * T.multiplicity))
    point = np.random.default_rng(2).normal(size=n_dim)
    values = dict(zip(symbols, point))
    gradient = [float(sympy.diff(expression, s).subs(values)) for s in symbols]
    curvature = [[float(sympy.diff(expression, s, t).subs(values)) for t in symbols] for s in symbols]
    np.testing.assert_allclose(S.score(point), gradient, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(S.hessian(point), curvature, rtol=1e-10, atol=1e-10)


def test_value_and_score_is_both():
    S, x = random_action(), np.random.default_rng(0).normal(size=(5, 3))
    value, score = S.value_and_score(x)
    np.testing.assert_array_equal(value, S(x))
    np.testing.assert_array_equal(score, S.score(x))


def test_kernels_against_their_python_bodies():
    S, x = random_action(3, 4), np.random.default_rng(0).normal(size=(3, 6))
    compiled, plain = (np.zeros(6), np.empty((3, 6))), (np.zeros(6), np.empty((3, 6)))
    _kernels.value_and_score(S.polynomial, x, *compiled)
    _kernels.value_and_score.py_func(S.polynomial, x, *plain)
    for a, b in zip(compiled, plain):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
    H, P = np.empty((3, 3, 6)), np.empty((3, 3, 6))
    _kernels.hessian(S.polynomial, x, H)
    _kernels.hessian.py_func(S.polynomial, x, P)
    np.testing.assert_allclose(H, P, rtol=1e-12, atol=1e-12)


def test_reference_algebra():
    a = REFERENCE["algebra"]
    S = from_lists(a["A_full"])
    np.testing.assert_allclose(S(a["x"]), a["S"], rtol=1e-12)
    np.testing.assert_allclose(S.score(a["x"]), a["grad"], rtol=1e-12)
    np.testing.assert_allclose(S.hessian(a["x"]), a["hess"], rtol=1e-12)
    np.testing.assert_allclose(S.hessian(a["x"]) @ a["v"], a["hvp"], rtol=1e-12)
    moved, mapped = S.recenter(a["shift_c"]), S.pullback(a["M"], a["shift_c"])
    averaged = S.normal_order(a["wick"]["mu"], a["wick"]["Sigma"])
    for k in range(1, 5):
        np.testing.assert_allclose(moved.couplings[k].packed, a["shifted"][k], atol=1e-14)
        np.testing.assert_allclose(mapped.couplings[k].packed, a["change_of_variables"][k], atol=1e-14)
        np.testing.assert_allclose(averaged.couplings[k].packed, a["wick"]["C"][k], atol=1e-14)
    np.testing.assert_allclose(mapped[()], a["change_of_variables"][0], rtol=1e-13)


points = st.lists(st.floats(-2, 2), min_size=3, max_size=3).map(np.array)


@given(points, points, st.integers(0, 50))
@settings(deadline=None)
def test_recentring_keeps_the_function_and_forgets_the_way(a, b, seed):
    S, x = random_action(seed=seed), np.random.default_rng(seed).normal(size=(4, 3))
    scale = np.abs(S(x)).max() + 1e3
    np.testing.assert_allclose(S.recenter(a)(x), S(x), atol=1e-12 * scale)
    np.testing.assert_allclose(S.recenter(a).recenter(b).couplings[2].packed, S.recenter(b).couplings[2].packed, atol=1e-10)
    assert S.recenter(a).gauge == "exact"


@given(st.integers(0, 200))
@settings(deadline=None)
def test_pullback_is_the_density_of_the_new_variables_and_composes(seed):
    rng = np.random.default_rng(seed)
    S, y = random_action(seed=seed), rng.normal(size=(4, 3))
    M, N = rng.normal(size=(2, 3, 3)) + 2 * np.eye(3)
    b, c = rng.normal(size=(2, 3))
    once = S.pullback(M, b)
    expected = S(y @ M.T + b) + np.log(abs(np.linalg.det(M)))
    np.testing.assert_allclose(once(y), expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())
    twice, product = once.pullback(N, c), S.pullback(M @ N, M @ c + b)
    for k in range(1, 5):
        np.testing.assert_allclose(twice.couplings[k].packed, product.couplings[k].packed, rtol=1e-8, atol=1e-8)


def test_pullback_carries_the_base_point_of_a_cut_action():
    S = random_action(at=[1.0, 0, 2]).truncate(3)
    M, b = np.diag([2.0, 1, 4]), np.array([1.0, 1, 1])
    mapped = S.pullback(M, b)
    np.testing.assert_allclose(M @ mapped.at + b, S.at)
    y = np.random.default_rng(0).normal(size=(5, 3))
    np.testing.assert_allclose(mapped(y), S(y @ M.T + b) + np.log(8), rtol=1e-12)


def test_normal_order_is_the_gaussian_average_of_the_derivatives():
    S, rng = random_action(2, 4), np.random.default_rng(0)
    mean, covariance = np.array([0.3, -0.2]), np.array([[0.5, 0.1], [0.1, 0.3]])
    x, w = np.polynomial.hermite_e.hermegauss(8)
    nodes = mean + np.stack(np.meshgrid(x, x), -1).reshape(-1, 2) @ np.linalg.cholesky(covariance).T
    weights = np.outer(w, w).ravel() / w.sum() ** 2
    averaged = S.normal_order(mean, covariance)
    np.testing.assert_allclose(averaged[()], weights @ S(nodes), rtol=1e-12)
    np.testing.assert_allclose(averaged.couplings[1].packed, weights @ S.score(nodes), rtol=1e-12)
    np.testing.assert_allclose(2 * averaged.couplings[2].dense(), np.tensordot(weights, S.hessian(nodes), 1), rtol=1e-12)
    points = rng.normal(size=(6, 2))
    np.testing.assert_allclose(averaged(points), S(points), rtol=1e-10, atol=1e-10)
    mapped = averaged.pullback(np.diag([2.0, 3]), mean)
    np.testing.assert_allclose(mapped(points), S(points * [2, 3] + mean) + np.log(6), rtol=1e-9, atol=1e-9)


def test_sums_and_multiples():
    S, T, x = random_action(seed=1), random_action(order=3, seed=2, at=[1, 2, 3]), np.random.default_rng(0).normal(size=(4, 3))
    np.testing.assert_allclose((2 * S - T)(x), 2 * S(x) - T(x), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose((-S)(x), -S(x))


def test_an_action_does_not_change_with_the_arrays_it_was_made_of():
    at, h = np.zeros(2), np.ones(2)
    S = ft.Action({1: h}, at=at)
    at[:], h[:] = 5, 5
    assert S([1, 1]) == 2
    with pytest.raises(ValueError, match="read-only"):
        S.at[0] = 1


def test_entries_vertices_and_truncation():
    S = random_action()
    assert S[2, 0, 1] == S.couplings[3].dense()[0, 1, 2] and S[()] == S.couplings[0].packed[0] and S[1] == S.couplings[1].packed[1]
    np.testing.assert_allclose(S.vertex(3).packed, 6 * S.couplings[3].packed)
    np.testing.assert_allclose(S.vertex(2, at=[1, 0, 0]).dense(), S.hessian([1, 0, 0]), atol=1e-12)
    assert S.truncate(2).order == 2 and S.truncate(2).gauge == "taylor" and S.truncate(9).gauge == "exact"


@pytest.mark.parametrize("gauge", ["exact", "taylor", "normal_ordered"])
def test_file_round_trip_is_bit_exact(gauge, tmp_path):
    options = {"covariance": np.eye(3) + 0.1} if gauge == "normal_ordered" else {}
    S = random_action(at=[0.1, 0.2, 0.3], gauge=gauge, names=["a", "b", "c"], **options)
    S.save(tmp_path / "s.safetensors")
    R = ft.Action.load(tmp_path / "s.safetensors")
    for k, T in S.couplings.items():
        np.testing.assert_array_equal(R.couplings[k].packed, T.packed)
    np.testing.assert_array_equal(R.at, S.at)
    assert (R.gauge, R.names) == (S.gauge, S.names)
    x = np.ones((2, 3))
    np.testing.assert_array_equal(R(x), S(x))


def test_standard_errors_travel_with_the_couplings(tmp_path):
    """Through a cut and a file; whatever mixes couplings leaves them behind."""
    S = random_action()
    errors = {k: 0.1 * S.couplings[k] for k in (2, 4)}
    T = ft.Action(S.couplings, gauge="projection", standard_error=errors)
    assert sorted(T.truncate(3).standard_error) == [2] and S.standard_error == {} == (2.0 * T).standard_error
    again = ft.Action.load(T.save(tmp_path / "T.safetensors"))
    for k, error in errors.items():
        np.testing.assert_array_equal(again.standard_error[k].packed, error.packed)


def sparse_action(n_dim=300):
    """A ring: order 2 packed, order 4 large enough to be sparse."""
    ring = [(i, (i + 1) % n_dim, (i + 2) % n_dim, (i + 2) % n_dim) for i in range(n_dim)]
    quartic = ft.SymmetricTensor.from_entries(ring, -np.arange(1.0, n_dim + 1), n_dim)
    return ft.Action({2: ft.SymmetricTensor.from_dense(-np.eye(n_dim)), 4: quartic}, at=np.full(n_dim, 0.5))


def test_sparse_couplings_come_back_sparse(tmp_path):
    S = sparse_action()
    R = ft.Action.load(S.save(tmp_path / "ring.safetensors", provenance={"seed": 3}))
    assert [R.couplings[k].storage for k in (2, 4)] == ["packed", "sparse"]
    np.testing.assert_array_equal(R.couplings[4].indices, S.couplings[4].indices)
    np.testing.assert_array_equal(R.couplings[4].values, S.couplings[4].values)
    assert ft.files.read(tmp_path / "ring.safetensors", "action")[1]["provenance"] == {"seed": 3}


def test_calculus_keeps_sparse_couplings_sparse():
    S, x = sparse_action(), np.random.default_rng(0).normal(size=(3, 300))
    for moved in (S.recenter(np.ones(300)), 2.0 * S - S, S.truncate(4)):
        assert moved.couplings[4].storage == "sparse"
    np.testing.assert_allclose(S.recenter(np.ones(300))(x), S(x), rtol=1e-10)


def _saved(tmp_path, arrays, header, kind="action"):
    return ft.files.write(tmp_path / "f.safetensors", kind, arrays, header)


HOSTILE = {
    "truncated": lambda p: p.write_bytes((random_action().save(p).read_bytes())[:200]),
    "pickle": lambda p: p.write_bytes(b"\x80\x04\x95\x0c\x00\x00\x00\x00\x00\x00\x00\x8c\x05hello\x94."),
    "empty": lambda p: p.write_bytes(b""),
    "lying length": lambda p: p.write_bytes(b"\xff" * 8 + b"{}"),
    "text": lambda p: p.write_text("S = x**2"),
    "other program": lambda p: __import__("safetensors.numpy").numpy.save_file({"a": np.ones(2)}, p),
    "other kind": lambda p: ft.files.write(p, "learner", {"a": np.ones(2)}, {}),
    "wrong counts": lambda p: ft.files.write(p, "action", {"coupling_2": np.ones(2), "at": np.zeros(2)},
                                             {"n_dim": 2, "orders": [2], "gauge": "exact", "names": None}),
    "no arrays": lambda p: ft.files.write(p, "action", {"at": np.zeros(2)},
                                          {"n_dim": 2, "orders": [2], "gauge": "exact", "names": None}),
    "huge": lambda p: ft.files.write(p, "action", {"at": np.zeros(2)},
                                     {"n_dim": 10**9, "orders": [9], "gauge": "exact", "names": None}),
    "indices of another order": lambda p: ft.files.write(
        p, "action", {"coupling_3": np.ones(1), "indices_3": np.zeros((1, 2), dtype=int), "at": np.zeros(2)},
        {"n_dim": 2, "orders": [3], "sparse": [3], "gauge": "exact", "names": None}),
    "indices out of range": lambda p: ft.files.write(
        p, "action", {"coupling_3": np.ones(1), "indices_3": np.full((1, 3), 7), "at": np.zeros(2)},
        {"n_dim": 2, "orders": [3], "sparse": [3], "gauge": "exact", "names": None}),
    "no list of orders": lambda p: ft.files.write(p, "action", {"coupling_1": np.ones(2), "at": np.zeros(2)},
                                                  {"n_dim": 2, "orders": [1], "sparse": 1, "gauge": "exact", "names": None}),
    "not finite": lambda p: ft.files.write(p, "action", {"coupling_1": np.array([np.nan]), "at": np.zeros(1)},
                                           {"n_dim": 1, "orders": [1], "gauge": "exact", "names": None}),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused(case, tmp_path):
    path = tmp_path / "hostile.safetensors"
    HOSTILE[case](path)
    with pytest.raises(FileFormatError, match=r"must (be|carry|hold)"):
        ft.Action.load(path)


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "kept.json"
    ft.files.write_text(path, "old")
    with pytest.raises(RuntimeError), ft.files.atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(InputError, match="existing folder"):
        ft.files.write_text(tmp_path / "no" / "x", "new")


def averaged_over(variance):
    return random_action().normal_order(np.zeros(3), variance * np.eye(3))


cut = random_action().truncate(2)
REFUSED = {
    "not a mapping": (lambda: ft.Action([1]), InputError, "must be a mapping"),
    "no n_dim": (lambda: ft.Action({0: 1.0}), InputError, "order 1 or more"),
    "order key": (lambda: ft.Action({1.5: [1]}), InputError, "order of a coupling must be a whole number"),
    "wrong order": (lambda: ft.Action({1: np.eye(2)}), InputError, "under key 1 must be of order 1, got order 2"),
    "sizes": (lambda: ft.Action({1: np.ones(2), 2: np.eye(3)}), InputError, "same n_dim"),
    "gauge": (lambda: ft.Action({1: [1]}, gauge="natural"), InputError, "gauge must be one of exact"),
    "covariance": (lambda: ft.Action({1: [1]}, covariance=[[1]]), InputError, "for a normal_ordered action and for no other"),
    "names": (lambda: ft.Action({1: [1]}, names=["a", "b"]), InputError, "one name per variable"),
    "errors": (lambda: ft.Action({1: [1]}, standard_error={2: ft.SymmetricTensor.zeros(1, 2)}), InputError,
               r"by their orders \[1\], got one of order 2 and n_dim 1 under key 2"),
    "point": (lambda: random_action()(np.ones(4)), InputError, r"shape \(\.\.\., 3\), got \(4,\)"),
    "nan point": (lambda: random_action()([1, 2, np.nan]), InputError, "x must be finite"),
    "recentre": (lambda: cut.recenter([1, 1, 1]), GaugeError, r"only an exact action may be recentred.*to_action"),
    "singular": (lambda: random_action().pullback(np.ones((3, 3))), InputError, "must be invertible"),
    "add n_dim": (lambda: random_action() + random_action(2), InputError, "same n_dim, got 3 and 2"),
    "add gauges": (lambda: random_action() + cut, GaugeError, "must share their gauge, got exact and taylor"),
    "add Gaussians": (lambda: averaged_over(1) + averaged_over(2), GaugeError, "must share the Gaussian they are averaged over"),
    "add base points": (lambda: cut + random_action().recenter([1, 0, 0]).truncate(2), GaugeError, "base point, theirs differ by 1;"),
    "entry": (lambda: random_action()[0, 7], InputError, "indices in 0 … 2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case):
    request, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        request()
