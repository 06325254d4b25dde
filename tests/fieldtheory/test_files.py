"""Files: bit-exact round trips, whole or not at all, and every way a file can lie."""

import json
import os
import stat

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save_file

import fieldtheory as ft
from fieldtheory import files
from fieldtheory.errors import FileFormatError, InputError

ARRAYS = hnp.arrays(st.sampled_from([np.float64, np.int64, np.uint8]), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
JSON = st.recursive(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=6)


@given(st.dictionaries(st.text("abc_0", min_size=1, max_size=6), ARRAYS, max_size=3), JSON)
@settings(deadline=None, max_examples=60)
def test_round_trip_is_bit_exact(tmp_path_factory, arrays, extra):
    path = tmp_path_factory.mktemp("f") / "f.safetensors"
    found, header = files.read(files.write(path, "thing", arrays, {"extra": extra}), "thing")
    assert set(found) == set(arrays) and header == {"kind": "thing", "format": files.FORMAT, "extra": extra}
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()  # NaN payloads and −0 too


def test_arrays_of_any_layout_are_kept(tmp_path):
    table = np.arange(12.0).reshape(3, 4)
    for array in (table.T, table[:, ::2], table[::-1], np.broadcast_to(1.0, (2, 2))):
        found, _ = files.read(files.write(tmp_path / "f", "thing", {"a": array}, {}), "thing")
        np.testing.assert_array_equal(found["a"], array)


@given(hnp.arrays(np.float64, 6, elements=st.floats(allow_nan=False, allow_infinity=False)), st.text())
@settings(deadline=None, max_examples=40)
def test_actions_survive_bit_for_bit(tmp_path_factory, packed, name):
    path = tmp_path_factory.mktemp("a") / "a.safetensors"
    S = ft.Action({2: ft.SymmetricTensor.from_packed(packed, 3, 2)}, names=[name, "é", ""])
    S.save(path)
    R = ft.Action.load(path)
    assert R.couplings[2].packed.tobytes() == packed.tobytes() and R.names == S.names and list(R.couplings) == [2]


def test_same_content_same_bytes(tmp_path):
    S = ft.theories.random_interactions(3)
    assert S.save(tmp_path / "a").read_bytes() == S.save(tmp_path / "b").read_bytes()


def meta(text):
    return lambda path: save_file({"at": np.zeros(2)}, path, metadata={"fieldtheory": text})


def cut(n_bytes):
    def write(path):
        whole = ft.theories.random_interactions(3).save(path).read_bytes()
        path.write_bytes(whole[:n_bytes])
    return write


DAMAGED = "must be a complete safetensors file, it is damaged or of another format"
STRANGE = "must carry a fieldtheory header, it has none"
HOSTILE = {
    "missing": (lambda path: None, "must be a file, there is none"),
    "folder": (lambda path: path.mkdir(), "must be a file, there is none"),
    "empty": (lambda path: path.write_bytes(b""), DAMAGED),
    **{f"cut after {n} bytes": (cut(n), DAMAGED) for n in (1, 7, 8, 100, 400, -1)},
    "pickle that would run": (lambda path: path.write_bytes(b"cos\nsystem\n(S'touch /tmp/hostile'\ntR."), DAMAGED),
    "zip, as torch writes": (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(200)), DAMAGED),
    "npy": (lambda path: np.save(path.open("wb"), np.eye(2)), DAMAGED),
    "header longer than the file": (lambda path: path.write_bytes((2**62).to_bytes(8, "little") + b"{}"), DAMAGED),
    "array beyond the end": (lambda path: path.write_bytes(
        (n := json.dumps({"a": {"dtype": "F64", "shape": [10**12], "data_offsets": [0, 8 * 10**12]}}).encode())
        and len(n).to_bytes(8, "little") + n), DAMAGED),
    "no header": (lambda path: save_file({"a": np.ones(2)}, path), STRANGE),
    "header of another program": (lambda path: save_file({"a": np.ones(2)}, path, metadata={"format": "pt"}), STRANGE),
    "no JSON": (meta("kind=thing"), STRANGE),
    "a list": (meta("[1, 2]"), STRANGE),
    "a number": (meta("3"), STRANGE),
    "no format": (meta('{"kind": "thing"}'), STRANGE),
    "endless nesting": (meta("[" * 100_000), STRANGE),
    "endless digits": (meta('{"kind": "thing", "format": ' + "9" * 5000 + "}"), STRANGE),
    "newer": (meta('{"kind": "thing", "format": 2}'), "must be of format 1, it is of format 2; update fieldtheory to read it"),
    "format in words": (meta('{"kind": "thing", "format": "1"}'), "must be of format 1, it is of format '1'"),
    "other kind": (meta('{"kind": "learner", "format": 1}'), "must hold a fieldtheory thing, it holds 'learner'"),
    "kind of any length": (meta(json.dumps({"kind": "k" * 9999, "format": 1})), r"it holds 'k{40}'\."),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_in_one_sentence_that_names_them(case, tmp_path):
    make, message = HOSTILE[case]
    path = tmp_path / "hostile.safetensors"
    make(path)
    with pytest.raises(FileFormatError, match=message) as refusal:
        files.read(path, "thing")
    assert str(refusal.value).startswith(str(path)) and "\n" not in str(refusal.value) and len(str(refusal.value)) < 400


ACTION = {"n_dim": 2, "orders": [2], "gauge": "exact", "names": None}
UNFIT = {
    "missing n_dim": {"n_dim": None},
    "n_dim beyond any number": {"n_dim": 10**400},
    "endless order": {"n_dim": 10**9, "orders": [10**9], "arrays": {"coupling_1000000000": np.ones(3)}},
    "negative order": {"orders": [-2]},
    "orders in words": {"orders": "2"},
    "no orders": {"orders": []},
    "unknown gauge": {"gauge": "natural"},
    "gauge of no type": {"gauge": ["exact"]},
    "normal-ordered over nothing": {"gauge": "normal_ordered"},
    "names that are a number": {"names": 3},
    "too few names": {"names": ["a"]},
    "too few entries": {"arrays": {"coupling_2": np.ones(2)}},
    "entries in a table": {"arrays": {"coupling_2": np.ones((3, 1))}},
    "nan": {"arrays": {"coupling_2": np.array([1, np.nan, 1])}},
    "base point in a table": {"arrays": {"at": np.zeros((2, 2))}},
}


@pytest.mark.parametrize("case", UNFIT)
def test_headers_that_do_not_fit_their_arrays_are_refused(case, tmp_path):
    changes = dict(UNFIT[case])
    arrays = {"coupling_2": np.ones(3), "at": np.zeros(2), **changes.pop("arrays", {})}
    path = files.write(tmp_path / "a.safetensors", "action", arrays, {**ACTION, **changes})
    with pytest.raises(FileFormatError, match="must hold a complete action, its header and arrays do not fit together"):
        ft.Action.load(path)


def test_the_unchanged_header_is_read(tmp_path):
    S = ft.Action.load(files.write(tmp_path / "a", "action", {"coupling_2": np.ones(3), "at": np.zeros(2)}, ACTION))
    assert S[0, 1] == 1


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("before", ["old", None])
def test_an_interrupted_write_leaves_what_was_there(error, before, tmp_path):
    path = tmp_path / "kept"
    if before:
        path.write_text(before)
    with pytest.raises(error), files.atomic(path) as temporary:
        temporary.write_text("half")
        raise error
    assert [p.read_text() for p in tmp_path.iterdir()] == ([before] if before else [])


def test_what_cannot_be_written_leaves_the_old_file(tmp_path):
    path = files.write_text(tmp_path / "f", "old")
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write(path, "thing", {}, {"bad": np.nan})
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="elsewhere an open file cannot be replaced")
def test_readers_never_see_half_a_file(tmp_path):
    path = files.write_text(tmp_path / "f", "old")
    with files.atomic(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old" and temporary.parent == path.parent
    assert path.read_text() == "new"
    with path.open() as opened_before:
        files.write_text(path, "newest")
        assert opened_before.read() == "new"


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of posix")
def test_permissions_are_those_of_a_plain_open(tmp_path):
    (tmp_path / "plain").write_text("x")
    files.write_text(tmp_path / "ours", "x")
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_text_is_utf8(tmp_path):
    assert files.write_text(tmp_path / "t", "Σ_k A^(k)").read_bytes().decode() == "Σ_k A^(k)"


@pytest.mark.parametrize(("target", "message"), [("no/such/file", "must lie in an existing folder, .*no.such is none; create it first"),
                                                 (".", "must name a file, .* is a folder")])
def test_places_that_cannot_hold_a_file(target, message, tmp_path):
    with pytest.raises(InputError, match=message):
        files.write_text(tmp_path / target, "x")
    assert list(tmp_path.iterdir()) == []
