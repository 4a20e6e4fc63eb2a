"""TorchScript archives: read as state dicts, and nothing of them runs."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tok_core.errors import WeightsError
from tok_core.inert_pickle import Stored, _view
from tok_core.official_weights import read_state
from tok_core.torchscript_state import is_torchscript


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2, bias=False))
        self.register_buffer("size", torch.tensor(224))
        self.sizes = [1, 2]
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) * self.scale


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.visual = Part()
        self.turned = nn.Parameter(torch.arange(6.0).view(2, 3).t())
        self.shared = self.visual.scale
        self.empty = nn.Parameter(torch.zeros(0, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.visual(x) + self.turned.sum()


@pytest.fixture(scope="module")
def model() -> Whole:
    torch.manual_seed(0)
    return Whole().half().eval()


@pytest.fixture(scope="module", params=["traced", "scripted"])
def archive(
    model: Whole, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp(request.param) / "model.pt"
    if request.param == "traced":
        made: Any = torch.jit.trace(model, torch.zeros(1, 3, dtype=torch.float16))
    else:
        made = torch.jit.script(model)
    torch.jit.save(made, path)
    return path


def test_it_gives_the_state_dict(model: Whole, archive: Path) -> None:
    assert is_torchscript(archive)
    found, wanted = read_state(archive), model.state_dict()
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


def test_an_ordinary_state_dict_is_none(model: Whole, tmp_path: Path) -> None:
    torch.save(model.state_dict(), tmp_path / "state.pt")
    assert not is_torchscript(tmp_path / "state.pt")
    assert read_state(tmp_path / "state.pt").keys() == model.state_dict().keys()


def changed(archive: Path, out: Path, parts: dict[str, bytes]) -> Path:
    """Copy an archive with other contents for the entries that end so."""
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            inner = name.partition("/")[2]
            target.writestr(name, parts.get(inner, source.read(name)))
    return out


class Hostile:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> Any:
        return self.call, self.arguments


@pytest.mark.parametrize("call", ["system", "eval"])
def test_code_in_the_pickle_is_refused_by_name(archive: Path, tmp_path: Path, call: str) -> None:
    mark = tmp_path / "ran"
    hostile = {
        "system": Hostile(os.system, f"touch {mark}"),
        "eval": Hostile(eval, f"open({str(mark)!r}, 'w')"),
    }[call]
    path = changed(archive, tmp_path / "bad.pt", {"data.pkl": pickle.dumps(hostile, protocol=2)})
    with pytest.raises(WeightsError, match=r"neither a tensor nor.*the same model's state dict"):
        read_state(path)
    assert not mark.exists()


def test_code_beside_the_pickle_is_left_alone(archive: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(archive) as source:
        code = [n.partition("/")[2] for n in source.namelist() if n.endswith(".py")]
    assert code
    path = changed(archive, tmp_path / "odd.pt", dict.fromkeys(code, b"no python {{{"))
    assert read_state(path).keys() == read_state(archive).keys()


def test_damage_is_one_sentence(archive: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(archive) as source:
        storage = next(n for n in source.namelist() if "/data/" in n and source.read(n))
        content = source.read(storage)
        text = source.read(next(n for n in source.namelist() if n.endswith("/data.pkl")))
    inner = storage.partition("/")[2]
    for parts in ({inner: content[:-2]}, {inner: content * 2}, {"data.pkl": text[:-20]},
                  {"data.pkl": io.BytesIO(b"\x80\x02K\x01.").getvalue()[:2]}):  # fmt: skip
        with pytest.raises(WeightsError, match="download it again"):
            read_state(changed(archive, tmp_path / "bad.pt", parts))


def test_a_tensor_stays_inside_its_storage() -> None:
    storage = Stored("0", torch.float32, 6, 1, (2, 2), (2, 1))
    flat = torch.arange(6.0)
    assert torch.equal(_view(flat, storage), torch.tensor([[1.0, 2], [3, 4]]))
    for offset, size, stride in ((0, (7,), (1,)), (5, (2,), (1,)), (-1, (2,), (1,)),
                                 (0, (2, 4), (3, 1)), (3, (2,), (-4,))):  # fmt: skip
        bad = storage._replace(offset=offset, size=size, stride=stride)
        with pytest.raises(ValueError, match="beyond its storage"):
            _view(flat, bad)
