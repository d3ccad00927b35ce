from __future__ import annotations

from pathlib import Path

import pytest
from browser import browser, visit
from study_folders import make_study

__all__ = ["browser", "visit"]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of three systems, five prompts, two questions and four raters. Read it, do not write into it."""
    return make_study(tmp_path_factory.mktemp("finished"), questions=("alignment", "fidelity"))
