"""Tokenizers of the contract as contestants: any model that `tok_core.load` reads.

    picture ──native size, or tiles──▶ encode ──▶ tokens ──▶ the bytes of a .tok file
                                                    └──▶ decode ──▶ picture of the same size

Letters: T inputs of the network for one picture, S its side, B inputs of one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from eval.contestant import Contestant, Reconstruction, Signal, grouped, stopwatch
from eval.token_bytes import token_bytes
from tok_core.contract import Autoencoder, Tokenizer, Tokens
from tok_core.errors import ConfigError
from tok_core.resample import resample

BUDGET_NAMES = {"image": "tokens", "audio": "codebooks"}


class TokenizerContestant(Contestant):
    """A tokenizer, or a continuous autoencoder, of either sense.

    Args:
        model: loaded, in eval mode. name: as tables call it.
        policy: for pictures of another size than the network's: ``tile`` or ``resize``.
        batch_size: inputs of the network per call; sounds of equal length share one.

    Raises:
        ConfigError: a model that decodes with a condition, or an unknown policy.

    Example:
        >>> contestant = TokenizerContestant(load("runs/mine/final"), "mine")  # doctest: +SKIP
    """

    def __init__(
        self, model: Autoencoder, name: str, *, policy: str = "tile", batch_size: int = 16
    ) -> None:
        from vision_tok.image_policy import POLICIES

        self.model, self.batch_size = model, batch_size
        spec = model.spec if isinstance(model, Tokenizer) else None
        if spec is not None and spec.condition is not None:
            raise ConfigError(
                f"'{name}' decodes with {spec.condition} features, which the judge does not "
                "make; name a MODULE:FUNCTION that does."
            )
        if policy not in POLICIES or policy == "crop":
            raise ConfigError(f"policy '{policy}' is unknown; legal are resize, tile.")
        self.policy = policy
        self.full, self.least = _axis(model)
        sweep = tuple(sorted({max(self.least, self.full * part // 8) for part in (1, 2, 4, 8)}))
        self.elastic = len(sweep) > 1
        tokens = isinstance(model, Tokenizer)
        sense = spec.modality if spec is not None else _modality(model)
        super().__init__(
            name=name, sense=sense, budgets=(self.full if tokens and self.full else None,),
            sweep=sweep if self.elastic else (), fixed=not self.elastic,
            weights_hash=model.weights_hash(),
            budget_name=BUDGET_NAMES[sense] if tokens and self.full else "",
            code_hash=model.code_hash() if isinstance(model, Tokenizer) else None,
            spec=spec,
            parameters=sum(p.numel() for p in model.parameters()),
            identity={"class": type(model).__name__, "policy": policy, "batch": batch_size},
            device=str(model.device), dtype=str(model.dtype).removeprefix("torch."),
        )  # fmt: skip

    def check_budget(self, budget: float | None) -> None:
        """Raise ConfigError for more or fewer tokens than the model can do."""
        if budget is None:
            return
        if not self.full or budget != int(budget) or not self.least <= budget <= self.full:
            legal = f"{self.least} to {self.full}" if self.full else "none"
            raise ConfigError(
                f"{budget:g} {BUDGET_NAMES[self.sense]} were asked of '{self.name}'; legal are "
                f"{legal}."
            )

    def reconstruct(
        self, signals: Sequence[Signal], budget: float | None = None
    ) -> list[Reconstruction]:
        """Encode and decode, as many signals at once as fit a call."""
        count = None if budget is None else int(budget)
        if self.sense == "audio":
            return self._sounds(signals, count)
        return self._pictures(signals, count)

    # -- pictures ------------------------------------------------------------------------------

    def _pictures(self, signals: Sequence[Signal], count: int | None) -> list[Reconstruction]:
        from PIL import Image

        from vision_tok.image_policy import Geometry, prepare, restore

        native = self.spec.image_size if self.spec is not None else self.model.config.get(
            "image_size"
        )  # fmt: skip
        native = (native, native) if isinstance(native, int) else native
        made: list[Reconstruction | None] = [None] * len(signals)
        geometries: list[Geometry | None] = []
        inputs: list[Tensor] = []
        for signal in signals:
            extent = tuple(signal.values.shape[-2:])
            if native is None or extent == tuple(native):
                inputs.append(signal.unit[None])
                geometries.append(None)
                continue
            if native[0] != native[1]:
                raise ConfigError(
                    f"'{self.name}' takes pictures of {native[1]} x {native[0]} only; give --size "
                    "and --crop that make them."
                )
            picture = Image.fromarray(signal.values.permute(1, 2, 0).numpy())
            tiles, geometry = prepare(picture, self.policy, native[0])
            inputs.append(tiles)
            geometries.append(geometry)
        order = list(range(len(signals)))
        for places, _ in grouped(order, lambda i: inputs[i].shape[1:], len(order) or 1):
            run = self._run(torch.cat([inputs[i] for i in places]), count)
            sizes = [len(inputs[i]) for i in places]
            outputs = run["decoded"].split(sizes)
            codes = run["codes"].split(sizes) if run["codes"] is not None else [None] * len(places)
            total = sum(sizes)
            for place, output, code, size in zip(places, outputs, codes, sizes, strict=True):
                signal, cut = signals[place], geometries[place]
                values = output[0] if cut is None else restore(output, cut)
                made[place] = Reconstruction(
                    values, tokens=code,
                    bytes_on_disk=self._bytes(
                        code, signal, None if cut is None else cut.policy
                    ),
                    encode_seconds=run["encode"] * size / total,
                    decode_seconds=run["decode"] * size / total,
                )  # fmt: skip
        return [one for one in made if one is not None]

    # -- sound ---------------------------------------------------------------------------------

    def _sounds(self, signals: Sequence[Signal], count: int | None) -> list[Reconstruction]:
        rate_in, rate_out = self._rates(signals[0].rate or 0)
        sounds = [resample(one.unit, one.rate or rate_in, rate_in) for one in signals]
        made: list[Reconstruction | None] = [None] * len(signals)
        order = list(range(len(signals)))
        for places, _ in grouped(order, lambda i: sounds[i].shape, self.batch_size):
            run = self._run(torch.stack([sounds[i] for i in places]), count)
            for row, place in enumerate(places):
                code = None if run["codes"] is None else run["codes"][row : row + 1]
                # A continuous codec decodes whole frames; tokens know how long the sound was.
                length = sounds[place].shape[-1] * rate_out // rate_in
                made[place] = Reconstruction(
                    run["decoded"][row][..., :length], rate=rate_out, tokens=code,
                    bytes_on_disk=self._bytes(code, signals[place], None),
                    encode_seconds=run["encode"] / len(places),
                    decode_seconds=run["decode"] / len(places),
                )  # fmt: skip
        return [one for one in made if one is not None]

    def _rates(self, given: int) -> tuple[int, int]:
        """Return the rates that go in and come out, in Hz; ``given`` where a model takes any."""
        if self.spec is None:
            rate = int(self.model.config["sample_rate"])
            return rate, rate
        rate = self.spec.input_rate or given
        return rate, self.spec.output_rate or rate

    # -- the network ---------------------------------------------------------------------------

    @torch.inference_mode()
    def _run(self, inputs: Tensor, count: int | None) -> dict[str, Any]:
        """Encode and decode inputs (B, ...) of one shape, a batch at a time."""
        model, decoded, codes = self.model, [], []
        seconds = {"encode": 0.0, "decode": 0.0}
        for part in inputs.split(self.batch_size):
            part = part.to(model.device)
            with stopwatch(self.device) as encoding:
                if isinstance(model, Tokenizer):
                    tokens = model.encode(part, num_tokens=count)
                else:
                    latents = model.latents(part)
            with stopwatch(self.device) as decoding:
                if isinstance(model, Tokenizer):
                    output = model.decode(Tokens(tokens.codes, tokens.lengths, tokens.extent))
                    codes.append(tokens.codes.cpu())
                else:
                    output = model.decode_latents(latents)
            decoded.append(output.float().cpu())
            seconds["encode"] += encoding.seconds
            seconds["decode"] += decoding.seconds
        return {
            "decoded": torch.cat(decoded), "codes": torch.cat(codes) if codes else None, **seconds
        }  # fmt: skip

    def _bytes(self, codes: Tensor | None, signal: Signal, policy: str | None) -> int | None:
        if codes is None or self.spec is None or self.code_hash is None:
            return None
        extent = tuple(signal.values.shape[-2:]) if self.sense == "image" else (
            signal.values.shape[-1],
        )  # fmt: skip
        return token_bytes(
            codes, self.spec, self.code_hash, extent=extent, policy=policy or "none",
            sample_rate=signal.rate,
        )  # fmt: skip


def _axis(model: Autoencoder) -> tuple[int, int]:
    """Return most and least of the axis that a budget counts; 0 where there is none."""
    if not isinstance(model, Tokenizer):
        return 0, 0
    for axis in model.spec.axes:
        if axis.name in ("token", "level") and axis.size:
            return axis.size, axis.minimum
    return 0, 0


def _modality(model: Autoencoder) -> str:
    return "audio" if model.config.get("sample_rate") else "image"
