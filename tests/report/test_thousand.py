"""A page of a thousand prompts: how large it is, and how much of it is drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from report_folders import noise

from realign_cli.report.gather import Card, Gallery, Picture
from realign_cli.report.page import write_page
from realign_cli.report.sources import Sources

if TYPE_CHECKING:
    from PIL import Image
    from playwright.sync_api import Page


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of 1,000 prompts with two pictures each, of sizes 64 to 512, all of noise."""
    pool = [noise(size, seed) for seed, size in enumerate((64, 128, 256, 512) * 2)]

    def draw(number: int) -> Callable[[], Image.Image]:
        return lambda: pool[number % len(pool)]

    cards = [
        Card(
            f"{number:06d}",
            f"prompt {number} of a thousand",
            ["short"],
            [Picture(f"picture {i}", draw(number + i)) for i in range(2)],
            values={"clip": [(number * 7919 % 1000) / 1000, 0.5]},
        )
        for number in range(1000)
    ]
    page = tmp_path_factory.mktemp("thousand") / "r.html"
    gallery = Gallery(["a", "b"], cards, ["clip"], [])
    write_page(Sources([], []), gallery, page, assets=False, advance=lambda count: None)
    return page


def test_it_is_below_60_mb(thousand: Path) -> None:
    assert 30_000_000 < thousand.stat().st_size < 60_000_000


def test_it_draws_only_what_is_looked_at(visit: Callable[..., Page], thousand: Path) -> None:
    from playwright.sync_api import expect  # which is there where `visit` is

    page = visit(thousand)
    assert page.locator("#cards .card").count() == 48 and page.locator("#count").inner_text() == "1000 prompts"
    assert page.evaluate("document.images.length") == 2 * 48
    page.get_by_label("Order").select_option("high")
    page.locator("#search").fill("prompt 7")
    expect(page.locator("#count")).to_have_text("271 of 1000 prompts")
    expect(page.locator("#cards .card")).to_have_count(48)
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    expect(page.locator("#cards .card")).not_to_have_count(48)
    while page.locator("#more").is_visible():
        page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
        page.wait_for_timeout(50)
    assert len(set(page.locator("#cards .id").all_text_contents())) == 271
