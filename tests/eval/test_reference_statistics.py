"""Reference files: ours, guided-diffusion's, and what a careless or hostile hand could make."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eval.moments import moments_of
from eval.reference_statistics import (
    is_train_statistics,
    matching,
    read_statistics,
    write_statistics,
)
from tests.eval.test_moments import vectors
from tok_core.errors import ConfigError, MediaError, TesseraError

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 4, 5, 3), dtype=np.uint8)

NEWER = np.frombuffer(
    json.dumps({"format": "tessera-reference-statistics", "version": 9}).encode(), np.uint8
)


def good(**changes: Any) -> dict[str, Any]:
    """Members of a guided-diffusion file of 3 and 2 dimensions."""
    members: dict[str, Any] = {
        "arr_0": IMAGES, "mu": np.zeros(3), "sigma": np.eye(3), "mu_s": np.ones(2),
        "sigma_s": np.eye(2),
    }  # fmt: skip
    return {key: value for key, value in {**members, **changes}.items() if value is not None}


def test_round_trip(tmp_path: Path) -> None:
    features, spatial = moments_of(vectors(9, 4)), moments_of(vectors(9, 2))
    extractor = {"extractor": "inception-fid", "extractor_sha256": "ab" * 32}
    path = tmp_path / "val.npz"
    write_statistics(
        path, features, spatial=spatial, protocol={"name": "titok", "split": "val"},
        extractor=extractor, images=IMAGES,
    )  # fmt: skip
    found = read_statistics(path, dimension=4)
    for ours, theirs in ((found.features, features), (found.spatial, spatial)):
        assert ours is not None and ours.count == 9
        assert torch.equal(ours.mean, theirs.mean)
        assert torch.equal(ours.covariance, theirs.covariance)
    assert found.header["protocol"]["name"] == "titok" and len(found.sha256) == 64
    pixels = torch.cat(list(found.images(3)))
    assert torch.equal(pixels, torch.from_numpy(IMAGES).permute(0, 3, 1, 2))
    with np.load(path) as plain:  # other tools read it too, without pickles
        assert {"mu", "sigma", "mu_s", "sigma_s", "arr_0", "header"} == set(plain.files)
    with pytest.raises(TesseraError, match="exists already"):
        write_statistics(path, features)


def test_other_peoples_files(tmp_path: Path) -> None:
    for save, name in ((np.savez, "a.npz"), (np.savez_compressed, "b.npz")):
        save(tmp_path / name, **good(sigma=np.eye(3, dtype=np.float32)))
        found = read_statistics(tmp_path / name)
        assert found.pictures == IMAGES.shape and found.features.count is None
        assert found.features.covariance.dtype == torch.float64
        assert sum(len(part) for part in found.images(2)) == 7
    np.savez(tmp_path / "c.npz", mu=np.zeros(3), sigma=np.eye(3))
    found = read_statistics(tmp_path / "c.npz")
    assert found.spatial is None and found.pictures is None
    with pytest.raises(MediaError, match="hold no pictures"):
        next(found.images())


@pytest.mark.parametrize("changes, says", [
    ({"sigma": None}, "no mu and sigma"),
    ({"sigma": np.eye(4)}, r"shape \(4, 4\) and \(3, 3\)"),
    ({"mu": np.zeros((3, 1))}, "numbers"),
    ({"mu": np.array(["a", "b", "c"])}, "numbers"),
    ({"mu": np.array([None, 1, 2], dtype=object)}, "Python objects"),
    ({"sigma": np.full((3, 3), np.nan)}, "NaN"),
    ({"sigma": np.arange(9.0).reshape(3, 3)}, "not symmetric"),
    ({"sigma_s": np.eye(5)}, "sigma_s has shape"),
    ({"arr_0": IMAGES.astype(np.float32)}, "uint8"),
    ({"arr_0": IMAGES[..., :1]}, "uint8"),
    ({"header": np.frombuffer(b"{}", np.uint8)}, "not one of this suite"),
    ({"header": np.frombuffer(b"[[[", np.uint8)}, "cannot be used"),
    ({"header": NEWER}, "version 9"),
])  # fmt: skip
def test_misshapen(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    np.savez(tmp_path / "bad.npz", **good(**changes))
    with pytest.raises(MediaError, match=says) as caught:
        read_statistics(tmp_path / "bad.npz")
    assert "\n" not in str(caught.value)


def test_claims_of_impossible_size(tmp_path: Path) -> None:
    """A header may promise an array of terabytes; nothing of that size is ever made."""
    def claim(shape: tuple[int, ...]) -> bytes:
        file = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f8", "fortran_order": False, "shape": shape})  # fmt: skip
        return file.getvalue()

    for name, shape in (("huge", (10**6,)), ("short", (2048,)), ("negative", (-1,))):
        with zipfile.ZipFile(tmp_path / f"{name}.npz", "w") as archive:
            archive.writestr("mu.npy", claim(shape))
            archive.writestr("sigma.npy", claim(shape * 2))
        with pytest.raises(MediaError):
            read_statistics(tmp_path / f"{name}.npz")


def test_damaged_anywhere(tmp_path: Path) -> None:
    np.savez(tmp_path / "whole.npz", **good())
    data = (tmp_path / "whole.npz").read_bytes()
    path = tmp_path / "part.npz"
    for cut in range(0, len(data), 97):
        path.write_bytes(data[:cut])
        with pytest.raises(MediaError):
            read_statistics(path)
    for at in range(0, len(data), 41):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x5A]) + data[at + 1 :])
        try:  # a changed byte is harmless, or one clear sentence
            found = read_statistics(path)
            if found.pictures is not None:
                list(found.images())
        except MediaError as error:
            assert "\n" not in str(error)
    with pytest.raises(MediaError, match="cannot be read"):
        read_statistics(tmp_path / "missing.npz")
    with pytest.raises(MediaError):
        read_statistics(tmp_path)


def test_training_statistics_are_known(tmp_path: Path) -> None:
    assert is_train_statistics("refs/VIRTUAL_imagenet256_labeled.npz")
    assert is_train_statistics(Path("adm_in256_stats.npz"))
    assert not is_train_statistics("val_50k.npz")
    for split, train in (("train", True), ("val", False)):
        path = tmp_path / f"VIRTUAL_imagenet_{split}.npz"
        write_statistics(path, moments_of(vectors(9, 2)), protocol={"split": split})
        assert is_train_statistics(read_statistics(path)) is train
    np.savez(tmp_path / "VIRTUAL_imagenet256.npz", **good())
    assert is_train_statistics(read_statistics(tmp_path / "VIRTUAL_imagenet256.npz"))


def test_statistics_of_another_extractor_are_refused(tmp_path: Path) -> None:
    write_statistics(
        tmp_path / "a.npz", moments_of(vectors(9, 2)), extractor={"extractor_resize": "clean"}
    )
    found = read_statistics(tmp_path / "a.npz")
    matching(found, {"extractor_resize": "clean"})
    with pytest.raises(ConfigError, match="'clean' and this run has 'tf'"):
        matching(found, {"extractor_resize": "tf", "precision": "float32"})
    with pytest.raises(MediaError, match="2 dimensions and the extractor gives 2048"):
        read_statistics(tmp_path / "a.npz", dimension=2048)
