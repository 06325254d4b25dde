"""Reading samples from files, fingerprints and disjoint halves."""

import re
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldtheory.errors import FieldTheoryError, FileFormatError, InputError
from learners.data import disjoint_halves, fingerprint, load_samples

SAMPLES = np.random.default_rng(0).normal(size=(7, 3))


def _write_npy(path):
    np.save(path, SAMPLES)


def _write_npz(path):
    np.savez(path, samples=SAMPLES)


def _write_csv(path):
    np.savetxt(path, SAMPLES, delimiter=",", fmt="%.17g")


def _write_csv_with_header(path):
    np.savetxt(path, SAMPLES, delimiter=",", fmt="%.17g", header="a,b,c", comments="")


def _write_hdf5(path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file["measured/samples"] = SAMPLES


@pytest.mark.parametrize("name, write", [
    ("a.npy", _write_npy), ("a.npz", _write_npz), ("a.csv", _write_csv), ("b.csv", _write_csv_with_header),
    ("a.h5", _write_hdf5), ("a.nc", _write_hdf5)])
def test_every_format_gives_back_the_samples(tmp_path, name, write):
    write(tmp_path / name)
    np.testing.assert_array_equal(load_samples(tmp_path / name), SAMPLES)


def test_an_array_is_chosen_by_its_key(tmp_path):
    np.savez(tmp_path / "two.npz", first=SAMPLES, second=2 * SAMPLES)
    np.testing.assert_array_equal(load_samples(tmp_path / "two.npz", key="second"), 2 * SAMPLES)
    with pytest.raises(InputError, match=r"holds 'first', 'second'; one of its arrays must be chosen with key"):
        load_samples(tmp_path / "two.npz")
    with pytest.raises(InputError, match=r"holds 'first', 'second'; it has no array 'third'"):
        load_samples(tmp_path / "two.npz", key="third")


def _text(path):
    path.write_text("this is not a table\nof numbers")


def _ragged(path):
    path.write_text("1,2\n3\n")


def _empty(path):
    path.write_bytes(b"")


def _truncated(path):
    np.save(path, SAMPLES)
    path.write_bytes(path.read_bytes()[:-20])


def _truncated_archive(path):
    np.savez(path, SAMPLES)
    path.write_bytes(path.read_bytes()[:-60])


def _pickled(path):
    np.save(path, np.array([{"a": 1}, None], dtype=object), allow_pickle=True)


def _complex(path):
    np.save(path, SAMPLES + 1j)


def _nan(path):
    np.save(path, np.where(SAMPLES > 1, np.nan, SAMPLES))


def _rank_three(path):
    np.save(path, np.zeros((4, 3, 2)))


def _one_row(path):
    np.save(path, SAMPLES[:1])


def _strings(path):
    np.save(path, np.array([["a", "b"], ["c", "d"]]))


DAMAGED = "must be a complete {suffix} file of numbers, it is damaged or of another format; write it again."


@pytest.mark.parametrize("name, write, message", [
    ("a.txt", _text, "must be one of .npy, .npz, .csv, .h5, .hdf5, .nc, got .txt; convert it first."),
    ("a.npy", _text, DAMAGED), ("a.npz", _text, DAMAGED),
    ("a.csv", _text, "must hold numbers only below its header, row 1 is 'of numbers'."),
    ("a.csv", _ragged, "its rows have different lengths or there are none."),
    ("a.csv", _empty, "its rows have different lengths or there are none."),
    ("a.npy", _empty, DAMAGED), ("a.npy", _truncated, DAMAGED), ("a.npz", _truncated_archive, DAMAGED),
    ("a.npy", _pickled, DAMAGED),
    ("a.npy", _write_npz, "it is an archive; rename it to .npz."),
    ("a.npy", _complex, "must be real, got complex128; pass real and imaginary parts as separate columns."),
    ("a.npy", _nan, "must be finite"), ("a.npy", _rank_three, "got an array of rank 3"),
    ("a.npy", _one_row, "must hold at least 2 rows"), ("a.npy", _strings, "must be an array of real numbers, got dtype <U1")])
def test_what_is_not_a_table_of_numbers_gets_one_sentence_with_the_path(tmp_path, name, write, message):
    path = tmp_path / name
    with open(path, "wb") as file:
        write(file if write is _write_npz else path)
    with pytest.raises(FieldTheoryError, match=re.escape(message.format(suffix=path.suffix))) as caught:
        load_samples(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_hdf5_file_gets_one_sentence(tmp_path):
    pytest.importorskip("h5py")
    _text(tmp_path / "a.h5")
    with pytest.raises(FileFormatError, match=r"a.h5 must be a complete .h5 file of numbers, it is damaged"):
        load_samples(tmp_path / "a.h5")


def test_without_h5py_the_sentence_says_what_to_install(tmp_path, monkeypatch):
    _text(tmp_path / "a.h5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match=r"a.h5 needs h5py to be read, it is not installed; pip install h5py, or save a .npy."):
        load_samples(tmp_path / "a.h5")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileFormatError, match=r"absent.npy must be a file, there is none; check the path."):
        load_samples(tmp_path / "absent.npy")


def test_the_fingerprint_sees_values_and_shape_only():
    assert fingerprint(SAMPLES) == fingerprint(np.asfortranarray(SAMPLES)) == fingerprint(SAMPLES.astype(">f8"))
    different = [SAMPLES.reshape(3, 7), SAMPLES[::-1], np.nextafter(SAMPLES, 9), SAMPLES[:-1]]
    assert len({fingerprint(a) for a in [SAMPLES, *different]}) == 5


@given(n_samples=st.integers(1, 50), rest=st.integers(0, 50), seed=st.integers(0, 2**32))
def test_halves_are_disjoint_and_reproducible(n_samples, rest, seed):
    n_total = 2 * n_samples + rest
    first, second = disjoint_halves(n_total, n_samples, seed)
    union = np.concatenate([first, second])
    assert len(first) == len(second) == n_samples
    assert len(np.unique(union)) == 2 * n_samples
    assert 0 <= union.min() <= union.max() < n_total
    np.testing.assert_array_equal(disjoint_halves(n_total, n_samples, seed), (first, second))


def test_halves_choose_every_row_equally_often():
    """200 draws of 5 of 20 rows into the first half: each row's count is binomial(200, 1/4); 20 rows inside 4.5 σ, alarm 1e-4."""
    counts = np.bincount(np.concatenate([disjoint_halves(20, 5, seed)[0] for seed in range(200)]), minlength=20)
    assert np.all(np.abs(counts - 50) < 4.5 * np.sqrt(200 * 0.25 * 0.75))


def test_halves_that_would_overlap_are_refused():
    with pytest.raises(InputError, match=r"n_samples must be at most 5, half of the 11 samples, got 6; the halves would overlap."):
        disjoint_halves(11, 6, seed=0)
