"""Classic picture codecs as contestants: JPEG, WebP, AVIF and JPEG 2000 at several qualities."""

from __future__ import annotations

from collections.abc import Sequence

from eval.contestant import Contestant, Reconstruction, Signal, stopwatch
from eval.picture_codecs import CODECS, check_codec, decode, encode
from tok_core.errors import ConfigError

NAMES = {"jpeg": "JPEG", "webp": "WebP", "avif": "AVIF", "jpeg2000": "JPEG 2000"}


class PictureCodecContestant(Contestant):
    """A codec of Pillow; its bytes are those of the whole file.

    Args:
        kind: key of `NAMES`. name: as tables call it.

    Raises:
        ConfigError: this Pillow lacks the codec.

    Example:
        >>> jpeg = PictureCodecContestant("jpeg")
        >>> jpeg.reconstruct([signal], 50)[0].bytes_on_disk  # doctest: +SKIP
        8534
    """

    def __init__(self, kind: str, name: str | None = None) -> None:
        import PIL

        self.kind = NAMES[kind]
        codec = check_codec(self.kind)
        super().__init__(
            name=name or kind, sense="image", budgets=codec.table, sweep=codec.qualities,
            budget_name=codec.setting,
            identity={"codec": self.kind, "options": codec.options, "pillow": PIL.__version__},
        )  # fmt: skip

    def check_budget(self, budget: float | None) -> None:
        """Raise ConfigError unless it is a whole number from 1 to 100."""
        if budget is None or not 1 <= budget <= 100 or budget != int(budget):
            raise ConfigError(
                f"{self.name} was asked for {self.budget_name} {budget}; legal are whole numbers "
                "from 1 to 100."
            )

    def reconstruct(
        self, signals: Sequence[Signal], budget: float | None = None
    ) -> list[Reconstruction]:
        """Write and read every picture in memory."""
        from PIL import Image

        from tok_core.evaluation_crop import image_bytes

        quality = int(CODECS[self.kind].table[-1] if budget is None else budget)
        made = []
        for signal in signals:
            picture = Image.fromarray(signal.values.permute(1, 2, 0).numpy())
            with stopwatch() as encoding:
                data = encode(picture, self.kind, quality)
            with stopwatch() as decoding:
                decoded = decode(data)
            made.append(
                Reconstruction(
                    image_bytes(decoded), bytes_on_disk=len(data),
                    encode_seconds=encoding.seconds, decode_seconds=decoding.seconds,
                )
            )  # fmt: skip
        return made
