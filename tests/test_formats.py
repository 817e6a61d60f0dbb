"""safetensors and shards against the safetensors library, both ways; and what is not a checkpoint."""

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lmrs import _rs
from lmrs.errors import Error, FileError, FormatError, InputError, MissingFileError
from lmrs.weights import open_checkpoint, read_safetensors, write_safetensors

DTYPES = ["float64", "float32", "float16", "int32"]
arrays = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)
names = st.text(st.characters(codec="utf-8"), max_size=12).filter(lambda name: name != "__metadata__")
files = st.dictionaries(names, arrays, max_size=6)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@given(tensors=files, metadata=st.dictionaries(names, st.text(max_size=8), max_size=3))
def test_safetensors_reads_ours(
    tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, np.ndarray], metadata: dict[str, str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "ours.safetensors"
    write_safetensors(path, {name: _rs.Tensor.from_numpy(a) for name, a in tensors.items()}, metadata=metadata)
    found = safetensors.numpy.load_file(path)
    assert found.keys() == tensors.keys()
    assert all(same(found[name], tensors[name]) for name in tensors)
    with safetensors.safe_open(path, "numpy") as file:
        assert (file.metadata() or {}) == metadata


@given(tensors=files)
def test_ours_reads_safetensors(tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, np.ndarray]) -> None:
    path = tmp_path_factory.getbasetemp() / "theirs.safetensors"
    path.unlink(missing_ok=True)
    safetensors.numpy.save_file(tensors, path, metadata={"format": "np"})
    found = read_safetensors(path)
    assert found.keys() == tensors.keys()
    assert all(same(found[name].numpy(), tensors[name]) for name in tensors)


def test_bfloat16_and_float16_widen_exactly(tmp_path: Path) -> None:
    bits = np.array([0x3DCD, 0x8000, 0x0001, 0x7F7F], np.uint16)
    half = np.array([0.1, -0.0, 6e-8, 65504], np.float16)
    tensors = {
        "brain": torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16).reshape(2, 2),
        "half": torch.from_numpy(half),
    }
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "none"}')
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.config == {"model_type": "none"}
    assert checkpoint.dtypes == {"brain": "BF16", "half": "F16"}
    assert checkpoint.shapes == {"brain": (2, 2), "half": (4,)}
    expected = (bits.astype(np.uint32) << 16).view(np.float32).reshape(2, 2)
    assert same(checkpoint.tensor("brain").numpy(), expected)
    assert same(checkpoint.tensor("half").numpy(), half.astype(np.float32))
    brain = read_safetensors(tmp_path / "model.safetensors")["brain"]
    assert brain.dtype == "bfloat16"
    write_safetensors(tmp_path / "again.safetensors", {"brain": brain})
    assert bits.tobytes() in (tmp_path / "again.safetensors").read_bytes()


def test_shards(tmp_path: Path) -> None:
    parts = {f"model-0000{i}-of-00002.safetensors": {f"w{i}": np.full((2,), i, np.float32)} for i in (1, 2)}
    for file, tensors in parts.items():
        safetensors.numpy.save_file(tensors, tmp_path / file)
    index = {"weight_map": {name: file for file, tensors in parts.items() for name in tensors}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": 16}, **index}))
    (tmp_path / "config.json").write_text("{}")
    checkpoint = open_checkpoint(tmp_path)
    assert sorted(checkpoint.names) == ["w1", "w2"]
    assert [path.name for path in checkpoint.files] == sorted(parts)
    assert checkpoint.tensor("w2").numpy().tolist() == [2, 2]
    with pytest.raises(InputError, match="'w3'"):
        checkpoint.tensor("w3")


def header(json_text: str, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(json_text)) + json_text.encode() + data


def entry(offsets: str, shape: str = "[2]") -> str:
    return f'{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}'


BAD_FILES = {
    "empty": ("m.safetensors", b"", "header length needs 8 bytes"),
    "truncated": ("m.safetensors", header(f'{{"w":{entry("[0,8]")}}}', bytes(7)), 'tensor "w" needs 8 bytes but 7'),
    "oversized": ("m.safetensors", header(f'{{"w":{entry("[0,8]")}}}', bytes(9)), "the file length"),
    "overlapping": (
        "m.safetensors",
        header(f'{{"v":{entry("[0,8]")},"w":{entry("[4,12]")}}}', bytes(12)),
        'begin offset of tensor "w" is 4, expected 8',
    ),
    "lying": ("m.safetensors", header(f'{{"w":{entry("[0,4]", "[1000]")}}}', bytes(4)), "expected 4000 bytes"),
    "huge": ("m.safetensors", header(f'{{"w":{entry("[0,8]", "[4294967296, 4294967296]")}}}', bytes(8)), "fits"),
    "header of 2^63": ("m.safetensors", struct.pack("<Q", 2**63) + b"{}", "limit of 100000000"),
    "torch": ("pytorch_model.bin", b"PK\x03\x04" + bytes(60), "safetensors.torch.save_file"),
    "pickle": ("adapter.pt", b"\x80\x02}q\x00.", "a pickle can run any code"),
    "text": ("notes.txt", b"hello", "neither safetensors nor GGUF"),
    "GGUF cut short": ("m.gguf", b"GGUF\x03\0\0\0", "the number of tensors needs 8 bytes"),
    "GGUF of a trillion tensors": ("m.gguf", b"GGUF" + struct.pack("<IQQ", 3, 10**12, 0), "truncated"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files(tmp_path: Path, case: str) -> None:
    name, data, expected = BAD_FILES[case]
    path = tmp_path / name
    path.write_bytes(data)
    for read in (open_checkpoint, read_safetensors):
        with pytest.raises(FormatError) as caught:
            read(path)
        assert isinstance(caught.value, ValueError)
        assert str(path) in str(caught.value)
        assert expected in str(caught.value)


def test_a_directory_of_pickles_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    with pytest.raises(FormatError, match=r"pytorch_model\.bin: .*save_file"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"a": ' + "9" * 5000 + "}", "\ud800"])
def test_bad_configs(tmp_path: Path, text: str) -> None:
    write_safetensors(tmp_path / "model.safetensors", {})
    (tmp_path / "config.json").write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(FormatError, match=r"config\.json"):
        open_checkpoint(tmp_path)


def test_missing_files(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path, tmp_path / "absent.safetensors"):
        with pytest.raises(MissingFileError, match=str(path)):
            open_checkpoint(path)
    write_safetensors(tmp_path / "model.safetensors", {})
    with pytest.raises(MissingFileError, match=r"config\.json"):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").mkdir()
    with pytest.raises(FileError, match=r"config\.json"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", "sub/model.safetensors", "m.bin", ".."])
def test_shards_stay_in_their_directory(tmp_path: Path, shard: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": shard}}))
    with pytest.raises(FormatError, match=r"index\.json"):
        open_checkpoint(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(FileError, match="not a regular file"):
        open_checkpoint(tmp_path)


def test_a_failed_save_leaves_nothing(tmp_path: Path) -> None:
    tensor = _rs.Tensor.from_numpy(np.zeros(3, np.float32))
    (tmp_path / "taken" / "inside").mkdir(parents=True)
    with pytest.raises(FileError):
        write_safetensors(tmp_path / "taken", {"w": tensor})
    with pytest.raises(FormatError, match="__metadata__"):
        write_safetensors(tmp_path / "model.safetensors", {"__metadata__": tensor})
    with pytest.raises(Error):
        write_safetensors(tmp_path / "absent" / "model.safetensors", {"w": tensor})
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
