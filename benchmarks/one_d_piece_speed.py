"""One-D-Piece-S-256 on the CPU against the same network in plain torch, in one run.

    python benchmarks/one_d_piece_speed.py [--batch 4] [--repeats 3]

The peer has the same weights in nn.MultiheadAttention, nn.Linear and contiguous convolutions, as
the official code has them; both run in inference mode at 256 tokens, in turns, in one process.
GFLOP/s count the operations of the plain network (a folded upsampling needs fewer than it counts),
beside the best rate that this machine reaches for one large product through either library.

A second process repeats everything with torch's THP_MEM_ALLOC_ENABLE=1 (large tensors in huge
pages: fewer page faults, no change of numbers) for both, because a command can set it and a
library cannot.
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
from _measure import alternate, matmul_peak, processor
from torch import Tensor, nn
from torch.nn import functional as F

from tok_core.warm_memory import keep_memory_warm
from vision_tok.one_d_piece import OneDPiece

RESULT = Path(__file__).parent / "results" / "one_d_piece_speed.json"
TARGET = 1.6
HEADS = (("plain s", 9), ("ours s", 9), ("faster", 8), ("plain", 8), ("ours", 8))


# -- the plain peer ------------------------------------------------------------------------------


class PlainBlock(nn.Module):
    """CLIP's block, as everybody writes it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class PlainResidual(nn.Module):
    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(32, a, 1e-6), nn.GroupNorm(32, b, 1e-6)
        self.conv1 = nn.Conv2d(a, b, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(b, b, 3, padding=1, bias=False)
        self.nin_shortcut = nn.Conv2d(b, b, 1, bias=False) if a != b else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.nin_shortcut is None else self.nin_shortcut(h))


class PlainPixels(nn.Module):
    """MaskGIT-VQGAN's decoder with contiguous convolutions."""

    def __init__(self) -> None:
        super().__init__()
        widths = [128, 128, 256, 256, 512]
        self.conv_in = nn.Conv2d(256, 512, 3, padding=1)
        self.mid = nn.Sequential(PlainResidual(512, 512), PlainResidual(512, 512))
        pairs = list(zip(widths[1:] + [512], widths, strict=True))
        self.blocks = nn.ModuleList(
            nn.Sequential(PlainResidual(a, b), PlainResidual(b, b)) for a, b in pairs
        )
        self.convs = nn.ModuleList(nn.Conv2d(b, b, 3, padding=1) for b in widths[1:])
        self.norm_out = nn.GroupNorm(32, 128, 1e-6)
        self.conv_out = nn.Conv2d(128, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z))
        for level in range(4, -1, -1):
            x = self.blocks[level](x)
            if level:
                doubled = F.interpolate(x, scale_factor=2.0, mode="nearest")
                x = self.convs[level - 1](doubled)
        return self.conv_out(F.silu(self.norm_out(x)))


class PlainOneDPiece(nn.Module):
    """The same network, taking its weights from ours."""

    def __init__(self, ours: OneDPiece) -> None:
        super().__init__()
        self.ours = (ours,)  # only for what takes no time: tokens, positions, norms, projections
        settings = ours.settings
        self.encoder = _blocks(ours.encoder, settings.encoder_size)
        self.decoder = _blocks(ours.decoder, settings.decoder_size)
        self.pixels = PlainPixels()
        _copy_pixels(self.pixels, ours.pixel_stage.decoder)

    def encode(self, image: Tensor) -> Tensor:
        ours = self.ours[0]
        part = ours.encoder
        patches = part.stem((image + 1) / 2)
        classes = part.class_embedding.expand(len(image), 1, -1)
        x = torch.cat([classes, patches], 1) + part.positional_embedding
        queries = ours.latent_tokens + part.latent_token_positional_embedding
        x = part.norm_in(torch.cat([x, queries.expand(len(image), -1, -1)], 1))
        x = part.norm_out(self.encoder(x)[:, -256:])
        rows = x.reshape(len(image), x.shape[2], 256).transpose(1, 2)
        return self._nearest(F.linear(rows, part.projection.weight, part.projection.bias))

    def _nearest(self, z: Tensor) -> Tensor:
        table = F.normalize(self.ours[0].quantizer.codebook, dim=-1)
        flat = F.normalize(z, dim=-1).flatten(0, 1)
        distance = flat.square().sum(1, keepdim=True) + table.square().sum(1) - 2 * flat @ table.t()
        return distance.argmin(1).view(z.shape[:-1])

    def decode(self, codes: Tensor) -> Tensor:
        ours = self.ours[0]
        part, stage = ours.decoder, ours.pixel_stage
        z = F.normalize(F.embedding(codes, ours.quantizer.codebook), dim=-1)
        tokens = F.linear(z, part.token_projection.weight, part.token_projection.bias)
        tokens = tokens + part.latent_token_positional_embedding
        start = torch.cat([part.class_embedding, part.mask_token[0].expand(256, -1)])
        start = (start + part.positional_embedding).expand(len(codes), -1, -1)
        x = self.decoder(part.norm_in(torch.cat([start, tokens], 1)))
        x = part.norm_out(x[:, 1:257])
        hidden = F.linear(x, part.head.hidden.weight, part.head.hidden.bias).tanh()
        logits = F.linear(hidden, part.head.logits.weight, part.head.logits.bias)
        mixed = logits.softmax(-1) @ stage.codebook
        grid = mixed.transpose(1, 2).unflatten(2, (16, 16)).contiguous()
        return (self.pixels(grid) * 2 - 1).clamp(-1, 1)


