"""The page in a real browser: sort, filter, search, keyboard and dialog, and no request leaves it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from report_folders import HOSTILE, record, write_eval, write_records, write_world

from realign_cli.report.gather import gather
from realign_cli.report.page import write_page
from realign_cli.report.sources import read_sources

if TYPE_CHECKING:
    from playwright.sync_api import Page

Open = Callable[..., "Page"]


def write(page: Path, *folders: Path, assets: bool = False) -> Path:
    sources = read_sources(folders)
    write_page(sources, gather(sources), page, assets=assets, advance=lambda count: None)
    return page


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of four prompts, with its images in full; see `write_world`."""
    root = tmp_path_factory.mktemp("world")
    return write(root / "r.html", write_world(root / "out"), assets=True)


def ids(page: Page) -> list[str]:
    return page.locator("#cards .id").all_text_contents()


def count(page: Page) -> str:
    return page.locator("#count").inner_text()


def test_sort(visit: Open, world: Path) -> None:
    page = visit(world)
    assert ids(page) == ["0", "1", "2", "3"] and count(page) == "4 prompts"
    page.get_by_label("By", exact=True).select_option("clip")
    for order, wanted in {
        "high": ["0", "1", "3", "2"],  # what has no number comes last
        "low": ["3", "1", "0", "2"],
        "rose": ["0", "1", "3", "2"],
        "fell": ["3", "1", "0", "2"],
        "given": ["0", "1", "2", "3"],
    }.items():
        page.get_by_label("Order").select_option(order)
        assert ids(page) == wanted, order
    assert page.locator(".chosen").all_text_contents() == [
        "clip 0.875 +0.375",
        "clip 0.750 unchanged",
        "",
        "clip 0.400 \u22120.500",
    ]
    page.get_by_label("By", exact=True).select_option("passes")
    page.get_by_label("Order").select_option("high")
    assert ids(page)[0] == "0"


def test_filter(visit: Open, world: Path) -> None:
    page = visit(world)
    page.get_by_label("By", exact=True).select_option("clip")
    for change, wanted in {"better": ["0"], "same": ["1"], "worse": ["3"], "": ["0", "1", "2", "3"]}.items():
        page.get_by_label("Change").select_option(change)
        assert ids(page) == wanted, change
    page.get_by_label("failed only").check()
    assert ids(page) == ["2"] and count(page) == "1 of 4 prompts"
    assert page.locator("#cards .reason").text_content() == "generate: no image came of it"
    page.get_by_role("button", name="Reset").click()
    page.get_by_label("Kept").select_option("mend")
    assert ids(page) == ["0"]
    page.get_by_label("Kept").select_option("coarse")
    assert ids(page) == ["1"]
    page.get_by_role("button", name="Reset").click()
    page.get_by_label("Category").select_option("number")
    assert ids(page) == ["2"]
    page.get_by_label("Kept").select_option("mend")
    assert ids(page) == [] and count(page) == "0 of 4 prompts"


def test_search(visit: Open, world: Path) -> None:
    page = visit(world)
    page.keyboard.press("/")
    page.keyboard.type("RING red")
    assert ids(page) == ["0"] and page.get_by_role("searchbox").input_value() == "RING red"
    page.keyboard.press("Escape")
    assert ids(page) == ["0", "1", "2", "3"] and page.get_by_role("searchbox").input_value() == ""
    page.keyboard.press("/")
    page.keyboard.type("a/b")  # in the field, a slash is a slash
    assert ids(page) == [] and page.get_by_role("searchbox").input_value() == "a/b"


def focused(page: Page) -> str:
    text: str = page.evaluate("document.activeElement.textContent.trim()")
    return text


def test_keyboard(visit: Open, world: Path) -> None:
    """Arrows move among the cards, three in a row; Enter opens one, arrows go on in it, Escape closes it."""
    page = visit(world)
    page.keyboard.press("/")
    page.keyboard.press("ArrowDown")
    assert focused(page) == "a red square and a blue ring"
    for key, wanted in {"ArrowRight": "a pink cross", "ArrowLeft": "a red square and a blue ring"}.items():
        page.keyboard.press(key)
        assert focused(page) == wanted
    page.keyboard.press("ArrowDown")
    assert focused(page) == "an orange star"
    page.keyboard.press("ArrowDown")  # there is no row below
    assert focused(page) == "an orange star"
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="a red square and a blue ring")
    assert dialog.is_visible()
    assert dialog.get_by_label("Previous prompt").is_disabled()
    for key, wanted in (
        ("ArrowRight", "a pink cross"),
        ("ArrowRight", "two green circles"),
        ("ArrowLeft", "a pink cross"),
    ):
        page.keyboard.press(key)
        assert page.get_by_role("dialog", name=wanted).is_visible()
    page.keyboard.press("Escape")
    assert page.get_by_role("dialog").count() == 0
    assert focused(page) == "a pink cross", "the focus is where the dialog was left"


