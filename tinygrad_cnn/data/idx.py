"""The IDX format of the MNIST files: a big-endian header with dtype and shape, then the raw numbers."""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

#: The dtype code in the header's third byte; all numbers are stored big-endian.
_DTYPES: dict[int, np.dtype[Any]] = {
    0x08: np.dtype(">u1"),
    0x09: np.dtype(">i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}
_CODES = {dtype.newbyteorder("="): code for code, dtype in _DTYPES.items()}


def read_idx(path: str | os.PathLike[str]) -> npt.NDArray[Any]:
    """Read an IDX file, gzip'd or not (told by its first bytes), into a new array of native byte order.

    Raises FileNotFoundError if there is no such file, and ValueError, naming the file, the cause and the
    numbers, if it is cut short, damaged, no IDX file, or longer than its header says.

    >>> read_idx("t10k-labels-idx1-ubyte.gz")  # doctest: +SKIP
    array([7, 2, 1, ..., 4, 5, 6], shape=(10000,), dtype=uint8)
    """
    raw = _content(Path(path))
    dtype, shape, start = _header(raw, path)
    expected = math.prod(shape) * dtype.itemsize
    if len(raw) - start != expected:
        kind = "truncated" if len(raw) - start < expected else "too long"
        raise ValueError(
            f"{path}: IDX file is {kind}: its header says {dtype.name} of shape {shape}, "
            f"which takes {expected} bytes, but {len(raw) - start} bytes follow the header"
        )
    return np.frombuffer(raw, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def _content(path: Path) -> bytes:
    raw = path.read_bytes()
    if raw[:2] != b"\x1f\x8b":
        return raw
    try:
        return gzip.decompress(raw)
    except EOFError:
        raise ValueError(f"{path}: gzip file is truncated after {len(raw)} bytes") from None
    except (gzip.BadGzipFile, zlib.error, struct.error) as error:
        raise ValueError(f"{path}: gzip file of {len(raw)} bytes is damaged: {error}") from None


def _header(raw: bytes, path: str | os.PathLike[str]) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """The dtype, the shape and the offset of the first number."""
    if len(raw) < 4:
        raise ValueError(f"{path}: IDX file is truncated: it holds {len(raw)} bytes, the magic number takes 4")
    dtype = _DTYPES.get(raw[2])
    if raw[:2] != b"\0\0" or dtype is None:
        codes = ", ".join(f"{code:02x} ({known.name})" for code, known in _DTYPES.items())
        raise ValueError(
            f"{path}: not an IDX file: it starts with bytes {raw[:4].hex(' ')}, expected 00 00, "
            f"a dtype code out of {codes}, and the number of dimensions"
        )
    start = 4 + 4 * raw[3]
    if len(raw) < start:
        raise ValueError(
            f"{path}: IDX file is truncated: it holds {len(raw)} bytes, a header of {raw[3]} dimensions takes {start}"
        )
    if raw[3] > 64:  # the most dimensions a NumPy array can have
        raise ValueError(f"{path}: IDX file has {raw[3]} dimensions, at most 64 can be read")
    return dtype, struct.unpack(f">{raw[3]}I", raw[4:start]), start


def write_idx(path: str | os.PathLike[str], array: npt.ArrayLike) -> None:
    """Write an array as an IDX file, gzip'd if the name ends in .gz; the file appears whole or not at all.

    The dtype is uint8, int8, int16, int32, float32 or float64; TypeError for any other.

    >>> write_idx("labels.idx", np.array([3, 1, 4], np.uint8))  # doctest: +SKIP
    """
    values = np.asarray(array)
    code = _CODES.get(values.dtype.newbyteorder("="))
    if code is None:
        names = ", ".join(dtype.name for dtype in _CODES)
        raise TypeError(f"{path}: IDX cannot store {values.dtype}; convert to one of {names}")
    if any(size >= 2**32 for size in values.shape):
        raise ValueError(f"{path}: IDX sizes are below 2**32, got shape {values.shape}")
    raw = struct.pack(f">HBB{values.ndim}I", 0, code, values.ndim, *values.shape)
    raw += values.astype(_DTYPES[code]).tobytes()
    target = Path(path)
    if target.suffix == ".gz":
        raw = gzip.compress(raw, compresslevel=6, mtime=0)
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        partial.write_bytes(raw)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