def _blocks(ours: nn.Module, size: object) -> nn.Sequential:
    plain = nn.Sequential()
    for theirs in ours.blocks:
        block = PlainBlock(size.width, size.num_heads)  # type: ignore[attr-defined]
        block.ln_1.load_state_dict(theirs.attention_norm.state_dict())
        block.ln_2.load_state_dict(theirs.mlp_norm.state_dict())
        block.attn.in_proj_weight.data.copy_(theirs.attention.qkv.weight)
        block.attn.in_proj_bias.data.copy_(theirs.attention.qkv.bias)
        block.attn.out_proj.load_state_dict(theirs.attention.out.state_dict())
        block.mlp[0].load_state_dict(theirs.mlp.up.state_dict())
        block.mlp[2].load_state_dict(theirs.mlp.down.state_dict())
        plain.append(block)
    return plain


def _copy_pixels(plain: PlainPixels, ours: nn.Module) -> None:
    for name in ("conv_in", "mid", "norm_out", "conv_out"):
        getattr(plain, name).load_state_dict(getattr(ours, name).state_dict())
    for i, level in enumerate(ours.up):
        plain.blocks[i].load_state_dict(level.block.state_dict())
        if level.upsample_conv is not None:
            plain.convs[i - 1].load_state_dict(level.upsample_conv.state_dict())


# -- measuring -----------------------------------------------------------------------------------


def operations(plain: PlainOneDPiece, batch: int) -> dict[str, float]:
    """Count multiply-adds times two; by hand in the transformers, whose fast path hides them."""
    from torch.utils.flop_counter import FlopCounterMode

    settings, length = plain.ours[0].settings, 513
    counts = {}
    for name, size in (("encode", settings.encoder_size), ("decode", settings.decoder_size)):
        block = 24 * length * size.width**2 + 4 * length**2 * size.width
        counts[name] = float(batch * size.layers * block)
    with FlopCounterMode(display=False) as counter:
        plain.pixels(torch.zeros(batch, 256, 16, 16))
    counts["decode"] += counter.get_total_flops()
    return counts


