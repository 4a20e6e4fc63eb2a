"""A tokenizer of a few hundred parameters, with the real quantizer, tail drop and objective.

As a script it is one training run, for tests that kill it or start two of it:

    python -m tests.tiny_training FOLDER [resume=1] [keep=5] [restarts=0] [start=0]
        [hybrid=1] [train.steps=20 ...]

``hybrid=1`` trains a tiny OneDPiece at full length instead.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from tok_core.contract import Tokenizer, Tokens, TrainingOutput, as_tokens
from tok_core.run_config import load_config
from tok_core.tail_drop import TailDrop
from tok_core.token_spec import Axis, TokenSpec
from tok_core.training.distributed import end_processes, seed_process
from tok_core.training.engine import Engine, EngineConfig, make_accelerator
from tok_core.vector_quantizer import VectorQuantizer
from vision_tok.image_objective import ImageObjective, ImageObjectiveConfig
from vision_tok.one_d_piece import OneDPiece

SIDE = 16
BASE = (
    "train.batch_size=4", "train.device=cpu", "log.every=1", "log.save_every=3",
    "log.validate_every=5", "log.pictures_every=5", "log.tracker=none", "optimizer.lr=0.01",
    "schedule.warmup=2",
)


class TinyTokenizer(Tokenizer):
    """4x4 patches to 16 tokens and back; prefixes decode."""

    code_prefixes = ("encoder.", "quantizer.")
    config_name = "config.json"

    @register_to_config
    def __init__(
        self, width: int = 6, codes: int = 32, keep: int | None = None, restarts: int = 4
    ) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, width, 4, 4)
        self.quantizer = VectorQuantizer(
            codes, width, kmeans_start=restarts > 0, dead_code_every=restarts,
            quantize_after_steps=2 if restarts else 0,
        )
        self.decoder = nn.ConvTranspose2d(width, 3, 4, 4)
        self.tail_drop = TailDrop(16)
        self.keep = keep

    @property
    def spec(self) -> TokenSpec:
        """16 tokens, any prefix."""
        axis = Axis(name="token", size=16, minimum=1)
        return TokenSpec(modality="image", axes=(axis,), vocabulary=(self.config.codes,))

    def forward(self, x: Tensor, *, tokens: Tokens | None = None) -> TrainingOutput:
        """One training pass."""
        quantized = self.quantizer(self.encoder(x).flatten(2).transpose(1, 2))
        keep = (self.keep or self.tail_drop.draw_length()) if self.training else 16
        return TrainingOutput(
            self._paint(quantized.latents[:, :keep]), Tokens(quantized.codes),
            quantized.losses, quantized.statistics,
        )

    def encode(self, x: Tensor, **options: Any) -> Tokens:
        """Codes of all positions."""
        return Tokens(self.quantizer.encode(self.encoder(x).flatten(2).transpose(1, 2)))

    def decode(self, tokens: Tokens | Tensor, *, condition: Tensor | None = None) -> Tensor:
        """Picture of any prefix."""
        return self._paint(self.quantizer.lookup(as_tokens(tokens).codes)).clamp(-1, 1)

    def _paint(self, latents: Tensor) -> Tensor:
        latents = nn.functional.pad(latents, (0, 0, 0, 16 - latents.shape[1]))
        return self.decoder(latents.transpose(1, 2).unflatten(2, (4, 4)))


class TinySource:
    """Ten random pictures, or as many as asked for."""

    def __init__(self, length: int | None = 10) -> None:
        self.length = length

    def item(self, index: int) -> Tensor:
        """Picture of that index."""
        coarse = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(index))
        return nn.functional.interpolate(coarse, SIDE, mode="bilinear")[0] * 2 - 1


class TinyMonitor:
    """Mean error at the first pictures."""

    unit = "images"

    def scores(self, model: TinyTokenizer) -> dict[str, float]:
        """Mean absolute error through codes."""
        x = torch.stack([TinySource().item(i) for i in range(4)])
        return {"l1": (model.decode(model.encode(x)) - x).abs().mean().item()}

    def pictures(self, model: TinyTokenizer) -> dict[str, np.ndarray]:
        """One grey picture."""
        return {"grey": np.full((4, 4, 3), 128, np.uint8)}


def tiny_objective(start: int = 4) -> ImageObjective:
    """L1, quantizer, and a discriminator with LeCam from step ``start`` on."""
    return ImageObjective(ImageObjectiveConfig(
        l1_weight=1.0, lecam_weight=1.0, perceptual="none", discriminator=True,
        discriminator_start=start, discriminator_channels=32, discriminator_stages=1,
    ))


def tiny_engine(folder: Path, *overrides: str, **parts: Any) -> Engine:
    """Build a run; ``parts`` replace model, objective, source or monitor."""
    folder.mkdir(parents=True, exist_ok=True)
    config = load_config(EngineConfig, None, ["train.steps=8", *BASE, *overrides])
    accelerator = make_accelerator(config, folder)
    seed_process(config.train.seed, 0)
    model = parts.get("model") or TinyTokenizer()
    objective = parts.get("objective") or tiny_objective()
    source, monitor = parts.get("source") or TinySource(), parts.get("monitor") or TinyMonitor()
    return Engine(config, model, objective, source, monitor, folder, accelerator)


def tiny_hybrid(restarts: int) -> OneDPiece:
    """The shipped model's network, as small as it goes, always at full length."""
    size = {"width": 32, "layers": 1, "heads": 2}
    options = {"kmeans_start": restarts > 0, "dead_code_every": restarts}
    return OneDPiece(
        image_size=SIDE, patch_size=8, num_tokens=8, token_size=4, codebook_size=32, stem="conv",
        head="conv", latent_seed="grid", conv_channels=[16, 16, 16], encoder_size=size,
        decoder_size=size, quantizer_options=options, tail_drop={"probability": 0.0},
    )


def main(arguments: list[str]) -> None:
    """One run from the command line."""
    flags = dict(a.split("=") for a in arguments[1:] if "." not in a)
    options = [a for a in arguments[1:] if "." in a]
    sizes = {name: int(flags[name]) for name in ("keep", "restarts") if name in flags}
    seed_process(42, 0)
    hybrid = "hybrid" in flags
    engine = tiny_engine(
        Path(arguments[0]), *options,
        model=tiny_hybrid(sizes.get("restarts", 0)) if hybrid else TinyTokenizer(**sizes),
        objective=tiny_objective(int(flags.get("start", 4))),
    )
    engine.run(resume="resume" in flags)
    del engine
    end_processes()


if __name__ == "__main__":
    main(sys.argv[1:])
