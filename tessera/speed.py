"""How much of the model's speed is left when files go in and files come out."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tessera.files import Job
from tessera.pipeline import Steps, run
from tessera.session import TOKEN_SUFFIX, Session, named

T = TypeVar("T")


def measure_speed(
    model: str | None, *, files: int = 200, device: str = "auto", batch_size: int = 16
) -> dict[str, Any]:
    """Encode and decode a folder of small pictures, and time the network alone beside it.

    Args:
        model: shipped name, folder or hub id.
        files: pictures; crops of the shipped photographs, 96 x 96, JPEG.
        device: ``auto``, ``cpu``, ...
        batch_size: network inputs per call.

    Returns:
        files per second: ``model_only``, ``encode``, ``decoder_only``, ``decode``.

    Example:
        >>> measure_speed(None, files=1000)["encode"]  # doctest: +SKIP
    """
    with tempfile.TemporaryDirectory(prefix="tessera-speed-") as name:
        folder = Path(name)
        pictures = write_small_pictures(folder / "in", files)
        session = Session.open(model, inputs=[], device=device, batch_size=batch_size)
        codec = session.codec
        signals = [codec.read(path) for path in pictures]
        codec.encode(signals[:batch_size])  # first call: kernels are chosen, memory is taken
        model_only = _rate(codec.encode, signals, batch_size)
        encoded = _encode(session, pictures, folder / "tok")
        token_files = [item.file for item in codec.encode(signals[:batch_size])]  # type: ignore
        codec.decode(token_files)
        decoder_only = _rate(codec.decode, token_files * (files // len(token_files) or 1),
                             batch_size)  # fmt: skip
        decoded = _decode(session, sorted((folder / "tok").iterdir()), folder / "out")
    return {
        **session.facts, "files": files, "batch_size": batch_size, "model_only": model_only,
        "encode": encoded, "decoder_only": decoder_only, "decode": decoded,
    }  # fmt: skip


def write_small_pictures(folder: Path, count: int, side: int = 96) -> list[Path]:
    """Write ``count`` JPEG crops of the shipped photographs and return their paths."""
    from PIL import Image

    from assets import asset_path

    folder.mkdir(parents=True)
    photographs = sorted(Path(asset_path("images")).glob("*.webp"))
    paths = []
    for i in range(count):
        if i % -(-count // len(photographs)) == 0:
            with Image.open(photographs[i * len(photographs) // count]) as photograph:
                picture = photograph.convert("RGB")
        # Two co-prime strides walk over the whole photograph.
        x, y = (i * 37) % (picture.width - side), (i * 53) % (picture.height - side)
        paths.append(folder / f"{i:05d}.jpg")
        picture.crop((x, y, x + side, y + side)).save(paths[-1], quality=90)
    return paths


def _rate(work: Callable[[list[T]], Any], items: Sequence[T], batch_size: int) -> float:
    start = time.perf_counter()
    for i in range(0, len(items), batch_size):
        work(list(items[i : i + batch_size]))
    return len(items) / (time.perf_counter() - start)


def _encode(session: Session, pictures: Sequence[Path], out: Path) -> float:
    from tok_core.token_file import write_token_file

    codec = session.codec

    def write(job: Job, signal: Any, encoded: Any) -> dict[str, Any]:
        return named(job) | {"bytes": write_token_file(job.target, encoded.file)}

    jobs = [Job(path, out / (path.stem + TOKEN_SUFFIX)) for path in pictures]
    steps = Steps(codec.read, codec.encode, write, codec.weight, codec.ahead)
    return run(jobs, steps, batch_size=session.batch_size).files_per_second


def _decode(session: Session, token_files: Sequence[Path], out: Path) -> float:
    from tok_core.token_file import read_token_file

    codec = session.codec

    def write(job: Job, file: Any, signal: Any) -> dict[str, Any]:
        return named(job) | {"bytes": codec.write(job.target, signal, force=False)}

    jobs = [Job(path, out / (path.stem + codec.default_suffix)) for path in token_files]
    steps = Steps(read_token_file, codec.decode, write, codec.decode_weight, codec.ahead)
    return run(jobs, steps, batch_size=session.batch_size).files_per_second
