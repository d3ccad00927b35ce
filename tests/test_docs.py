"""docs/cli.md is what the help pages say."""

from __future__ import annotations

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_the_command_page_is_fresh() -> None:
    fresh = runpy.run_path(str(DOCS / "make_cli.py"))["page"]()
    assert "## realign refine" in fresh and "--keep" in fresh
    stale = (DOCS / "cli.md").read_text(encoding="utf-8") != fresh
    assert not stale, "docs/cli.md is stale: run 'python docs/make_cli.py'"