def test_a_click_opens_the_images_in_full(visit: Open, world: Path) -> None:
    page = visit(world)
    page.locator("#runs summary").first.click()  # far below
    page.locator("#cards .card").first.click()
    dialog = page.get_by_role("dialog", name="a red square and a blue ring")
    shown = dialog.locator("img")
    page.evaluate("Promise.all([...document.querySelectorAll('#full img')].map((one) => one.decode()))")
    addresses = [one.get_attribute("src") for one in shown.all()]
    assert addresses == [f"r-images/0-{number}.png" for number in range(5)]
    assert shown.evaluate_all("images => images.map((one) => one.naturalWidth)") == [64, 256, 64, 64, 64]
    assert [one.split() for one in dialog.locator("tbody tr").all_inner_texts()] == [
        ["caption", "reward", "0.500", "0.990", "+0.490"],
        ["clip", "0.500", "0.875", "+0.375"],
        ["passes", "1", "2", "+1.000"],
    ]
    assert dialog.locator(".things .phrase").all_inner_texts() == ["a red square", "a blue ring"]
    assert dialog.locator(".tries .kept img").get_attribute("alt") == "2 mend: a red square and a blue ring"
    dialog.get_by_label("Next prompt").click()
    dialog = page.get_by_role("dialog", name="a pink cross")
    dialog.get_by_label("Close").click()
    assert page.get_by_role("dialog").count() == 0


def test_a_plot_opens_too(visit: Open, world: Path) -> None:
    page = visit(world)
    page.get_by_role("button", name="Open in full: Differences").click()
    assert page.get_by_role("dialog", name="Differences").locator("img").evaluate("one => one.naturalWidth") == 80
    assert not page.get_by_label("Next prompt").is_visible()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    assert page.get_by_role("dialog").count() == 0


def test_thumbnails_and_the_same_image_twice(visit: Open, tmp_path: Path) -> None:
    page = visit(write(tmp_path / "r.html", write_world(tmp_path / "out")))
    shown = page.locator("#cards .card").first.locator("img")
    addresses = [one.get_attribute("src") or "" for one in shown.all()]
    assert all(one.startswith("data:image/webp;") for one in addresses)
    assert (addresses[3], addresses[4]) == (addresses[0], addresses[2])
    assert shown.evaluate_all("images => images.every((one) => one.naturalWidth > 0)")


def test_hostile_prompts_do_nothing(visit: Open, tmp_path: Path) -> None:
    write_records(tmp_path / "f", [record(f"{i}", text) for i, text in enumerate(HOSTILE)])
    page = visit(write(tmp_path / "r.html", tmp_path / "f"))
    assert page.title() == "realign report: f" and page.locator("h1").all_inner_texts() == ["f"]
    assert page.locator("#cards .open").all_text_contents() == list(HOSTILE)
    for text in HOSTILE:
        page.get_by_role("searchbox").fill(text)
        assert text in page.locator("#cards .open").all_text_contents()
        page.locator("#cards .open").get_by_text(text, exact=True).click()
        assert page.locator("#full-title").inner_text() == " ".join(text.split())
        page.keyboard.press("Escape")
    assert page.title() == "realign report: f"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_the_screen_and_can_be_read(visit: Open, world: Path, width: int, scheme: str) -> None:
    page = visit(world, width=width, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    lightness = page.evaluate(
        """['color', 'backgroundColor'].map((key) => getComputedStyle(document.body)[key].match(/\\d+/)[0] / 255)"""
    )
    assert (
        (lightness[0] < 0.2 and lightness[1] > 0.9)
        if scheme == "light"
        else (lightness[0] > 0.8 and lightness[1] < 0.2)
    )
    page.locator("#cards .card").first.click()
    assert page.evaluate("document.getElementById('full').scrollWidth") <= width


def test_everything_has_a_name(visit: Open, world: Path) -> None:
    page = visit(world)
    page.locator("#cards .card").first.click()
    nameless = page.evaluate(
        """[...document.querySelectorAll('button, input, select, img, [role=region], nav')].filter((one) =>
        !(one.ariaLabel || one.alt || one.textContent.trim() || (one.labels && one.labels.length)))
        .map((one) => one.outerHTML)"""
    )
    assert nameless == []


def test_three_systems(visit: Open, tmp_path: Path) -> None:
    """They stand side by side, are drawn against their cost, and any two of them are compared."""
    texts = {"a": "one", "b": "two"}
    plain = write_records(tmp_path / "plain", [record(*one) for one in texts.items()])
    for name, values in (("x", (0.5, 0.5)), ("y", (0.75, 0.125))):
        folder = write_records(tmp_path / name, [record(*one) for one in texts.items()])
        scores = {record_id: {"m": value} for record_id, value in zip(texts, values, strict=True)}
        write_eval(tmp_path / f"eval-{name}", folder, scores, plain, {one: {"m": 0.25} for one in texts})
    page = visit(write(tmp_path / "r.html", tmp_path))
    chart = page.get_by_role("img", name="m against passes of the generator")
    first, second, third = (float(one.get_attribute("cy") or "nan") for one in chart.locator("circle").all())
    assert first > third > second  # plain, x and y: 0.25, 0.5 and 0.4375, and higher is further up
    table = page.get_by_role("table", name="All systems side by side")
    assert [one.split() for one in table.locator("tbody th").all_inner_texts()] == [
        ["1", "plain"],
        ["2", "x"],
        ["3", "y"],
    ]
    assert page.locator(".chosen").all_text_contents() == ["m 0.750 +0.500", "m 0.125 \u22120.125"]
    page.get_by_label("From", exact=True).select_option("x")
    assert page.locator(".chosen").all_text_contents() == ["m 0.750 +0.250", "m 0.125 \u22120.375"]
    page.get_by_label("To", exact=True).select_option("plain")
    page.get_by_label("Change").select_option("worse")
    assert page.locator(".chosen").all_text_contents() == ["m 0.250 \u22120.250", "m 0.250 \u22120.250"]
    page.get_by_label("To", exact=True).select_option("x")
    assert ids(page) == [] and page.locator("#count").inner_text() == "0 of 2 prompts"
