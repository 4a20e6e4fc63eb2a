"""Files, folders, globs, mirrored trees, nothing overwritten."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tessera import files
from tok_core.errors import MediaError, TesseraError

KINDS = frozenset({".png", ".jpg"})


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "in"
    for name in ("b.png", "a.JPG", "deep/c.png", "deep/er/d.jpg", "notes.txt", ".hidden/e.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def names(found: list[files.Found]) -> list[str]:
    return [item.relative.as_posix() for item in found]


def make_plan(found: list[files.Found], output: Path, **options: object) -> files.Plan:
    given = {"force": False, "single": False, "legal": {".tok"}} | options
    return files.plan(found, str(output), ".tok", **given)  # type: ignore[arg-type]


def test_folder_is_walked_in_order_without_hidden_and_other_files(tree: Path) -> None:
    found = files.find([str(tree)], KINDS)
    assert names(found) == ["a.JPG", "b.png", "deep/c.png", "deep/er/d.jpg"]


def test_glob_keeps_the_path_below_its_fixed_part(tree: Path) -> None:
    assert names(files.find([str(tree / "**" / "*.png")], KINDS)) == ["b.png", "deep/c.png"]
    assert names(files.find([str(tree / "deep" / "*.png")], KINDS)) == ["c.png"]


def test_named_file_is_taken_whatever_its_extension(tree: Path) -> None:
    assert names(files.find([str(tree / "notes.txt")], KINDS)) == ["notes.txt"]


def test_a_file_given_twice_is_one_job(tree: Path) -> None:
    found = files.find([str(tree / "b.png"), str(tree)], KINDS)
    assert names(found).count("b.png") == 1
    assert len(found) == 4


def test_file_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    odd = tmp_path / "a[1].png"
    odd.write_bytes(b"x")
    assert names(files.find([str(odd)], KINDS)) == ["a[1].png"]


def test_missing_input_names_the_nearest(tree: Path) -> None:
    with pytest.raises(MediaError, match=r"b\.pgn.*did you mean 'b\.png'"):
        files.find([str(tree / "b.pgn")], KINDS)


def test_folder_without_pictures_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"\.jpg \.png"):
        files.find([str(tmp_path)], KINDS)


def test_output_folder_inside_the_input_is_no_input(tree: Path) -> None:
    out = tree / "out"
    out.mkdir()
    (out / "made.png").write_bytes(b"x")
    assert "out/made.png" not in names(files.find([str(tree)], KINDS, leave_out=out))


def test_outputs_mirror_the_tree(tree: Path, tmp_path: Path) -> None:
    plan = make_plan(files.find([str(tree)], KINDS), tmp_path / "out")
    targets = [job.target.relative_to(tmp_path / "out").as_posix() for job in plan.jobs]
    assert targets == ["a.tok", "b.tok", "deep/c.tok", "deep/er/d.tok"]


def test_twins_keep_their_old_extension(tree: Path, tmp_path: Path) -> None:
    (tree / "b.jpg").write_bytes(b"x")
    plan = make_plan(files.find([str(tree)], KINDS), tmp_path / "out")
    assert {"b.jpg.tok", "b.png.tok", "a.tok"} <= {job.target.name for job in plan.jobs}


def test_same_name_from_two_folders_is_refused(tree: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "b.png").write_bytes(b"x")
    with pytest.raises(TesseraError, match="would both become"):
        make_plan(files.find([str(tree), str(other)], KINDS), tmp_path / "out")


def test_one_file_to_one_file(tree: Path, tmp_path: Path) -> None:
    found = files.find([str(tree / "b.png")], KINDS)
    plan = make_plan(found, tmp_path / "x" / "y.tok", single=True)
    assert plan.jobs == [files.Job(tree / "b.png", tmp_path / "x" / "y.tok")]
    with pytest.raises(TesseraError, match=r"'\.tko'.*did you mean '\.tok'"):
        make_plan(found, tmp_path / "y.tko", single=True)


def test_many_files_to_one_file_is_refused(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(TesseraError, match="4 files go in"):
        make_plan(files.find([str(tree)], KINDS), tmp_path / "y.tok")


def test_folder_with_a_dot_in_its_name(tree: Path, tmp_path: Path) -> None:
    plan = make_plan(files.find([str(tree)], KINDS), tmp_path / "v1.5")
    assert plan.jobs[0].target == tmp_path / "v1.5" / "a.tok"


def test_existing_outputs_are_left_alone_without_force(tree: Path, tmp_path: Path) -> None:
    found, out = files.find([str(tree)], KINDS), tmp_path / "out"
    out.mkdir()
    (out / "b.tok").write_bytes(b"old")
    plan = make_plan(found, out)
    assert [job.target.name for job in plan.existing] == ["b.tok"]
    assert len(plan.jobs) == 3
    assert len(make_plan(found, out, force=True).jobs) == 4
    for job in plan.jobs:
        job.target.parent.mkdir(parents=True, exist_ok=True)
        job.target.write_bytes(b"new")
    with pytest.raises(TesseraError, match="all 4 outputs exist.*--force"):
        make_plan(found, out)


def test_a_file_never_replaces_itself(tree: Path) -> None:
    found = files.find([str(tree)], KINDS)
    with pytest.raises(TesseraError, match="would replace itself"):
        files.plan(found, str(tree), ".png", force=True, single=False, legal={".png"})


def test_folder_that_cannot_be_made_is_one_sentence(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    plan = make_plan(files.find([str(tree)], KINDS), tmp_path / "file" / "sub")
    with pytest.raises(TesseraError, match="cannot be written"):
        files.make_folders(plan.jobs)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder_is_found_before_the_work(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o555)
    with pytest.raises(TesseraError, match="cannot be"):
        files.make_folders(make_plan(files.find([str(tree)], KINDS), out).jobs)
