"""Pictures for scores at fixed ids: centre crops of files, tiles of the held-out photographs."""

from __future__ import annotations

from torch import Tensor

from assets import photograph_split
from tok_core.training.data_order import shuffled
from vision_tok.image_crops import centre_crop, to_tensor
from vision_tok.image_file import read_image
from vision_tok.image_sources import Files, photograph


class CentreCrops:
    """Stored pictures, each as its central square at S x S, in one fixed mixed order."""

    def __init__(self, files: Files, size: int) -> None:
        self.files, self.size, self.length = files, size, len(files)

    def item(self, index: int) -> Tensor:
        """Return (3, S, S) float32 in [-1, 1]; MediaError for an unreadable file."""
        number = shuffled(index, self.length, 0)
        image = read_image(self.files.read(number), self.files.name(number)).pixels
        return to_tensor(centre_crop(image, self.size))

    def label(self, index: int) -> int | None:
        """Return the label stored with the picture, or None."""
        return self.files.label(shuffled(index, self.length, 0))


class HeldOutTiles:
    """Native-size S x S tiles of the held-out photographs: whole ones, from the upper left corner.

    The order is fixed and mixed, so that the first few already show all photographs; ``places``
    lists (name, top, left) in that order.

    Example::

        tiles = HeldOutTiles(64)
        pictures = torch.stack([tiles.item(i) for i in range(tiles.length)])
    """

    def __init__(self, size: int) -> None:
        self.size = size
        places = [(name, top, left) for name in photograph_split()["held_out"]
                  for top, left in _grid(*photograph(name).size, size)]
        self.length = len(places)
        self.places = [places[shuffled(i, len(places), 0)] for i in range(len(places))]

    def item(self, index: int) -> Tensor:
        """Return (3, S, S) float32 in [-1, 1]."""
        name, top, left = self.places[index]
        return to_tensor(photograph(name).crop((left, top, left + self.size, top + self.size)))

    def label(self, index: int) -> int | None:
        """Return None: photographs carry no labels."""
        return None


def _grid(width: int, height: int, size: int) -> list[tuple[int, int]]:
    return [(top, left) for top in range(0, height - size + 1, size)
            for left in range(0, width - size + 1, size)]
