"""Comparing runs: unlike scores are refused by field and file, or stand in their own columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.comparable import check_fields, field_value, first_unlike, unlike
from eval.compare import by_sense, compare
from eval.score import ScoreFile
from tests.eval.score_files import HASH, PICTURES, SPEECH, full_run, run, score
from tok_core.errors import ConfigError

OTHER = "f" * 64


def written(folder: Path, name: str, *found: Any) -> Path:
    run(*found).write(folder / name)
    return folder / name


def refusal(*files: Any, **options: Any) -> str:
    with pytest.raises(ConfigError) as error:
        compare(files, **options)
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(("changes", "metric", "field"), [
    ({"protocol": PICTURES.changed(crop="none")}, "psnr", "crop"),
    ({"protocol": PICTURES.changed(byte_rule="truncate")}, "psnr", "byte_rule"),
    ({"protocol": PICTURES.changed(size=512)}, "bpp", "size"),
    ({"protocol": PICTURES.changed(extractor_resize="clean")}, "rfid", "extractor_resize"),
    ({"protocol": PICTURES.changed(extractor_sha256=OTHER)}, "rfid", "extractor_sha256"),
    ({"protocol": SPEECH}, "psnr", "sense"),
    ({"items": OTHER}, "psnr", "items"), ({"seed": 3}, "psnr", "seed"),
    ({"options": {"kernel": [11, 11]}}, "ssim", "options.kernel"),
    ({"weights": {"alexnet.pth": OTHER}}, "lpips/alex", "weights.alexnet.pth"),
    ({"device": "cuda"}, "speed/encode", "device"),
    ({"direction": "lower"}, "psnr", "direction"), ({"unit": "%"}, "psnr", "unit"),
])  # fmt: skip
def test_unlike_scores_are_refused_by_field_and_files(
    changes: dict[str, Any], metric: str, field: str, tmp_path: Path
) -> None:
    one = written(tmp_path, "one.json", score("a", metric, 1.0))
    two = written(tmp_path, "two.json", score("b", metric, 2.0, **changes))
    text = refusal(one, two)
    assert f"{metric} cannot stand in one column: {field} is" in text
    assert "one.json" in text and "two.json" in text and f"--allow {field}" in text


@pytest.mark.parametrize(("changes", "metric"), [
    ({"protocol": PICTURES.changed(byte_rule="truncate")}, "bpp"),  # a rate looks at no bytes
    ({"protocol": PICTURES.changed(extractor_resize="clean")}, "psnr"),
    ({"protocol": PICTURES.changed(name="mine", source="me")}, "psnr"),
    ({"weights": {"contestant": OTHER}}, "psnr"), ({"device": "cuda"}, "psnr"),
    ({"seed": 3}, "bpp"), ({"versions": {"torch": "9"}}, "psnr"), ({"n": 7}, "psnr"),
])  # fmt: skip
def test_what_a_metric_does_not_look_at_is_no_difference(
    changes: dict[str, Any], metric: str
) -> None:
    layout = compare([run(score("a", metric, 1.0)), run(score("b", metric, 2.0, **changes))])
    assert len(layout.columns) == 1 and len(layout.rows) == 2


def test_options_are_equal_after_a_round_through_json(tmp_path: Path) -> None:
    made = run(score("a", options={"window": (11, 1.5), "odd": float("inf")}))
    path = written(tmp_path, "b.json", score("b", options={"window": [11, 1.5], "odd": "inf"}))
    assert len(compare([path]).rows) == 1
    clash = unlike(made.scores[0], ScoreFile.read(path).scores[0])
    assert [one.field for one in clash] in ([], ["options.odd"])
    assert not unlike(score(options={"w": (1, 2)}), score(options={"w": [1, 2]}))


def test_an_allowed_difference_splits_the_column_and_names_it() -> None:
    files = [
        run(score("a", value=1.0), score("b", value=2.0)),
        run(score("a", value=3.0, protocol=PICTURES.changed(crop="none")),
            score("b", value=4.0, protocol=PICTURES.changed(crop="none"))),
    ]  # fmt: skip
    assert "crop" in refusal(*files)
    layout = compare(files, allow=["crop"])
    titles = [one.title for one in layout.columns]
    assert titles == ["PSNR (dB) [crop adm]", "PSNR (dB) [crop none]"]
    assert [one.name for one in layout.columns] == ["psnr [crop adm]", "psnr [crop none]"]
    assert [[cell.value for cell in row.cells] for row in layout.rows] == [[1.0, 3.0], [2.0, 4.0]]
    assert [cell.mark for cell in layout.rows[1].cells] == ["best", "best"]


def test_hashes_in_labels_are_short_and_groups_allow_all_their_keys() -> None:
    files = [run(score("a")), run(score("b", items=OTHER, options={"k": 3}))]
    layout = compare(files, allow=["items", "options"])
    assert layout.columns[0].title == "PSNR (dB) [items 01234567, options.k not set]"
    assert layout.columns[1].title == "PSNR (dB) [items ffffffff, options.k 3]"
    assert "options.k" in refusal(*files, allow=["items"])


def test_scores_without_a_number_compare_nothing_and_join_a_column() -> None:
    missing = score("b", value=None, unavailable="gone", protocol=PICTURES.changed(crop="none"))
    assert len(compare([run(score("a")), run(missing)]).columns) == 1
    files = [run(score("a")), run(score("c", protocol=PICTURES.changed(crop="none"))), run(missing)]
    layout = compare(files, allow=["crop"])
    assert [row.contestant for row in layout.rows] == ["a", "c", "b"]
    assert [cell.text for cell in layout.rows[2].cells] == ["-", "-"]


def test_one_contestant_twice_names_both_files(tmp_path: Path) -> None:
    one, two = (written(tmp_path, name, score("a", budget=64, budget_name="tokens"))
                for name in ("one.json", "two.json"))  # fmt: skip
    text = refusal(one, two)
    assert "'a' at tokens 64 has two scores for psnr" in text
    assert "one.json" in text and "two.json" in text


def test_only_the_columns_that_are_shown_are_compared() -> None:
    files = [run(score("a"), score("a", "ssim", 0.5)),
             run(score("b", seed=4), score("b", "ssim", 1.0))]  # fmt: skip
    assert "psnr" in refusal(*files)
    assert len(compare(files, columns=["ssim"]).columns) == 1


def test_wrong_fields_and_files_are_one_sentence(tmp_path: Path) -> None:
    assert "did you mean 'crop'" in refusal(full_run(), allow=["crob"])
    assert "legal are" in refusal(full_run(), allow=["name"])
    assert "legal are" in refusal(full_run(), allow=["options."])
    assert "cannot be read" in refusal(tmp_path / "none.json")
    assert check_fields(["options.kernel", "crop"]) == ("options.kernel", "crop")


@given(st.permutations(["crop", "size", "seed", "items"]), st.integers(1, 4))
def test_unlike_is_symmetric_and_names_what_was_changed(fields: list[str], count: int) -> None:
    changed = set(fields[:count])
    protocol = PICTURES.changed(crop="none" if "crop" in changed else None,
                                size=64 if "size" in changed else None)  # fmt: skip
    other = score(protocol=protocol, seed=9 if "seed" in changed else 0,
                  items=OTHER if "items" in changed else HASH)  # fmt: skip
    assert {one.field for one in unlike(score(), other)} == changed
    assert {one.field for one in unlike(other, score())} == changed
    clash = first_unlike([score(), other])
    assert clash is not None
    for one in clash[2]:
        assert field_value(score(), one.field) != field_value(other, one.field)


def test_pictures_and_sounds_stand_in_tables_of_their_own(tmp_path: Path) -> None:
    pictures = written(tmp_path, "a.json", score("a", "psnr", 1.0), score("a", "bytes", 9.0))
    sounds = written(
        tmp_path, "b.json", score("b", "stoi", 0.9, protocol=SPEECH),
        score("b", "bytes", 7.0, protocol=SPEECH),
    )  # fmt: skip
    refusal(pictures, sounds)  # one table they are not
    parts = by_sense([pictures, sounds])
    assert [[f.path for f in part] for part, _ in parts] == [[pictures], [sounds]]
    assert all(compare(part, columns=kept) for part, kept in parts)
    [(part, kept)] = by_sense([pictures, sounds], ["psnr"])
    assert [f.path for f in part] == [pictures] and kept == ["psnr"]
    with pytest.raises(ConfigError, match="psnrr"):
        by_sense([pictures, sounds], ["psnrr"])
