"""TokenBridge's quantizer, channel order and autoencoder against the official code.

Every tensor of ``io.safetensors`` under ``quant``, ``table`` and ``vae`` is one test; sizes and
settings come from the ``config.json`` beside it, weights through the public importer.  The
generator's tensors have a file of their own.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.parity.vectors import (
    Kinds,
    Tolerance,
    close,
    config_of,
    folders_with,
    keys_of,
    manifest_of,
    meta_state,
    parity_folder,
    place,
    tensors_of,
)
from tok_core.contract import Tokens
from tok_core.dimension_wise import DimensionWiseQuantizer
from tok_core.dimension_wise_config import DimensionWiseConfig
from tok_core.errors import WeightsError
from tok_core.frequency_order import FrequencyPower
from tok_core.gaussian_levels import gaussian_levels, gaussian_table
from tok_core.gaussian_posterior import GaussianPosterior
from vision_tok.import_token_bridge import import_token_bridge, token_bridge_from_state
from vision_tok.infer_token_bridge import plain_options, settings_of
from vision_tok.kl_autoencoder import KLAutoencoder
from vision_tok.token_bridge import TokenBridgeTokenizer

FOLDER = parity_folder("tokenbridge")
FOLDERS = folders_with("io.safetensors", FOLDER)
WEIGHTS = "vae_weights"
LEVELS, NETWORK = Tolerance(absolute=1e-6), Tolerance(absolute=1e-4)
DIVERGENCE = Tolerance(relative=1e-5)
ELSEWHERE = re.compile(r"(?!quant\.|table\.|vae\.).*|quant\.latents|vae\.(image|noise)")

KINDS = Kinds(FOLDERS, NETWORK, elsewhere=ELSEWHERE)
kind = KINDS.kind


@cache
def _quantizer(folder: Path) -> DimensionWiseQuantizer:
    """The quantizer of the set's settings; its latents are normalised already."""
    settings = settings_of(plain_options(config_of(folder)))
    known = {k: v for k, v in settings.items() if k in DimensionWiseConfig.__dataclass_fields__}
    return DimensionWiseQuantizer(DimensionWiseConfig(**known | {"scale": 1.0}))


@cache
def _tokenizer(folder: Path) -> TokenBridgeTokenizer:
    return import_token_bridge(folder / f"{WEIGHTS}.safetensors", config_of(folder))


def _io(folder: Path, name: str) -> Tensor:
    return tensors_of(folder)[name]


@cache
def _posterior(folder: Path) -> GaussianPosterior:
    model = _tokenizer(folder)
    with torch.no_grad():
        return model.posterior_of(_io(folder, "vae.image"), model.cell)


def _rows(z: Tensor) -> Tensor:
    return z.flatten(2).transpose(1, 2)


# -- the quantizer -------------------------------------------------------------------------------


@kind("tables", r"table\.bits(\d+)\.(boundaries|centroids)", LEVELS)
def _table(folder: Path, bits: str, which: str) -> Tensor:
    table = gaussian_table(int(bits), 3.0)
    if table.empty:  # the published table is broken there, and the quantizer says so
        with pytest.raises(ValueError, match="empty_bins"):
            gaussian_levels(int(bits), 3.0)
        kept = gaussian_levels(int(bits), 3.0, drop_empty=True)
        assert len(kept) == (1 << int(bits)) - table.empty and bool((kept.diff() > 0).all())
    return getattr(table, which)


@kind("levels", r"quant\.(boundaries|centroids)", LEVELS)
def _levels(folder: Path, which: str) -> Tensor:
    config = _quantizer(folder).config
    table = gaussian_table(config.bits, config.std_range)
    assert torch.equal(table.centroids, _quantizer(folder).levels)
    return getattr(table, which)


@kind("positions", r"quant\.patchified")
def _patchified(folder: Path) -> Tensor:
    return _rows(_io(folder, "quant.latents"))


@kind("codes", r"quant\.indices")
def _codes(folder: Path) -> Tensor:
    return _rows(_quantizer(folder).encode(_io(folder, "quant.latents")))


@kind("values", r"quant\.dequantized", LEVELS)
def _values(folder: Path) -> Tensor:
    return _quantizer(folder).lookup(_io(folder, "quant.indices"))


# -- the autoencoder -----------------------------------------------------------------------------


@kind("moments", r"vae\.moments")
def _moments(folder: Path) -> Tensor:
    with torch.no_grad():
        encoded = _tokenizer(folder).autoencoder.encode(_io(folder, "vae.image"))
    return encoded.latent_dist.parameters


@kind("posterior", r"vae\.(mean|logvar_clamped)")
def _half(folder: Path, which: str) -> Tensor:
    posterior = _posterior(folder)
    return posterior.mean if which == "mean" else posterior.log_variance


