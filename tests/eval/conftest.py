"""Fixtures of the judge's tests."""

from tests.eval.judged_files import files, judge

__all__ = ["files", "judge"]
