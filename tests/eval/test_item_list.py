"""Items: order, hash, pairs by name, damaged files."""

from __future__ import annotations

from pathlib import Path

import pytest

from eval.item_list import bad_items_error, list_items, pair, scan
from eval.originals import read_picture
from tests.eval.judged_files import picture
from tok_core.errors import MediaError


def tree(root: Path, *names: str) -> Path:
    for place, name in enumerate(names):
        picture(root / name, seed=place)
    return root


def test_order_is_by_name_and_hidden_files_are_left_alone(tmp_path: Path) -> None:
    root = tree(tmp_path / "a", "b.png", "a/z.png", "c.jpg")
    (root / ".hidden.png").write_bytes(b"")
    (root / "notes.txt").write_text("no picture")
    items = list_items(root, "image")
    assert [item.name for item in items.items] == ["a/z.png", "b.png", "c.jpg"]
    assert len(list_items(root / "b.png", "image")) == 1
    assert [item.name for item in items.first(2).items] == ["a/z.png", "b.png"]


def test_hash_follows_names_and_contents(tmp_path: Path) -> None:
    one, same = tree(tmp_path / "one", "a.png", "b.png"), tree(tmp_path / "two", "a.png", "b.png")
    first = list_items(one, "image").sha256
    assert list_items(same, "image").sha256 == first
    picture(same / "b.png", seed=9)
    assert list_items(same, "image").sha256 != first
    picture(same / "b.png", seed=1)
    (same / "b.png").rename(same / "c.png")
    assert list_items(same, "image").sha256 != first


def test_nothing_there_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(MediaError, match="did you mean 'photos'"):
        list_items(tmp_path / "photo", "image")
    with pytest.raises(MediaError, match="holds no audio file; legal endings are"):
        list_items(tmp_path / "photos", "audio")


def test_pairs_by_name_whatever_the_ending(tmp_path: Path) -> None:
    first = list_items(tree(tmp_path / "a", "x/1.png", "2.png", "3.png"), "image")
    found = pair(first, tree(tmp_path / "b", "x/1.jpg", "2.webp", "4.png"))
    assert set(found.partners) == {"x/1.png", "2.png"}
    assert found.only_first == ("3.png",) and found.only_second == ("4.png",)
    assert found.complaint == (
        "1 originals have no partner (3.png) and 1 files there belong to no original (4.png)"
    )


def test_one_name_for_two_files_is_refused(tmp_path: Path) -> None:
    first = list_items(tree(tmp_path / "a", "1.png"), "image")
    with pytest.raises(MediaError, match="have the same name but for the ending"):
        pair(first, tree(tmp_path / "b", "1.png", "1.jpg"))


def test_scan_finds_damaged_files(tmp_path: Path) -> None:
    root = tree(tmp_path / "a", "1.png", "2.png", "3.png")
    (root / "2.png").write_bytes((root / "2.png").read_bytes()[:60])
    (root / "3.png").write_bytes(b"")
    items = list_items(root, "image")
    bad = scan(items.items, lambda item: read_picture(item.path))
    assert [item.name for item, _ in bad] == ["2.png", "3.png"]
    sentence = str(bad_items_error(bad, 3))
    assert "2 of 3 files cannot be read: 2.png, 3.png" in sentence and "--skip-bad" in sentence


def test_lists_and_globs(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    found = list_items(f"{tmp_path}/*/1.*", "image")
    assert [item.name for item in found.items] == ["a/1.png", "b/1.png"]
    assert found.folder == tmp_path
    listed = tmp_path / "some.txt"
    listed.write_text("b/1.png\n\na/2.png\n")
    found = list_items(listed, "image")
    assert [item.name for item in found.items] == ["a/2.png", "b/1.png"]
    for text, sentence in (("a/3.png", "not there"), ("b/notes.md", "names no image"), ("", "no")):
        listed.write_text(text)
        with pytest.raises(MediaError, match=sentence):
            list_items(listed, "image")
    listed.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MediaError, match="no text"):
        list_items(listed, "image")
    with pytest.raises(MediaError, match="names no image"):
        list_items(f"{tmp_path}/*.png", "image")
