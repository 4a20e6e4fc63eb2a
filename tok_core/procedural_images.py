"""Endless procedural pictures, seeded by index: item i of seed s is always the same picture.

Nothing is stored and nothing is drawn in order, so any process can make any item: training data
that needs no download, and a labelled set that every experiment can share.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageFilter

from tok_core.errors import ConfigError, nearest
from tok_core.procedural_classes import CLASS_NAMES, class_picture
from tok_core.procedural_draws import Array, Draws, item_draws
from tok_core.procedural_leaves import dead_leaves
from tok_core.procedural_scenes import gradient, shapes, text, texture

VERSION = 1
_OVERSAMPLING = 2  # painted at twice the side; _develop averages pairs, which softens edges
_PAINTERS: dict[str, Callable[[Draws, int], Array]] = {
    "dead_leaves": dead_leaves, "texture": texture, "gradient": gradient, "shapes": shapes,
    "text": text,
}
_NATURAL_SHARES = (("dead_leaves", 0.66), ("texture", 0.14), ("shapes", 0.08), ("text", 0.06),
                   ("gradient", 0.06))
KINDS: tuple[str, ...] = ("natural", *_PAINTERS)


def _check(size: int, seed: int, version: int) -> None:
    if not 8 <= size <= 2048:
        raise ConfigError(f"procedural pictures of side {size} were asked for; give a side from 8 "
                          "to 2048 pixels")
    if seed < 0:
        raise ConfigError(f"the seed {seed} is negative; give a whole number of 0 or more")
    if version != VERSION:
        raise ConfigError(f"version {version} of the procedural pictures was asked for; this "
                          f"package makes version {VERSION}, so install the package that made it")


def _natural_kind(at: float) -> str:
    for kind, share in _NATURAL_SHARES:
        at -= share
        if at < 0.0:
            return kind
    return _NATURAL_SHARES[0][0]


def _develop(draws: Draws, canvas: Array, size: int, camera: bool) -> np.ndarray:
    """Average the canvas to (size, size, 3) uint8; ``camera`` may add sensor noise and blur."""
    rows = canvas[0::2] + canvas[1::2]
    picture = 0.25 * (rows[:, 0::2] + rows[:, 1::2])
    if camera and draws.chance(0.12):
        picture = picture + draws.uniform(0.005, 0.03) * draws.normals((size, size, 1))
    # 8 bits, as in any picture file: rounding also hides last-bit differences between processors.
    pixels = np.rint(picture.clip(0.0, 1.0) * 255.0).astype(np.uint8)
    if camera and draws.chance(0.3):
        blur = ImageFilter.GaussianBlur(draws.uniform(0.3, 1.1) * size / 64.0)
        pixels = np.asarray(Image.fromarray(pixels).filter(blur))
    return pixels


def _to_tensor(pixels: np.ndarray) -> torch.Tensor:
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    return torch.from_numpy(planes).to(torch.float32).div_(127.5).sub_(1.0)


class ProceduralImages:
    """Endless pictures of one kind: index in, (3, size, size) float32 in [-1, 1] out.

    Args:
        kind: "natural" (a mixture: two thirds dead leaves, then texture, shapes, text, gradient)
            or one of "dead_leaves", "texture", "gradient", "shapes", "text".
        size: side in pixels, 8 to 2048.
        seed: 0 or more; another seed is another endless set.
        version: of the painters; pixels of one version never change (a test pins them).

    Raises:
        ConfigError: unknown kind, or a size, seed or version out of range.

    Example::

        source = ProceduralImages("natural", size=64, seed=0)
        picture = source[123]  # (3, 64, 64), the same on every machine and in every order
    """

    def __init__(self, kind: str, size: int, seed: int = 0, version: int = VERSION) -> None:
        if kind not in KINDS:
            raise ConfigError(f"there is no procedural kind '{kind}'; choose one of "
                              f"{', '.join(KINDS)}{nearest(kind, KINDS)}")
        _check(size, seed, version)
        self.kind, self.size, self.seed, self.version = kind, size, seed, version

    def pixels(self, index: int) -> np.ndarray:
        """Return item ``index`` (0 or more, no upper end) as (size, size, 3) uint8."""
        if index < 0:
            raise IndexError(f"procedural items are numbered from 0, got {index}")
        draws = item_draws(self.kind, version=self.version, seed=self.seed, index=index)
        kind = _natural_kind(draws.uniform()) if self.kind == "natural" else self.kind
        canvas = _PAINTERS[kind](draws, _OVERSAMPLING * self.size)
        return _develop(draws, canvas, self.size, camera=kind != "text")

    def __getitem__(self, index: int) -> torch.Tensor:
        return _to_tensor(self.pixels(index))


class ProceduralClasses:
    """The shared labelled set: twelve shapes and textures, endless, seeded by index.

    Data flow: index -> (picture (3, size, size) float32 in [-1, 1], label 0..11); labels are drawn
    evenly, so any stride over the indices stays balanced.  ``class_names`` gives the words.

    Args and errors: as for :class:`ProceduralImages`.

    Example::

        picture, label = ProceduralClasses(size=64)[5]
    """

    class_names = CLASS_NAMES

    def __init__(self, size: int, seed: int = 0, version: int = VERSION) -> None:
        _check(size, seed, version)
        self.size, self.seed, self.version = size, seed, version

    def pixels(self, index: int, label: int | None = None) -> tuple[np.ndarray, int]:
        """Return (size, size, 3) uint8 and the label of item ``index``.

        ``label`` asks for that class instead of the item's own, with the same other draws.
        """
        if index < 0:
            raise IndexError(f"procedural items are numbered from 0, got {index}")
        draws = item_draws("classes", version=self.version, seed=self.seed, index=index)
        own = draws.integer(0, len(CLASS_NAMES) - 1)
        label = own if label is None else label
        canvas = class_picture(draws, _OVERSAMPLING * self.size, label)
        return _develop(draws, canvas, self.size, camera=False), label

    def label(self, index: int) -> int:
        """Return the label of item ``index`` without painting it."""
        draws = item_draws("classes", version=self.version, seed=self.seed, index=index)
        return draws.integer(0, len(CLASS_NAMES) - 1)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        pixels, label = self.pixels(index)
        return _to_tensor(pixels), label