@torch.inference_mode()
def measure(batch: int, repeats: int) -> dict[str, Any]:
    """Run everything once and return the table as JSON values."""
    torch.manual_seed(0)
    ours = OneDPiece(legacy_reshape=True, head="legacy", pixel_decoder={}).eval()
    plain = PlainOneDPiece(ours).eval()
    images = torch.rand(batch, 3, 256, 256) * 2 - 1
    codes = torch.randint(0, 4096, (batch, 256))
    error = (ours.decode(codes) - plain.decode(codes)).abs().max()
    agree = (ours.encode(images).codes == plain.encode(images)).float().mean()
    assert float(error) < 1e-3 and float(agree) > 0.98, (error, agree)
    work: dict[str, dict[str, Callable[[], object]]] = {
        "encode": {"plain": lambda: plain.encode(images), "ours": lambda: ours.encode(images)},
        "decode": {"plain": lambda: plain.decode(codes), "ours": lambda: ours.decode(codes)},
    }
    rows, counts = [], operations(plain, batch)
    for dtype in (torch.float32, torch.bfloat16):
        for name, runs in work.items():
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype != torch.float32):
                seconds = alternate(runs, repeats)
            flops = counts[name]
            rows.append({
                "what": name, "dtype": str(dtype).split(".")[-1],
                "plain_seconds": seconds["plain"], "ours_seconds": seconds["ours"],
                "speedup": seconds["plain"] / seconds["ours"], "gflop": flops / 1e9,
                "plain_gflops": flops / seconds["plain"] / 1e9,
                "ours_gflops": flops / seconds["ours"] / 1e9,
            })  # fmt: skip
    full = [row for row in rows if row["dtype"] == "float32"]
    both = {who: sum(row[f"{who}_seconds"] for row in full) for who in ("plain", "ours")}
    return {
        "batch": batch, "threads": torch.get_num_threads(), "torch": torch.__version__,
        "processor": processor(), "largest_picture_error": float(error),
        "matmul_peak_gflops": {
            "float32": matmul_peak(torch.float32), "bfloat16": matmul_peak(torch.bfloat16),
        },
        "rows": rows, "speedup_encode_and_decode_float32": both["plain"] / both["ours"],
        "target": TARGET,
    }  # fmt: skip


def main() -> None:
    """Print the tables and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--only", choices=("plain", "ours"), help="seconds of one, as JSON")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(_seconds(options.only, options.batch, options.repeats)))
        return
    result = measure(options.batch, options.repeats)
    result["as_run"] = as_run(options.batch, options.repeats)
    _print(result, "in one process")
    for who, seconds in result["as_run"]["seconds"].items():
        print(f"{who} in a process of its own: {seconds}")
    print(f"encode + decode, float32, as each is run: {result['as_run']['speedup']:.2f} x")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


def as_run(batch: int, repeats: int) -> dict[str, Any]:
    """Compare float32 as each is run: the plain network in an ordinary Python process, ours in one
    that keeps its memory warm, as the ``tessera`` command does; processes in turns."""
    best: dict[str, dict[str, float]] = {}
    for who in ("plain", "ours") * 2:
        command = [
            sys.executable, __file__, "--only", who, "--batch", str(batch), "--repeats",
            str(repeats),
        ]  # fmt: skip
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        seconds = json.loads(done.stdout)
        known = best.get(who, seconds)
        best[who] = {name: min(seconds[name], known[name]) for name in seconds}
    total = {who: sum(seconds.values()) for who, seconds in best.items()}
    return {"seconds": best, "speedup": total["plain"] / total["ours"]}


@torch.inference_mode()
def _seconds(who: str, batch: int, repeats: int) -> dict[str, float]:
    if who == "ours":
        keep_memory_warm()
    torch.manual_seed(0)
    ours = OneDPiece(legacy_reshape=True, head="legacy", pixel_decoder={}).eval()
    network: Any = ours if who == "ours" else PlainOneDPiece(ours).eval()
    images = torch.rand(batch, 3, 256, 256) * 2 - 1
    codes = torch.randint(0, 4096, (batch, 256))
    return {
        "encode": alternate({"": lambda: network.encode(images)}, repeats)[""],
        "decode": alternate({"": lambda: network.decode(codes)}, repeats)[""],
    }


def _print(result: dict[str, Any], title: str) -> None:
    print(f"\n{title}, batch {result['batch']}, {result['threads']} threads")
    heads = "".join(f"{word:>{width}}" for word, width in HEADS)
    print(f"{'':8}{'dtype':10}{heads}  GFLOP/s")
    for row in result["rows"]:
        print(
            f"{row['what']:8}{row['dtype']:10}{row['plain_seconds']:9.3f}{row['ours_seconds']:9.3f}"
            f"{row['speedup']:8.2f}{row['plain_gflops']:8.0f}{row['ours_gflops']:8.0f}"
        )
    print(f"peak of one product: {result['matmul_peak_gflops']} GFLOP/s")
    print(f"encode + decode, float32: {result['speedup_encode_and_decode_float32']:.2f} x")


if __name__ == "__main__":
    main()
