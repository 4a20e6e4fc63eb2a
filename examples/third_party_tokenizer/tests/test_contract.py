"""FSQPatches keeps the contract; its quantizer is the lattice that it says it is."""

from __future__ import annotations

import pytest
import torch
from fsq_patches.finite_scalar import FiniteScalarQuantizer
from fsq_patches.tokenizer import FSQPatches
from torch import Tensor

from tok_core.contract import Tokens
from tok_core.errors import ConfigError, TokenError
from tok_core.tokenizer_contract import TokenizerContract


class TestFSQPatches(TokenizerContract):
    code_parameter = "encoder.0.weight"
    decoder_parameter = "decoder.0.weight"

    def make(self) -> FSQPatches:
        model = FSQPatches(levels=[5, 4, 3], width=16, blocks=1, image_size=16)
        with torch.no_grad():  # an untrained encoder would use the middle of the lattice alone
            model.encoder[-1].weight.mul_(8)
        return model

    def sample(self, batch: int) -> Tensor:
        return torch.rand(batch, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_codes_are_the_nearest_points_of_the_lattice() -> None:
    quantizer = FiniteScalarQuantizer([5, 4, 3])
    points = quantizer.vectors
    assert points.shape == (60, 3) and len(points.unique(dim=0)) == 60
    assert points.min() == -1 and points.max() == 1
    b = torch.rand(500, 3) * 2 - 1
    assert torch.equal(quantizer.encode(b), torch.cdist(b, points).argmin(-1))
    assert torch.equal(quantizer.encode(points), torch.arange(60))


def test_any_size_comes_back() -> None:
    model = FSQPatches(width=16, blocks=0).eval()
    x = torch.rand(2, 3, 13, 6) * 2 - 1
    tokens = model.encode(x)
    assert tokens.codes.shape == (2, 4, 2)
    assert model.decode(tokens).shape == model(x).reconstruction.shape == x.shape
    with pytest.raises(TokenError, match="drop the extent"):
        model.decode(Tokens(tokens.codes, extent=torch.tensor([[40, 6], [40, 6]])))


@pytest.mark.parametrize("wrong", [{"levels": [8, 1]}, {"width": 20}, {"patch_size": 0}])
def test_wrong_options_are_one_sentence(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        FSQPatches(**wrong)
