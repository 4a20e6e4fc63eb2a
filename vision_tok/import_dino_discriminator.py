"""Read the heads of a published DINO discriminator into ours.

    heads.K.0.0  enter        heads.K.1.fn.0  mix         heads.K.2  judge
    heads.K.0.1  enter_norm   heads.K.1.fn.1  mix_norm

Checkpoints hold the heads alone, their spectral norms in torch's old form: ``weight_orig`` is the
weight, ``weight_u`` and ``weight_v`` the singular vectors.  The trunk comes from its own file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from tok_core.errors import WeightsError
from tok_core.weight_files import load_strictly
from vision_tok.dino_discriminator import VIRTUAL_BATCH, DinoDiscriminator
from vision_tok.discriminator_trunk import FrozenTrunk

_PARTS = {
    "0.0": "enter", "0.1": "enter_norm", "1.fn.0": "mix", "1.fn.1": "mix_norm", "2": "judge",
}  # fmt: skip
_KINDS = {
    "weight": "weight", "bias": "bias", "weight_orig": "parametrizations.weight.original",
    "weight_u": "parametrizations.weight.0._u", "weight_v": "parametrizations.weight.0._v",
}  # fmt: skip
_KEY = re.compile(r"heads\.(\d+)\.(0\.0|0\.1|1\.fn\.0|1\.fn\.1|2)\.(\w+)")


def dino_discriminator_from_state(
    state: Mapping[str, Tensor],
    trunk: FrozenTrunk,
    *,
    virtual: int = VIRTUAL_BATCH,
    source: str = "the discriminator",
) -> DinoDiscriminator:
    """Build the discriminator whose heads are those of an official state dict.

    Args:
        state: tensors by official key, the ``discriminator`` entry of a checkpoint.
        trunk: what the heads read, with as many read-outs as there are heads.
        virtual: items per virtual batch, which no shape shows.
        source: what ``state`` is, for the error message.

    Raises:
        WeightsError: a key is left over on either side, or shapes do not fit the trunk.

    Example:
        >>> dino_discriminator_from_state(state, build_trunk())  # doctest: +SKIP
    """
    ours: dict[str, Tensor] = {}
    for key, value in state.items():
        found = _KEY.fullmatch(key)
        if found is None or found[3] not in _KINDS:
            raise WeightsError(
                f"{source} has the unknown key '{key}'; keys are like 'heads.0.1.fn.0.weight_orig',"
                " so give the 'discriminator' entry of a RobusTok or XQ-GAN checkpoint"
            )
        ours[f"heads.{found[1]}.{_PARTS[found[2]]}.{_KINDS[found[3]]}"] = value
    spectral = any("parametrizations" in key for key in ours)
    wide = ours.get(f"heads.0.mix.{_KINDS['weight_orig'] if spectral else 'weight'}")
    if wide is None:
        raise WeightsError(
            f"{source} has no 'heads.0.1.fn.0.weight_orig', the wide convolution of the first "
            "head; give the whole 'discriminator' entry"
        )
    module = DinoDiscriminator(
        trunk, kernel=wide.shape[-1], virtual=virtual, spectral=spectral
    )
    load_strictly(module, ours, source=source)
    return module.eval()
