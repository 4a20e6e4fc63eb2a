"""The run of ``eval contribution``: the map of every tokenizer, its mean and its pictures."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from eval.contestant import Signal
from eval.contribution import Contribution
from eval.loop import Pass
from eval.picture_sets import OriginalSet, stacked
from eval.protocol import Protocol
from eval.set_session import SetSession, checked_items, native_size
from tok_core.command_line import say


class ContributionRun:
    """One run.

    Args:
        session: where scores go. protocol: of the run. device: of networks.
        options: of `Contribution`.
    """

    def __init__(
        self, session: SetSession, protocol: Protocol, device: str, **options: Any
    ) -> None:
        self.session, self.protocol, self.device, self.options = session, protocol, device, options

    def all(
        self, names: Sequence[str], data: str, *, tokens: int | None, skip_bad: bool,
        count: int | None,
    ) -> None:  # fmt: skip
        """Measure every tokenizer and draw its maps."""
        for contestant, model in self.session.tokenizers(names, "image", self.device):
            sized = native_size(model, self.protocol, None)
            items, protocol = checked_items(
                self.session, data, sized, skip_bad=skip_bad, count=count
            )
            if tokens is not None:
                contestant.check_budget(tokens)
            metric = Contribution(
                model, num_tokens=tokens, seed=self.session.seed, **self.options
            )
            facts = {
                "contestant": contestant.weights_hash, "protocol": protocol.to_dict(),
                "items": items.sha256, "tokens": tokens, **self.options,
            }  # fmt: skip
            found = self.session.loop(
                metric, [Pass(items=OriginalSet(items, protocol),
                              update=_shown(metric, self.device))],
                facts=facts, label=f"{contestant.name} contribution",
            )  # fmt: skip
            if found is None:
                continue
            for key in ("contribution/mse", "contribution/mae"):
                self.session.add(
                    contestant, key, float(found[key].mean()), protocol=protocol,
                    items=items.sha256, budget=tokens, n=len(items), kind="single",
                    title=f"mean change, {key[-3:].upper()}", options=dict(self.options),
                )  # fmt: skip
            self._draw(contestant.name, found, model.spec)

    def _draw(self, name: str, found: Any, spec: Any) -> None:
        from eval.heat_map import save_footprints, save_heat_map

        label = re.sub(r"[^A-Za-z0-9.]+", "_", name).strip("_")
        maps = self.session.extras.setdefault("contribution", {})
        maps[name] = {key: value.tolist() for key, value in found.items()
                      if value.ndim and not key.endswith("footprint")}  # fmt: skip
        path = self.session.beside(f".{label}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        say(f"wrote {save_heat_map(found['contribution/mse'], spec, path, title=name)}")
        if "contribution/footprint" in found:
            path = self.session.beside(f".{label}.footprints.png")
            say(f"wrote {save_footprints(found['contribution/footprint'], path, title=name)}")


def _shown(metric: Contribution, device: str) -> Callable[[list[int], list[Signal]], None]:
    return lambda indices, signals: metric.update(stacked(signals).to(device), indices)
