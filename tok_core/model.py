"""Model: what all that is saved and loaded has in common, tokenizers and generators alike."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin

from tok_core.hashes import tensor_hash, version_key
from tok_core.strict_loading import strict_from_pretrained


class Model(ModelMixin, ConfigMixin):
    """diffusers' model with a strict ``from_pretrained`` and hashes over what it holds.

    Subclasses decorate ``__init__`` with diffusers' ``register_to_config``, take plain JSON values,
    and parse them into their frozen config in the first line.
    """

    config_name = "config.json"
    # Config keys that change results without changing a tensor (l2 normalisation, reshapes...).
    code_config: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_pretrained(cls, path: Any, **options: Any) -> Any:
        """Load a folder or hub id strictly: eval mode, float32, CPU unless asked otherwise.

        Args:
            path: folder in the diffusers layout (config.json and safetensors), or a hub id.
            options: what diffusers accepts (``torch_dtype``, ``revision``, ``subfolder``, ...).

        Raises:
            WeightsError: nothing there, unknown config keys, missing, unexpected or misshapen
                tensors.

        Example:
            >>> model = OneDPiece.from_pretrained("runs/mine/model")  # doctest: +SKIP
        """
        return strict_from_pretrained(cls, super().from_pretrained, path, options)

    def weights_hash(self) -> str:
        """Return the hash over the whole state (64 hex digits)."""
        return self._hash("weights", lambda name: True)

    def _hash(self, kind: str, keep: Any) -> str:
        named = [(name, t) for name, t in self.state_dict().items() if keep(name)]
        key = version_key(named)
        cache: dict[str, Any] = self.__dict__.setdefault("_hash_cache", {})
        if cache.get(kind, (None,))[0] != key:
            context = json.dumps(
                {"kind": kind, "class": type(self).__name__}
                | {name: _plain(self.config.get(name)) for name in self.code_config},
                sort_keys=True,
            )
            cache[kind] = (key, tensor_hash(named, context))
        return cache[kind][1]


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))
