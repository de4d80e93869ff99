"""Checkpoints: tensors, and the dicts, lists and numbers around them, in one safetensors file.

Nothing in such a file can run, unlike a pickle. The tensors are there for every reader of the format; what
safetensors has no place for (nesting, the order of keys, numbers, integer keys) is JSON text in its metadata,
next to a checksum of everything, because the format alone notices a file cut short but not a flipped bit.
"""

from __future__ import annotations

import json
import os
import secrets
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from .device import check as check_device
from .tensor import Tensor

Arrays: TypeAlias = dict[str, npt.NDArray[Any]]
StrPath: TypeAlias = str | os.PathLike[str]

_STRUCTURE = "tinygrad_cnn.structure"
_CHECKSUM = "tinygrad_cnn.crc32"
_RESERVED = "__metadata__"  # no name for a tensor in this format
_DTYPES = frozenset({"F32", "F64", "I64", "I32", "U8", "BOOL"})


def save(obj: Any, f: StrPath) -> None:
    """Write a state_dict, or nested dicts and lists of tensors, numbers, strings and None, to a file.

    An object with a `state_dict()` (a module, an optimizer) is saved as that. Tensors keep dtype, shape and
    values; the file appears at once and whole or, on an error, not at all. Raises TypeError naming the key of
    anything that cannot be saved.

    >>> import tinygrad_cnn as tg, tempfile, os
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> tg.save({"model": {"weight": tg.ones(2)}, "epoch": 3}, path)
    >>> tg.load(path)
    {'model': {'weight': tensor([1., 1.])}, 'epoch': 3}
    """
    if not isinstance(obj, Mapping) and hasattr(obj, "state_dict"):
        obj = obj.state_dict()
    if not isinstance(obj, Mapping | list | tuple):
        raise TypeError(f"save expects a state_dict, or a dict or list of tensors, got {type(obj).__name__}")
    arrays: Arrays = {}
    structure = json.dumps(_pack(obj, "", arrays))
    metadata = {_STRUCTURE: structure, _CHECKSUM: _checksum(structure, arrays)}
    _write_atomically(Path(f), arrays, metadata)


def load(f: StrPath, map_location: Any = None, weights_only: bool = True) -> Any:
    """What `save` wrote, or the dict of tensors in any other safetensors file; each tensor owns its memory.

    `map_location` may only be the CPU, and `weights_only` says what is always so. Raises FileNotFoundError,
    and ValueError naming the file and the cause when it is cut short, damaged or of another format.
    """
    if map_location is not None:
        check_device(map_location)
    if not weights_only:
        raise ValueError("weights_only=False asks for a pickle, which can run code; these files hold none")
    path = Path(f)
    arrays, metadata = _read(path)
    if _STRUCTURE not in metadata and _CHECKSUM not in metadata:  # not written by save
        return {name: Tensor(array) for name, array in arrays.items()}
    structure = metadata.get(_STRUCTURE, "")
    if metadata.get(_CHECKSUM) != _checksum(structure, arrays):
        raise ValueError(f"{path} is damaged: its content does not match its checksum")
    return _unpack(json.loads(structure), arrays)


# ------------------------------------------------------------------------------------------------------------
# Structure <-> JSON. A tensor is {"tensor": name}, a tuple {"tuple": [...]}, a dict {"dict": [[key, value]]}.


def _pack(obj: Any, at: str, arrays: Arrays) -> Any:
    """The JSON form of obj, whose tensors go to `arrays` under the path of keys that leads to them."""
    if isinstance(obj, Tensor):
        name = at
        while name in arrays or name == _RESERVED:  # {"a.b": x, "a": {"b": y}}
            name += "'"
        arrays[name] = np.asarray(obj.detach()._array, order="C")
        return {"tensor": name}
    if isinstance(obj, Mapping):
        items = [[_checked_key(key, at), _pack(value, _join(at, key), arrays)] for key, value in obj.items()]
        return {"dict": items}
    if isinstance(obj, list | tuple):
        items = [_pack(value, _join(at, i), arrays) for i, value in enumerate(obj)]
        return {"tuple": items} if isinstance(obj, tuple) else items
    if isinstance(obj, np.generic):
        obj = obj.item()
    if obj is None or isinstance(obj, bool | int | float | str):
        return obj
    hint = "; save its state_dict()" if hasattr(obj, "state_dict") else ""
    hint = "; wrap it with from_numpy()" if isinstance(obj, np.ndarray) else hint
    raise TypeError(
        f"cannot save the {type(obj).__name__} at {at!r}: a checkpoint holds tensors, numbers, "
        f"strings, None and dicts, lists and tuples of these{hint}"
    )


def _unpack(packed: Any, arrays: Arrays) -> Any:
    if isinstance(packed, list):
        return [_unpack(value, arrays) for value in packed]
    if not isinstance(packed, dict):
        return packed
    ((kind, content),) = packed.items()
    if kind == "tensor":
        return Tensor(arrays[content])
    if kind == "tuple":
        return tuple(_unpack(value, arrays) for value in content)
    return {key: _unpack(value, arrays) for key, value in content}


def _join(at: str, key: Any) -> str:
    return f"{at}.{key}" if at else str(key)


def _checked_key(key: Any, at: str) -> Any:
    if isinstance(key, str) or type(key) is int:
        return key
    place = f" in {at!r}" if at else ""
    raise TypeError(f"cannot save the key {key!r}{place}: keys are strings or ints, not {type(key).__name__}")


def _checksum(structure: str, arrays: Arrays) -> str:
    crc = zlib.crc32(structure.encode())
    for name in sorted(arrays):
        array = arrays[name]
        crc = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), crc)
        crc = zlib.crc32(array.reshape(-1).view(np.uint8).data, crc)
    return f"{crc:08x}"


# ------------------------------------------------------------------------------------------------------------
# Files


def _write_atomically(path: Path, arrays: Arrays, metadata: dict[str, str]) -> None:
    """Write beside the target, flush, then take the target's name: nobody ever sees half a file."""
    target = Path(os.path.realpath(path))  # a link keeps pointing to what it pointed to
    if target.is_dir():
        raise IsADirectoryError(f"{path} is a folder; save needs the name of a file")
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:  # a missing folder raises as it always does
            mode = os.fstat(file.fileno()).st_mode
        save_file(arrays, temporary, metadata=metadata)
        os.chmod(temporary, mode)  # the library leaves 0600, the umask may say otherwise
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path) -> tuple[Arrays, dict[str, str]]:
    with open(path, "rb") as file:  # FileNotFoundError and its kin, with Python's own words
        start = file.read(2)
    try:
        with safe_open(path, framework="np") as file:
            arrays = {name: _array(path, file, name) for name in file.keys()}  # noqa: SIM118  not a dict
            return arrays, file.metadata() or {}
    except SafetensorError as error:
        if start in (b"PK", b"\x80\x02", b"\x80\x04"):
            raise ValueError(
                f"{path} is not a safetensors file but a pickle, which torch.save and pickle.dump write; "
                "write it with safetensors.torch.save_file instead"
            ) from error
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error


def _array(path: Path, file: Any, name: str) -> npt.NDArray[Any]:
    dtype = file.get_slice(name).get_dtype()
    if dtype not in _DTYPES:
        raise ValueError(
            f"{path}: tensor {name!r} has dtype {dtype}, which tensors here do not have; "
            f"convert it to one of {', '.join(sorted(_DTYPES))}"
        )
    array: npt.NDArray[Any] = file.get_tensor(name)
    return array if array.flags.writeable and array.flags.owndata else array.copy()
