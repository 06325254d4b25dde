"""What actions take at rest and at their peak, measured; requests that cannot fit are refused before they begin."""

import tracemalloc

import numpy as np
import pytest

import fieldtheory as ft
from fieldtheory import memory
from fieldtheory.errors import InputError
from fieldtheory.packing import packed_size


def measured(request):
    """What is kept of a request, and its peak, in bytes."""
    request()  # tables that are kept for good are made once
    tracemalloc.start()
    kept = request()
    rest, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del kept
    return rest, peak


N_DIM = 60
VALUES = np.random.default_rng(0).normal(size=packed_size(N_DIM, 4))
DENSE = ft.Action({4: ft.SymmetricTensor.from_packed(VALUES, N_DIM, 4)})
REQUESTS = {
    "build": lambda path: ft.SymmetricTensor.from_packed(VALUES, N_DIM, 4),
    "multiple": lambda path: 2.0 * DENSE,
    "sum": lambda path: DENSE + DENSE,
    "load": lambda path: ft.Action.load(path),
}


@pytest.mark.parametrize("case", REQUESTS)
def test_the_peak_is_at_most_twice_the_result(case, tmp_path):
    path = DENSE.save(tmp_path / "dense.safetensors")
    rest, peak = measured(lambda: REQUESTS[case](path))
    assert VALUES.nbytes <= rest < 1.02 * VALUES.nbytes and peak < 2.05 * VALUES.nbytes


def test_evaluation_takes_the_couplings_once_more_and_little_else():
    x = np.zeros((10, N_DIM))
    _, peak = measured(lambda: ft.Action(DENSE.couplings).score(x))
    assert peak < 2.2 * VALUES.nbytes


def test_a_lattice_of_a_hundred_thousand_sites_takes_less_than_100_mb():
    graph = ft.theories.lattice((316, 316))
    rest, peak = measured(lambda: ft.theories.phi4(graph, 1.0, 1.0))
    assert rest < 50e6 and peak < 100e6


def test_what_cannot_fit_is_refused_with_its_size(monkeypatch):
    monkeypatch.setattr(memory, "physical_memory", lambda: 16e9)
    memory.require(15_999_999_999, "a table", "shorten it")
    with pytest.raises(InputError, match=r"^a table must fit in memory, 17 GB are needed and this machine has 16 GB; shorten it\.$"):
        memory.require(17 * 10**9, "a table", "shorten it")
    with pytest.raises(InputError, match=r"10\^391 GB are needed"):
        memory.require(10**400, "a table", "shorten it")
