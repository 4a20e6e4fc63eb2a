"""The contract on paper: every layout the suite will meet, before any of it is built."""

from __future__ import annotations

import pytest
import torch

from tok_core.errors import TokenError
from tok_core.token_spec import Axis, TokenSpec


def _image(**options: object) -> TokenSpec:
    return TokenSpec(modality="image", **options)  # type: ignore[arg-type]


def _scaled(scales: tuple[tuple[int, int], ...], vocabulary: int, branches: int = 0) -> TokenSpec:
    total = sum(h * w for h, w in scales)
    lead = (Axis(name="branch", size=branches, minimum=branches),) if branches else ()
    axis = Axis(name="scale_token", size=total, minimum=scales[0][0] * scales[0][1])
    return _image(
        axes=(*lead, axis), vocabulary=(vocabulary,) * max(branches, 1), scales=scales,
        grid=scales[-1], streams=() if branches else ("semantic", "pixel"),
    )


FLOW = tuple((s, s) for s in (1, 2, 4, 6, 8, 10, 12, 14, 16))
FOLDER = tuple((s, s) for s in (1, 1, 2, 3, 3, 4, 5, 6, 8, 11))
LAYOUTS = {
    "One-D-Piece": (
        _image(axes=(Axis(name="token", size=256),), vocabulary=(4096,), image_size=(256, 256)),
        (256,), (256, 1),
    ),
    "VQ-16": (
        _image(axes=(Axis(name="row", size=16), Axis(name="column", size=16)),
               vocabulary=(16384,), grid=(16, 16)),
        (16, 16), (256, 1),
    ),
    "TokenFlow": (_scaled(FLOW, 32768), (817,), (817, 1)),
    "ImageFolder": (_scaled(FOLDER, 4096, branches=2), (2, 286), (286, 2)),
    "TokenBridge": (
        _image(axes=(Axis(name="row", size=16), Axis(name="column", size=16),
                     Axis(name="dimension", size=16)), vocabulary=(64,) * 16, grid=(16, 16)),
        (16, 16, 16), (256, 16),
    ),
    "WavTokenizer": (
        TokenSpec(modality="audio", axes=(Axis(name="level", size=1), Axis(name="time")),
                  vocabulary=(4096,), input_rate=24000, output_rate=24000, token_rate=75.0),
        (1, 75), (75, 1),
    ),
    "XY-Tokenizer": (
        TokenSpec(modality="audio", axes=(Axis(name="level", size=8), Axis(name="time")),
                  vocabulary=(1024,) * 8, input_rate=16000, output_rate=24000, token_rate=12.5),
        (8, 33), (33, 8),
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_round_trips_through_the_sequence_view(name: str) -> None:
    spec, shape, view = LAYOUTS[name]
    codes = torch.randint(0, min(spec.vocabulary), (3, *shape))
    spec.check(codes)
    sequence = spec.to_sequence(codes)
    assert tuple(sequence.shape[1:]) == view
    assert torch.equal(spec.from_sequence(sequence, sizes=shape), codes)
    assert torch.equal(spec.from_sequence(sequence), codes)
    assert TokenSpec.from_json(spec.to_json()) == spec
    lengths = {len(c) for c in spec.coordinates(shape)}
    assert lengths == {sequence.shape[1]}


def test_sequence_is_raster_with_factors_last() -> None:
    spec, shape, _ = LAYOUTS["TokenBridge"]
    codes = torch.randint(0, 64, (1, *shape))
    assert spec.to_sequence(codes)[0, 16 * 3 + 5, 7] == codes[0, 3, 5, 7]
    spec, shape, _ = LAYOUTS["XY-Tokenizer"]
    codes = torch.randint(0, 1024, (1, *shape))
    assert spec.to_sequence(codes)[0, 20, 5] == codes[0, 5, 20]


def test_coordinates_follow_scales_rows_and_time() -> None:
    flow = LAYOUTS["TokenFlow"][0].coordinates()
    assert flow.scale.tolist()[:6] == [0, 1, 1, 1, 1, 2]
    assert (flow.row[3], flow.column[3]) == (1, 0)
    grid = LAYOUTS["VQ-16"][0].coordinates()
    assert (grid.row[17], grid.column[17], grid.time[17]) == (1, 1, -1)
    line = LAYOUTS["One-D-Piece"][0].coordinates()
    assert line.time.tolist() == list(range(256)) and int(line.row.max()) == -1


def test_bits_follow_the_vocabulary() -> None:
    assert LAYOUTS["One-D-Piece"][0].bits == (12,)
    assert LAYOUTS["TokenBridge"][0].bits == (6,) * 16
    odd = _image(axes=(Axis(name="token", size=2),), vocabulary=(5,))
    assert odd.bits == (3,)


@pytest.mark.parametrize(
    ("codes", "word"),
    [
        (torch.zeros(2, 300, dtype=torch.int64), "300 along 'token'"),
        (torch.zeros(2, 0, dtype=torch.int64), "0 along 'token'"),
        (torch.zeros(2, 16, 16, dtype=torch.int64), "shape"),
        (torch.full((1, 4), 4096), "code 4096"),
        (torch.full((1, 4), -1), "code -1"),
        (torch.zeros(1, 4), "int64"),
    ],
)
def test_wrong_codes_are_one_sentence(codes: torch.Tensor, word: str) -> None:
    with pytest.raises(TokenError, match=word):
        LAYOUTS["One-D-Piece"][0].check(codes)


def test_wrong_specs_are_refused() -> None:
    with pytest.raises(TokenError, match="did you mean 'token'"):
        _image(axes=(Axis(name="tokens", size=4),), vocabulary=(8,))
    with pytest.raises(TokenError, match="factors"):
        _image(axes=(Axis(name="token", size=4),), vocabulary=(8, 8))
    with pytest.raises(TokenError, match="scales"):
        _image(axes=(Axis(name="scale_token", size=4),), vocabulary=(8,), scales=((1, 1),))
    with pytest.raises(TokenError, match="unknown token spec key"):
        TokenSpec.from_json('{"axes": [], "modality": "image", "vocabularies": []}')
