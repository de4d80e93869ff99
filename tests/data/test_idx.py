"""The IDX reader and writer: round trips, and an error that names the file for every kind of damage."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinygrad_cnn.data import read_idx, write_idx

DTYPES = [np.uint8, np.int8, np.int16, np.int32, np.float32, np.float64]
ARRAYS = hnp.arrays(st.sampled_from(DTYPES), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
NAMES = st.sampled_from(["numbers.idx", "numbers.gz"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("idx")


@given(array=ARRAYS, name=NAMES)
def test_what_was_written_is_read(folder: Path, array: np.ndarray, name: str) -> None:
    write_idx(folder / name, array)
    back = read_idx(folder / name)
    assert back.dtype == array.dtype
    assert back.dtype.isnative
    assert back.flags.writeable
    np.testing.assert_array_equal(back, array)
    assert list(folder.glob("*.part")) == []


@given(array=ARRAYS, name=NAMES, share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_an_error_that_names_it(
    folder: Path, array: np.ndarray, name: str, share: float
) -> None:
    path = folder / name
    write_idx(path, array)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=rf"{name}.*(truncated|damaged)"):
        read_idx(path)


@given(array=ARRAYS, share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_in_a_gzip_file_is_never_read_as_other_numbers(
    folder: Path, array: np.ndarray, share: float, bit: int
) -> None:
    path = folder / "flipped.gz"
    write_idx(path, array)
    damaged = bytearray(path.read_bytes())
    damaged[int(share * len(damaged))] ^= 1 << bit
    path.write_bytes(damaged)
    try:
        back = read_idx(path)  # bits of the gzip header, such as the file's time, do not matter
    except ValueError as error:
        assert "flipped.gz" in str(error)  # noqa: PT017  # both outcomes are right
    else:
        np.testing.assert_array_equal(back, array)


@given(array=ARRAYS, name=NAMES, extra=st.binary(min_size=1, max_size=9))
def test_bytes_after_the_last_number_are_an_error(folder: Path, array: np.ndarray, name: str, extra: bytes) -> None:
    path = folder / name
    write_idx(path, array)
    raw = path.read_bytes()
    path.write_bytes(gzip.compress(gzip.decompress(raw) + extra) if name.endswith(".gz") else raw + extra)
    with pytest.raises(ValueError, match=rf"{name}: IDX file is too long.*{array.nbytes} bytes"):
        read_idx(path)


def test_the_format_byte_by_byte(folder: Path) -> None:
    (folder / "two-by-three").write_bytes(bytes.fromhex("00000b02 00000002 00000003 0001 0002 0003 fffc 0005 0006"))
    np.testing.assert_array_equal(read_idx(folder / "two-by-three"), np.array([[1, 2, 3], [-4, 5, 6]], np.int16))
    write_idx(folder / "again", np.array([[1, 2, 3], [-4, 5, 6]], np.dtype(">i2")))
    assert (folder / "again").read_bytes() == (folder / "two-by-three").read_bytes()


@pytest.mark.parametrize("start", ["01000801", "00010801", "00000a01", "00000f01"])
def test_other_first_bytes_are_no_idx_file(folder: Path, start: str) -> None:
    (folder / "other").write_bytes(bytes.fromhex(start + "00000001 05"))
    with pytest.raises(ValueError, match=rf"other: not an IDX file.*{bytes.fromhex(start).hex(' ')}"):
        read_idx(folder / "other")


def test_a_header_of_impossible_size_is_an_error(folder: Path) -> None:
    (folder / "huge").write_bytes(b"\0\0\x0e\x04" + b"\xff" * 16)
    with pytest.raises(ValueError, match="huge: IDX file is truncated"):
        read_idx(folder / "huge")
    (folder / "deep").write_bytes(b"\0\0\x08\xff" + b"\0\0\0\1" * 255 + b"\0")
    with pytest.raises(ValueError, match="deep: IDX file has 255 dimensions, at most 64"):
        read_idx(folder / "deep")


def test_a_missing_file_and_a_dtype_without_a_code(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        read_idx(folder / "absent.gz")
    with pytest.raises(TypeError, match="IDX cannot store int64; convert to one of uint8"):
        write_idx(folder / "wide", np.zeros(3, np.int64))
    assert not (folder / "wide").exists()
