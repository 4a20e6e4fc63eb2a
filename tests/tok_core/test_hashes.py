"""Hashes of what was made in inference mode, and when they are made anew."""

from __future__ import annotations

import torch

from tok_core.hashes import version_key
from vision_tok.vqgan import VQGAN

SIZES = {"channels": 8, "multipliers": [1, 1], "res_blocks": 1, "attention": []}


def tiny() -> VQGAN:
    torch.manual_seed(0)
    return VQGAN(encoder_sizes=SIZES, z_channels=4, code_dim=4, codebook_size=8, norm_groups=4,
                 image_size=8).eval()  # fmt: skip


def test_models_made_in_inference_mode_have_the_same_hashes() -> None:
    ordinary = tiny()
    with torch.inference_mode():
        model = tiny()
        assert model.code_hash() == ordinary.code_hash()
        assert model.weights_hash() == ordinary.weights_hash()
        before = model.weights_hash()
        next(model.decoder.parameters()).add_(1.0)
        assert model.weights_hash() != before, "writes are not counted there, so none may be missed"


def test_a_key_is_kept_until_something_is_written() -> None:
    tensor = torch.zeros(3)
    key = version_key([("a", tensor)])
    assert key == version_key([("a", tensor)])
    tensor.add_(1.0)
    assert key != version_key([("a", tensor)])
