"""A real browser for pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Open = Callable[..., "Page"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium of the system, or the one that 'playwright install chromium' fetched."""
    system = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright, which drives a browser, is missing")
    with playwright.sync_playwright() as driver:
        if not system and not Path(driver.chromium.executable_path).exists():
            pytest.skip("no Chromium here: install it, or run 'playwright install chromium'")
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        launched = driver.chromium.launch(executable_path=system, args=arguments)
        yield launched
        launched.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Open]:
    """Opens a file; what it asks for besides itself, or complains of, fails the test."""
    faults: list[str] = []
    contexts = []

    def open_page(file: Path, width: int = 1280, **options: str) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 900}, offline=True, **options)  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        own = (file.as_uri(), images(file))
        page.on(
            "request", lambda asked: faults.append(asked.url) if not asked.url.startswith(("data:", *own)) else None
        )
        page.on("console", lambda said: faults.append(said.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


def images(file: Path) -> str:
    return file.with_name(f"{file.stem}-images").as_uri() + "/"
