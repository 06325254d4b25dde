"""Pages: self-contained, escaped, the same for the same input; agreement and interactions in words."""

import base64

import numpy as np
import pytest

import fieldtheory as ft
from fieldtheory import plots
from fieldtheory.errors import InputError
from learners.agreement import agreement, default_sizes
from learners.interactions import PrincipalComponents, learn_interactions
from learners.report import Chapter, Picture, Report, Table, Text, panel


def test_panels_are_svg_and_repeatable():
    T = ft.SymmetricTensor.from_dense(np.diag([1.0, 2.0]))
    first, second = (panel(plots.coupling_scatter, T, T) for _ in range(2))
    assert first == second and b"<svg" in base64.b64decode(first)


def test_page_escapes_what_it_is_given_and_loads_nothing():
    chapter = Chapter("<b>", "a < b & c", [Text("<script>"), Table(["<i>"], [["1 < 2"]]), Picture(["AA=="], '"quoted"')])
    page = Report("<t>", "q?", [chapter, chapter], {"<k>": "<v>"}).html()
    for hostile in ("<b>a", "<script>", "<i>", "<k>", "<t>"):
        assert hostile not in page.replace("<title>", "").replace("<table>", "")
    assert "src=\"data:" in page and "href" not in page and page.count("a &lt; b &amp; c") == 4


def test_page_opens_with_the_first_sentence_of_each_verdict():
    chapter = Chapter("Fit", "It gains 0.1 nats. Here is why.", [])
    page = Report("t", "q", [chapter, chapter]).html()
    assert page.count("<li><b>Fit.</b> It gains 0.1 nats.</li>") == 2 and page.count("Here is why.") == 2


def test_table_aligns_in_a_terminal():
    lines = Table(["name", "x"], [["long name", "1"], ["b", "22"]]).text().splitlines()
    assert lines == ["name        x", "long name   1", "b          22"]


@pytest.mark.parametrize(("n_total", "expected"), [(8, (3, 4)), (100, (20, 50)), (4000, (20, 2000))])
def test_default_sizes_fit_into_the_data(n_total, expected):
    sizes = default_sizes(n_total)
    assert sizes == sorted(set(sizes)) and len(sizes) <= 9
    assert sizes[0] >= 3 and sizes[-1] <= n_total // 2 and sizes[0] <= expected[0] <= sizes[-1]


def test_default_sizes_need_two_halves():
    with pytest.raises(InputError, match="at least 8 rows"):
        default_sizes(7)


def test_eight_samples_are_enough_for_an_answer():
    found = agreement(np.random.default_rng(0).normal(size=(8, 2)), n_splits=2)
    assert found.summary()["measured"]["n_samples"] == [3]


def test_agreement_says_what_it_found():
    x = np.random.default_rng(0).normal(size=(400, 5)) * np.arange(1, 6)
    found = agreement(x, [20, 100], n_splits=20)
    gap = np.abs(found.prediction["convergence"] - found.measured["convergence"]).values
    assert np.all(gap < 4 * found.measured["convergence_error"].values + 0.01)
    assert "confirms the prediction" in found.verdict
    assert [row[0] for row in found.table().rows] == ["20", "100"]


def test_a_prediction_that_fails_is_called_so():
    x = np.random.default_rng(0).normal(size=(100, 5))
    found = agreement(x, [20, 40], n_splits=3)
    found.measured["convergence"][:] = 0.1
    assert "differs from the prediction" in found.verdict and "has not reached it" in found.verdict


def test_principal_components_are_orthonormal_and_ordered():
    x = np.random.default_rng(0).normal(size=(500, 4)) * [1, 3, 2, 0]
    basis = PrincipalComponents.of(x, 2)
    y = basis.project(x)
    np.testing.assert_allclose(basis.vectors.T @ basis.vectors, np.eye(2), atol=1e-12)
    assert y[:, 0].var() > y[:, 1].var() and abs(np.corrcoef(y.T)[0, 1]) < 1e-10
    with pytest.raises(InputError, match="at most the rank 3"):
        PrincipalComponents.of(x, 4)


def test_interactions_find_a_planted_triple():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3000, 3))
    x[:, 2] += 0.4 * x[:, 0] * x[:, 1]  # ln p holds +0.4 x0 x1 x2
    found = learn_interactions(x, order=3, n_layers=2, n_steps=1500, n_starts=2)
    strongest = found.table(1).rows[0]
    assert strongest[0] == "x0 · x1 · x2" and float(strongest[2].split()[0]) > 0.2
    assert "beats a Gaussian" in found.verdict
    z = (found.action[0, 1, 2] - found.estimate.action.normal_order(found.action.at, found.action.covariance)[0, 1, 2]) / (
        found.errors[3][0, 1, 2])
    assert abs(z) < 6  # flow and score matching, whose own errors are correlated and not in z


def test_interactions_of_a_gaussian_are_called_unfounded():
    x = np.random.default_rng(2).normal(size=(300, 3))
    assert "not established" in learn_interactions(x, order=3, n_layers=1, n_steps=300, n_starts=1).verdict
