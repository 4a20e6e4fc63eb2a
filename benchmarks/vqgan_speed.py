"""LlamaGen's VQ-16 on the CPU against diffusers' VQModel of the same shape and weights, in one run.

    python benchmarks/vqgan_speed.py [--batch 4] [--repeats 3] [--small]

Both hold the same tensors and give the same codes and pictures (checked first); both run in
inference mode, in turns, in one process: pictures to codes, and codes to pictures.  GFLOP/s count
the operations of diffusers' network beside the best rate of one large product on this machine.
Then the extra memory of quantizing one batch of latents, over codebook sizes.

A second part repeats the float32 times as each is run: ours in a process that keeps its memory
warm, as the ``tessera`` command does, diffusers in an ordinary Python process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _measure import alternate, extra_bytes, matmul_peak, processor
from torch import Tensor

from tok_core.torchaudio_guard import guard_torchaudio
from tok_core.vector_quantizer import VectorQuantizer
from tok_core.warm_memory import keep_memory_warm
from vision_tok.import_vqgan import official_names
from vision_tok.vqgan import VQGAN

RESULT = Path(__file__).parent / "results" / "vqgan_speed.json"
TARGET = 1.3
HEADS = (("peer s", 9), ("ours s", 9), ("faster", 8), ("peer", 8), ("ours", 8))
SIZES = (1024, 4096, 16384, 65536)


class Peer:
    """diffusers' VQModel with the weights of ours, from pictures to codes and back."""

    def __init__(self, ours: VQGAN) -> None:
        guard_torchaudio()
        from diffusers import VQModel

        sizes = ours.settings.encoder
        levels = len(sizes.widths)
        down = ["DownEncoderBlock2D"] * (levels - 1) + ["AttnDownEncoderBlock2D"]
        up = ["AttnUpDecoderBlock2D"] + ["UpDecoderBlock2D"] * (levels - 1)
        self.model = VQModel(
            down_block_types=down, up_block_types=up, block_out_channels=sizes.widths,
            layers_per_block=sizes.res_blocks, latent_channels=sizes.z_channels,
            num_vq_embeddings=ours.quantizer.codebook_size, vq_embed_dim=ours.quantizer.code_dim,
            norm_num_groups=sizes.groups,
        ).eval()  # fmt: skip
        state, ours_state = self.model.state_dict(), ours.state_dict()
        for name, parts in official_names(ours, "diffusers").items():
            for part, piece in zip(parts, ours_state[name].chunk(len(parts)), strict=True):
                state[part].copy_(piece.reshape(state[part].shape))

    def encode(self, images: Tensor) -> Tensor:
        z = self.model.encode(images).latents
        codes = self.model.quantize(z)[2][2]
        return codes.view(len(images), *z.shape[-2:])

    def decode(self, codes: Tensor) -> Tensor:
        shape = (*codes.shape, self.model.config.vq_embed_dim)
        z = self.model.quantize.get_codebook_entry(codes.flatten(), shape)
        return self.model.decode(z, force_not_quantize=True).sample.clamp(-1, 1)


def make(small: bool) -> VQGAN:
    """Return VQ-16 with raw codes (diffusers compares nothing else), random weights."""
    torch.manual_seed(0)
    side = {"channels": 32, "multipliers": [1, 2], "res_blocks": 1} if small else None
    model = VQGAN(encoder_sizes=side, l2_normalize=False).eval()
    torch.nn.init.normal_(model.quantizer.codebook, std=0.1)
    return model


def inputs(small: bool, batch: int, ours: VQGAN) -> tuple[Tensor, Tensor]:
    """Return pictures and codes of the same sizes for both."""
    side = 64 if small else 256
    images = torch.rand(batch, 3, side, side) * 2 - 1
    cells = side // ours.factor
    return images, torch.randint(0, ours.quantizer.codebook_size, (batch, cells, cells))


@torch.inference_mode()
def measure(batch: int, repeats: int, small: bool) -> dict[str, Any]:
    """Run everything once and return the table as JSON values."""
    ours = make(small)
    peer = Peer(ours)
    images, codes = inputs(small, batch, ours)
    error = float((ours.decode(codes) - peer.decode(codes)).abs().max())
    agree = float((ours.encode(images).codes == peer.encode(images)).float().mean())
    assert error < 1e-3 and agree > 0.98, (error, agree)
    peak = {str(d).split(".")[-1]: matmul_peak(d) for d in (torch.float32, torch.bfloat16)}
    rows = _rows(ours, peer, images, codes, repeats, torch.float32)
    if peak["bfloat16"] > peak["float32"]:
        rows += _rows(ours, peer, images, codes, repeats, torch.bfloat16)
    else:  # no bfloat16 units: minutes per picture, so one round of one small picture
        corner, few = images[:1, :, :64, :64], codes[:1, :4, :4]
        rows += _rows(ours, peer, corner, few, 0, torch.bfloat16)
    full = [row for row in rows if row["dtype"] == "float32"]
    both = {who: sum(row[f"{who}_seconds"] for row in full) for who in ("peer", "ours")}
    return {
        "batch": batch, "picture": images.shape[-1], "threads": torch.get_num_threads(),
        "torch": torch.__version__, "processor": processor(), "largest_picture_error": error,
        "equal_codes": agree,
        "matmul_peak_gflops": peak,
        "rows": rows, "speedup_encode_and_decode_float32": both["peer"] / both["ours"],
        "target": TARGET,
    }  # fmt: skip


