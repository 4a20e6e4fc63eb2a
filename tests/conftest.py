"""What all tests share before any is collected."""

from __future__ import annotations

import pytest

# Its assertions say what differed, as those of test files do.
pytest.register_assert_rewrite("tok_core.tokenizer_contract")
