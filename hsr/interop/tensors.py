# SPDX-License-Identifier: Apache-2.0
"""The tensors of checkpoints: storages in a stream or a zip, and what pickles say about sizes and strides.

A pickle describes its tensors, and nothing is allocated until one is asked for. `StoredTensor.load` then checks that
its elements are distinct elements of a storage that the file really holds.
"""

import functools
import io
import math
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .unpickler import Budget, Constructor, Refusal, Unpickler

# First bytes of a stream of `torch.save` before PyTorch 1.6, that is a pickle of `_MAGIC_NUMBER` in protocol 2.
STREAM_PREFIX = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
ZIP_PREFIX = b"PK\x03\x04"
_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_STREAM_VERSION = 1001
MAX_DIMENSIONS = 8
MAX_STORAGE_ELEMENTS = 2**40
# A file of three networks and two optimizers has some thousand storages.
MAX_ZIP_ENTRIES = 100_000
_ZIP_ENTRY_PREFIX = b"PK\x01\x02"
_DTYPES = {
    "Float": torch.float32,
    "Double": torch.float64,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}


@dataclass(eq=False)
class Storage:
    """Elements in a file; `read` returns their bytes, and is None while the file has not shown any."""

    dtype: torch.dtype
    numel: int
    read: Callable[[], memoryview] | None = None

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor as a pickle describes it."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    budget: Budget

    def load(self) -> Tensor:
        """Returns the tensor, in memory of its own.

        Raises:
            Refusal: It reaches beyond its storage or holds elements more than once.
            ValueError: The file lacks the storage.
        """
        count = math.prod(self.size)
        if count == 0 or not _is_dense(self.size, self.stride) or self.offset + count > self.storage.numel:
            raise Refusal(f"describes a tensor of {count:,} elements that its data does not hold")
        if self.storage.read is None:
            raise ValueError("the data of a tensor is missing")
        itemsize = self.storage.dtype.itemsize
        self.budget.spend_bytes(count * itemsize)
        data = bytearray(self.storage.read()[self.offset * itemsize : (self.offset + count) * itemsize])
        return torch.frombuffer(data, dtype=self.storage.dtype).as_strided(self.size, self.stride)


def zeros(size: tuple[int, ...]) -> StoredTensor:
    """Returns a float32 tensor of zeros that is in no file."""
    storage = Storage(torch.float32, math.prod(size), lambda: memoryview(bytes(4 * math.prod(size))))
    stride = tuple(math.prod(size[i + 1 :]) for i in range(len(size)))
    return StoredTensor(storage, 0, size, stride, Budget(storage.nbytes))


