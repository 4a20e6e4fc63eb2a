"""Reference statistics: what is known of a set of real pictures, kept in one ``.npz`` file.

    mu (D,), sigma (D, D)        of tap 2048, for FID          mu_s, sigma_s    of 2023, for sFID
    arr_0 (N, H, W, 3) uint8     pictures, for precision, recall and KID; read in batches
    header                       JSON bytes, in files that we write: protocol, count, extractor

The same members as in guided-diffusion's reference batches, so their files are read and ours are
read by their tools. Nothing in a file is ever unpickled.

Letters: D dimensions, N pictures, B of a batch.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from eval.moments import Moments
from tok_core.atomic_write import write_bytes
from tok_core.errors import ConfigError, MediaError

FORMAT, VERSION = "tessera-reference-statistics", 1
LARGEST_DIMENSION = 8192  # a covariance of half a gigabyte; no extractor comes near
LARGEST_HEADER = 1 << 20
# Names of published files whose mu and sigma come from the ImageNet training set.
TRAIN_FILES = ("virtual_imagenet", "adm_in256_stats", "adm_in512_stats")


@dataclass(frozen=True, kw_only=True)
class ReferenceStatistics:
    """Moments of real pictures, and where they come from.

    Args:
        features: moments of tap 2048. spatial: of the spatial tap, None where the file has none.
        header: what we wrote beside them; empty for files of others.
        path: of the file, None before it is written. sha256: of its bytes.
        pictures: shape (N, H, W, 3) of the pictures inside, None where there are none.

    Example:
        >>> statistics = read_statistics("VIRTUAL_imagenet256_labeled.npz")
        >>> statistics.features.mean.shape, statistics.pictures
        (torch.Size([2048]), (10000, 256, 256, 3))
    """

    features: Moments
    spatial: Moments | None = None
    header: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None
    sha256: str = ""
    pictures: tuple[int, int, int, int] | None = None

    def images(self, batch: int = 32) -> Iterator[Tensor]:
        """Yield the pictures as uint8 (B, 3, H, W), reading one batch at a time.

        Raises:
            MediaError: the file holds none, or is damaged.
        """
        if self.path is None or self.pictures is None:
            raise MediaError(
                f"{self.path or 'these statistics'} hold no pictures (arr_0); precision, recall "
                "and KID need them, so take a file that has them or give real pictures."
            )
        count, height, width, channels = self.pictures
        size = height * width * channels
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open("arr_0.npy") as member:
                array_header(member)
                for at in range(0, count, batch):
                    rows = min(batch, count - at)
                    data = member.read(rows * size)
                    if len(data) != rows * size:
                        raise ValueError("the pictures end too early")
                    pixels = np.frombuffer(data, np.uint8).reshape(rows, height, width, channels)
                    yield torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise _damaged(self.path, str(error)) from None


def is_train_statistics(statistics: ReferenceStatistics | str | os.PathLike[str]) -> bool:
    """Tell whether statistics (or a file of that name) describe a training set.

    Comparing reconstructions of a validation set with them gives rFIDs that look two points too
    high: the most common mistake in this field. Our own files say so in their header (``split``),
    published ones are known by name.
    """
    if isinstance(statistics, ReferenceStatistics):
        protocol = statistics.header.get("protocol", {})
        if isinstance(protocol, Mapping) and protocol.get("split"):
            return bool(protocol["split"] == "train")
        name = statistics.path.name if statistics.path else ""
    else:
        name = Path(statistics).name
    return any(known in name.lower() for known in TRAIN_FILES)


def write_statistics(
    path: str | os.PathLike[str],
    features: Moments,
    *,
    spatial: Moments | None = None,
    protocol: Mapping[str, Any] | None = None,
    extractor: Mapping[str, Any] | None = None,
    images: np.ndarray | None = None,
    force: bool = False,
) -> None:
    """Write statistics as an uncompressed ``.npz``.

    Args:
        features, spatial: moments of the two taps.
        protocol: how the pictures were made ready (`Protocol.to_dict`). extractor: what
            `FeatureExtractor.protocol` returns, with the hash of its weights.
        images: uint8 (N, H, W, 3) to keep as ``arr_0``.

    Raises:
        TesseraError: the file exists and ``force`` is False, or the disk refuses.
    """
    header = {
        "format": FORMAT, "version": VERSION, "count": features.count,
        "protocol": dict(protocol or {}), "extractor": dict(extractor or {}),
    }  # fmt: skip
    members: dict[str, np.ndarray] = {
        "mu": features.mean.cpu().numpy(), "sigma": features.covariance.cpu().numpy(),
        "header": np.frombuffer(json.dumps(header).encode(), np.uint8),
    }  # fmt: skip
    if spatial is not None:
        members["mu_s"] = spatial.mean.cpu().numpy()
        members["sigma_s"] = spatial.covariance.cpu().numpy()
    if images is not None:
        members["arr_0"] = images
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **members)  # type: ignore[arg-type]
    write_bytes(path, buffer.getvalue(), force=force)


def read_statistics(
    path: str | os.PathLike[str], *, dimension: int | None = None
) -> ReferenceStatistics:
    """Read statistics written by us, by guided-diffusion or by MAR.

    Args:
        path: of the ``.npz``. dimension: that ``mu`` must have, None for any.

    Raises:
        MediaError: no such file, not an npz, members missing, misshapen or damaged.
    """
    path = Path(path).expanduser()
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            if not {"mu.npy", "sigma.npy"} <= names:
                raise ValueError("it has no mu and sigma")
            header = _header(archive) if "header.npy" in names else {}
            count = header.get("count")
            count = count if isinstance(count, int) and count >= 2 else None
            features = Moments(*_moments(archive, "mu", "sigma", dimension), count)
            spatial = None
            if {"mu_s.npy", "sigma_s.npy"} <= names:
                spatial = Moments(*_moments(archive, "mu_s", "sigma_s", None), count)
            pictures = _pictures(archive) if "arr_0.npy" in names else None
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise MediaError(
            f"reference file {path} cannot be read ({error.strerror or error}); give the path of "
            "an .npz with mu and sigma."
        ) from None
    except MediaError:
        raise
    except Exception as error:  # noqa: BLE001 - a hostile archive can raise anything
        raise _damaged(path, str(error)) from None
    return ReferenceStatistics(
        features=features, spatial=spatial, header=header, path=path, sha256=digest,
        pictures=pictures,
    )  # fmt: skip


def _damaged(path: Path, reason: str) -> MediaError:
    reason = " ".join(reason.split())[:160] or "it is damaged"
    return MediaError(
        f"reference file {path} cannot be used: {reason}; give an .npz with mu (D,) and sigma "
        "(D, D), as guided-diffusion publishes or this suite writes."
    )


def array_header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and dtype, reading the head of an ``.npy`` only."""
    version = np.lib.format.read_magic(member)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)  # fmt: skip
    if read is None:
        raise ValueError(f"an array has the unknown format {version}")
    shape, column_major, dtype = read(member)
    if column_major and len(shape) > 1:
        raise ValueError("an array is stored column by column")
    if dtype.hasobject:
        raise ValueError("an array holds Python objects, which are never loaded")
    return shape, dtype


