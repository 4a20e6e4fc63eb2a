"""The network of UTMOS22-strong: wav2vec 2.0 base, two embeddings, a bidirectional LSTM, a score.

    sound ─ 7 convolutions ─▶ features ─ linear ─▶ + position ─ 12 layers ─▶ encoded
    [encoded | domain | judge] ─ BLSTM ─ linear, ReLU, linear ─▶ frame scores ─ mean, x2, +3 ─▶ MOS

Names of modules are those of the published file. Sizes are read from the tensors.

Letters: B sounds, T samples, C channels of the convolutions, L frames, D width of the encoder,
H heads, K taps.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tok_core.errors import WeightsError
from tok_core.weight_files import load_strictly

STRIDES = (5, 2, 2, 2, 2, 2, 2)
HEAD_WIDTH = 64  # of wav2vec 2.0: the file does not tell how many heads a layer has
_UNUSED = ("wav2vec2.mask_emb",)  # of pre-training
# The authors' demo trained in Lightning: more judges, other names.
_LIGHTNING = {
    "feature_extractors.0.ssl_model.": "wav2vec2.",
    "feature_extractors.1.embedding.weight": "domain_emb",
    "output_layers.0.judge_embedding.weight": "judge_emb",
    "output_layers.0.decoder_rnn.": "blstm.",
    "output_layers.1.net.0.": "projection.0.",
    "output_layers.1.net.3.": "projection.2.",
}
_ROWS = {"domain_emb": 0, "judge_emb": 288}


class UtmosNetwork(nn.Module):
    """Sound to a mean opinion score; build it with `from_state`.

    Args:
        shapes: of the tensors by name. heads: of attention; None for `HEAD_WIDTH` features each.
        strides: of the convolutions. eps: of all norms.

    Raises:
        WeightsError: the shapes are of another network.

    Source: Saeki et al. 2022, arXiv 2204.02152, the strong learner without phonemes; Baevski et
    al. 2020, arXiv 2006.11477 (wav2vec 2.0).

    Example:
        >>> network = UtmosNetwork.from_state(read_state(path))
        >>> network(torch.zeros(1, 16000)).shape
        torch.Size([1])
    """

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        *,
        heads: int | None = None,
        strides: Sequence[int] = STRIDES,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        try:
            self.wav2vec2 = Wav2Vec2(shapes, heads, strides, eps)
            self.domain_emb = nn.Parameter(torch.zeros(1, shapes["domain_emb"][-1]))
            self.judge_emb = nn.Parameter(torch.zeros(1, shapes["judge_emb"][-1]))
            rows, width = shapes["blstm.weight_ih_l0"]
            self.blstm = nn.LSTM(width, rows // 4, batch_first=True, bidirectional=True)
            hidden, inner = shapes["projection.0.weight"]
            self.projection = nn.Sequential(
                nn.Linear(inner, hidden), nn.ReLU(), nn.Linear(hidden, 1)
            )
        except (KeyError, ValueError, ZeroDivisionError, RuntimeError) as error:
            raise WeightsError(
                f"these tensors are not of UTMOS22-strong ({error}); give the file "
                "utmos22_strong_step7459_v1.pt of tarepan/SpeechMOS, or the demo's .ckpt."
            ) from None

    @classmethod
    def from_state(
        cls, state: Mapping[str, Tensor], *, source: str = "UTMOS weights", **sizes: object
    ) -> UtmosNetwork:
        """Build from tensors in the published layout or in the authors' Lightning layout.

        Args:
            state: tensors by name, as `tok_core.official_weights.read_state` gives them.
            source: what they are, for errors. sizes: ``heads``, ``strides``, ``eps``.

        Raises:
            WeightsError: a key is missing, left over or of another shape.
        """
        own = official_keys(state)
        shapes = {name: tuple(tensor.shape) for name, tensor in own.items()}
        network = cls(shapes, **sizes)  # type: ignore[arg-type]
        load_strictly(network, own, source=source)
        return network.eval().requires_grad_(False)

    def frame_scores(self, x: Tensor) -> Tensor:
        """Map sounds (B, T) of 16 kHz to scores (B, L) before scale and mean."""
        encoded = self.wav2vec2(x)
        batch, frames, _ = encoded.shape
        labels = [
            one.expand(batch, frames, one.shape[-1])
            for one in (self.domain_emb[:, None], self.judge_emb[:, None])
        ]
        return self.projection(self.blstm(torch.cat([encoded, *labels], dim=-1))[0])[..., 0]

    def forward(self, x: Tensor) -> Tensor:
        """Map sounds (B, T) of 16 kHz in [-1, 1], T >= 400, not padded, to scores (B,)."""
        return self.frame_scores(x).mean(dim=1) * 2 + 3


class Wav2Vec2(nn.Module):
    """The encoder: sounds (B, T) to features (B, L, D)."""

    def __init__(
        self, shapes: Mapping[str, Sequence[int]], heads: int | None, strides: Sequence[int],
        eps: float,
    ) -> None:  # fmt: skip
        super().__init__()
        inside = {
            key.removeprefix("wav2vec2."): shape
            for key, shape in shapes.items()
            if key.startswith("wav2vec2.")
        }
        self.feature_extractor = _Convolutions(inside, strides, eps)
        width, channels = inside["post_extract_proj.weight"]
        self.layer_norm = nn.LayerNorm(channels, eps)
        self.post_extract_proj = nn.Linear(channels, width)
        self.encoder = _Encoder(inside, heads, eps)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of every frame after the last layer."""
        features = self.feature_extractor(x).transpose(1, 2)
        return self.encoder(self.post_extract_proj(self.layer_norm(features)))


