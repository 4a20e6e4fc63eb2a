"""What all tests share before any is collected, and the order of their files."""

from __future__ import annotations

import pytest

# Its assertions say what differed, as those of test files do.
pytest.register_assert_rewrite("tok_core.tokenizer_contract")

# Files that take half a minute or more, longest first: the processes then end together.
LONGEST = (
    "test_readme.py", "test_train_sharded.py", "test_install.py", "test_audio_train.py",
    "test_vqgan_recipes.py", "test_dual_processes.py", "test_distributed.py",
    "test_train_command.py", "test_tokenize.py", "test_vqgan_processes.py",
    "test_token_bridge_training.py", "test_audio_commands.py", "test_tokenflow.py",
    "test_post_train.py",
)  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Let the files stay in that order: xdist would begin with those of most tests."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files; a file's own order stays."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))
