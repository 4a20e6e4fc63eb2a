"""Training checkpoints with foreign objects inside, read without importing or running anything.

    checkpoint.pt (zip)  data.pkl --restricted unpickler--> dicts, lists, numbers
                                                            shells in place of foreign objects
                         data/KEY ------------------------> tensors, only those that are asked for

`torch.load` with ``weights_only`` refuses lists of foreign classes (such as ruamel.yaml's, which
settings read from YAML are made of) even where the class is a harmless stand-in.  Here every name
in the pickle becomes one of our own shells, and names outside the allowed packages are refused.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tok_core.errors import WeightsError

# What a storage is called in a pickle, and the type of its numbers.
DTYPES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}  # fmt: skip


class Stored(NamedTuple):
    """Where a tensor lies in the archive; it is not read yet."""

    key: str
    dtype: torch.dtype
    numbers: int
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class Shell:
    """Takes what a pickle gives to an object of a foreign class, and does nothing with it.

    Attributes:
        given: arguments of its making. items: what was appended. entries: what was set by key.
        state: its attributes.
    """

    given: tuple[Any, ...]
    items: list[Any]
    entries: dict[Any, Any]
    state: Any

    def __new__(cls, *given: Any, **more: Any) -> Shell:
        """Keep the arguments."""
        shell = super().__new__(cls)
        shell.given, shell.items, shell.entries, shell.state = given, [], {}, None
        return shell

    def __init__(self, *given: Any, **more: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        """Keep one item of a list."""
        self.items.append(item)

    def extend(self, items: Sequence[Any]) -> None:
        """Keep more items."""
        self.items.extend(items)

    def __setitem__(self, key: Any, value: Any) -> None:
        """Keep one entry of a mapping."""
        self.entries[key] = value

    def __setstate__(self, state: Any) -> None:
        """Keep the attributes."""
        self.state = state


class InertCheckpoint:
    """One checkpoint, opened: what it holds by key, and its tensors when they are asked for.

    Args:
        path: a zip as `torch.save` writes it.
        shelled: beginnings of the module names that may occur; any other name is refused.
        instead: what the user can give where one is, for that sentence.

    Attributes:
        content: the pickled object with `Stored` for tensors and `Shell` for foreign objects.

    Raises:
        WeightsError: damaged, no such zip, or a name that is not allowed.

    Example:
        >>> checkpoint = InertCheckpoint(Path("main-train.pt"), ("argparse.", "ruamel.yaml."))
        >>> state = checkpoint.tensors(checkpoint.content["ema"])
    """

    def __init__(
        self, path: Path, shelled: tuple[str, ...], *, instead: str = "a file of the weights alone"
    ) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                (name,) = (n for n in archive.namelist() if n.endswith("/data.pkl"))
                self._root = name.removesuffix("/data.pkl")
                with archive.open(name) as file:
                    self.content: Any = _Unpickler(file, shelled).load()
        except _ForeignObject as error:
            raise WeightsError(
                f"{path} holds a '{error}', which is neither a tensor nor a known setting and is "
                f"not read; give {instead}."
            ) from None
        except Exception as error:  # noqa: BLE001 - a hostile pickle can raise anything
            raise WeightsError(
                f"cannot read {path} as a checkpoint ({type(error).__name__}); download it again."
            ) from None

    def tensors(self, stored: Mapping[str, Any]) -> dict[str, Tensor]:
        """Read the tensors of one mapping, on the CPU; what is no tensor stays as it is.

        Raises:
            WeightsError: a tensor that reaches beyond its storage, or a storage of another length.
        """
        read: dict[str, Tensor] = {}
        found: dict[str, Any] = {}
        try:
            with zipfile.ZipFile(self.path) as archive:
                for name, value in stored.items():
                    found[name] = value
                    if isinstance(value, Stored):
                        if value.key not in read:
                            read[value.key] = _storage(archive, self._root, value)
                        found[name] = _view(read[value.key], value)
        except Exception as error:  # noqa: BLE001 - a damaged archive can raise anything
            raise WeightsError(
                f"cannot read the tensors of {self.path} ({type(error).__name__}: {error}); "
                "download it again."
            ) from None
        return found


def plain(value: Any) -> Any:
    """Return settings without their shells: numbers, texts, lists and dicts.

    Example:
        >>> plain(checkpoint.content["args"])["v_patch_nums"]  # doctest: +SKIP
        [1, 1, 2, 3, 3, 4, 5, 6, 8, 11]
    """
    if isinstance(value, Shell):
        if value.items or value.entries:
            return plain(value.items or value.entries)
        if value.given:  # a number that remembers how it was written
            return plain(value.given[0])
        return plain(value.state) if isinstance(value.state, dict) else None
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple) and not isinstance(value, Stored):
        return [plain(each) for each in value]
    return value


class _ForeignObject(Exception):
    """The pickle names something that is not on the list."""


class _Unpickler(pickle.Unpickler):
    """Makes containers, numbers and our own stand-ins; no name of the pickle is looked up."""

    def __init__(self, file: Any, shelled: tuple[str, ...]) -> None:
        super().__init__(file)
        self.shelled = shelled

    def find_class(self, module: str, name: str) -> Any:
        """Return what a name of the pickle stands for; nothing is imported."""
        # Made anew each time: a pickle may set attributes on what it is given.
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return partial(_placed)
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return partial(_first)
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if f"{module}.".startswith(self.shelled) or f"{module}.{name}".startswith(self.shelled):
            return type(name, (Shell,), {})
        raise _ForeignObject(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Stored:
        """Return a whole storage as one flat tensor to be read later."""
        kind, dtype, key, _, count = pid
        if kind != "storage" or dtype not in DTYPES.values():
            raise _ForeignObject(str(kind))
        return Stored(str(key), dtype, int(count), 0, (int(count),), (1,))


def _first(value: Any, *others: Any) -> Any:
    return value


def _placed(
    storage: Stored, offset: int, size: Sequence[int], stride: Sequence[int], *others: Any
) -> Stored:
    return storage._replace(offset=offset, size=tuple(size), stride=tuple(stride))


def _storage(archive: zipfile.ZipFile, root: str, stored: Stored) -> Tensor:
    name = f"{root}/data/{stored.key}"
    # Asked first: a header that promises too much must not fill the memory.
    if archive.getinfo(name).file_size != stored.numbers * stored.dtype.itemsize:
        raise ValueError(f"{name} has not the {stored.numbers} numbers it should have")
    if not stored.numbers:
        return torch.empty(0, dtype=stored.dtype)
    return torch.frombuffer(bytearray(archive.read(name)), dtype=stored.dtype)


def _view(flat: Tensor, stored: Stored) -> Tensor:
    offset, size, stride = stored.offset, stored.size, stored.stride
    reach = sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if min((offset, *size, *stride)) < 0 or (0 not in size and offset + reach >= len(flat)):
        raise ValueError(f"a tensor of {size} reaches beyond its storage of {len(flat)}")
    if flat.dtype != stored.dtype:
        raise ValueError(f"a storage is {flat.dtype} and {stored.dtype} at once")
    return flat.as_strided(size, stride, offset).clone()
