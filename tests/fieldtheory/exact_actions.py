"""Any exact action, equality of bits, and other things that several tests of notation need."""

import numpy as np
from hypothesis import strategies as st

import fieldtheory as ft
from fieldtheory.tensors import packed_size

anything_finite = st.floats(allow_nan=False, allow_infinity=False)


origin = st.just(0.0)


@st.composite
def actions(draw, entries=anything_finite, at=origin):
    """Any exact action of up to three variables and order four."""
    n_dim, orders = draw(st.integers(1, 3)), draw(st.sets(st.integers(0, 4), min_size=1)) | {1}
    couplings = {k: draw(st.lists(entries, min_size=packed_size(n_dim, k), max_size=packed_size(n_dim, k))) for k in orders}
    names = draw(st.sampled_from([None, ("φ", "g", "_")[:n_dim], ("phi[0,2]", "phi[1,0]", "phi[10,0]")[:n_dim]]))
    return ft.Action({k: ft.SymmetricTensor.from_packed(values, n_dim, k) for k, values in couplings.items()},
                     draw(st.lists(at, min_size=n_dim, max_size=n_dim)), names=names)


def assert_same_couplings(first, second):
    """Bit for bit; an order that is missing is zero."""
    assert first.n_dim == second.n_dim
    for k in {*first.couplings, *second.couplings}:
        np.testing.assert_array_equal(first._coupling(k).values, second._coupling(k).values)


def braces_match(latex):
    depth = 0
    for character in latex:
        depth += (character == "{") - (character == "}")
        assert depth >= 0
    return depth == 0