def _read(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...] | None) -> np.ndarray:
    """Return one small array; its size is checked before anything is unpacked."""
    with archive.open(f"{name}.npy") as member:
        found, dtype = array_header(member)
        if shape is not None and found != shape:
            raise ValueError(f"{name} has shape {found} and {shape} is needed")
        size = int(np.prod(found, dtype=object)) * dtype.itemsize
        data = member.read(size)
        if len(data) != size:
            raise ValueError(f"{name} ends too early")
    return np.frombuffer(data, dtype).reshape(found)


def _moments(
    archive: zipfile.ZipFile, mean: str, covariance: str, dimension: int | None
) -> tuple[Tensor, Tensor]:
    with archive.open(f"{mean}.npy") as member:
        shape, dtype = array_header(member)
    if len(shape) != 1 or not 1 <= shape[0] <= LARGEST_DIMENSION or dtype.kind != "f":
        raise ValueError(f"{mean} has shape {shape} of {dtype}; numbers (D,) are needed")
    if dimension is not None and shape[0] != dimension:
        raise ValueError(
            f"{mean} has {shape[0]} dimensions and the extractor gives {dimension}"
        )
    values = _read(archive, mean, shape), _read(archive, covariance, shape * 2)
    if values[1].dtype.kind != "f":
        raise ValueError(f"{covariance} holds {values[1].dtype}; numbers are needed")
    found = [torch.from_numpy(value.astype(np.float64)) for value in values]
    if not all(bool(torch.isfinite(value).all()) for value in found):
        raise ValueError(f"{mean} or {covariance} holds NaN or infinity")
    if float((found[1] - found[1].mT).abs().max()) > 1e-6 * float(found[1].abs().max()):
        raise ValueError(f"{covariance} is not symmetric, so it is no covariance")
    return found[0], found[1]


def _pictures(archive: zipfile.ZipFile) -> tuple[int, int, int, int]:
    with archive.open("arr_0.npy") as member:
        shape, dtype = array_header(member)
    if len(shape) != 4 or shape[3] != 3 or dtype != np.uint8 or min(shape) < 1:
        raise ValueError(f"arr_0 has shape {shape} of {dtype}; uint8 (N, H, W, 3) is needed")
    return shape[0], shape[1], shape[2], shape[3]


def _header(archive: zipfile.ZipFile) -> dict[str, Any]:
    with archive.open("header.npy") as member:
        shape, dtype = array_header(member)
    if len(shape) != 1 or dtype != np.uint8 or shape[0] > LARGEST_HEADER:
        raise ValueError(f"its header has shape {shape} of {dtype}; JSON bytes are needed")
    plain = json.loads(_read(archive, "header", shape).tobytes())
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        raise ValueError("its header is not one of this suite")
    if plain.get("version") != VERSION:
        raise ValueError(f"it has version {plain.get('version')} and {VERSION} is read here")
    return plain


def matching(statistics: ReferenceStatistics, extractor: Mapping[str, Any]) -> None:
    """Refuse statistics that another extractor made.

    Args:
        extractor: what `FeatureExtractor.protocol` returns now. Files of others do not say, and
            are taken on trust.

    Raises:
        ConfigError: name, weights' hash, resize or precision differ.
    """
    made_by = statistics.header.get("extractor") or {}
    for key, value in extractor.items():
        if key in made_by and made_by[key] != value:
            raise ConfigError(
                f"reference file {statistics.path} was made with {key} {made_by[key]!r} and this "
                f"run has {value!r}; make the statistics again or change the protocol."
            )
