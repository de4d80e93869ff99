"""Checkpoints: what is saved comes back, everything else raises and leaves files as they were."""

from __future__ import annotations

import json
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_cnn as tg
from tinygrad_cnn import nn, optim

DTYPES = (np.float32, np.float64, np.int64, np.int32, np.uint8, np.bool_)


@st.composite
def tensors(draw: st.DrawFn) -> tg.Tensor:
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    array = rng.integers(0, 256, shape).astype(draw(st.sampled_from(DTYPES)))
    return tg.from_numpy(np.asarray(array).T if draw(st.booleans()) else np.asarray(array))


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
keys = st.text(max_size=5) | st.integers()
trees = st.dictionaries(
    keys,
    st.recursive(
        tensors() | scalars,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(keys, inner, max_size=3)
        ),
        max_leaves=8,
    ),
    max_size=4,
)


def assert_equal(a: Any, b: Any) -> None:
    """The same structure, types, order of keys, dtypes, shapes and bits."""
    assert type(a) is type(b)
    if isinstance(a, tg.Tensor):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.numpy().tobytes() == b.numpy().tobytes()
    elif isinstance(a, dict):
        assert list(a) == list(b)
        assert list(map(type, a)) == list(map(type, b))
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    else:
        assert repr(a) == repr(b)  # NaN is NaN, -0.0 is not 0.0


