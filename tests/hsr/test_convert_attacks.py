# SPDX-License-Identifier: Apache-2.0
"""Files that want to run code, fill the memory or hang, and damaged ones: each gives a sentence or a right result."""

import io
import os
import pickle
import random
import resource
import struct
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hsr.errors import UserError
from hsr.interop import load_generator
from tests.selection import FULL, kept

from .foreign_files import Persistent, ada_pickle, dump, generator_tree, importable, rosinality_contents, torch_file
from .foreign_networks import Spec, generator_tensors

MAX_SECONDS = 20
MAX_BYTES = 2**29
# A file, executed by whoever runs code from a checkpoint.
MARK = "executed"


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.value = function, arguments

    def __reduce__(self) -> Any:
        return self.value


def stream(*parts: bytes) -> bytes:
    """A protocol-2 pickle of these opcodes."""
    return b"\x80\x02" + b"".join(parts) + b"."


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    data = value.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def blob(numel: int = 16, inner: bytes | None = None) -> bytes:
    """A storage as the pickles hold it; `inner` replaces the pickle of its description."""
    description = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(numel) + b"NtQ"
    parts = [pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2), pickle.dumps({"little_endian": True}, 2)]
    parts += [stream(description), pickle.dumps(["0"], 2)] if inner is None else [inner, pickle.dumps([], 2)]
    return b"".join(parts) + struct.pack("<q", numel) + bytes(64)


def blob_pickle(data: bytes) -> bytes:
    """A pickle of nothing but a blob."""
    return pickle.dumps(Call(torch.storage._load_from_bytes, data), 4)


def with_tensor(
    name: str, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, data: bytes | None = None
) -> bytes:
    """A pickle of a generator in which one tensor is another one, of a storage of 16 elements."""
    storage = Call(torch.storage._load_from_bytes, blob() if data is None else data)
    tensor = Call(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, OrderedDict())
    with importable():
        return dump({"G_ema": generator_tree(Spec(), generator_tensors(Spec()) | {name: tensor})})