def _is_dense(size: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Returns whether the elements lie one after the other in memory, in any order of the dimensions."""
    expected = 1
    for step, length in sorted((step, length) for length, step in zip(size, stride, strict=True) if length != 1):
        if step != expected:
            return False
        expected *= length
    return True


def tensor_constructors(budget: Budget) -> dict[str, Constructor]:
    """Returns the constructors of tensors and parameters."""

    def rebuild_tensor(
        storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any, metadata: Any = None
    ) -> StoredTensor:
        if not isinstance(storage, Storage) or len(size) != len(stride) or len(size) > MAX_DIMENSIONS:
            raise ValueError("a tensor has another form")
        lengths = [offset, *size, *stride]
        if any(type(length) is not int or not 0 <= length <= MAX_STORAGE_ELEMENTS for length in lengths):
            raise Refusal("describes a tensor whose sizes are out of bounds")
        return StoredTensor(storage, offset, tuple(size), tuple(stride), budget)

    def rebuild_parameter(tensor: Any, requires_grad: Any, hooks: Any) -> StoredTensor:
        if not isinstance(tensor, StoredTensor):
            raise ValueError("a parameter is no tensor")
        return tensor

    return {
        "torch._utils _rebuild_tensor_v2": rebuild_tensor,
        "torch._utils _rebuild_parameter": rebuild_parameter,
    }


def _not_callable(*_: Any) -> None:
    raise Refusal("calls a type that only names the elements of a storage")


_STORAGE_TYPES: dict[str, Constructor] = {f"torch {name}Storage": _not_callable for name in _DTYPES}


class _Storages:
    """The storages that the persistent ids of one stream or zip refer to."""

    def __init__(self) -> None:
        self.by_key: dict[str, Storage] = {}

    def find(self, identifier: Any) -> Storage:
        """Returns the storage of a persistent id ("storage", type, key, location, numel, ...)."""
        if len(identifier) == 6 and identifier[5] is None:
            # A stream says of which storage this one is a part, and of none.
            identifier = identifier[:5]
        kind, storage_type, key, _, numel = identifier
        name = storage_type.name.removeprefix("torch ").removesuffix("Storage")
        if kind != "storage" or type(key) is not str or type(numel) is not int:
            raise ValueError("a storage has another form")
        if not 0 <= numel <= MAX_STORAGE_ELEMENTS:
            raise Refusal("describes a storage whose size is out of bounds")
        storage = self.by_key.setdefault(key, Storage(_DTYPES[name], numel))
        if (storage.dtype, storage.numel) != (_DTYPES[name], numel):
            raise ValueError("a storage is described in two ways")
        return storage


def read_stream(data: bytes, constructors: Mapping[str, Constructor], budget: Budget) -> Any:
    """Returns the object of a stream of `torch.save` before PyTorch 1.6: five pickles, then the storages' data.

    Raises:
        Refusal: A pickle names or does what no checkpoint does.
        ValueError: The stream is damaged.
    """
    pickles = io.BytesIO(data)
    storages = _Storages()
    primitive = Unpickler({}, budget)
    if (primitive.load(pickles), primitive.load(pickles)) != (_MAGIC_NUMBER, _STREAM_VERSION):
        raise Refusal("holds a pickle in the place of a tensor's data")
    if primitive.load(pickles)["little_endian"] is not True:
        raise Refusal("was written on a big-endian machine")
    value = Unpickler({**constructors, **_STORAGE_TYPES}, budget, storages.find).load(pickles)
    keys = primitive.load(pickles)
    start = pickles.tell()
    for key in keys:
        storage = storages.by_key.get(key)
        if storage is None:
            raise ValueError("the stream holds data that belongs to no tensor")
        end = start + 8 + storage.nbytes
        numel = int.from_bytes(data[start : start + 8], "little", signed=True)
        if numel != storage.numel or end > len(data):
            raise ValueError("the data of a tensor is cut off")
        storage.read = _slice_reader(data, start + 8, end)
        start = end
    return value


def _slice_reader(data: bytes, start: int, end: int) -> Callable[[], memoryview]:
    return lambda: memoryview(data)[start:end]


def read_zip(data: bytes, constructors: Mapping[str, Constructor], budget: Budget) -> Any:
    """Returns the object of a file of `torch.save`: a zip of a pickle and one entry per storage.

    Raises:
        Refusal: It is another zip, or its pickle names or does what no checkpoint does.
        ValueError: An entry is damaged.
    """
    if data.count(_ZIP_ENTRY_PREFIX) > MAX_ZIP_ENTRIES:
        raise Refusal(f"is a zip of more than {MAX_ZIP_ENTRIES:,} entries")
    archive = zipfile.ZipFile(io.BytesIO(data))
    entries = {entry.filename: entry for entry in archive.infolist()}
    pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        if any(name.endswith(".npy") for name in entries):
            raise Refusal("is an archive of NumPy arrays, such as a projector writes, and no checkpoint")
        raise Refusal("is a zip, but no checkpoint of PyTorch")
    folder = pickles[0].removesuffix("data.pkl")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
        raise Refusal("is a compressed zip, which PyTorch does not write")
    if f"{folder}byteorder" in entries and archive.read(f"{folder}byteorder") != b"little":
        raise Refusal("was written on a big-endian machine")
    storages = _Storages()
    pickle_stream = io.BytesIO(archive.read(pickles[0]))
    value = Unpickler({**constructors, **_STORAGE_TYPES}, budget, storages.find).load(pickle_stream)
    for key, storage in storages.by_key.items():
        entry = entries.get(f"{folder}data/{key}")
        if entry is not None and entry.file_size == storage.nbytes:
            storage.read = _entry_reader(archive, entry)
    return value


def _entry_reader(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Callable[[], memoryview]:
    # Several tensors may share a storage, which is read once.
    return functools.cache(lambda: memoryview(archive.read(entry)))


def read_blob(blob: Any, budget: Budget) -> Storage:
    """Returns the storage that a blob of bytes, a complete stream, holds.

    Raises:
        Refusal: The blob holds anything else.
        ValueError: The blob is damaged.
    """
    if type(blob) is not bytes:
        raise ValueError("the data of a tensor is no bytes")
    storage = read_stream(blob, {}, budget)
    if not isinstance(storage, Storage):
        raise Refusal("holds a pickle in the place of a tensor's data")
    return storage