class _Convolutions(nn.Module):
    """Convolutions without bias or padding; the first one's channels are normalised over time."""

    def __init__(
        self, inside: Mapping[str, Sequence[int]], strides: Sequence[int], eps: float
    ) -> None:
        super().__init__()
        count = _count(inside, r"feature_extractor\.conv_layers\.(\d+)\.0\.weight")
        if count != len(strides):
            raise ValueError(f"{count} convolutions, but {len(strides)} strides")
        self.conv_layers = nn.ModuleList()
        for i, stride in enumerate(strides):
            out, into, taps = inside[f"feature_extractor.conv_layers.{i}.0.weight"]
            # The place between the two was dropout's.
            parts: list[nn.Module] = [nn.Conv1d(into, out, taps, stride, bias=False), nn.Identity()]
            if f"feature_extractor.conv_layers.{i}.2.weight" in inside:
                parts.append(nn.GroupNorm(out, out, eps))
            self.conv_layers.append(nn.Sequential(*parts))

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None]
        for layer in self.conv_layers:
            x = F.gelu(layer(x))
        return x


class _Encoder(nn.Module):
    """Positions from a wide grouped convolution, then layers that normalise after adding."""

    def __init__(
        self, inside: Mapping[str, Sequence[int]], heads: int | None, eps: float
    ) -> None:
        super().__init__()
        width = inside["post_extract_proj.weight"][0]
        self.pos_conv = nn.ModuleList([_PositionConv(inside["encoder.pos_conv.0.weight_v"])])
        self.layer_norm = nn.LayerNorm(width, eps)
        heads = heads or max(1, width // HEAD_WIDTH)
        inner = inside["encoder.layers.0.fc1.weight"][0]
        count = _count(inside, r"encoder\.layers\.(\d+)\.fc1\.weight")
        self.layers = nn.ModuleList(_Layer(width, heads, inner, eps) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer_norm(x + self.pos_conv[0](x))
        for layer in self.layers:
            x = layer(x)
        return x


class _PositionConv(nn.Module):
    """A grouped convolution whose taps have lengths of their own (weight norm over taps)."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        width, share, taps = shape
        if width % share:
            raise ValueError(f"position convolution of {width} channels in groups of {share}")
        self.groups = width // share
        self.bias = nn.Parameter(torch.zeros(width))
        self.weight_g = nn.Parameter(torch.ones(1, 1, taps))
        self.weight_v = nn.Parameter(torch.zeros(*shape))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, L, D) to (B, L, D)."""
        length = self.weight_v.norm(dim=(0, 1), keepdim=True)
        weight = self.weight_v * (self.weight_g / length)
        taps = weight.shape[-1]
        y = F.conv1d(
            x.transpose(1, 2), weight, self.bias, padding=taps // 2, groups=self.groups
        )
        return F.gelu(y[..., : x.shape[1]]).transpose(1, 2)  # an even kernel gives one frame more


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, inner: int, eps: float) -> None:
        super().__init__()
        self.self_attn = _Attention(width, heads)
        self.self_attn_layer_norm = nn.LayerNorm(width, eps)
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)
        self.final_layer_norm = nn.LayerNorm(width, eps)

    def forward(self, x: Tensor) -> Tensor:
        x = self.self_attn_layer_norm(x + self.self_attn(x))
        return self.final_layer_norm(x + self.fc2(F.gelu(self.fc1(x))))


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"{width} features do not part into {heads} heads")
        self.heads = heads
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            self.add_module(name, nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            self.get_submodule(name)(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        out = F.scaled_dot_product_attention(q, k, v)
        return self.get_submodule("out_proj")(out.transpose(1, 2).flatten(2))


def official_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors under the published file's names, from it or from the Lightning file.

    Of Lightning's embeddings the rows are taken that the published file kept: domain 0, judge 288.

    Raises:
        WeightsError: an embedding without that row.
    """
    found: dict[str, Tensor] = {}
    for key, tensor in state.items():
        prefix = next((theirs for theirs in _LIGHTNING if key.startswith(theirs)), None)
        name = key if prefix is None else _LIGHTNING[prefix] + key.removeprefix(prefix)
        if prefix is not None and name in _ROWS:
            row = _ROWS[name]
            if tensor.dim() != 2 or len(tensor) <= row:
                raise WeightsError(
                    f"{key} has shape {tuple(tensor.shape)}; legal is a table with row {row}: give "
                    "the published UTMOS22-strong file."
                )
            tensor = tensor[row : row + 1]
        if name not in _UNUSED:
            found[name] = tensor
    return found


def _count(keys: Mapping[str, object], pattern: str) -> int:
    return len({match[1] for key in keys if (match := re.fullmatch(pattern, key))})
