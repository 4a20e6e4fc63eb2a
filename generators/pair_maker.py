"""Make token pairs: semi-generated tokens of real signals, for decoder post-training.

    u_p uniform, kept where u_p < sigma, all drawn before the first step
    generator: at every position draw a code; where it is kept, the real one takes its place, and
    what comes later sees it

sigma is the preservation ratio: 0 is generation, 1 reconstruction.  All factors of a position are
kept together.  A pair depends on its number alone, so that processes and a second run after a kill
make the same ones.  Qiu et al. 2025, arXiv 2503.08354.  Letters: B signals, L positions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from generators.contract import UNCONDITIONAL, Condition, Generator
from generators.drawing import draw_codes, numbered_seed
from generators.guidance import Guidance
from generators.masked_sampling import MASKED_STEPS
from generators.token_filter import TokenFilter
from tok_core.atomic_write import write_bytes
from tok_core.errors import ConfigError, MediaError
from tok_core.shard_index import ShardHead, read_index
from tok_core.shard_members import Sample
from tok_core.shard_plan import ShardPlan
from tok_core.shard_run import ShardRun
from tok_core.token_file import TokenFile
from tok_core.token_pairs import KIND, PICTURES, VIEWS, key_of, picture_name
from tok_core.token_shards import stored_codes

PER_SHARD = 10_000
Ratio = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True)
class PairsConfig:
    """How pairs are made, and where they lie.

    Attributes:
        path: folder of the pairs, made when missing; a finished one of equal settings is used.
        generator: folder or hub id; not needed where the pairs are finished.
        count: signals, from number 0 of the source (published: 200,000).
        preservation: sigma, the share of positions that keep their real code.
        guidance, guidance_schedule, guidance_power: see `generators.guidance.Guidance`.
        temperature, top_k, top_p: see `generators.token_filter.TokenFilter`.
        steps: of a masked generator.
        batch_size: signals at once, and what a kill can cost.
        seed: of masks and draws.
        views: ``training`` cuts and mirrors signals as the recipe's data do, ``centre`` takes what
            validation sees of them, as published.
        mode: ``tokens``; or ``pixels``, the released code's round trip: pictures decoded from the
            tokens go through encoder and quantizer again.
        real_latents: what kept positions show the decoder of a tokenizer over a KL autoencoder:
            ``quantized``, the values of their codes, which is all that it will see in use; or
            ``continuous``, the encoder's latents as they are.
    """

    path: str
    generator: str | None = None
    count: Count = 200_000
    preservation: Ratio = 0.7
    guidance: float = 1.0
    guidance_schedule: str = "constant"
    guidance_power: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    steps: int | None = None
    batch_size: Count = 32
    seed: int = 0
    views: Literal["training", "centre"] = "training"
    mode: Literal["tokens", "pixels"] = "tokens"
    real_latents: Literal["quantized", "continuous"] = "quantized"

    def drawing(self) -> dict[str, Any]:
        """Return what `generators.drawing.draw_codes` is to be called with."""
        return {
            "guidance": Guidance(
                scale=self.guidance, schedule=self.guidance_schedule, power=self.guidance_power
            ),
            "token_filter": TokenFilter(
                temperature=self.temperature, top_k=self.top_k, top_p=self.top_p
            ),
            "steps": self.steps,
        }  # fmt: skip


class Crew(NamedTuple):
    """Which process of how many this is, and how it waits for the others."""

    rank: int = 0
    world: int = 1
    wait: Callable[[], None] = lambda: None


def keep_mask(seed: int, number: int, length: int, preservation: float) -> Tensor:
    """Return bool (L,), which positions of pair ``number`` keep their real code."""
    chance = torch.Generator().manual_seed(numbered_seed(seed, number, "keep"))
    return torch.rand(length, generator=chance) < preservation


def kept_positions(facts: Mapping[str, Any], number: int, length: int) -> Tensor:
    """Return `keep_mask` of a pair by what its index says; a `tok_core.token_pairs.Kept`."""
    return keep_mask(facts["seed"], number, length, facts["preservation"])


class PairMaker:
    """Makes pairs of one generator, tokenizer and source.

    Args:
        config: see there. generator, tokenizer: in eval mode, on the device that makes them.
        source: numbered signals, with ``label`` where the generator knows classes.
        signals: settings of the source, plain values, for the record.

    Raises:
        TokenError, ConfigError: they do not belong together.
    """

    def __init__(
        self, config: PairsConfig, generator: Generator, tokenizer: Any, source: Any,
        signals: dict[str, Any],
    ) -> None:  # fmt: skip
        _check_resamples(generator)
        generator.attach(tokenizer)
        if config.mode == "pixels" and tokenizer.spec.modality != "image":
            raise ConfigError(
                "mode 'pixels' is the released round trip of pictures and these are sounds; set "
                "data.pairs.mode to tokens."
            )
        self.config, self.generator, self.tokenizer = config, generator, tokenizer
        self.source, self.drawing = source, config.drawing()
        self.facts = {
            "kind": KIND, "signals": signals, "generator": generator.weights_hash(),
            **{
                name: getattr(config, name) for name in (
                    "count", "preservation", "guidance", "guidance_schedule", "guidance_power",
                    "temperature", "top_k", "top_p", "steps", "seed", "views", "mode",
                )
            },
        }  # fmt: skip

    def plan(self) -> ShardPlan:
        """Return how the pairs are cut into shards and parts."""
        head = ShardHead(
            spec=self.tokenizer.spec, code_hash=self.tokenizer.code_hash(),
            weights_hash=self.tokenizer.weights_hash(), views=VIEWS, facts=self.facts,
        )  # fmt: skip
        each = self.config.batch_size
        return ShardPlan(
            sources=self._count(), per_shard=max(each, PER_SHARD // each * each), per_part=each,
            head=head.to_json(), facts=self.facts,
        )  # fmt: skip

    def _count(self) -> int:
        length = self.source.length
        return self.config.count if length is None else min(self.config.count, length)

    def part(self, run: ShardRun, number: int) -> int:
        """Make one part of a run and return how many pairs it holds."""
        assert run.plan is not None
        signals, numbers, skipped = [], [], []
        for n in run.plan.sources_of(number):
            try:
                signals.append(torch.as_tensor(self.source.item(n)))
                numbers.append(n)
            except MediaError as error:
                skipped.append({"source": f"signal {n}", "error": str(error)})
        samples = self._samples(run, signals, numbers) if numbers else []
        run.write_part(number, samples, skipped)
        return len(samples)

    def _samples(self, run: ShardRun, signals: list[Tensor], numbers: list[int]) -> list[Sample]:
        x = torch.stack(signals).to(self.tokenizer.device)
        with torch.inference_mode():
            real = self.tokenizer.encode(x).codes
            made = self.generated(real, numbers)
            if self.config.mode == "pixels":
                self._write_pictures(run.folder, made, numbers)
        both = torch.stack((real, made), dim=1)
        spec, extent = self.tokenizer.spec, tuple(signals[0].shape[1:])
        views = [stored_codes(pair, spec) for pair in both]
        return [
            Sample(key_of(n), TokenFile(codes, spec.bits, self.tokenizer.code_hash(), extent))
            for n, codes in zip(numbers, views, strict=True)
        ]

    def generated(self, real: Tensor, numbers: list[int]) -> Tensor:
        """Return codes like ``real``, (B, *axes), drawn but for a share that is kept."""
        if tuple(real.shape[1:]) != self.generator.sizes:
            raise ConfigError(
                f"signals of codes {tuple(real.shape[1:])} came in but the generator draws "
                f"{self.generator.sizes}; give data.size or data.segment the size it was trained "
                "on."
            )
        length = self.generator.spec.to_sequence(real[:1]).shape[1]
        config = self.config
        keep = torch.stack(
            [keep_mask(config.seed, n, length, config.preservation) for n in numbers]
        )
        seeds = [numbered_seed(config.seed, n) for n in numbers]
        device = self.generator.device
        made = draw_codes(
            self.generator, self._condition(numbers), seeds=seeds, given=real.to(device),
            keep=keep.to(device), **self.drawing,
        )  # fmt: skip
        return made.to(real.device)

    def _condition(self, numbers: list[int]) -> Condition:
        if not self.generator.classes:
            return UNCONDITIONAL
        labels = [self.source.label(n) for n in numbers]
        if None in labels:
            raise ConfigError(
                f"signal {numbers[labels.index(None)]} has no class but the generator knows "
                f"{self.generator.classes}; put every file into a folder of its class."
            )
        return Condition(labels=torch.tensor(labels, device=self.generator.device))

    def _write_pictures(self, folder: Path, codes: Tensor, numbers: list[int]) -> None:
        """Write what the tokens show as 8-bit files."""
        import io

        from PIL import Image

        from tok_core.image_measures import to_uint8

        (folder / PICTURES).mkdir(exist_ok=True)
        pixels = to_uint8(self.tokenizer.decode(codes)).permute(0, 2, 3, 1).cpu().numpy()
        for n, picture in zip(numbers, pixels, strict=True):
            out = io.BytesIO()
            Image.fromarray(picture).save(out, "PNG", compress_level=1)
            write_bytes(folder / PICTURES / picture_name(n), out.getvalue(), force=True)


def _check_resamples(generator: Generator) -> None:
    """Refuse a generator that no engine can draw from around codes that are kept."""
    kind = type(generator)
    if generator.captions is not None:
        raise ConfigError(
            f"this {kind.__name__} draws after captions, which the data do not have; give "
            "data.pairs.generator one of classes, or one without conditions."
        )
    if not isinstance(generator, tuple(MASKED_STEPS)) and kind.session is Generator.session:
        raise ConfigError(
            f"a {kind.__name__} has no session to draw from, so real codes cannot be kept among "
            "its own; give data.pairs.generator another kind, such as LlamaGen."
        )


def make_pairs(
    maker: PairMaker, folder: Path, crew: Crew | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> None:  # fmt: skip
    """Make what is missing of a folder of pairs; every process makes its share.

    Args:
        maker: of the pairs. folder: made when missing. crew: of this process.
        progress: told how many more signals are done.

    Raises:
        ConfigError: the folder holds pairs of other settings.
    """
    crew = crew or Crew()
    if finished(maker, folder):
        return
    if crew.rank:
        crew.wait()
        _make_parts(maker, ShardRun.helper(folder), crew, progress)
        crew.wait()
        crew.wait()
        return
    with ShardRun(folder, resume=True) as run:
        # A run of other settings that made nothing yet, stopped by a mistake, is no loss.
        if run.plan is None or (run.plan.facts != maker.facts and not _parts_made(run)):
            run.begin(maker.plan())
        _check_facts(maker, folder, run.plan.facts if run.plan else {})
        crew.wait()
        _make_parts(maker, run, crew, progress)
        crew.wait()
        run.assemble_all()
        run.finish()
    crew.wait()


def finished(maker: PairMaker, folder: Path) -> bool:
    """Return whether a folder holds these very pairs; refuse others."""
    if not (folder / "index.json").is_file():
        return False
    _check_facts(maker, folder, read_index(folder).head.facts)
    return True


def _check_facts(maker: PairMaker, folder: Path, facts: Mapping[str, Any]) -> None:
    odd = [name for name, value in maker.facts.items() if facts.get(name) != value]
    if odd:
        raise ConfigError(
            f"'{folder}' holds pairs made with another {odd[0]} ({facts.get(odd[0])!r}, now "
            f"{maker.facts[odd[0]]!r}); choose another data.pairs.path, or remove it."
        )


def _parts_made(run: ShardRun) -> int:
    assert run.plan is not None
    return sum(len(run.plan.parts_of(s)) for s in range(run.plan.shards)) - len(run.missing())


def _make_parts(
    maker: PairMaker, run: ShardRun, crew: Crew, progress: Callable[[int], None]
) -> None:
    assert run.plan is not None
    for part in run.missing():
        # Others finish parts meanwhile: whose part it is must not depend on what is missing.
        if part % crew.world == crew.rank:
            maker.part(run, part)
            progress(len(run.plan.sources_of(part)))
