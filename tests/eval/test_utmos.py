"""UTMOS as a metric over a small network: both layouts, failures, state, equal lengths only."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from eval.sound_metric import build_at
from eval.utmos import ENTRIES, SHORTEST, UTMOS, UTMOS_FILE
from eval.utmos_network import UtmosNetwork
from tests.eval.tiny_sound_networks import noise, tone, utmos_state
from tok_core.audio_measures import NOT_FINITE, TOO_SHORT
from tok_core.errors import ConfigError, MediaError, WeightsError

HEADS = 2


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / UTMOS_FILE
    torch.save(utmos_state(), path)
    return path


def sounds() -> Tensor:
    return torch.stack([tone(150, 0.2) + noise(3200, s, 0.05) for s in range(3)])


def lightning(state: dict[str, Tensor], judges: int = 300) -> dict[str, Tensor]:
    """Return the layout of the authors' demo: whole tables, other names."""
    renamed = {}
    for key, tensor in state.items():
        if key.startswith("wav2vec2."):
            renamed["feature_extractors.0.ssl_model." + key.removeprefix("wav2vec2.")] = tensor
        elif key.startswith("blstm."):
            renamed["output_layers.0.decoder_rnn." + key.removeprefix("blstm.")] = tensor
        elif key.startswith("projection."):
            place = {"0": "0", "2": "3"}[key.split(".")[1]]
            renamed[f"output_layers.1.net.{place}.{key.split('.')[2]}"] = tensor
    domains = torch.randn(3, state["domain_emb"].shape[1])
    domains[0] = state["domain_emb"][0]
    table = torch.randn(judges, state["judge_emb"].shape[1])
    if judges > 288:
        table[288] = state["judge_emb"][0]
    renamed["feature_extractors.1.embedding.weight"] = domains
    renamed["output_layers.0.judge_embedding.weight"] = table
    return renamed


def test_a_batch_is_what_its_sounds_are_alone(file: Path) -> None:
    x = sounds()
    together, alone = (UTMOS(file, heads=HEADS) for _ in range(2))
    together.update(x[:, None])
    for i in (1, 2, 0):
        alone.update(x[i], indices=[i])
    values = alone.collected()[0]
    assert torch.allclose(together.collected()[0], values, atol=1e-5)
    assert float(together.compute()) == pytest.approx(float(values.mean()), abs=1e-5)
    assert len({round(float(v), 4) for v in values}) == 3
    assert together.higher_is_better


def test_padding_would_change_the_score(file: Path) -> None:
    x = sounds()[:1, :2000]
    metric = UTMOS(file, heads=HEADS)
    plain, _ = metric.measure(x)
    padded, _ = metric.measure(torch.nn.functional.pad(x, (0, 1200)))
    assert abs(float(plain - padded)) > 1e-4


def test_both_layouts_give_one_network(tmp_path: Path, file: Path) -> None:
    state = utmos_state()
    path = tmp_path / "epoch=3-step=7459.ckpt"
    torch.save({"state_dict": lightning(state), "epoch": 3}, path)
    x = sounds()
    values = [UTMOS(weights, heads=HEADS).measure(x)[0] for weights in (file, path)]
    assert torch.equal(*values)
    without = {key: t for key, t in state.items() if not key.endswith("mask_emb")}
    assert torch.equal(UtmosNetwork.from_state(without, heads=HEADS)(x).double(), values[0])


def test_weights_that_do_not_fit_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = utmos_state()
    with pytest.raises(WeightsError, match=r"left over: extra\.bias"):
        UtmosNetwork.from_state({**state, "extra.bias": torch.zeros(1)})
    for key in ("blstm.bias_hh_l0", "wav2vec2.encoder.layers.1.fc2.bias"):
        with pytest.raises(WeightsError, match=f"missing: {key}"):
            UtmosNetwork.from_state({k: t for k, t in state.items() if k != key})
    with pytest.raises(WeightsError, match="UTMOS22-strong"):
        UtmosNetwork.from_state({"conv.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match="heads"):
        UtmosNetwork.from_state(state, heads=3)
    with pytest.raises(WeightsError, match="row 288"):
        UtmosNetwork.from_state(lightning(state, judges=20))
    monkeypatch.setenv("TESSERA_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match=r"SpeechMOS.*TESSERA_WEIGHTS"):
        build_at(ENTRIES[0], 24_000)
    torch.save(state, tmp_path / UTMOS_FILE)
    assert build_at(ENTRIES[0], 24_000, heads=HEADS).sample_rate == 16_000


def test_what_cannot_be_scored_is_counted(file: Path) -> None:
    metric = UTMOS(file, heads=HEADS)
    x = sounds()
    x[1, 5] = math.nan
    metric.update(x)
    for samples in (0, 1, SHORTEST - 1):
        metric.update(torch.ones(1, samples))
    metric.update(torch.zeros(1, SHORTEST))  # silence has a score
    values, codes, _ = metric.collected()
    assert codes.tolist() == [0, NOT_FINITE, 0, TOO_SHORT, TOO_SHORT, TOO_SHORT, 0]
    assert values.isnan().tolist() == [bool(code) for code in codes]
    assert torch.allclose(metric.compute(), values[codes == 0].mean())
    with pytest.raises(MediaError):
        metric.update(torch.zeros(2, 2, 800))
    with pytest.raises(ConfigError, match="16000"):
        UTMOS(file, heads=HEADS, sample_rate=24_000)


def test_the_network_is_shared_and_stays_out_of_the_state(file: Path) -> None:
    first, second = UTMOS(file, heads=HEADS), UTMOS(file, heads=HEADS)
    assert first.shared is second.shared is copy.deepcopy(first).shared
    first.update(sounds())
    state = first.state_dict()
    assert set(state) == {"values", "codes", "indices"}
    second.load_state_dict(state)
    assert torch.equal(first.collected()[0], second.collected()[0])
    assert not list(first.parameters())
