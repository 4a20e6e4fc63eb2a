"""Discriminators out of a published training checkpoint, to go on with a run of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from audio_tok.audio_objective import AudioObjective, AudioObjectiveConfig
from tok_core.errors import WeightsError

# The third kind is stored twice; the losses of the published training used the second one.
PREFIXES = {
    "period": "multiperioddisc.", "resolution": "multiresddisc.",
    "dac": "dacdiscriminator.discriminator.",
}  # fmt: skip


def import_discriminators(
    state: Mapping[str, Tensor], config: AudioObjectiveConfig | None = None, *,
    name: str = "the checkpoint",
) -> AudioObjective:  # fmt: skip
    """Build the objective whose discriminators the published keys hold.

    Args:
        state: official names (``multiperioddisc.``, ``multiresddisc.``,
            ``dacdiscriminator.discriminator.``; others are left alone).
        config: weights and starts of the terms; widths and condition rows follow from the tensors,
            periods, resolutions and bands, which no tensor shows, are the config's.
        name: for messages.

    Raises:
        WeightsError: a kind is missing, or keys are left over on either side.

    Example:
        >>> objective = import_discriminators(read_state("wavtokenizer.ckpt"))  # doctest: +SKIP
    """
    objective = AudioObjective(_sized(state, config or AudioObjectiveConfig(), name))
    for kind, network in objective.networks().items():
        mine = {_ours(key.removeprefix(PREFIXES[kind])): value for key, value in state.items()
                if key.startswith(PREFIXES[kind])}  # fmt: skip
        try:
            network.load_state_dict(mine)
        except RuntimeError as error:
            first = str(error).splitlines()[1].strip()[:120]
            raise WeightsError(
                f"{name}: the {kind} discriminators do not fit their keys ({first}); give a whole "
                "training checkpoint and the periods and resolutions it was trained with."
            ) from None
    return objective


def _ours(key: str) -> str:
    # DAC wraps each convolution with its activation: convs.3.0.bias is our convs.3.bias.
    parts = key.split(".")
    stack, depth = parts[2], {"convs": 6, "band_convs": 7}
    if len(parts) == depth.get(stack):
        del parts[-2]
    return ".".join(parts)


def _sized(
    state: Mapping[str, Tensor], config: AudioObjectiveConfig, name: str
) -> AudioObjectiveConfig:
    def widths(prefix: str, ending: str) -> tuple[int, ...]:
        found: list[int] = []
        while (key := f"{prefix}discriminators.0.convs.{len(found)}{ending}") in state:
            found.append(len(state[key]))
        if not found:
            raise WeightsError(
                f"{name} holds no {prefix}*, so no discriminators; a file for inference has none: "
                "give the training checkpoint."
            )
        return tuple(found)

    rows = {k: state.get(f"{PREFIXES[k]}discriminators.0.emb.weight") for k in PREFIXES}
    count = {k: 0 if table is None else len(table) for k, table in rows.items()}
    spectral = [
        key for key in state
        if key.startswith(PREFIXES["dac"]) and key.endswith("band_convs.0.0.0.bias")
    ]
    period, resolution, dac = config.period, config.resolution, config.dac
    if period.enabled:
        period = replace(
            period, channels=widths(PREFIXES["period"], ".bias"), condition_rows=count["period"]
        )
    if resolution.enabled:
        resolution = replace(
            resolution, channels=widths(PREFIXES["resolution"], ".bias")[0],
            condition_rows=count["resolution"],
        )
    if dac.enabled:
        dac = replace(dac, channels=widths(PREFIXES["dac"], ".0.bias"))
        if spectral:
            dac = replace(dac, band_channels=len(state[spectral[0]]))
    return replace(config, period=period, resolution=resolution, dac=dac)
