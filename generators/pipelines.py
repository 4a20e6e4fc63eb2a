"""Whole pipelines: labels or captions in, pictures or sounds out, in diffusers' words.

    class_labels --generator--> codes --tokenizer--> pictures, sounds

A folder holds model_index.json and one folder per component, as diffusers writes it.  Components
are found by `tok_core.load`, never by importing what a file names, so that a pipeline of a package
that diffusers has not seen loads, and a hostile file runs nothing.  Letters: B samples.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, NamedTuple

import huggingface_hub
import numpy as np
import torch
from torch import Tensor

from generators.caption_condition import caption_condition
from generators.contract import Condition, Generator
from generators.drawing import draw_codes, seeds_of
from generators.guidance import Guidance
from generators.pipeline_card import MARK, README, pipeline_card
from generators.token_filter import TokenFilter
from tok_core.contract import Tokenizer
from tok_core.errors import ConfigError, WeightsError, nearest
from tok_core.image_measures import to_uint8
from tok_core.loading import load
from tok_core.strict_loading import fetch
from tok_core.torchaudio_guard import guard_torchaudio

guard_torchaudio()
from diffusers import DiffusionPipeline  # noqa: E402 - the guard comes before

INDEX = "model_index.json"
COMPONENTS = ("generator", "tokenizer")


class Pictures(NamedTuple):
    """Attributes: images: PIL images, a tensor (B, 3, H, W) in [-1, 1], or uint8 (B, H, W, 3)."""

    images: Any


class Sounds(NamedTuple):
    """Attributes: audios: (B, 1, T) in [-1, 1], a tensor or an array. sampling_rate: in Hz."""

    audios: Any
    sampling_rate: int


class TokenPipeline(DiffusionPipeline):
    """A generator and the tokenizer of its tokens.

    Args:
        generator: draws codes. tokenizer: decodes them.

    Raises:
        TokenError: they do not belong together.
    """

    modality: ClassVar[str]
    outputs: ClassVar[tuple[str, ...]]

    def __init__(self, generator: Generator, tokenizer: Tokenizer) -> None:
        super().__init__()
        generator.attach(tokenizer)
        if tokenizer.spec.modality != self.modality:
            raise ConfigError(
                f"{type(self).__name__} makes {self.modality}s but the tokens are of "
                f"{tokenizer.spec.modality}s; use {' or '.join(sorted(PIPELINES))}."
            )
        self.register_modules(generator=generator, tokenizer=tokenizer)

    @classmethod
    def from_pretrained(cls, path: Any, **options: Any) -> Any:
        """Load a pipeline from a folder or hub id.

        Args:
            path: with model_index.json and the folders of its components.
            options: ``generator`` or ``tokenizer``, objects to use in place of stored ones; the
                rest as `tok_core.load` takes it (``revision``, ...). ``torch_dtype`` is that of the
                generator: in another one the tokenizer would not be what the generator's code hash
                says it is.

        Raises:
            WeightsError: nothing there, a file that names another pipeline or other components.

        Example:
            >>> pipe = TokenImagePipeline.from_pretrained("runs/pipeline")  # doctest: +SKIP
            >>> pipe(class_labels=[3], guidance_scale=2.0).images[0]  # doctest: +SKIP
        """
        given = {name: options.pop(name) for name in COMPONENTS if name in options}
        index = read_index(path, options)
        chosen = pipeline_class(index, str(path))
        if not issubclass(chosen, cls):
            raise WeightsError(
                f"{path} holds a {chosen.__name__}, not a {cls.__name__}; load it with that."
            )
        for name in COMPONENTS:
            if name not in given:
                given[name] = load(path, **options, subfolder=name)
            options.pop("torch_dtype", None)  # the tokenizer comes second
        return chosen(**given)

    def save_pretrained(
        self, save_directory: str | Path, *args: Any, push_to_hub: bool = False,
        repo_id: str | None = None, licence: str | None = None, **options: Any,
    ) -> None:  # fmt: skip
        """Write model_index.json, a folder per component, and a card (README.md).

        Args:
            save_directory: made when missing. A card that somebody wrote there is left alone.
            args, options: as for diffusers (``max_shard_size``, ``variant``, ...); with
                ``push_to_hub`` also those of `push_to_hub`.
            push_to_hub: upload what was written, to ``repo_id`` (None is the folder's name).
            repo_id: name in the card, too.
            licence: the hub's word for it, such as ``apache-2.0``.
        """
        names = ("commit_message", "private", "token", "create_pr")
        upload = {name: options.pop(name) for name in names if name in options}
        folder = Path(save_directory)
        super().save_pretrained(folder, *args, **options)
        card, name = folder / README, repo_id or folder.resolve().name
        if not card.is_file() or MARK in card.read_text(encoding="utf-8", errors="replace"):
            card.write_text(pipeline_card(self, name, licence), encoding="utf-8")
        if push_to_hub:
            self._uploaded(folder, name, **upload)

    def push_to_hub(
        self, repo_id: str, *, licence: str | None = None, commit_message: str | None = None,
        private: bool | None = None, token: str | None = None, create_pr: bool = False,
        **options: Any,
    ) -> str:  # fmt: skip
        """Upload exactly what `save_pretrained` writes, made when missing; return the address.

        Args:
            repo_id: such as ``me/cats``. licence: as there. options: of `save_pretrained`.
            commit_message, private, token, create_pr: as for diffusers.
        """
        with TemporaryDirectory() as scratch:
            self.save_pretrained(scratch, repo_id=repo_id, licence=licence, **options)
            return self._uploaded(
                Path(scratch), repo_id, commit_message=commit_message, private=private,
                token=token, create_pr=create_pr,
            )  # fmt: skip

    def _uploaded(
        self, folder: Path, name: str, *, private: bool | None = None, token: str | None = None,
        commit_message: str | None = None, create_pr: bool = False,
    ) -> str:  # fmt: skip
        # diffusers' own would put an empty card in the place of ours.
        made = huggingface_hub.create_repo(name, private=private, token=token, exist_ok=True)
        return huggingface_hub.upload_folder(
            repo_id=made.repo_id, folder_path=folder, token=token, create_pr=create_pr,
            commit_message=commit_message or f"Upload {type(self).__name__}",
        )  # fmt: skip

    @torch.no_grad()
    def __call__(
        self,
        class_labels: int | Sequence[int] | Tensor | None = None,
        *,
        prompt_embeds: Tensor | None = None,
        prompt_attention_mask: Tensor | None = None,
        num_per_label: int = 1,
        guidance_scale: float = 1.0,
        guidance_schedule: str = "constant",
        guidance_power: float = 1.0,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        num_inference_steps: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str | None = None,
    ) -> Any:
        """Draw tokens and decode them.

        Args:
            class_labels: from 0; None for an unconditional generator, or one of captions.
            prompt_embeds: caption features (B, n, C) of the text encoder that the generator was
                trained with, or (n, C); n is cut or padded to what it takes.
            prompt_attention_mask: (B, n), nonzero where a feature is real; None where all are.
            num_per_label: how many of each label or caption, or in all without.
            guidance_scale: 1 is none; see `generators.guidance.Guidance` for the schedule.
            temperature, top_k, top_p: see `generators.token_filter.TokenFilter`.
            num_inference_steps: of a masked generator.
            generator: seeds; one for all, or one per sample. A sample depends on its own seed.
            output_type: one of ``outputs``, None for the first.

        Raises:
            ConfigError: labels out of range, captions that do not fit, settings that are not
                legal.
        """
        output_type = output_type or self.outputs[0]
        if output_type not in self.outputs:
            raise ConfigError(
                f"output_type '{output_type}' is unknown; legal are {', '.join(self.outputs)}."
            )
        condition, total = self._condition(
            class_labels, prompt_embeds, prompt_attention_mask, num_per_label
        )
        codes = draw_codes(
            self.generator, condition, seeds=seeds_of(total, generator),
            guidance=Guidance(
                scale=guidance_scale, schedule=guidance_schedule, power=guidance_power
            ),
            token_filter=TokenFilter(temperature=temperature, top_k=top_k, top_p=top_p),
            steps=num_inference_steps, progress=self.progress_bar,
        )  # fmt: skip
        device = next(self.tokenizer.parameters()).device
        return self._packed(self.tokenizer.decode(codes.to(device)).float().cpu(), output_type)

    def _condition(
        self, labels: Any, embeds: Any, mask: Any, each: int
    ) -> tuple[Condition, int]:
        """Return the condition of all samples, and how many there are."""
        if embeds is None:
            if mask is not None:
                raise ConfigError("prompt_attention_mask came in without prompt_embeds; give both.")
            if self.generator.captions is not None:
                length, width = self.generator.captions
                raise ConfigError(
                    "this generator takes captions; give prompt_embeds (captions, positions, "
                    f"{width}) of up to {length} positions."
                )
            found = _labels(labels)
            if found is not None:
                found = found.repeat_interleave(each)
            return Condition(labels=found), each if found is None else len(found)
        if labels is not None:
            raise ConfigError("class_labels and prompt_embeds exclude each other; give one.")
        condition = caption_condition(embeds, mask, shape=self.generator.captions)
        assert condition.features is not None and condition.mask is not None
        features, real = (
            x.repeat_interleave(each, dim=0) for x in (condition.features, condition.mask)
        )
        return Condition(features=features, mask=real), len(features)

    def _packed(self, x: Tensor, output_type: str) -> Any:
        """Return signals (B, ...) in [-1, 1] in the form asked for."""
        raise TypeError(f"{type(self).__name__} makes nothing; use one of its kinds")


class TokenImagePipeline(TokenPipeline):
    """Pictures from tokens; a call returns `Pictures`.

    Example:
        >>> TokenImagePipeline(generator, tokenizer).save_pretrained("pipe")  # doctest: +SKIP
        >>> pipe = TokenImagePipeline.from_pretrained("pipe")  # doctest: +SKIP
        >>> seeded = torch.Generator().manual_seed(0)
        >>> pipe([207], guidance_scale=4.0, generator=seeded).images[0]  # doctest: +SKIP
    """

    modality = "image"
    outputs = ("pil", "pt", "np")

    def _packed(self, x: Tensor, output_type: str) -> Pictures:
        if output_type == "pt":
            return Pictures(x)
        pixels = to_uint8(x).permute(0, 2, 3, 1).numpy()
        if output_type == "np":
            return Pictures(pixels)
        from PIL import Image

        return Pictures([Image.fromarray(picture) for picture in pixels])


class TokenAudioPipeline(TokenPipeline):
    """Sounds from tokens; a call returns `Sounds`."""

    modality = "audio"
    outputs = ("np", "pt")

    def _packed(self, x: Tensor, output_type: str) -> Sounds:
        rate = self.tokenizer.spec.output_rate
        return Sounds(x if output_type == "pt" else np.asarray(x), rate)


PIPELINES: dict[str, type[TokenPipeline]] = {
    "TokenImagePipeline": TokenImagePipeline, "TokenAudioPipeline": TokenAudioPipeline
}  # fmt: skip


def read_index(path: str | Path, options: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return model_index.json of a folder or hub id; `WeightsError` where it is none."""
    folder = Path(path)
    local = folder.is_dir() or str(path).startswith((".", "/", "~")) or str(path).count("/") != 1
    if local and not (folder / INDEX).is_file():
        raise WeightsError(
            f"{path} holds no {INDEX}; give a folder that save_pretrained of a pipeline wrote."
        )
    file = folder / INDEX if local else fetch(str(path), INDEX, options)
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{file} is not readable JSON ({error}).") from None
    if not isinstance(index, dict):
        raise WeightsError(f"{file} holds {type(index).__name__}; expected a JSON object.")
    return index


def pipeline_class(index: dict[str, Any], name: str) -> type[TokenPipeline]:
    """Return the pipeline that an index names, and refuse all that we do not know.

    Raises:
        WeightsError: another pipeline, or components other than a generator and a tokenizer.
    """
    kind = index.get("_class_name")
    if kind not in PIPELINES:
        known = " and ".join(PIPELINES)
        raise WeightsError(
            f"{name} holds a '{kind}'; known are {known}{nearest(str(kind), PIPELINES)}."
        )
    parts = {key for key in index if not key.startswith("_")}
    if parts != set(COMPONENTS):
        odd = sorted(parts ^ set(COMPONENTS))[0]
        raise WeightsError(
            f"{name} does not name just a generator and a tokenizer (look at '{odd}'); nothing "
            "was loaded."
        )
    return PIPELINES[kind]


def _labels(given: Any) -> Tensor | None:
    if given is None:
        return None
    labels = torch.as_tensor(given)
    if labels.dim() > 1 or labels.is_floating_point():
        raise ConfigError(f"class_labels is {given!r}; give whole numbers, one per label.")
    return labels.reshape(-1).long()
