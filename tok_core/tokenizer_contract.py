"""The common test class: a new tokenizer gets these tests for one `make` and one `sample`.

It is the one module that needs pytest, and it lies here so that packages outside can use it:
docs/adding_a_tokenizer.md.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tok_core.contract import Tokenizer, Tokens, TrainingOutput
from tok_core.errors import WeightsError
from tok_core.latent_neighbours import latent_neighbours
from tok_core.perturbation_config import PerturbationConfig
from tok_core.token_spec import TokenSpec
from tok_core.training_perturbation import attach_perturbation


def perturbed_training(model: Tokenizer, x: Tensor, **options: Any) -> TrainingOutput:
    """Run one training forward of a copy, the first third of the batch perturbed."""
    copied = copy.deepcopy(model).train()
    widest = min(len(book.vectors) for book in model.codebooks)
    config = {"alpha": 1.0, "beta": 0.34, "delta": widest} | options
    attach_perturbation(copied, PerturbationConfig(**config))
    torch.manual_seed(0)
    return copied(x)


class TokenizerContract:
    """Subclass it as ``Test...`` and define `make` (tiny, random weights) and `sample`."""

    decoder_parameter: str  # a parameter that must not decide codes
    code_parameter: str  # a parameter that must

    def make(self) -> Tokenizer:
        raise TypeError("define make in the subclass")

    def sample(self, batch: int) -> Tensor:
        raise TypeError("define sample in the subclass")

    @pytest.fixture
    def model(self) -> Tokenizer:
        torch.manual_seed(0)
        return self.make().eval()

    @pytest.fixture
    def x(self) -> Tensor:
        return self.sample(3)

    @pytest.fixture
    def folder(self, model: Tokenizer, tmp_path: Path) -> Path:
        model.save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    # -- shapes and ranges -----------------------------------------------------------------------

    def test_codes_fit_the_spec(self, model: Tokenizer, x: Tensor) -> None:
        tokens = model.encode(x)
        assert isinstance(tokens, Tokens) and tokens.codes.dtype == torch.int64
        model.spec.check(tokens.codes)
        assert TokenSpec.from_json(model.spec.to_json()) == model.spec

    def test_decode_gives_the_size_that_went_in_and_stays_in_range(
        self, model: Tokenizer, x: Tensor
    ) -> None:
        out = model.decode(model.encode(x))
        assert out.shape == x.shape and out.dtype == torch.float32
        assert out.abs().max() <= 1.0
        assert model.decode(model.encode(x).codes).shape == x.shape

    def test_embed_then_decode_latents_is_decode(self, model: Tokenizer, x: Tensor) -> None:
        tokens = model.encode(x)
        direct = model.decode_latents(model.embed(tokens)).clamp(-1, 1)
        assert torch.allclose(direct, model.decode(tokens), atol=1e-4)

    def test_codebooks_match_the_vocabulary(self, model: Tokenizer) -> None:
        sizes = tuple(book.vectors.shape[0] for book in model.codebooks)
        assert sizes == model.spec.vocabulary
        assert all(book.vectors.dtype == torch.float32 for book in model.codebooks)

    def test_a_batch_gives_what_its_items_give_alone(self, model: Tokenizer, x: Tensor) -> None:
        together = model.encode(x)
        alone = [model.encode(x[i : i + 1]) for i in range(len(x))]
        codes = torch.cat([t.codes for t in alone])
        assert (codes != together.codes).float().mean() < 0.02  # only ties within rounding differ
        pictures = torch.cat([model.decode(codes[i : i + 1]) for i in range(len(x))])
        assert torch.allclose(model.decode(codes), pictures, atol=1e-4)

    def test_latents_lead_to_the_codes(self, model: Tokenizer, x: Tensor) -> None:
        tokens = model.encode(x)
        found = latent_neighbours(model, x, tokens, 3)
        sequence = model.spec.to_sequence(tokens.codes)
        assert [near.shape for near in found] == [(*sequence.shape[:2], 3)] * sequence.shape[2]
        nearest = torch.stack([near[..., 0] for near in found], -1)
        assert (nearest == sequence).float().mean() > 0.98

    # -- training ----------------------------------------------------------------------------------

    def test_forward_returns_everything_by_name(self, model: Tokenizer, x: Tensor) -> None:
        out = model.train()(x)
        assert isinstance(out, TrainingOutput)
        assert out.reconstruction is not None and out.reconstruction.shape == x.shape
        assert all(loss.dim() == 0 and loss.requires_grad for loss in out.losses.values())
        assert {"codebook/usage", "codebook/perplexity"} <= set(out.statistics)
        total = out.reconstruction.square().mean() + sum(out.losses.values())
        total.backward()
        named = dict(model.named_parameters())
        assert named[self.code_parameter].grad is not None
        assert named[self.decoder_parameter].grad is not None

    def test_given_tokens_skip_the_encoder(self, model: Tokenizer, x: Tensor) -> None:
        tokens = model.encode(x)
        out = model.train()(x, tokens=tokens)
        assert torch.equal(out.tokens.codes, tokens.codes)
        out.reconstruction.square().mean().backward()
        named = dict(model.named_parameters())
        assert named[self.code_parameter].grad is None
        assert named[self.decoder_parameter].grad is not None

    def test_autocast_leaves_codes_and_tables_alone(self, model: Tokenizer, x: Tensor) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            tokens = model.encode(x)
            out = model.decode(tokens)
        model.spec.check(tokens.codes)
        assert torch.isfinite(out).all()

    def test_training_perturbs_the_codes_of_chosen_items(self, model: Tokenizer, x: Tensor) -> None:
        for neighbourhood in ("latent", "code"):
            out, same = (
                perturbed_training(model, x, alpha=alpha, neighbourhood=neighbourhood)
                for alpha in (1.0, 1e-9)  # equally many random numbers are drawn
            )
            latents = out.features["clean_latents"]
            changed = (out.features["perturbed_codes"] != out.tokens.codes).flatten(1).any(1)
            assert changed.tolist() == [True, False, False]
            assert "perturbed_codes" not in same.features and torch.isfinite(latents).all()
            assert 0 < float(out.statistics["perturbation/changed"]) < 0.34
            assert float(same.statistics["perturbation/changed"]) == 0
            made, clean = out.reconstruction, same.reconstruction
            assert made is not None and clean is not None
            assert not torch.allclose(made[0], clean[0], atol=1e-4)
            assert torch.allclose(made[1:], clean[1:], atol=1e-4)
            assert torch.equal(out.tokens.codes, same.tokens.codes)
            torch.testing.assert_close(out.losses, same.losses)

    def test_perturbation_is_no_part_of_the_model(
        self, model: Tokenizer, x: Tensor, tmp_path: Path
    ) -> None:
        before, names = model(x), set(model.state_dict())
        attach_perturbation(model, PerturbationConfig(beta=1.0, delta=2))
        after = model(x)
        assert before.reconstruction is not None
        assert torch.allclose(before.reconstruction, after.reconstruction, atol=1e-4)
        assert after.features.keys() == before.features.keys()
        model.save_pretrained(tmp_path)
        again = type(model).from_pretrained(tmp_path)
        assert again.perturbation is None and set(again.state_dict()) == names
        assert "perturb" not in (tmp_path / "config.json").read_text()

    # -- hashes ------------------------------------------------------------------------------------

    def test_code_hash_follows_codes_and_weights_hash_follows_all(self, model: Tokenizer) -> None:
        named = dict(model.named_parameters())
        code, weights = model.code_hash(), model.weights_hash()
        assert len(code) == 64 and code != weights
        with torch.no_grad():
            named[self.decoder_parameter].add_(1.0)
        assert model.code_hash() == code and model.weights_hash() != weights
        with torch.no_grad():
            named[self.code_parameter].add_(1.0)
        assert model.code_hash() != code

    # -- files -------------------------------------------------------------------------------------

    def test_saving_and_loading_keeps_everything(
        self, model: Tokenizer, folder: Path, x: Tensor
    ) -> None:
        again = type(model).from_pretrained(folder)
        assert not again.training and again.dtype == torch.float32
        assert again.code_hash() == model.code_hash()
        assert again.weights_hash() == model.weights_hash()
        assert torch.equal(again.encode(x).codes, model.encode(x).codes)
        assert {f.suffix for f in folder.iterdir()} == {".json", ".safetensors"}

    def test_the_quantizer_stays_in_float32(self, model: Tokenizer, folder: Path) -> None:
        half = type(model).from_pretrained(folder, torch_dtype=torch.bfloat16)
        assert half.dtype == torch.bfloat16
        assert torch.equal(half.codebooks[0].vectors, model.codebooks[0].vectors)

    def test_it_builds_on_meta(self, model: Tokenizer) -> None:
        with torch.device("meta"):
            empty = type(model).from_config(model.config)
        assert all(p.is_meta for p in empty.parameters())
        shapes = {n: p.shape for n, p in model.state_dict().items()}
        assert {n: p.shape for n, p in empty.state_dict().items()} == shapes

    def test_an_unknown_config_key_is_an_error(self, model: Tokenizer, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"num_tokenz": 3}))
        with pytest.raises(WeightsError, match="num_tokenz"):
            type(model).from_pretrained(folder)

    @pytest.mark.parametrize("damage", ["missing", "unexpected", "misshapen"])
    def test_weights_that_do_not_fit_are_an_error(
        self, model: Tokenizer, folder: Path, damage: str
    ) -> None:
        (file,) = folder.glob("*.safetensors")
        state = load_file(file)
        if damage == "missing":
            del state[self.code_parameter]
        elif damage == "unexpected":
            state["stranger.weight"] = torch.zeros(2)
        else:
            state[self.code_parameter] = torch.zeros(3, 1)
        save_file(state, file, metadata={"format": "pt"})
        with pytest.raises(WeightsError):
            type(model).from_pretrained(folder)

    def test_broken_folders_are_one_sentence(self, model: Tokenizer, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match="no model folder"):
            type(model).from_pretrained(tmp_path / "nowhere")
        (tmp_path / "config.json").write_text("{broken")
        with pytest.raises(WeightsError, match="JSON"):
            type(model).from_pretrained(tmp_path)