def rosinality_zip(pickled: bytes, **entries: bytes) -> bytes:
    """A zip as `torch.save` writes it, around a pickle."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in {"data.pkl": pickled, "byteorder": b"little", **entries}.items():
            archive.writestr(f"a/{name}", data)
    return out.getvalue()


def laughs(levels: int) -> bytes:
    """Ten references to ten references, and so on; the last one is used as a key."""
    body = b"Nq\x00"
    for level in range(levels):
        reference = b"h" + bytes([level])
        body += b"(" + reference * 10 + b"tq" + bytes([level + 1])
    return body + b"}h" + bytes([levels])


def deep_layers(depth: int) -> bytes:
    """A pickle whose G_ema is a layer in a layer, and so on."""
    opener = b"h\x00}" + text("type") + text("class") + b"s" + text("class_name") + text("G") + b"s" + text("state")
    opener += b"}(" + text("_parameters") + b"}" + text("_buffers") + b"}" + text("_modules") + b"}" + text("x" * 64)
    # The innermost child is None; each layer closes its dicts, from `_modules` to the description, and is called.
    closer = b"s" + b"u" + b"s" + b"\x85R"
    reconstruct = b"ctorch_utils.persistence\n_reconstruct_persistent_obj\nq\x00"
    return stream(reconstruct, b"}" + text("G_ema"), opener * depth, b"N", closer * depth, b"s")


def repeated_bytes() -> bytes:
    """Bytes of a text that is encoded again and again."""
    call = b"h\x00h\x01" + text("latin1") + b"\x86R"
    return stream(b"c_codecs\nencode\nq\x00", text("x" * 10**6), b"q\x01", call * 1000)


def shared_members() -> bytes:
    """A pickle whose G_ema has 4,000 layers that share a dict of 4,000 tensors."""
    with importable():
        tensor = torch.zeros(1)
        tensors = {f"t{i}": tensor for i in range(4000)}
        state = {"_parameters": tensors, "_buffers": {}, "_modules": {}}
        layers = {f"l{i}": Persistent("SynthesisLayer", **state) for i in range(4000)}
        return dump({"G_ema": Persistent("Generator", _parameters={}, _buffers={}, _modules=layers)}, 4)


W_AVG = "mapping.w_avg"
NOISE = "synthesis.b4.conv1.noise_const"
CODE = f"open({MARK!r}, 'w')"
ATTACKS: dict[str, tuple[Callable[[], bytes], str]] = {
    "os.system": (lambda: pickle.dumps(Call(os.system, f"touch {MARK}"), 2), "system, which a checkpoint has no use"),
    "os.system, protocol 4": (lambda: pickle.dumps(Call(os.system, f"touch {MARK}"), 4), "names posix.system, which"),
    "eval": (lambda: pickle.dumps({"G_ema": Call(eval, CODE)}, 4), "names builtins.eval, which"),
    "exec": (lambda: pickle.dumps({"G_ema": [Call(exec, CODE)]}, 2), "names __builtin__.exec, which"),
    "nested": (lambda: pickle.dumps(Call(getattr, Call(__import__, "os"), "system"), 4), "names builtins.getattr"),
    "import": (lambda: pickle.dumps(Call(__import__, "antigravity"), 3), "names builtins.__import__"),
    "dotted name": (lambda: stream(b"\x8c\x07torch._\x8c\x05utils\x93"), "names torch._.utils"),
    "attribute of an allowed module": (lambda: stream(b"ctorch.storage\nos.system\n"), "names torch.storage.os.system"),
    "pickle": (lambda: pickle.dumps(Call(pickle.loads, pickle.dumps(Call(eval, CODE))), 4), "names _pickle.loads"),
    "numpy object": (lambda: stream(b"cnumpy\ndtype\n", text("O8"), b"\x89\x88\x87R"), "NumPy value of type O8"),
    "pickle in a blob": (lambda: blob_pickle(blob(inner=pickle.dumps(Call(eval, CODE), 2))), "names __builtin__.eval"),
    "list in a blob": (
        lambda: blob_pickle(blob(inner=pickle.dumps([1], 2))),
        "a pickle in the place of a tensor's data",
    ),
    "other pickle in a blob": (lambda: blob_pickle(pickle.dumps([1], 2)), "cannot be read as a checkpoint"),
    "blob in a blob": (lambda: blob_pickle(blob(inner=blob_pickle(blob()))), "names torch.storage._load_from_bytes"),
    "setstate": (lambda: stream(b"}", text("x"), b"b"), "sets the state of a value that has none"),
    "state of a global": (lambda: stream(b"ccollections\nOrderedDict\n}b"), "sets the state of a value that has none"),
    "call of a value": (lambda: stream(text("x"), b")R"), "calls something that is no function"),
    "extension": (lambda: stream(b"\x82\x01"), "opcode EXT1"),
    "instance": (lambda: stream(b"(ios\nsystem\n"), "opcode INST"),
    "persistent id": (lambda: stream(b"Nq\x00Q"), "outside the pickle"),
    "persistent text": (lambda: stream(b"Pos\n"), "opcode PERSID"),
    "protocol 0": (lambda: b"cos\nsystem\n(S'ls'\ntR.", "cannot be read as a checkpoint"),
    "arguments of a zip": (lambda: rosinality_zip(pickle.dumps(Call(os.system, "ls"), 2)), "system, which"),
    "bytearray": (lambda: rosinality_zip(pickle.dumps(Call(bytearray, 10**12), 2)), "bytearray, which"),
    "deep lists": (lambda: stream(b"]" * 200_000, b"a" * 199_999), "no generator G_ema"),
    "deep tuples": (lambda: stream(b"N", b"\x85" * 200_000), "no generator G_ema"),
    "deep layers": (lambda: deep_layers(40_000), "holds a network of more layers"),
    "bytes again and again": (lambda: repeated_bytes(), "larger than the file itself"),
    "members again and again": (lambda: shared_members(), "more layers, tensors or levels"),
    "deep dicts": (lambda: stream(b"}", (text("G_ema") + b"}") * 100_000, b"s" * 100_000), "its G_ema is no network"),
    "opcodes": (lambda: stream(b"]" * 1_000_000), "more than 1,000,000 opcodes"),
    "laughs": (lambda: stream(laughs(60), b"Ns"), "key that is neither"),
    "laughs as the value": (lambda: stream(laughs(60)), "no generator G_ema"),
    "memo index": (lambda: stream(b"Nr\xff\xff\xff\xff"), "no generator G_ema"),
    "long text": (lambda: b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x.", "cannot be read as a checkpoint"),
    "long bytes": (lambda: b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.", "cannot be read as a checkpoint"),
    "long frame": (lambda: b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.", "no generator G_ema"),
    "huge tensor": (lambda: with_tensor(W_AVG, (10**12,), (1,)), "w_avg is [1000000000000] and should be [8]"),
    "huge storage": (lambda: with_tensor(W_AVG, (8,), (1,), 0, blob(10**12)), "cannot be read as a checkpoint"),
    "storage of other size": (lambda: with_tensor(W_AVG, (8,), (1,), 0, blob(32)), "cannot be read as a checkpoint"),
    "sizes beyond any": (lambda: with_tensor(W_AVG, (10**19,), (1,)), "sizes are out of bounds"),
    "negative offset": (lambda: with_tensor(W_AVG, (8,), (1,), -1), "sizes are out of bounds"),
    "dimensions": (lambda: with_tensor(W_AVG, (8,) * 9, (1,) * 9), "cannot be read as a checkpoint"),
    "stride 0": (lambda: with_tensor(W_AVG, (8,), (0,)), "8 elements that its data does not hold"),
    "overlap": (lambda: with_tensor(NOISE, (4, 4), (1, 1)), "16 elements that its data does not hold"),
    "beyond the end": (lambda: with_tensor(NOISE, (4, 4), (4, 1), 1), "16 elements that its data does not hold"),
    "gap": (lambda: with_tensor(W_AVG, (8,), (2,)), "8 elements that its data does not hold"),
    "compressed zip": (lambda: _compressed(), "compressed zip"),
}


def _compressed() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(10**6))
    return out.getvalue()


def sentence(path: Path) -> str:
    """The sentence that reading a file ends in; it takes neither long nor much memory."""
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError) as error:
        load_generator(path)
    assert time.monotonic() - start < MAX_SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MAX_BYTES
    message = str(error.value)
    assert message.startswith(str(path)) and message.endswith(".") and "\n" not in message and len(message) < 500
    return message


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make, expected = ATTACKS[name]
    (tmp_path / "file").write_bytes(make())
    assert expected in sentence(tmp_path / "file")
    assert not (tmp_path / MARK).exists()


def test_nothing_that_a_file_names_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch_utils.py").write_text(f"open({MARK!r}, 'w')")
    (tmp_path / "file").write_bytes(ada_pickle(Spec()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("torch.load", None)
    monkeypatch.setattr("pickle.loads", None)
    load_generator(tmp_path / "file")
    assert not (tmp_path / MARK).exists()


def damaged(data: bytes, rng: random.Random) -> bytes:
    """A file that is cut off, or has some bits flipped, half of them near its start."""
    if rng.random() < 0.2:
        return data[: rng.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 4, 32))):
        changed[rng.randrange(rng.choice((len(data), len(data) // 8)))] ^= 1 << rng.randrange(8)
    return bytes(changed)


FORMATS: dict[str, Callable[[], bytes]] = {
    "protocol 3": lambda: ada_pickle(Spec(heads=(6, 4, 3)), 3, numpy1=True),
    "protocol 4": lambda: ada_pickle(Spec(c_dim=2), 4),
    "zip": lambda: torch_file(rosinality_contents(Spec(z_dim=8))),
    "stream": lambda: torch_file(rosinality_contents(Spec(z_dim=8), from_training=True), zipped=False),
}


@pytest.mark.parametrize("count", kept([30, pytest.param(1000, marks=FULL)]))
@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_give_a_sentence_or_a_network(name: str, count: int, tmp_path: Path) -> None:
    rng, path, data = random.Random(count), tmp_path / "file", FORMATS[name]()
    path.write_bytes(data)
    shapes = {key: value.shape for key, value in load_generator(path).state_dict().items()}
    for _ in range(count):
        path.write_bytes(damaged(data, rng))
        try:
            found = load_generator(path).state_dict()
        except UserError:
            sentence(path)
            continue
        assert {key: value.shape for key, value in found.items()} == shapes
        assert all(value.isfinite().all() for value in found.values() if isinstance(value, torch.Tensor))
