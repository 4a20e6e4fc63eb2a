"""Time per position of TokenBridge's head: with its cache, without, and a diffusion head instead.

    python benchmarks/dimension_wise_head_speed.py [--rows 1 4] [--repeats 2] [--device cpu]
        [--small] [--out FILE]

The head of TokenBridge-L (width 1024, 4 layers, 16 dimensions of 64 levels) draws all dimensions of
a position from its features.  Against

    naive       the same head as released: every dimension computes all those before it again
    diffusion   what MAR has in its place, of the size given in --blocks and --width (3 and 1024): a
                denoising MLP of residual adaLN blocks, 100 ancestral steps, one forward pass each

all with random weights, the same linear layers, float32, in turns, in one process.  ``rows`` is the
number of positions drawn at once.  The paper has 52.42 ms against 311.25 ms per token, 5.94x, on an
A100 at batch 1.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _measure import alternate, processor
from torch import Tensor, nn
from torch.nn import functional as F

from generators.causal_head import CausalHead
from generators.token_filter import TokenFilter, inverse_draw
from tok_core.fast_linear import Linear

RESULT = Path(__file__).parent / "results" / "dimension_wise_head_speed.json"
PAPER = {"head_ms": 52.42, "diffusion_ms": 311.25, "ratio": 5.94}
FULL = {"features": 1024, "width": 1024, "layers": 4, "heads": 8, "dimensions": 16, "levels": 64}
SMALL = {"features": 32, "width": 32, "layers": 2, "heads": 2, "dimensions": 4, "levels": 8}
STEPS = 100
FREQUENCIES = 256


class DenoisingBlock(nn.Module):
    """One residual block of the denoising MLP.

    Args:
        width: of everything.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.up, self.down = Linear(width, width), Linear(width, width)
        self.modulation = Linear(width, 3 * width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map (N, W) to (N, W) under conditions (N, W), SiLU applied."""
        shift, scale, gate = self.modulation(condition).chunk(3, dim=-1)
        inner = torch.addcmul(shift, self.norm(x), 1 + scale)
        return x + gate * self.down(F.silu(self.up(inner)))


class DiffusionHead(nn.Module):
    """A head in MAR's manner: noise to a latent in 100 steps, given the features of its position.

    Args:
        features: width of the features. width, blocks: of the MLP. dimensions: of a latent.
    """

    def __init__(self, features: int, width: int, blocks: int, dimensions: int) -> None:
        super().__init__()
        self.dimensions = dimensions
        self.condition = Linear(features, width)
        self.time = nn.Sequential(Linear(FREQUENCIES, width), nn.SiLU(), Linear(width, width))
        self.value_in = Linear(dimensions, width)
        self.blocks = nn.ModuleList(DenoisingBlock(width) for _ in range(blocks))
        self.modulation = Linear(width, 2 * width)
        # The noise, and how far the variance lies between its two bounds.
        self.output = Linear(width, 2 * dimensions)
        share = torch.cos(torch.linspace(0, 1, STEPS + 1) * math.pi / 2).square().clamp(min=1e-4)
        beta = (1 - share[1:] / share[:-1]).clamp(max=0.999)
        self.register_buffer("beta", beta)
        self.register_buffer("share", (1 - beta).cumprod(0))
        rates = torch.exp(-math.log(10_000) * torch.arange(FREQUENCIES // 2) / (FREQUENCIES // 2))
        angles = torch.arange(STEPS)[:, None] * (1000 / STEPS) * rates
        self.register_buffer("times", torch.cat((angles.cos(), angles.sin()), dim=1))
        self.beta: Tensor
        self.share: Tensor
        self.times: Tensor

    def forward(self, features: Tensor) -> Tensor:
        """Draw latents (N, dimensions) for features (N, D)."""
        x = torch.randn(len(features), self.dimensions, device=features.device)
        known = self.condition(features)
        for step in range(STEPS - 1, -1, -1):
            condition = F.silu(known + self.time(self.times[step]))
            hidden = self.value_in(x)
            for block in self.blocks:
                hidden = block(hidden, condition)
            shift, scale = self.modulation(condition).chunk(2, dim=-1)
            hidden = torch.addcmul(shift, F.layer_norm(hidden, hidden.shape[-1:]), 1 + scale)
            noise, between = self.output(hidden).chunk(2, dim=-1)
            x = self._earlier(x, noise, between, step)
        return x

    def _earlier(self, x: Tensor, noise: Tensor, between: Tensor, step: int) -> Tensor:
        """Take one ancestral step with a learned variance."""
        beta, share = self.beta[step], self.share[step]
        mean = (x - beta / (1 - share).sqrt() * noise) / (1 - beta).sqrt()
        if not step:
            return mean
        least = (beta * (1 - self.share[step - 1]) / (1 - share)).log()
        spread = torch.lerp(least, beta.log(), (between + 1) / 2)
        return mean + (0.5 * spread).exp() * torch.randn_like(x)


def drawn(logits: Tensor) -> Tensor:
    """Draw one code per row of logits (N, V)."""
    numbers = torch.rand(len(logits), device=logits.device)
    return inverse_draw(TokenFilter().probabilities(logits), numbers)


def with_cache(head: CausalHead, features: Tensor) -> Tensor:
    """Draw codes (N, C) slot by slot, each slot computed once."""
    session, codes = head.begin(features[:, None]), []
    for slot in range(head.slots):
        codes.append(drawn(head.logits(session.step(codes[-1] if codes else None), slot)))
    return torch.stack(codes, dim=1)


def without_cache(head: CausalHead, features: Tensor) -> Tensor:
    """Draw codes (N, C) slot by slot, all slots before computed anew every time."""
    codes = torch.zeros(len(features), 0, dtype=torch.int64, device=features.device)
    for slot in range(head.slots):
        # The last code of those passed is not read.
        hidden = head(features[:, None], F.pad(codes, (0, 1)))
        code = drawn(head.logits(hidden[:, slot], slot))
        codes = torch.cat((codes, code[:, None]), dim=1)
    return codes


def timed(call: Callable[[], Tensor], device: torch.device) -> Callable[[], object]:
    """Return the call with the device's work waited for."""

    @torch.inference_mode()
    def run() -> None:
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return run


def measure(
    sizes: dict[str, int], blocks: int, peer_width: int, rows: int, repeats: int,
    device: torch.device,
) -> dict[str, Any]:  # fmt: skip
    """Return milliseconds per position of all three and the ratios to ours."""
    torch.manual_seed(0)
    head = CausalHead(
        sizes["width"], sizes["dimensions"], sizes["levels"], layers=sizes["layers"],
        heads=sizes["heads"], blocks="adaln", features=sizes["features"], output=True,
        first_input="stepped",
    ).to(device).eval()  # fmt: skip
    peer = DiffusionHead(sizes["features"], peer_width, blocks, sizes["dimensions"])
    peer = peer.to(device).eval()
    features = torch.randn(rows, sizes["features"], device=device)
    seconds = alternate(
        {
            "cached": timed(lambda: with_cache(head, features), device),
            "naive": timed(lambda: without_cache(head, features), device),
            "diffusion": timed(lambda: peer(features), device),
        },
        repeats,
    )
    milliseconds = {name: 1000 * best / rows for name, best in seconds.items()}
    return {
        "rows": rows, **{f"{name}_ms_per_position": ms for name, ms in milliseconds.items()},
        "naive_ratio": milliseconds["naive"] / milliseconds["cached"],
        "diffusion_ratio": milliseconds["diffusion"] / milliseconds["cached"],
        "head_parameters": sum(p.numel() for p in head.parameters()),
        "diffusion_parameters": sum(p.numel() for p in peer.parameters()),
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--blocks", type=int, default=3, help="of the diffusion head")
    parser.add_argument("--width", type=int, default=1024, help="of the diffusion head")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--small", action="store_true", help="a try, written only with --out")
    parser.add_argument("--out", type=Path, help="of the JSON")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    sizes, width = (SMALL, 32) if options.small else (FULL, options.width)
    rows = [
        measure(sizes, options.blocks, width, count, options.repeats, device)
        for count in options.rows
    ]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    print(f"{name}, {torch.get_num_threads()} threads, ms per position")
    print(f"{'rows':>5s}{'cached':>10s}{'naive':>10s}{'diffusion':>11s}{'naive/':>9s}{'diff/':>8s}")
    for row in rows:
        print(
            f"{row['rows']:>5d}{row['cached_ms_per_position']:>10.2f}"
            f"{row['naive_ms_per_position']:>10.2f}{row['diffusion_ms_per_position']:>11.2f}"
            f"{row['naive_ratio']:>8.2f}x{row['diffusion_ratio']:>7.2f}x"
        )
    out = options.out or (None if options.small else RESULT)
    if out is None:
        return
    result = {
        "machine": name, "threads": torch.get_num_threads(), "torch": torch.__version__,
        "head": sizes, "diffusion": {"width": width, "blocks": options.blocks, "steps": STEPS},
        "paper": PAPER, "rows": rows,
    }  # fmt: skip
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
