"""Comparison against reference metrics; gauges brought together or refused; symmetries by brute force; series; imports."""

import ast
import itertools
import json
import pathlib
import re
import subprocess
import sys

import networkx as nx
import numpy as np
import pytest

import fieldtheory as ft
from fieldtheory import symmetries
from fieldtheory.errors import GaugeError, InputError
from fieldtheory.series import compose

ROOT = pathlib.Path(__file__).parents[2]
METRICS = json.loads((ROOT / "tests/data/action.json").read_text())["metrics"]


def reference_action(lists):
    return ft.Action({0: lists[0], **{k: ft.SymmetricTensor.from_packed(lists[k], 3, k) for k in range(1, len(lists))}})


def test_reference_metrics():
    A, B = reference_action(METRICS["A"]), reference_action(METRICS["B"])
    found = ft.compare(A, B)
    np.testing.assert_allclose(list(found.relative_error.values()), METRICS["rel_error"], rtol=1e-10)
    np.testing.assert_allclose(list(found.cosine.values()), METRICS["cosine"], rtol=1e-10)
    for k in range(1, 5):
        np.testing.assert_allclose(A.couplings[k].inner(B.couplings[k], METRICS["Sigma"]), METRICS["inner_Sigma"][k - 1], rtol=1e-10)


def test_with_samples_the_comparison_does_not_depend_on_coordinates():
    S, T = ft.theories.random_interactions(3, seed=0), ft.theories.random_interactions(3, seed=1)
    rng = np.random.default_rng(0)
    y, M = rng.normal(size=(500, 3)), rng.normal(size=(3, 3)) + 2 * np.eye(3)
    here, there = ft.compare(S, T, samples=y @ M.T), ft.compare(S.pullback(M), T.pullback(M), samples=y)
    for k in (2, 3, 4):
        assert here.cosine[k] == pytest.approx(there.cosine[k], rel=1e-9)
        assert here.relative_error[k] == pytest.approx(there.relative_error[k], rel=1e-9)
    assert ft.compare(S, T).cosine[3] != pytest.approx(ft.compare(S.pullback(M), T.pullback(M)).cosine[3], rel=1e-3)


def test_null_spread_is_that_of_random_tensors():
    rng, n = np.random.default_rng(0), 6
    pairs = [[ft.SymmetricTensor.from_packed(rng.normal(size=21) / np.sqrt(ft.SymmetricTensor.zeros(n, 2).multiplicity), n, 2)
              for _ in range(2)] for _ in range(2000)]
    cosines = [a.inner(b) / (a.norm() * b.norm()) for a, b in pairs]
    S = ft.theories.gaussian(np.eye(n))
    assert np.std(cosines) == pytest.approx(ft.compare(S, S).null_cosine[2], rel=4 / np.sqrt(2 * 2000))


def test_a_true_coupling_of_zero_has_no_relative_error():
    S, truth = ft.theories.random_interactions(2), ft.theories.gaussian(np.eye(2))
    found = ft.compare(S, truth)
    assert np.isnan(found.relative_error[3]) and np.isnan(found.cosine[3]) and found.norm_learned[3] > 0
    assert "nan" in found.table()


def test_exact_actions_are_brought_into_the_others_gauge():
    S, at = ft.theories.random_interactions(3), np.array([0.2, -0.1, 0.3])
    cut = S.recenter(at).truncate(3)
    found = ft.compare(cut, S)
    assert max(found.relative_error[k] for k in (1, 2, 3)) < 1e-14 and "cut at order 3" in found.note
    averaged = S.normal_order(at, 0.3 * np.eye(3))
    for pair in ((averaged, S), (S, averaged)):
        found = ft.compare(*pair)
        assert max(found.relative_error[k] for k in (1, 2, 3, 4)) < 1e-13 and "averaged over" in found.note
    projected = ft.Action(S.couplings, gauge="projection")
    assert ft.compare(projected, S).relative_error[4] < 1e-14


def test_an_estimate_brings_its_errors():
    x = np.random.default_rng(0).normal(size=(2000, 2))
    found = ft.compare(ft.estimate(x, 4), ft.theories.gaussian(np.eye(2)))
    assert set(found.z) == {1, 2, 3, 4} and np.abs(np.concatenate(list(found.z.values()))).max() < 4.5
    assert "sampling noise" in found.table() and len(found.plot().axes) == 4


@pytest.mark.parametrize("cut_at", [None, 3])
def test_an_estimate_goes_to_the_base_point_of_the_truth(cut_at):
    S, at = ft.theories.random_interactions(2, {3: 0.1, 4: 0.05}).recenter([3, -2]), np.array([3.0, -2])
    S = S if cut_at is None else S.truncate(cut_at)
    x = np.random.default_rng(0).normal(size=(2000, 2))
    estimate = ft.estimate(x, 4)
    found, moved = ft.compare(estimate, S), estimate.recenter(at)
    np.testing.assert_array_equal(found.learned.at, at)
    for k in (1, 2, 3):
        error = (moved.action.couplings[k] - S.couplings[k]).packed / moved.standard_error[k].packed
        np.testing.assert_allclose(found.z[k], error, rtol=1e-10)


def test_an_action_brings_its_errors():
    """Those of the constant are left out; an entry without scatter has no z unless it is off."""
    S = ft.Action({0: 1.0, 1: [1.0, 2.0]}, gauge="projection", standard_error={0: ft.SymmetricTensor.from_packed([0.1], 2, 0),
                                                                              1: ft.SymmetricTensor.from_packed([0.5, 0.0], 2, 1)})
    found = ft.compare(S, ft.Action({1: [0.0, 2.0]}))
    assert sorted(found.z) == [1] and found.norm_error == {1: 0.5}
    np.testing.assert_array_equal(found.z[1], [2.0, np.nan])


