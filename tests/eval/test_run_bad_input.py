"""Bad input, each with its sentence: before the heavy work, or counted and named."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.eval.judged_files import Files, Judge, picture, scores


@pytest.fixture
def mixed(files: Files, tmp_path: Path) -> Path:
    """Pictures with two damaged ones among them."""
    folder = tmp_path / "mixed"
    shutil.copytree(files.pictures, folder)
    (folder / "cut.png").write_bytes((folder / "1.png").read_bytes()[:80])
    (folder / "empty.jpg").write_bytes(b"")
    return folder


RECON = ("recon", "-t", "jpeg", "--qualities", "50", "--size", "16", "-m", "psnr")


def test_damaged_pictures(mixed: Path, judge: Judge, tmp_path: Path) -> None:
    refused = judge(*RECON, "--data", mixed, "--out", "a.json")
    assert "2 of 11 files cannot be read: cut.png, empty.jpg" in refused.sentence
    assert "--skip-bad" in refused.sentence and refused.out == ""
    assert not (tmp_path / "a.json").exists()
    done = judge(*RECON, "--data", mixed, "--out", "a.json", "--skip-bad")
    assert done.code == 0, done.err
    one = scores(tmp_path / "a.json")["jpeg", 50.0, "psnr"]
    assert one["n"] == 9
    assert "2 of 11 items were left out: cut.png, empty.jpg" in one["warnings"]


def test_unpaired_names(files: Files, judge: Judge, tmp_path: Path) -> None:
    made = tmp_path / "made"
    shutil.copytree(files.pictures, made)
    (made / "1.png").unlink()
    picture(made / "more.png")
    words = ("recon", "-t", f"folder:{made}", "--data", files.pictures, "--crop", "none",
             "-m", "psnr", "--out", "a.json")  # fmt: skip
    refused = judge(*words)
    assert "1 originals have no partner (1.png)" in refused.sentence
    assert "1 files there belong to no original (more.png)" in refused.sentence
    done = judge(*words, "--skip-bad")
    assert done.code == 0, done.err
    found = scores(tmp_path / "a.json")
    assert found["made", None, "psnr"]["n"] == 8
    # All contestants are judged on the same items.
    assert found["ground truth", None, "psnr"]["n"] == 8
    assert found["made", None, "psnr"]["value"] == "inf"


def test_finished_files_of_another_size(files: Files, judge: Judge) -> None:
    refused = judge("recon", "-t", f"folder:{files.pictures}", "--data", files.pictures,
                    "--size", 16, "-m", "psnr")  # fmt: skip
    assert "pixels where the original, cropped by the protocol, is 16 x 16" in refused.sentence


def test_nan_from_a_contestant_is_counted_not_averaged(
    files: Files, judge: Judge, tmp_path: Path
) -> None:
    done = judge("recon", "-t", "judged_contestants:broken", "--data", files.pictures, "--size",
                 16, "-m", "psnr,ssim", "--out", "a.json")  # fmt: skip
    assert done.code == 0, done.err
    one = scores(tmp_path / "a.json")["judged_contestants:broken", None, "psnr"]
    assert 0 < one["n"] < 9 and isinstance(one["value"], float)
    (failure,) = one["failures"]
    assert failure["count"] == 9 - one["n"] and "NaN" in failure["reason"]
    assert all(name.endswith(".png") for name in failure["items"])


def test_unknown_words_get_the_nearest(files: Files, judge: Judge) -> None:
    data = ("--data", files.pictures)
    assert "did you mean 'psnr'" in judge("recon", "-t", "jpeg", *data, "-m", "psnrr").sentence
    assert "did you mean 'jpeg'" in judge("recon", "-t", "jpegg", *data).sentence
    wrong = judge("recon", "-t", "jpeg", *data, "--protocol", "titoc")
    assert "did you mean 'titok'" in wrong.sentence
    assert "is about audio" in judge("recon", "-t", "jpeg", *data, "-p", "sounds").sentence
    assert "is no number above 0" in judge("recon", "-t", "jpeg", *data, "-b", "3,x").sentence


def test_a_protocol_with_a_reference_file_asks_for_it(files: Files, judge: Judge) -> None:
    data = ("--data", files.pictures)
    refused = judge("recon", "-t", "jpeg", *data, "-p", "mar", "-m", "rfid")
    assert "--reference FILE.npz" in refused.sentence
    refused = judge("recon", "-t", "jpeg", *data, "-m", "rfid", "--reference", "nowhere.npz")
    assert "nowhere.npz cannot be read" in refused.sentence


def test_a_reference_of_another_shape(files: Files, judge: Judge, tmp_path: Path) -> None:
    np.savez(tmp_path / "ref.npz", mu=np.zeros(5), sigma=np.zeros((4, 4)))
    refused = judge("gen", "--samples", files.pictures, "--reference", "ref.npz")
    assert "ref.npz" in refused.sentence


def test_rfid_against_statistics_of_a_training_set(
    files: Files, judge: Judge, tmp_path: Path
) -> None:
    name = tmp_path / "VIRTUAL_imagenet256_labeled.npz"
    np.savez(name, mu=np.zeros(2048), sigma=np.eye(2048, dtype=np.float32))
    words = ("recon", "-t", "jpeg", "--qualities", 50, "--data", files.pictures,
             "--reference", name)  # fmt: skip
    refused = judge(*words, "-m", "rfid", "-p", "titok")
    assert "describes training pictures" in refused.sentence
    assert "--protocol mar" in refused.sentence
    assert judge(*words, "-m", "rfid", "-p", "mar").code == 0  # pictures of the training set


def test_missing_weights_are_a_dash_and_the_run_goes_on(
    files: Files, judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    monkeypatch.delenv("TESSERA_WEIGHTS", raising=False)
    words = ("recon", "-t", "jpeg", "--qualities", 50, "--data", files.pictures, "--size", 16,
             "-m", "psnr,rfid,lpips")  # fmt: skip
    done = judge(*words, "--out", "a.json")
    assert done.code == 0, done.err
    found = scores(tmp_path / "a.json")
    missing = found["jpeg", 50.0, "rfid"]
    assert missing["value"] is None and found["jpeg", 50.0, "psnr"]["value"] > 10
    assert "weights-inception-2015-12-05-6726825d.pth" in missing["unavailable"]
    assert "TESSERA_WEIGHTS" in missing["unavailable"]
    assert judge(*words, "--require").code == 3


def test_what_is_there_is_not_overwritten(files: Files, judge: Judge, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("mine")
    refused = judge(*RECON, "--data", files.pictures, "--out", "a.json")
    assert "--force" in refused.sentence
    assert (tmp_path / "a.json").read_text() == "mine"
    assert "must end in .json" in judge(*RECON, "--data", files.pictures, "-o", "a.txt").sentence


def test_damaged_and_silent_sounds(files: Files, judge: Judge, tmp_path: Path) -> None:
    import soundfile

    folder = tmp_path / "sounds"
    shutil.copytree(files.sounds, folder)
    soundfile.write(folder / "silent.wav", np.zeros(8000), 8000)
    soundfile.write(folder / "nan.wav", np.full(8000, np.nan), 8000, subtype="FLOAT")
    words = ("audio", "-t", "opus", "--bitrates", 12, "--data", folder, "-m", "si_sdr,mel",
             "--out", "a.json")  # fmt: skip
    refused = judge(*words)
    assert "1 of 5 files cannot be read: nan.wav" in refused.sentence
    done = judge(*words, "--skip-bad")
    assert done.code == 0, done.err
    one = scores(tmp_path / "a.json")["opus", 12.0, "si_sdr"]
    assert one["n"] == 3 and one["failures"][0]["count"] == 1
    assert one["failures"][0]["items"] == ["silent.wav"]