@kind("divergence", r"vae\.kl", DIVERGENCE)
def _kl(folder: Path) -> Tensor:
    return _posterior(folder).kl(axis=1).flatten(1).sum(1)


@kind("sample", r"vae\.latent_sample")
def _sample(folder: Path) -> Tensor:
    return _posterior(folder).sample(_io(folder, "vae.noise"))


@kind("normalised", r"vae\.latent_normalised")
def _normalised(folder: Path) -> Tensor:
    return _tokenizer(folder).quantizer.normalise(_io(folder, "vae.latent_sample"))


@kind("grid codes", r"vae\.quant_indices_bhwc")
def _grid_codes(folder: Path) -> Tensor:
    codes = _tokenizer(folder).codes_of(_normalised(folder))
    _tokenizer(folder).spec.check(codes)
    return codes


@kind("grid values", r"vae\.quant_latent_normalised", LEVELS)
def _grid_values(folder: Path) -> Tensor:
    return _tokenizer(folder).embed(_io(folder, "vae.quant_indices_bhwc"))


@kind("pictures", r"vae\.recon_from_(quantised|mean)")
def _picture(folder: Path, which: str) -> Tensor:
    model, x = _tokenizer(folder), _io(folder, "vae.image")
    if which == "mean":
        continuous = KLAutoencoder.from_pretrained(folder / f"{WEIGHTS}.safetensors")
        z, paint = continuous.latents(x), continuous.paint
        assert torch.equal(continuous.decode_latents(z), paint(z).clamp(-1, 1))
        return paint(z)
    codes = _io(folder, "vae.quant_indices_bhwc")
    expected = _io(folder, "vae.recon_from_quantised")
    from_codes = model.decode(Tokens(codes, extent=torch.tensor([x.shape[-2:]] * len(x))))
    close(from_codes, expected.clamp(-1, 1), NETWORK)
    out = model(x, tokens=Tokens(codes))  # published pictures are not clamped
    assert out.reconstruction is not None
    return out.reconstruction


@pytest.mark.parametrize("folder, key", KINDS.cases())
def test_official_tensor(folder: Path, key: str) -> None:
    KINDS.check(folder, key)


@pytest.mark.parametrize("folder", FOLDERS, ids=place)
def test_every_tensor_of_this_half_is_known(folder: Path) -> None:
    assert not KINDS.unknown(folder)


def test_every_kind_is_found_somewhere() -> None:
    """Tables of all bits belong to some sets only; the config says to which."""
    tables = any(config_of(folder).get("tables") for folder in FOLDERS)
    assert KINDS.unused() == ([] if tables else ["tables"])


# -- the derived order ---------------------------------------------------------------------------

ORDERED = folders_with("derived_order.safetensors", FOLDER)


@pytest.mark.parametrize("folder", ORDERED, ids=place)
def test_derived_order(folder: Path) -> None:
    vectors = tensors_of(folder, "derived_order")
    power = FrequencyPower()
    for part in vectors["latents"].split(5):  # batches are summed
        power.add(part)
    close(power.ratio, vectors["low_frequency_ratio"], LEVELS)
    order = torch.tensor(power.order())
    assert torch.equal(order, vectors["order"])
    assert torch.equal(order.argsort(), vectors["inverse_order"])


# -- weights -------------------------------------------------------------------------------------

MANIFESTS: list[Any] = [
    pytest.param(rows, id=f"{place(folder)}:{name}")
    for folder in folders_with("manifest_full.json", FOLDER)
    for name, rows in manifest_of(folder).items()
    if any(key.startswith("post_quant_conv.") for key, _, _ in rows)
]


@pytest.mark.parametrize("rows", MANIFESTS)
def test_published_sizes_map_key_by_key(rows: Any) -> None:
    state = meta_state(rows)
    model = token_bridge_from_state(state)
    assert sum(p.numel() for p in model.parameters()) == sum(t.numel() for t in state.values())
    assert all(p.is_meta for p in model.parameters())
    with torch.device("meta"):
        published = {k: v for k, v in TokenBridgeTokenizer().config.items() if k[0] != "_"}
    assert {k: v for k, v in model.config.items() if k[0] != "_"} == published
    for damage in (sorted(state)[0], None):
        damaged = {k: t for k, t in state.items() if k != damage}
        damaged |= {} if damage else {"decoder.stranger": state["post_quant_conv.bias"]}
        with pytest.raises(WeightsError):
            token_bridge_from_state(damaged)


def test_what_lies_in_the_set_is_tested() -> None:
    assert bool(MANIFESTS) == any(FOLDER.rglob("manifest_full.json"))
    assert bool(ORDERED) == any(FOLDER.rglob("derived_order.safetensors"))
    assert FOLDERS and all(keys_of(folder, WEIGHTS) for folder in FOLDERS)
