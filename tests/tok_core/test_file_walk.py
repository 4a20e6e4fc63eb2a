"""The walk below a folder: kinds, hidden names, order, a folder that is left out."""

from __future__ import annotations

from pathlib import Path

from tok_core.file_walk import files_below


def test_files_of_some_kinds_in_a_fixed_order(tmp_path: Path) -> None:
    names = ("z.png", "a.PNG", "more/b.jpg", "more/deep/c.png", ".d.png", ".hidden/e.png",
             "out/f.png", "g.txt", "png")  # fmt: skip
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def found(**options: Path) -> list[str]:
        walk = files_below(tmp_path, {".png", ".jpg"}, **options)
        return [path.relative_to(tmp_path).as_posix() for path in walk]

    everything = ["a.PNG", "z.png", "more/b.jpg", "more/deep/c.png", "out/f.png"]
    assert found() == everything
    assert found(leave_out=tmp_path / "more" / ".." / "out") == everything[:-1]
    assert list(files_below(tmp_path / "nowhere", {".png"})) == []
