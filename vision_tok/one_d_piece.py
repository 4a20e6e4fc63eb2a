"""One-D-Piece: TiTok whose every prefix is a picture, the earlier tokens the more important.

    codes (B, N) --first k--> decoder --> image, for any k from 1 to N

Miwa et al., "One-D-Piece: Image Tokenizer Meets Quality-Controllable Compression",
arXiv 2501.10064.  Letters: B batch, S image side, N tokens, k kept tokens, L lengths.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tok_core.contract import Tokens, TrainingOutput, as_tokens
from tok_core.errors import TokenError
from tok_core.tail_drop import TailDrop
from vision_tok.titok import TiTok
from vision_tok.titok_config import TailDropOptions, TiTokConfig
from vision_tok.titok_network import PROXY_LOGITS, keep_mask


class OneDPiece(TiTok):
    """1D image tokenizer of any length: TiTok trained with tail token drop.

    Args:
        tail_drop: options of `tok_core.tail_drop.TailDrop`; None is the official draw, one k per
            local batch, uniform in 1..N. Everything else as in `TiTok`.

    Example:
        >>> model = OneDPiece.from_pretrained("turing-motors/One-D-Piece-L-256")
        >>> tokens = model.encode(images)
        >>> coarse, fine = model.decode_lengths(tokens, [32, 256])
    """

    def check_options(self, config: TiTokConfig) -> None:
        """Refuse draws that `TailDrop` does not know."""
        TailDrop(config.num_tokens, **vars(config.tail_drop or TailDropOptions()))

    @property
    def shortest(self) -> int:
        """One token is enough."""
        return 1

    @property
    def tail_drop(self) -> TailDrop:
        """How training draws prefixes."""
        options = self.settings.tail_drop or TailDropOptions()
        return TailDrop(self.settings.num_tokens, **vars(options))

    @torch.no_grad()
    def decode_lengths(
        self, tokens: Tokens | Tensor, lengths: Sequence[int], *,
        condition: Tensor | None = None, batch_size: int = 16,
    ) -> Tensor:  # fmt: skip
        """Decode the same tokens at several lengths.

        Args:
            tokens: codes (B, k) of whole length each.
            lengths: L numbers from 1 to k, in any order.
            condition: (B, T, E) text features, for a text-aware decoder.
            batch_size: pictures per run of the network, which bounds memory.

        Returns:
            (L, B, 3, S, S) in [-1, 1], in the order of ``lengths``.

        Raises:
            TokenError: a length out of range.
        """
        codes = as_tokens(tokens).codes
        batch, most = codes.shape
        if not lengths or min(lengths) < 1 or max(lengths) > most:
            raise TokenError(
                f"lengths are {list(lengths)}; legal is at least one number from 1 to {most}."
            )
        # Neighbouring lengths share a run, so that little of it is masked away.
        order = sorted((k, j, i) for j, k in enumerate(lengths) for i in range(batch))
        size = self.settings.image_size
        out = codes.new_empty((len(lengths), batch, 3, size, size), dtype=torch.float32)
        for at in range(0, len(order), batch_size):
            part = order[at : at + batch_size]
            kept, places, items = (list(column) for column in zip(*part, strict=True))
            some = None if condition is None else condition[items]
            mine = Tokens(codes[items], torch.tensor(kept, device=codes.device))
            out[places, items] = self.decode(mine, condition=some).float()
        return out

    def _output(
        self, z: Tensor, tokens: Tokens, losses: dict[str, Tensor],
        statistics: dict[str, Tensor], condition: Tensor | None,
    ) -> TrainingOutput:  # fmt: skip
        drop = self.tail_drop
        lengths = tokens.lengths
        if lengths is None and self.training:
            lengths = drop.draw_lengths(len(z))
        if lengths is None:
            return super()._output(z, tokens, losses, statistics, condition)
        longest, keep = keep_mask(lengths, z.device)
        picture, logits = self.paint(z[:, :longest], keep, condition)
        if not drop.joint or not self.training:
            features = {} if logits is None else {PROXY_LOGITS: logits}
            used = Tokens(tokens.codes, lengths.to(z.device), tokens.extent)
            return TrainingOutput(picture, used, losses, statistics, features=features)
        full, full_logits = self.paint(z, None, condition)
        features = {}
        if logits is not None and full_logits is not None:
            features = {PROXY_LOGITS: full_logits, f"shortened_{PROXY_LOGITS}": logits}
        return TrainingOutput(full, tokens, losses, statistics, picture, features)
