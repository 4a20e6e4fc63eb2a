"""FID and IS against torch-fidelity, and the Fréchet distance alone against scipy's sqrtm.

    python benchmarks/frechet_speed.py --peer runs/peers      # table, benchmarks/results/*.json
    python benchmarks/frechet_speed.py --peer runs/peers --images 40 --dimension 256   # a try

torch-fidelity (and the torchvision that it imports) stand in a folder of their own, made once with

    python -m pip install --no-deps --target runs/peers torch-fidelity==0.4.0 torchvision==0.28.0

Both judges read the same PNG files (half of them the real side, half the generated one) and the
same weight file, filled by a formula: speed does not depend on the values, and the scores can be
compared. Each run is a process of its own on two threads; the processes take turns, and the best
of each counts. "Seconds" run from before the weights are read to the scores in hand, imports left
out; extra memory is the peak of the resident set above its size when the imports were done (of
the main process: torch-fidelity's loader workers are not counted).
torch-fidelity keeps its default loader (worker processes read the files) and its cache is off.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from _measure import alternate, processor, resident

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RESULTS = Path(__file__).parent / "results" / "frechet_speed.json"
INSTALL = "python -m pip install --no-deps --target {} torch-fidelity==0.4.0 torchvision==0.28.0"
SIDE, BATCH = 256, 32


def write_pictures(folder: Path, count: int) -> None:
    """Write procedural pictures: even ones into ``real``, odd ones, blurred, into ``fake``."""
    from PIL import Image, ImageFilter

    from tok_core.procedural_images import ProceduralImages

    source = ProceduralImages("natural", SIDE)
    for i in range(count):
        side = folder / ("fake" if i % 2 else "real")
        side.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(source.pixels(i // 2))
        if i % 2:
            picture = picture.filter(ImageFilter.GaussianBlur(1.0))
        picture.save(side / f"{i:06d}.png", compress_level=1)


def write_weights(path: Path) -> None:
    """Write a state dict with the published keys and shapes, each tensor uniform about its role."""
    import torch

    from eval.inception import official_shapes

    generator = torch.Generator().manual_seed(2015)
    state = {}
    for key, shape in official_shapes().items():
        u = torch.rand(shape, generator=generator)
        if key.endswith("running_var"):
            state[key] = 0.5 + u
            counter = key.replace("running_var", "num_batches_tracked")
            state[counter] = torch.tensor(0)
        elif len(shape) > 1:
            state[key] = (2 * u - 1) * math.sqrt(6 / math.prod(shape[1:]))
        elif key.endswith("bn.weight"):
            state[key] = 0.75 + 0.5 * u
        else:
            state[key] = 0.2 * (2 * u - 1)
    torch.save(state, path)


def read_ahead(files: list[Path]) -> Iterator[Any]:
    """Yield batches of uint8 (B, 3, H, W); a thread decodes the next one meanwhile."""
    import numpy as np
    import torch
    from PIL import Image

    def read(part: list[Path]) -> Any:
        pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in part])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)

    parts = [files[at : at + BATCH] for at in range(0, len(files), BATCH)]
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(read, parts[0])
        for part in [*parts[1:], None]:
            batch = coming.result()
            if part is not None:
                coming = pool.submit(read, part)
            yield batch


def run_ours(folder: Path, weights: Path) -> dict[str, float]:
    """Return FID and IS by this suite."""
    from eval.fid import FrechetInception

    metric = FrechetInception(("fid", "is"), weights=weights)
    for side in ("real", "fake"):
        for batch in read_ahead(sorted((folder / side).iterdir())):
            metric.update(batch, real=side == "real")
    return {name: float(value) for name, value in metric.compute().items()}


def run_peer(folder: Path, weights: Path) -> dict[str, float]:
    """Return FID and IS by torch-fidelity."""
    import torch_fidelity

    found = torch_fidelity.calculate_metrics(
        input1=str(folder / "fake"), input2=str(folder / "real"), cuda=False, fid=True, isc=True,
        cache=False, verbose=False, feature_extractor_weights_path=str(weights),
    )  # fmt: skip
    return {"fid": found["frechet_inception_distance"], "is": found["inception_score_mean"]}


def child(who: str, folder: Path, weights: Path) -> None:
    """Run one judge in this process and print what it took as JSON."""
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    # Importing a metric imports torchmetrics; both sides' imports are over before the clock runs.
    if who == "peer":
        # Beside a CPU build of torch, torchvision needs these schemas to import.
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torch_fidelity  # noqa: F401

        run = run_peer
    else:
        import eval.fid
        import eval.inception  # noqa: F401

        run = run_ours
    Path("/proc/self/clear_refs").write_text("5")  # the peak of the imports must not count
    before, start = resident("VmRSS"), time.perf_counter()
    scores = run(folder, weights)
    seconds = time.perf_counter() - start
    print(json.dumps({
        "seconds": seconds, "extra_mb": (resident("VmHWM") - before) / 1e6, **scores,
    }))  # fmt: skip


def spawn(
    who: str, folder: Path, weights: Path, peer: Path, threads: int
) -> dict[str, float]:
    """Return what a fresh process measured."""
    paths = [str(ROOT), str(Path(__file__).parent), *([str(peer)] if who == "peer" else [])]
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": str(threads),
    }  # fmt: skip
    command = [sys.executable, __file__, "--child", who, str(folder), str(weights)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the run of {who} failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def extraction(
    counts: list[int], peer: Path, repeats: int, folder: Path, threads: int
) -> list[dict[str, Any]]:
    """Return one row per number of pictures: best seconds, memory and scores of both."""
    weights = folder / "formula-weights.pth"
    write_weights(weights)
    rows = []
    for count in counts:
        pictures = folder / str(count)
        write_pictures(pictures, count)
        best: dict[str, dict[str, float]] = {}
        for _ in range(repeats):
            for who in ("ours", "peer"):
                now = spawn(who, pictures, weights, peer, threads)
                if who not in best or now["seconds"] < best[who]["seconds"]:
                    best[who] = now
        ratio = best["peer"]["seconds"] / best["ours"]["seconds"]
        rows.append({"images": count, "ratio": ratio, **best})
        print(f"{count:6d} images  ours {best['ours']['seconds']:7.1f} s  torch-fidelity "
              f"{best['peer']['seconds']:7.1f} s  {ratio:5.2f}x   extra memory "
              f"{best['ours']['extra_mb']:6.0f} and {best['peer']['extra_mb']:6.0f} MB   FID "
              f"{best['ours']['fid']:.4f} and {best['peer']['fid']:.4f}   IS "
              f"{best['ours']['is']:.5f} and {best['peer']['is']:.5f}", flush=True)  # fmt: skip
    return rows


def distance(dimension: int, repeats: int, threads: int) -> dict[str, Any]:
    """Return seconds and values of the distance alone, of two full-rank sets."""
    import numpy as np
    import scipy.linalg
    import torch

    from eval.frechet_distance import frechet_distance
    from eval.moments import moments_of

    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(dimension, dimension, generator=generator) / dimension**0.5
    a, b = (
        moments_of(torch.relu(torch.randn(dimension * 2, dimension, generator=generator) @ mix + s))
        for s in (0.0, 0.1)
    )
    found: dict[str, float] = {}

    def ours() -> None:
        found["ours"] = float(frechet_distance(a, b))

    def peer() -> None:
        one, other = a.covariance.numpy(), b.covariance.numpy()
        root = np.real(np.trace(scipy.linalg.sqrtm(one @ other)))
        shift = float((a.mean - b.mean).square().sum())
        found["peer"] = shift + float(np.trace(one) + np.trace(other)) - 2 * float(root)

    best = alternate({"ours": ours, "peer": peer}, repeats)
    ratio = best["peer"] / best["ours"]
    print(f"distance at {dimension}  ours {best['ours']:6.2f} s  scipy sqrtm {best['peer']:6.2f} s"
          f"  {ratio:5.2f}x   {found['ours']:.9f} and {found['peer']:.9f}")  # fmt: skip
    return {"dimension": dimension, "ratio": ratio, "seconds": best, "values": found}


def main() -> None:
    """Run the comparison, print it, write the JSON unless it was a try."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", type=Path, default=ROOT / "runs" / "peers")
    parser.add_argument("--images", type=int, nargs="+", default=[500, 2000])
    parser.add_argument("--dimension", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        who, folder, weights = options.child
        return child(who, Path(folder), Path(weights))
    peer = options.peer.resolve()
    if not (peer / "torch_fidelity").is_dir():
        raise SystemExit(f"no torch-fidelity in {peer}; put it there with: {INSTALL.format(peer)}")
    import torch

    with tempfile.TemporaryDirectory() as folder:
        rows = extraction(
            options.images, peer, options.repeats, Path(folder), options.threads
        )
    result = {
        "machine": processor() or platform.processor(), "torch": torch.__version__,
        "threads": options.threads, "batch": BATCH, "side": SIDE, "repeats": options.repeats,
        "extraction": rows,
        "distance": distance(options.dimension, options.repeats, options.threads),
    }  # fmt: skip
    if (options.images, options.dimension, options.threads) == ([500, 2000], 2048, 2):
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
        print(f"written to {RESULTS}")
    else:
        print("a try with other sizes: nothing written")


if __name__ == "__main__":
    main()