def test_errors_of_orders_that_were_cut_are_cut_too():
    S = ft.theories.random_interactions(2, {3: 0.1, 4: 0.05})
    found = ft.compare(ft.estimate(np.random.default_rng(0).normal(size=(2000, 2)), 4), S.truncate(3))
    assert set(found.z) == set(found.norm_error) == set(found.cosine) == {1, 2, 3}


cut = ft.theories.random_interactions(2).truncate(3)
elsewhere = ft.theories.random_interactions(2).recenter([1, 1]).truncate(3)
REFUSED = {
    "base points": (lambda: ft.compare(cut, elsewhere), GaugeError, "must share their base point"),
    "gauges": (lambda: ft.compare(cut, ft.Action(cut.couplings, gauge="projection")), GaugeError, "must share their gauge"),
    "n_dim": (lambda: ft.compare(cut, ft.theories.gaussian(np.eye(3))), InputError, "same n_dim, got 2 and 3"),
    "short projection": (lambda: ft.compare(ft.Action({2: -np.eye(2)}, gauge="projection"), ft.theories.random_interactions(2)),
                         InputError, "projection of order 2 must not be compared with an exact action of higher order 4"),
    "samples": (lambda: ft.compare(cut, cut, samples=np.eye(3)), InputError, r"must have the 2 columns of the actions, got shape \(3, 3\)"),
    "permutations": (lambda: symmetries.orbits(3, 2, [[0, 0, 1]]), InputError, "each name the 3 variables once"),
    "degree 0": (lambda: compose({}, {0: np.ones(2)}, 2), InputError, "degree 0 vanishes"),
    "shape": (lambda: compose({}, {1: np.eye(2), 2: np.ones((2, 2))}, 2), InputError, "part of degree 2 must have shape"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case):
    request, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        request()


@pytest.mark.parametrize(("graph", "count"), [(ft.theories.lattice((3, 3)), 72), (nx.cycle_graph(5), 10), (nx.path_graph(3), 2)])
def test_automorphisms_by_brute_force(graph, count):
    group = symmetries.automorphisms(graph)
    A = nx.to_numpy_array(graph)
    assert len(group) == len({tuple(g) for g in group}) == count
    for g in group:
        np.testing.assert_array_equal(A[np.ix_(g, g)], A)
    if len(A) <= 5:
        assert count == sum(np.array_equal(A[np.ix_(p, p)], A) for p in itertools.permutations(range(len(A))))


def test_orbits_join_images_and_only_those():
    group = symmetries.automorphisms(nx.cycle_graph(5))
    label = symmetries.orbits(5, 3, group)
    indices = ft.tensors.colex_indices(5, 3)
    for a, I in enumerate(indices):
        images = {tuple(sorted(g[I])) for g in group}
        assert {tuple(indices[b]) for b in np.flatnonzero(label == label[a])} == images
    np.testing.assert_array_equal(label, symmetries.orbits(5, 3, group[:4]) if len({*map(tuple, group[:4])}) == 10 else label)
    weights = symmetries.orbit_weights(label, 7)
    assert weights.sum() == pytest.approx(1) and np.all(weights[label != label[7]] == 0)


def test_generators_are_enough():
    turn, flip = np.roll(np.arange(6), 1), np.arange(6)[::-1]
    np.testing.assert_array_equal(symmetries.orbits(6, 2, [turn, flip]),
                                  symmetries.orbits(6, 2, symmetries.automorphisms(nx.cycle_graph(6))))


def test_composition_is_the_composed_polynomial():
    """A cubic map of one variable into two, order 6: against numpy's polynomial arithmetic."""
    rng = np.random.default_rng(0)
    S = ft.Action({k: ft.SymmetricTensor.from_packed(rng.normal(size=k + 1), 2, k) for k in range(1, 4)})
    f = [np.r_[0.0, rng.normal(size=3)] for _ in range(2)]  # f_i(u) = Σ_d f_i[d] u^d
    series = {d: np.array([[f[0][d]], [f[1][d]]]).reshape((2,) + (1,) * d) for d in (1, 2, 3)}
    found = compose(S.couplings, series, 6)
    total = np.zeros(10)
    for T in S.couplings.values():
        for index, w in zip(T.indices, T.packed * T.multiplicity):
            term = np.ones(1)
            for i in index:
                term = np.convolve(term, f[i])
            total[: len(term)] += w * term
    np.testing.assert_allclose([found[k].packed[0] for k in range(7)], total[:7], atol=1e-12)


def python_files(package):
    return sorted((ROOT / package).rglob("*.py"))


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_fieldtheory_knows_nothing_of_torch_or_learners():
    for path in python_files("fieldtheory"):
        assert not {name.split(".")[0] for name in imported(path)} & {"torch", "learners"}, path


def test_learners_use_only_public_names_of_fieldtheory():
    for path in python_files("learners"):
        private = [name for name in imported(path) if name.startswith("fieldtheory") and re.search(r"\._(?!_)", name)]
        assert not private, (path, private)


@pytest.mark.parametrize("package", ["fieldtheory", "learners"])
def test_import_loads_nothing_heavy(package):
    code = f"import {package}, sys; print(sorted({{'torch', 'matplotlib', 'numba', 'scipy'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout == "[]\n"


@pytest.mark.parametrize("package", ["fieldtheory", "learners"])
def test_public_names_exist(package):
    module = __import__(package)
    for name in module.__all__:
        assert getattr(module, name) is not None and name in dir(module)
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        getattr(module, "nonsense")  # noqa: B009
