"""Pictures to token files and back with one image tokenizer: what the commands run.

    file --read--> picture --prepare--> network inputs --encode--> tokens --> .tok
    .tok --> tokens --decode--> network outputs --restore--> picture --write--> file

Letters: B network inputs of one call, N tokens of one input, T tiles of one picture (1 unless the
policy is tile), L lengths, H W pixels of the picture, h w pixels of the network.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tok_core.atomic_write import write_bytes
from tok_core.contract import Tokenizer, Tokens
from tok_core.errors import ConfigError, MediaError, TesseraError, TokenError
from tok_core.image_measures import psnr, ssim, to_uint8
from tok_core.token_file import TokenFile, token_file_size
from vision_tok.budget import PROBES_PER_CALL, search_length, tokens_for_bytes
from vision_tok.image_file import MAX_PIXELS, read_image
from vision_tok.image_policy import POLICIES, Geometry, prepare, restore
from vision_tok.legal_lengths import legal_lengths, native_grid

READABLE = frozenset(
    ".png .jpg .jpeg .jpe .jfif .webp .bmp .gif .tif .tiff .ppm .pgm .pbm .pnm .tga .jp2 "
    ".avif".split()
)
WRITABLE: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", {"quality": 95}),
    ".bmp": ("BMP", {}),
    ".tif": ("TIFF", {"compression": "tiff_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_deflate"}),
}
# Values of decoded pictures held at once while a PSNR is searched (their float64 copies take 8x).
SEARCH_VALUES = 1 << 24


@dataclass(frozen=True)
class Picture:
    """One picture as read: network inputs (T, 3, h, w) in [-1, 1] and where they came from."""

    inputs: Tensor
    geometry: Geometry
    notes: tuple[str, ...] = ()
    original: Image.Image | None = None


@dataclass(frozen=True)
class EncodedPicture:
    """The token file of one picture, and what the search for its length found."""

    file: TokenFile
    facts: dict[str, Any]


@dataclass(frozen=True)
class DecodedPicture:
    """Network outputs (T, 3, h, w) in [-1, 1]; the picture is put together when asked for."""

    outputs: Tensor
    geometry: Geometry

    @cached_property
    def pixels(self) -> Tensor:
        """The picture, uint8 (3, H, W)."""
        return to_uint8(restore(self.outputs, self.geometry))


class ImageCodec:
    """The image part of encode, decode and reconstruct.

    Args:
        model: an image tokenizer with a native size.
        policy: ``resize`` (whole picture, shape not kept inside), ``crop`` (central square) or
            ``tile`` (tiles of the native size with overlap).
        tokens: budget per network input; at most one of the three budgets.
        target_bytes: most bytes of the whole token file.
        target_psnr: the fewest tokens that reach this PSNR in decibels at the original size.
        batch_size: network inputs per call.
        keep_original: keep the pixels of read pictures for `compare`.

    Raises:
        ConfigError: two budgets, or one outside what the model can do.

    Example:
        >>> codec = ImageCodec(tokenizer, tokens=64)                    # doctest: +SKIP
        >>> encoded = codec.encode([codec.read(Path("cat.jpg"))])[0]    # doctest: +SKIP
    """

    readable = READABLE
    writable = frozenset(WRITABLE)
    default_suffix = ".png"

    def __init__(
        self,
        model: Tokenizer,
        *,
        policy: str = "resize",
        tokens: int | None = None,
        target_bytes: int | None = None,
        target_psnr: float | None = None,
        batch_size: int = 16,
        keep_original: bool = False,
    ) -> None:
        if policy not in POLICIES:
            raise ConfigError(f"policy '{policy}' is unknown; legal are {', '.join(POLICIES)}.")
        if sum(budget is not None for budget in (tokens, target_bytes, target_psnr)) > 1:
            raise ConfigError("give one budget: tokens, target bytes or target PSNR.")
        size = model.spec.image_size
        if size is None or size[0] != size[1]:
            raise ConfigError(f"{type(model).__name__} has no native square size to prepare for.")
        self.model, self.policy, self.batch_size = model, policy, batch_size
        self.size = size[0]
        self.tokens, self.target_bytes, self.target_psnr = tokens, target_bytes, target_psnr
        self.keep_original = keep_original or target_psnr is not None
        # A tiled photograph fills many batches by itself; reading far ahead would only fill memory.
        self.ahead = 2 if policy == "tile" else None
        self.lengths = legal_lengths(model.spec)
        self.full, self.least = self.lengths[-1], self.lengths[0]
        axes = [axis.name for axis in model.spec.axes]
        self._has_branches, self._is_grid = axes[0] == "branch", "row" in axes
        if tokens is not None and tokens not in self.lengths:
            raise ConfigError(f"{tokens} tokens are not possible; this model takes {self._legal}.")
        if (target_bytes or target_psnr) is not None and self.least == self.full:
            raise ConfigError(f"this model always uses {self.full} tokens; leave the target out.")
        if target_psnr is not None and model.spec.scales is not None:
            raise ConfigError(
                f"a target PSNR needs prefixes of any length but this model takes {self._legal}; "
                "give tokens or target bytes."
            )

    @property
    def _legal(self) -> str:
        """The legal numbers of tokens, in words."""
        if self.model.spec.scales is not None:
            return ", ".join(map(str, self.lengths))
        return f"{self.least} to {self.full}" if self.least < self.full else str(self.full)

    # -- pictures in ---------------------------------------------------------------------------

    def read(self, path: Path) -> Picture:
        """Read and prepare one picture; MediaError for a bad one."""
        image = read_image(path)
        inputs, geometry = prepare(image.pixels, self.policy, self.size)
        original = image.pixels if self.keep_original else None
        return Picture(inputs, geometry, tuple(image.notes), original)

    def weight(self, picture: Picture) -> int:
        """Return the number of network inputs of a picture."""
        return len(picture.inputs)

    @torch.inference_mode()
    def encode(self, pictures: Sequence[Picture]) -> list[EncodedPicture | TesseraError]:
        """Turn pictures into token files within the budget."""
        inputs = torch.cat([picture.inputs for picture in pictures])
        codes = torch.cat([
            self._places_first(self.model.encode(chunk.to(self.model.device)).codes.cpu())
            for chunk in inputs.split(self.batch_size)
        ])  # fmt: skip
        parts = codes.split([len(picture.inputs) for picture in pictures])
        results: list[EncodedPicture | TesseraError] = []
        for picture, part in zip(pictures, parts, strict=True):
            try:
                results.append(self._within_budget(picture, part))
            except TesseraError as error:
                results.append(error)
        return results

    def _within_budget(self, picture: Picture, codes: Tensor) -> EncodedPicture:
        facts: dict[str, Any] = {}
        count, notes = self.tokens or self.full, list(picture.notes)
        if self.target_bytes is not None:
            most = tokens_for_bytes(
                self.target_bytes, lambda n: self._file_size(picture, n), self.full
            )
            count = max((n for n in self.lengths if n <= most), default=self.least)
        elif self.target_psnr is not None:
            count, facts = self._search(picture, codes)
            if facts["psnr"] < self.target_psnr:
                notes.append(
                    f"{self.target_psnr:g} dB cannot be reached; the best is {facts['psnr']:.2f} dB"
                    f" with {count} tokens"
                )
        if notes:
            facts["notes"] = notes
        return EncodedPicture(self._token_file(picture, codes[:, :count]), facts)

    def _token_file(self, picture: Picture, codes: Tensor) -> TokenFile:
        stored = codes if self.policy == "tile" else codes[0]
        return TokenFile(
            stored.numpy(), self.model.spec.bits, self.model.code_hash(),
            picture.geometry.extent, self.policy,
        )  # fmt: skip

    def shortened(self, file: TokenFile, count: int) -> TokenFile:
        """Return the same token file with the first ``count`` tokens of each network input."""
        if count == self.full:
            return file
        codes = file.codes[..., :count, :] if self._has_branches else file.codes[..., :count]
        return dataclasses.replace(file, codes=codes)

    def _file_size(self, picture: Picture, count: int) -> int:
        factors = self.model.spec.factors
        shape = (count, factors) if factors > 1 else (count,)
        if self.policy == "tile":
            shape = (len(picture.inputs), *shape)
        return token_file_size(
            shape, self.model.spec.bits, extent=picture.geometry.extent, policy=self.policy
        )

    def _search(self, picture: Picture, codes: Tensor) -> tuple[int, dict[str, Any]]:
        """Find the fewest tokens for the target by decoding several prefixes per call."""
        calls = 0

        def decode_lengths(tokens: Tokens, lengths: list[int]) -> Tensor:
            nonlocal calls
            repeated = tokens.codes.repeat(len(lengths), *[1] * (codes.ndim - 1))
            valid = torch.tensor(lengths).repeat_interleave(len(codes))
            outputs = self._run_decoder(repeated, valid)
            calls += -(-len(repeated) // self.batch_size)
            return torch.stack([
                to_uint8(restore(part, picture.geometry)) for part in outputs.split(len(codes))
            ])  # fmt: skip

        original = _bytes_of(self._target(picture))
        probes = max(1, min(PROBES_PER_CALL, SEARCH_VALUES // original.numel()))
        found = search_length(
            Tokens(codes), original, decode_lengths, self.target_psnr or 0.0, self.full, probes
        )
        return found.num_tokens, {"psnr": found.psnr, "decoder_calls": calls}

    # -- tokens back ---------------------------------------------------------------------------

    def check(self, file: TokenFile) -> None:
        """Raise TokenError unless tiles, tokens and size of a token file fit this model."""
        if len(file.extent) != 2 or file.policy not in POLICIES:
            raise TokenError(
                f"these tokens hold no picture (size {file.extent}, policy '{file.policy}'); "
                "decode them with the tokenizer that encoded them."
            )
        height, width = file.extent
        if not 0 < height * width <= MAX_PIXELS:
            raise TokenError(
                f"the picture would be {width} x {height} pixels; legal are up to {MAX_PIXELS}."
            )
        geometry = self._geometry(file)
        shape = file.codes.shape
        tiles, rest = (shape[0], shape[1:]) if file.policy == "tile" else (1, shape)
        if len(rest) != len(self.model.spec.axes) or tiles != geometry.tiles:
            raise TokenError(
                f"codes of shape {tuple(shape)} do not fit a {width} x {height} picture with "
                f"policy '{file.policy}', which takes {geometry.tiles} network inputs."
            )
        if self._is_grid:
            grid = native_grid(self.model.spec)
            if tuple(rest[:2]) != grid:
                raise TokenError(
                    f"codes of {rest[0]} x {rest[1]} cells came in; this model's pictures have "
                    f"{grid[0]} x {grid[1]}."
                )
        elif rest[0] not in self.lengths:
            raise TokenError(f"{rest[0]} tokens; this model takes {self._legal}.")

    def _geometry(self, file: TokenFile) -> Geometry:
        return Geometry(file.policy, (file.extent[0], file.extent[1]), self.size)

    def decode_weight(self, file: TokenFile) -> int:
        """Return the number of network inputs of a token file."""
        return file.codes.shape[0] if file.policy == "tile" else 1

    @torch.inference_mode()
    def decode(self, files: Sequence[TokenFile]) -> list[DecodedPicture | TesseraError]:
        """Turn checked token files into pictures; lengths may differ within a batch."""
        if self.model.spec.condition is not None:
            raise ConfigError(
                f"this model decodes with {self.model.spec.condition} features, which the commands "
                "do not make; use tokenizer.decode(tokens, condition=...) in Python."
            )
        rows, lengths = [], []
        for file in files:
            codes = torch.from_numpy(file.codes)
            codes = codes if file.policy == "tile" else codes[None]
            rows.append(codes)
            lengths += list(file.lengths or [codes.shape[1]] * len(codes))
        longest = max(codes.shape[1] for codes in rows)
        padded = [_pad_to(codes, longest) for codes in rows]
        outputs = self._run_decoder(torch.cat(padded), torch.tensor(lengths))
        parts = outputs.split([len(codes) for codes in rows])
        return [
            DecodedPicture(part, self._geometry(file))
            for part, file in zip(parts, files, strict=True)
        ]

    def _run_decoder(self, codes: Tensor, lengths: Tensor) -> Tensor:
        """Decode (B, N, ...) codes with their valid lengths (B,), a batch at a time."""
        device = self.model.device
        outputs = []
        for part, valid in zip(
            codes.split(self.batch_size), lengths.split(self.batch_size), strict=True
        ):
            part = part[:, : int(valid.max())]
            ragged = None if bool((valid == part.shape[1]).all()) else valid.to(device)
            codes = self._branches_first(part.to(device))
            outputs.append(self.model.decode(Tokens(codes, ragged)).cpu())
        return torch.cat(outputs)

    # Token files keep what belongs to one place together; the contract puts branches first.

    def _places_first(self, codes: Tensor) -> Tensor:
        return codes.movedim(1, -1) if self._has_branches else codes

    def _branches_first(self, codes: Tensor) -> Tensor:
        return codes.movedim(-1, 1) if self._has_branches else codes

    # -- pictures out --------------------------------------------------------------------------

    def picture(self, signal: Picture | DecodedPicture) -> Image.Image:
        """Return a decoded picture, or the part of an original that the policy keeps."""
        if isinstance(signal, Picture):
            return self._target(signal)
        return Image.fromarray(signal.pixels.permute(1, 2, 0).numpy())

    def _target(self, picture: Picture) -> Image.Image:
        if picture.original is None:
            raise MediaError("the original pixels were not kept; open the codec to keep them.")
        box = picture.geometry.box
        return picture.original if box is None else picture.original.crop(box)

    def write(self, path: Path, signal: DecodedPicture, *, force: bool) -> int:
        """Write a decoded picture in the format of its extension; return its bytes."""
        name, options = WRITABLE[path.suffix.lower()]
        buffer = io.BytesIO()
        try:
            self.picture(signal).save(buffer, format=name, **options)
        except (OSError, ValueError) as error:
            size = f"{signal.pixels.shape[2]} x {signal.pixels.shape[1]}"
            raise MediaError(f"{path}: {name} cannot hold {size} pixels ({error}).") from None
        return write_bytes(path, buffer.getvalue(), force=force)

    def compare(self, original: Picture, decoded: DecodedPicture) -> dict[str, float]:
        """Return PSNR in decibels and SSIM of a decoded picture at the original size."""
        a, b = decoded.pixels[None], _bytes_of(self._target(original))[None]
        return {"psnr": float(psnr(a, b)), "ssim": float(ssim(a, b))}

    def rate(self, file: TokenFile, size: int) -> dict[str, Any]:
        """Return size, tokens, bytes and bits per pixel of a token file of ``size`` bytes."""
        height, width = file.extent
        return {
            "size": f"{width} x {height}",
            "inputs": self.decode_weight(file) if file.policy == "tile" else None,
            "tokens": file.num_codes,
            "bytes": size,
            "bits_per_pixel": 8 * size / (height * width),
        }


def _pad_to(codes: Tensor, length: int) -> Tensor:
    missing = length - codes.shape[1]
    return torch.cat([codes, codes.new_zeros(len(codes), missing, *codes.shape[2:])], dim=1)


def _bytes_of(picture: Image.Image) -> Tensor:
    """Return uint8 (3, H, W)."""
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
