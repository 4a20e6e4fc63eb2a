"""One run of encode, decode or reconstruct: model, codec, plan, pipeline, report."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tessera import files, report
from tessera.modality import MediaCodec, open_codec
from tessera.pipeline import Row, Steps, run
from tok_core.progress_bar import progress_bar

if TYPE_CHECKING:
    from tok_core.contract import Tokenizer

TOKEN_SUFFIX = ".tok"


@dataclass(frozen=True)
class Session:
    """A loaded tokenizer with the codec of its sense, ready for files."""

    tokenizer: Tokenizer
    codec: MediaCodec
    batch_size: int
    facts: Row

    @classmethod
    def open(
        cls, model: str | None, *, inputs: Sequence[str], device: str, batch_size: int,
        **options: Any,
    ) -> Session:  # fmt: skip
        """Check that the inputs exist, load the model and open its codec.

        Args:
            model: shipped name, folder or hub id; None is the shipped default for these files.
            inputs: files, folders, globs as the user gave them.
            device: ``auto``, ``cpu``, ...
            batch_size: network inputs per call.
            options: for the codec: ``policy`` or ``channels`` and one budget; None is its default.
        """
        files.check_inputs(inputs)
        from tessera.models import default_model, load_tokenizer
        from tessera.senses import sense_of

        model = default_model(sense_of(inputs)) if model is None else model
        tokenizer = load_tokenizer(model, device=device)
        codec = open_codec(tokenizer, batch_size=batch_size, **options)
        facts = {
            "model": model,
            "class": type(tokenizer).__name__,
            "code_hash": tokenizer.code_hash(),
            "device": str(tokenizer.device),
        }
        return cls(tokenizer, codec, batch_size, facts)

    def plan(
        self, inputs: Sequence[str], output: str, readable: Collection[str], suffix: str, *,
        legal: Collection[str], force: bool,
    ) -> files.Plan:  # fmt: skip
        """Find the inputs, decide every output and make the folders."""
        target = Path(output).expanduser()
        found = files.find(inputs, readable, leave_out=None if target.suffix else target)
        single = len(inputs) == 1 and Path(inputs[0]).expanduser().is_file()
        plan = files.plan(found, output, suffix, force=force, single=single, legal=legal)
        files.make_folders(plan.jobs)
        return plan

    def plan_only_reading(self, inputs: Sequence[str], readable: Collection[str]) -> files.Plan:
        """Find the inputs of a run that writes no files."""
        return files.Plan([files.Job(f.path, f.path) for f in files.find(inputs, readable)], [])

    def run(
        self, plan: files.Plan, steps: Steps[Any, Any], *, verb: str, as_json: bool
    ) -> int:
        """Run the pipeline under a progress bar, print the report, return the exit code."""
        with progress_bar(len(plan.jobs), verb) as advance:
            result = run(plan.jobs, steps, batch_size=self.batch_size, advance=advance)
        return report.finish(result, plan, as_json=as_json, verb=verb, facts=self.facts)


def named(job: files.Job) -> Row:
    """Return the first columns of a row: where the file came from and where it went."""
    return {"source": str(job.source), "target": str(job.target)}
