"""The audio losses: terms, starts, switches, what is trained, against plain arithmetic."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

from audio_tok.audio_objective import AudioObjective, AudioObjectiveConfig, build_objective
from audio_tok.discriminators import DacOptions, PeriodOptions, ResolutionOptions
from audio_tok.import_discriminators import import_discriminators
from tok_core.contract import Tokens, TrainingOutput
from tok_core.errors import ConfigError, WeightsError
from tok_core.mel import MelSpectrogram, MultiResolutionMel, log_mel_distance, mel_bands
from tok_core.torchaudio_guard import guard_torchaudio

SMALL = AudioObjectiveConfig(
    period=PeriodOptions(periods=(2, 3), channels=(4, 6), start=2),
    resolution=ResolutionOptions(resolutions=((256, 64),), channels=3, start=4),
    dac=DacOptions(
        periods=(2,), channels=(4, 6), fft_sizes=(256,), band_channels=3, start=6,
        bands=((0.0, 0.5), (0.5, 1.0)),
    ),
)  # fmt: skip


def _pair() -> tuple[Tensor, TrainingOutput]:
    x = torch.rand(2, 1, 2400) - 0.5
    sound = (x + 0.1 * torch.randn_like(x)).requires_grad_()
    codes = Tokens(torch.zeros(2, 1, 10, dtype=torch.int64))
    losses = {"quantizer/commitment": torch.tensor(0.5, requires_grad=True)}
    return x, TrainingOutput(sound, codes, losses, {})


def test_every_kind_starts_at_its_step() -> None:
    objective, (x, out) = AudioObjective(SMALL), _pair()
    base = {"loss/mel", "loss/quantizer/commitment"}
    heard = {
        kind: {f"loss/{kind}/adversarial", f"loss/{kind}/features"}
        for kind in ("period", "resolution", "dac")
    }
    expected = base
    for step, kind in ((1, None), (2, "period"), (4, "resolution"), (6, "dac")):
        expected = expected | (heard[kind] if kind else set())
        assert set(objective.generator_losses(x, out, step)) == expected
        trained = {name.split("/")[1] for name in objective.discriminator_losses(x, out, step)}
        assert trained == {name.split("/")[1] for name in expected - base}
        assert objective.discriminator_active(step) is bool(trained)
    assert objective.staged


def test_weights_scale_their_terms() -> None:
    x, out = _pair()
    config = replace(SMALL, period=replace(SMALL.period, start=0), multi_mel_weight=1.0)
    objective = AudioObjective(config)
    objective.condition = torch.tensor([1])
    before = {n: value.detach() for n, value in objective.generator_losses(x, out, 0).items()}
    objective.config = replace(
        config, mel_weight=90.0, multi_mel_weight=3.0, commitment_weight=10.0,
        period=replace(config.period, adversarial=2.0, features=0.5, discriminator=4.0),
    )
    after = {n: value.detach() for n, value in objective.generator_losses(x, out, 0).items()}
    factors = {
        "mel": 2.0, "multi_mel": 3.0, "quantizer/commitment": 0.01, "period/adversarial": 2.0,
        "period/features": 0.5,
    }
    for name, factor in factors.items():
        assert float(after[f"loss/{name}"]) == pytest.approx(factor * float(before[f"loss/{name}"]))
    assert float(before["loss/quantizer/commitment"]) == 500.0


def test_every_parameter_meant_to_train_is_in_the_optimizer() -> None:
    objective = AudioObjective(SMALL)
    assert objective.discriminator is not None
    owned = set(objective.discriminator.parameters())
    assert owned == set(objective.parameters()) and len(owned) > 30
    x, out = _pair()
    torch.stack(list(objective.discriminator_losses(x, out, 9).values())).sum().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in owned)


def test_frozen_dac_is_heard_and_not_trained() -> None:
    torch.manual_seed(0)
    objective: Any = AudioObjective(replace(SMALL, official_frozen_dac=True))
    owned = set(objective.discriminator.parameters())
    frozen = set(objective.untrained.parameters())
    assert frozen and not owned & frozen and not any(p.requires_grad for p in frozen)
    assert set(objective.discriminator) == {"period", "resolution"}
    x, out = _pair()
    assert "loss/dac/adversarial" in objective.generator_losses(x, out, 9)
    assert "discriminator/dac" not in objective.discriminator_losses(x, out, 9)
    # A resumed run needs the same random network again.
    assert any(name.startswith("untrained.dac") for name in objective.state_dict())


def test_the_generators_pass_leaves_the_discriminator_alone() -> None:
    objective, (x, out) = AudioObjective(SMALL), _pair()
    assert objective.discriminator is not None
    objective.discriminator.requires_grad_(False)
    torch.stack(list(objective.generator_losses(x, out, 9).values())).sum().backward()
    assert out.reconstruction is not None and out.reconstruction.grad is not None
    assert all(p.grad is None for p in objective.parameters())


def test_shortened_sound_gets_the_same_mel() -> None:
    x, out = _pair()
    objective = AudioObjective(replace(SMALL, shortened_weight=0.5))
    losses = objective.generator_losses(x, out._replace(shortened=out.reconstruction), 0)
    half = losses["loss/mel"].detach() / 2
    assert torch.allclose(losses["loss/shortened/mel"].detach(), half)


def test_mel_equals_torchaudio() -> None:
    if find_spec("torchaudio") is None:
        pytest.skip("torchaudio is not installed")
    guard_torchaudio()
    from torchaudio.transforms import MelSpectrogram as Theirs

    for rate, size, hop, bins in ((24000, 1024, 256, 100), (16000, 512, 128, 40)):
        x = torch.randn(2, 1, 5000)
        theirs = Theirs(rate, size, hop_length=hop, n_mels=bins, power=1)(x[:, 0])
        ours, most = MelSpectrogram(rate, size, hop, bins)(x), float(theirs.max())
        assert torch.allclose(ours, theirs, atol=1e-5 * most)


def test_mel_of_a_sound_shorter_than_its_window() -> None:
    assert MelSpectrogram(24000, 1024, 256, 100)(torch.zeros(1, 1, 3)).shape == (1, 100, 3)
    bands = mel_bands(24000, 1024, 100)
    assert float(bands.min()) == 0 and bool((bands.sum(0) > 0).all())


def test_log_mel_distance_is_in_nepers() -> None:
    a = torch.rand(1, 4, 5) + 0.1
    assert float(log_mel_distance(a, a * torch.e)) == pytest.approx(1.0, abs=1e-5)
    assert float(log_mel_distance(torch.zeros(2), torch.full((2,), 1e-9))) == 0.0
    x = torch.randn(1, 1, 4000)
    assert float(MultiResolutionMel(24000, [256, 512], [20, 40])(x, x * torch.e)) == (
        pytest.approx(1.0, abs=1e-3)
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mel_weight": 0.0}, "switch at least one on"),
        ({"multi_mel_bins": (40,)}, "number of bands for each window"),
        ({"mel_bins": 600}, "600 mel bands"),
    ],
)
def test_impossible_options_are_one_sentence(options: dict[str, Any], words: str) -> None:
    off = AudioObjectiveConfig(
        period=PeriodOptions(enabled=False), resolution=ResolutionOptions(enabled=False),
        dac=DacOptions(enabled=False),
    )
    with pytest.raises(ConfigError, match=words):
        build_objective(replace(off, **options))


def test_import_takes_widths_from_the_tensors_and_is_strict() -> None:
    torch.manual_seed(1)
    source = AudioObjective(SMALL)
    state = {}
    prefixes = {
        "period": "multiperioddisc.", "resolution": "multiresddisc.",
        "dac": "dacdiscriminator.discriminator.",
    }
    for kind, network in source.networks().items():
        for name, value in network.state_dict().items():
            if kind == "dac":
                name = re.sub(r"(convs(\.\d+)+)\.(bias|param)", r"\1.0.\3", name)
            name = name.replace("parametrizations.weight.original0", "weight_g")
            name = name.replace("parametrizations.weight.original1", "weight_v")
            state[prefixes[kind] + name] = value
    options = replace(
        SMALL, period=replace(SMALL.period, channels=(1,)), dac=replace(SMALL.dac, channels=(1,))
    )
    got = import_discriminators(state, options)
    x, row = torch.randn(1, 1, 2400), torch.tensor([0])
    for kind, network in got.networks().items():
        for ours, theirs in zip(network(x, row), source.networks()[kind](x, row), strict=True):
            assert torch.equal(ours.logits, theirs.logits)
    state.pop("multiresddisc.discriminators.0.conv_post.bias")
    with pytest.raises(WeightsError, match="the resolution discriminators do not fit"):
        import_discriminators(state, options)
    with pytest.raises(WeightsError, match="holds no multiperioddisc"):
        import_discriminators({})


def test_multi_mel_silence_leaves_the_noise_of_pauses_out():
    time = torch.arange(24000) / 24000
    tone = 0.5 * torch.sin(2 * torch.pi * 440 * time)[None, None]
    a, b = (1e-5 * torch.randn(1, 1, 24000, generator=seeded) for seeded in _two_generators())
    published, deaf = (MultiResolutionMel(24000, [1024], [80], s) for s in (None, 70.0))
    assert published(a, b) > 0.1
    assert deaf(a, b) == 0
    assert deaf(tone, 0.5 * tone) > 0.01
    assert deaf(tone, tone) == 0
    with pytest.raises(ConfigError, match="70"):
        MultiResolutionMel(24000, [1024], [80], -70.0)


def _two_generators():
    return torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)


def test_multi_mel_magnitudes_count_the_share_that_differs():
    time = torch.arange(24000) / 24000
    tone = 0.5 * torch.sin(2 * torch.pi * 440 * time)[None, None]
    plain, both = (MultiResolutionMel(24000, [1024], [80], 70.0, m) for m in (0.0, 2.0))
    assert both(tone, tone) == 0
    # Half as loud: half of every magnitude is missing.
    assert both(tone, 0.5 * tone) - plain(tone, 0.5 * tone) == pytest.approx(1.0, rel=1e-4)
    silent = torch.zeros(1, 1, 24000, requires_grad=True)
    loss = both(torch.zeros(1, 1, 24000), silent)
    loss.backward()
    assert loss == 0 and silent.grad is not None and bool(silent.grad.isfinite().all())