@given(tree=trees)
def test_what_is_saved_comes_back(tree: dict[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "tree.safetensors"
    tg.save(tree, path)
    assert_equal(tg.load(path), tree)


def test_a_file_that_starts_as_a_pickle_does_is_read(tmp_path: Path) -> None:
    """A header of 0x0480 bytes: the length comes first in the file."""
    tg.save({"x": tg.ones(1), "text": ""}, tmp_path / "m")
    (length,) = struct.unpack("<Q", (tmp_path / "m").read_bytes()[:8])
    tg.save({"x": tg.ones(1), "text": "x" * (0x480 - length)}, tmp_path / "m")
    assert (tmp_path / "m").read_bytes()[:2] == b"\x80\x04"
    assert tg.load(tmp_path / "m")["x"].item() == 1


def test_a_loaded_tensor_owns_writable_memory_and_has_no_history(tmp_path: Path) -> None:
    weight = tg.ones(2, 3, requires_grad=True)
    tg.save({"w": weight, "computed": weight * 2}, tmp_path / "m")
    loaded = tg.load(tmp_path / "m")
    assert not loaded["w"].requires_grad
    assert not loaded["computed"].requires_grad
    loaded["w"] += 1
    assert weight.tolist() == [[1, 1, 1], [1, 1, 1]]
    assert tg.load(tmp_path / "m")["w"].tolist() == [[1, 1, 1], [1, 1, 1]]


def test_a_file_for_every_reader_of_safetensors(tmp_path: Path) -> None:
    state = {"conv.weight": tg.ones(2, 1, 3, 3), "conv.bias": tg.zeros(2), "steps": tg.tensor(3)}
    tg.save(state, tmp_path / "m")
    read = safetensors.numpy.load_file(tmp_path / "m")
    assert set(read) == set(state)
    for name, array in read.items():
        np.testing.assert_array_equal(array, state[name].numpy())
    safetensors.numpy.save_file(read, tmp_path / "again")
    again = tg.load(tmp_path / "again")
    assert {name: x.tolist() for name, x in again.items()} == {name: x.tolist() for name, x in state.items()}


def test_names_that_meet_are_kept_apart(tmp_path: Path) -> None:
    tree = {"a.b": tg.zeros(1), "a": {"b": tg.ones(1)}, 0: tg.ones(2), "0": tg.zeros(2)}
    tree |= {"__metadata__": tg.ones(3), "__metadata__'": tg.zeros(3)}  # the first is no name in a safetensors file
    tg.save(tree, tmp_path / "m")
    assert_equal(tg.load(tmp_path / "m"), tree)


def test_training_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    def train(p: tg.Tensor, optimizer: Any, scheduler: Any, steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            (p * p).sum().backward()
            optimizer.step()
            scheduler.step()

    def make(start: tg.Tensor) -> tuple[Any, Any, Any]:
        p = start.detach().clone().requires_grad_()
        optimizer = optim.Adam([p], lr=0.1)
        return p, optimizer, optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=20)

    p, optimizer, scheduler = make(tg.tensor([1.0, -2.0, 3.0]))
    train(p, optimizer, scheduler, 7)
    checkpoint = {"p": p, "optimizer": optimizer.state_dict(), "schedule": scheduler.state_dict(), "epoch": 7}
    tg.save(checkpoint, tmp_path / "m")
    loaded = tg.load(tmp_path / "m")
    q, other, its_scheduler = make(loaded["p"])
    other.load_state_dict(loaded["optimizer"])
    its_scheduler.load_state_dict(loaded["schedule"])
    train(p, optimizer, scheduler, 7)
    train(q, other, its_scheduler, 7)
    assert q.tolist() == p.tolist()
    assert other.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


def test_a_model_reads_what_another_one_saved(tmp_path: Path) -> None:
    """Convolution weights have another order of axes in memory than in the file."""

    def make() -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(20, 2))

    model, other = make(), make()
    tg.save(model, tmp_path / "m")
    other.load_state_dict(tg.load(tmp_path / "m"))
    x = tg.randn(2, 3, 4, 4)
    assert other.eval()(x).tolist() == model.eval()(x).tolist()


def test_an_object_with_a_state_dict_is_saved_as_that(tmp_path: Path) -> None:
    optimizer = optim.SGD([tg.zeros(2, requires_grad=True)], lr=0.25)
    tg.save(optimizer, tmp_path / "m")
    assert tg.load(tmp_path / "m") == optimizer.state_dict()


# ------------------------------------------------------------------------------------------------------------
# Refusals


@pytest.mark.parametrize(
    ("match", "obj"),
    [
        ("got int", 3),
        ("got Tensor", tg.zeros(2)),
        ("ndarray at 'a.0.b'.*from_numpy", {"a": [{"b": np.zeros(2)}]}),
        ("set at 'a.1'", {"a": (1, {2})}),
        ("SGD at 'opt'.*state_dict", {"opt": optim.SGD([tg.zeros(1, requires_grad=True)])}),
        ("complex at 'z'", {"z": 1j}),
        (r"key \(1, 2\) in 'a'", {"a": {(1, 2): 3}}),
        ("key True", {True: 3}),
    ],
)
def test_what_cannot_be_saved_is_named_and_nothing_is_written(tmp_path: Path, match: str, obj: Any) -> None:
    path = tmp_path / "m"
    tg.save({"x": tg.ones(1)}, path)
    before = path.read_bytes()
    with pytest.raises(TypeError, match=match):
        tg.save(obj, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["m"]


def saved(tmp_path: Path) -> tuple[Path, bytes]:
    path = tmp_path / "model.safetensors"
    tg.save({"weight": tg.arange(12.0).reshape(3, 4), "lr": 0.1}, path)
    return path, path.read_bytes()


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path, content = saved(tmp_path)
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"model\.safetensors"):
            tg.load(path)


def test_a_bit_flipped_anywhere_is_noticed(tmp_path: Path) -> None:
    """Every byte of the file counts but the spaces that align the header."""
    path, content = saved(tmp_path)
    for i in range(len(content)):
        path.write_bytes(content[:i] + bytes([content[i] ^ 4]) + content[i + 1 :])
        with pytest.raises(ValueError, match=r"model\.safetensors"):
            tg.load(path)


@pytest.mark.parametrize(
    ("match", "content"),
    [
        ("whole safetensors", b""),
        ("whole safetensors", b"hello, this is no checkpoint"),
        ("pickle", pickle.dumps({"a": 1})),
        ("pickle", b"PK\x03\x04 the zip file that torch.save writes"),
        ("whole safetensors", struct.pack("<Q", 1 << 60) + b"{}"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, match: str, content: bytes) -> None:
    path = tmp_path / "strange.bin"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"strange\.bin.*{match}"):
        tg.load(path)


def test_a_dtype_that_tensors_do_not_have_is_named(tmp_path: Path) -> None:
    safetensors.numpy.save_file({"half": np.zeros(3, np.float16)}, tmp_path / "m")
    with pytest.raises(ValueError, match=r"'half' has dtype F16"):
        tg.load(tmp_path / "m")


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        tg.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="nofolder"):
        tg.save({"x": tg.ones(1)}, tmp_path / "nofolder" / "m")
    with pytest.raises(IsADirectoryError):
        tg.save({"x": tg.ones(1)}, tmp_path)
    with pytest.raises(IsADirectoryError):
        tg.load(tmp_path)


def test_what_load_accepts_of_pytorchs_arguments(tmp_path: Path) -> None:
    tg.save(obj={"x": tg.ones(1)}, f=tmp_path / "m")
    assert tg.load(f=tmp_path / "m", map_location="cpu", weights_only=True)["x"].item() == 1
    with pytest.raises(ValueError, match="weights_only"):
        tg.load(tmp_path / "m", weights_only=False)
    with pytest.raises(RuntimeError, match="cuda"):
        tg.load(tmp_path / "m", map_location="cuda")


# ------------------------------------------------------------------------------------------------------------
# Files


def test_saving_replaces_at_once_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, content = saved(tmp_path)

    def interrupted(source: Any, target: Any) -> None:
        assert safetensors.numpy.load_file(source)["x"].shape == (3,)  # all is written when the name changes
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tg.save({"x": tg.ones(3)}, path)
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == [path.name]
    monkeypatch.undo()
    tg.save({"x": tg.ones(3)}, path)
    assert list(tg.load(path)) == ["x"]
    assert os.listdir(tmp_path) == [path.name]


def test_a_link_goes_on_pointing_and_the_umask_holds(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    link = tmp_path / "latest"
    link.symlink_to(tmp_path / "runs" / "7")
    before = os.umask(0o027)
    try:
        tg.save({"x": tg.ones(3)}, link)
    finally:
        os.umask(before)
    assert link.is_symlink()
    assert tg.load(tmp_path / "runs" / "7")["x"].tolist() == [1, 1, 1]
    assert (tmp_path / "runs" / "7").stat().st_mode & 0o777 == 0o640


def test_the_structure_is_readable_text(tmp_path: Path) -> None:
    _, content = saved(tmp_path)
    (length,) = struct.unpack("<Q", content[:8])
    metadata = json.loads(content[8 : 8 + length])["__metadata__"]
    assert json.loads(metadata["tinygrad_cnn.structure"]) == {"dict": [["weight", {"tensor": "weight"}], ["lr", 0.1]]}
