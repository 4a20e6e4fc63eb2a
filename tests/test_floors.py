"""Imports run downward only: what every floor may know, read off the source of every module.

Imports inside functions count like those at the top; names that only type checkers see do not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A floor, and the floors below that it may know; `assets` is reached from everywhere.
FLOORS: dict[str, frozenset[str]] = {
    "assets": frozenset(),
    "tok_core": frozenset({"assets"}),
    "vision_tok": frozenset({"assets", "tok_core"}),
    "audio_tok": frozenset({"assets", "tok_core"}),
    "generators": frozenset({"assets", "tok_core", "vision_tok", "audio_tok"}),
    "eval": frozenset({"assets", "tok_core", "vision_tok", "audio_tok"}),
    "tessera": frozenset({"assets", "tok_core", "vision_tok", "audio_tok", "generators", "eval"}),
}
# What stands on the house: it may know all of it, and the house none of it.
OUTSIDE = frozenset({"tests", "benchmarks", "claims", "examples"})
MODULES = sorted(path for floor in FLOORS for path in (ROOT / floor).rglob("*.py"))


def concrete_models() -> set[str]:
    """Return the modules of all tokenizers, which generators and the judge only reach by `load`."""
    points = entry_points(group="tessera.models")
    return {p.module for p in points if p.module.split(".")[0] in ("vision_tok", "audio_tok")}


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) for all that a file imports, but under ``if TYPE_CHECKING``."""
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
            assert "eval" not in names, f"{path}:{node.lineno} shadows the builtin"
            yield from ((node.lineno, name) for name in names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}:{node.lineno} imports relatively"
            yield node.lineno, node.module
            yield from ((node.lineno, f"{node.module}.{name.name}") for name in node.names)
        waiting += ast.iter_child_nodes(node)


def wrong(path: Path) -> list[str]:
    """Return a line for every import of a module that its floor must not know."""
    floor = path.relative_to(ROOT).parts[0]
    house = FLOORS.keys() | OUTSIDE
    forbidden = concrete_models() if floor in ("generators", "eval") else set()
    return [
        f"line {line}: {name}"
        for line, name in imported(path)
        if ((top := name.split(".")[0]) in house and top not in FLOORS[floor] | {floor})
        or name in forbidden
    ]  # fmt: skip


@pytest.mark.parametrize("floor", FLOORS)
def test_a_floor_knows_only_what_lies_below(floor: str) -> None:
    found = {path: lines for path in MODULES if path.is_relative_to(ROOT / floor)
             if (lines := wrong(path))}  # fmt: skip
    assert not found


def test_nothing_wrong_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "eval").mkdir()
    file = tmp_path / "eval" / "late.py"
    file.write_text(
        "from typing import TYPE_CHECKING\n"
        "import tok_core.mel\n"
        "if TYPE_CHECKING:\n"
        "    from generators.contract import Generator\n"
        "def late():\n"
        "    from vision_tok.vqgan import VQGAN\n"
        "    from vision_tok.image_file import read_image\n"
        "    import generators, tessera.cli\n"
    )
    assert sorted(wrong(file)) == [
        "line 6: vision_tok.vqgan", "line 8: generators", "line 8: tessera.cli"
    ]  # fmt: skip


def test_every_module_was_read() -> None:
    assert len(MODULES) > 300
    assert {"vision_tok.vqgan", "audio_tok.wav_tokenizer"} <= concrete_models()