def _rows(
    ours: VQGAN, peer: Peer, images: Tensor, codes: Tensor, repeats: int, dtype: torch.dtype
) -> list[dict[str, Any]]:
    """Return one row for encoding and one for decoding."""
    from torch.utils.flop_counter import FlopCounterMode

    work: dict[str, dict[str, Callable[[], object]]] = {
        "encode": {"peer": lambda: peer.encode(images), "ours": lambda: ours.encode(images)},
        "decode": {"peer": lambda: peer.decode(codes), "ours": lambda: ours.decode(codes)},
    }
    rows = []
    for name, runs in work.items():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype != torch.float32):
            with FlopCounterMode(display=False) as counter:
                runs["peer"]()
            seconds = alternate(runs, repeats)
        count = counter.get_total_flops() / 1e9
        rows.append({
            "what": name, "dtype": str(dtype).split(".")[-1], "batch": len(images),
            "picture": images.shape[-1], "peer_seconds": seconds["peer"],
            "ours_seconds": seconds["ours"], "speedup": seconds["peer"] / seconds["ours"],
            "gflop": count, "peer_gflops": count / seconds["peer"],
            "ours_gflops": count / seconds["ours"],
        })  # fmt: skip
    return rows


@torch.inference_mode()
def quantization_memory(batch: int) -> list[dict[str, float]]:
    """Return the extra megabytes of quantizing 256 latents per picture, per codebook size."""
    guard_torchaudio()
    from diffusers.models.autoencoders.vae import VectorQuantizer as PeerQuantizer

    rows = []
    for size in SIZES:
        ours, peer = VectorQuantizer(size, 8).eval(), PeerQuantizer(size, 8, beta=0.25).eval()
        z = torch.randn(batch, 8, 16, 16)
        rows.append({
            "codes": size,
            "ours_mb": extra_bytes(lambda ours=ours, z=z: ours.encode(z.movedim(1, -1))) / 1e6,
            "peer_mb": extra_bytes(lambda peer=peer, z=z: peer(z)) / 1e6,
        })  # fmt: skip
    return rows


def as_run(batch: int, repeats: int, small: bool) -> dict[str, Any]:
    """Compare float32 as each is run, each in processes of its own, in turns."""
    best: dict[str, dict[str, float]] = {}
    for who in ("peer", "ours") * 2:
        command = [
            sys.executable, __file__, "--only", who, "--batch", str(batch), "--repeats",
            str(repeats), *(["--small"] if small else []),
        ]  # fmt: skip
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        seconds = json.loads(done.stdout)
        known = best.get(who, seconds)
        best[who] = {name: min(seconds[name], known[name]) for name in seconds}
    total = {who: sum(seconds.values()) for who, seconds in best.items()}
    return {"seconds": best, "speedup": total["peer"] / total["ours"]}


@torch.inference_mode()
def _seconds(who: str, batch: int, repeats: int, small: bool) -> dict[str, float]:
    if who == "ours":
        keep_memory_warm()
    ours = make(small)
    network: Any = ours if who == "ours" else Peer(ours)
    images, codes = inputs(small, batch, ours)
    return {
        "encode": alternate({"": lambda: network.encode(images)}, repeats)[""],
        "decode": alternate({"": lambda: network.decode(codes)}, repeats)[""],
    }


def main() -> None:
    """Print the tables and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="a small network, nothing written")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--only", choices=("peer", "ours"), help="seconds of one, as JSON")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(_seconds(options.only, options.batch, options.repeats, options.small)))
        return
    result = measure(options.batch, options.repeats, options.small)
    result["quantization_memory"] = quantization_memory(max(options.batch, 16))
    result["as_run"] = as_run(options.batch, options.repeats, options.small)
    _print(result)
    if not options.small:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")


def _print(result: dict[str, Any]) -> None:
    print(f"in one process, batch {result['batch']}, {result['threads']} threads")
    print(f"{'':8}{'dtype':10}{'pixels':>8}{''.join(f'{word:>{w}}' for word, w in HEADS)}  GFLOP/s")
    for row in result["rows"]:
        print(
            f"{row['what']:8}{row['dtype']:10}{row['picture']:8}"
            f"{row['peer_seconds']:9.3f}{row['ours_seconds']:9.3f}"
            f"{row['speedup']:8.2f}{row['peer_gflops']:8.0f}{row['ours_gflops']:8.0f}"
        )
    print(f"peak of one product: {result['matmul_peak_gflops']} GFLOP/s")
    for row in result["quantization_memory"]:
        print(f"{row['codes']:>8} codes: ours {row['ours_mb']:.1f} MB, peer {row['peer_mb']:.1f}")
    for who, seconds in result["as_run"]["seconds"].items():
        print(f"{who} in a process of its own: {seconds}")
    print(
        f"encode + decode, float32: {result['speedup_encode_and_decode_float32']:.2f} x in one "
        f"process, {result['as_run']['speedup']:.2f} x as each is run (target {TARGET} x)"
    )


if __name__ == "__main__":
    main()
