"""A real browser for pages, as fixtures: import `browser` and `visit` into a conftest.py."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin

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
    """Opens a file or an address; what it asks for beyond its folder or its server, or complains of, fails the test.

    A file gets no network. Complaints with `forgiven` in them are forgiven.
    """
    faults: list[str] = []
    contexts = []

    def open_page(where: Path | str, width: int = 1280, forgiven: str | None = None, **options: str) -> Page:
        address = where.as_uri() if isinstance(where, Path) else where
        offline = address.startswith("file:")
        context = browser.new_context(viewport={"width": width, "height": 900}, offline=offline, **options)  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        allowed = ("data:", "blob:", urljoin(address, "."))
        page.on("request", lambda asked: faults.append(asked.url) if not asked.url.startswith(allowed) else None)
        page.on("console", lambda said: faults.append(said.text) if not forgiven or forgiven not in said.text else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not faults, faults
