"""Raters in a real browser, from disk and with the server as a process of its own: what is clicked is what is kept."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from report_folders import HOSTILE
from study_folders import TEXTS, make_study

from realign_cli.study.answers import read_answers
from realign_cli.study.design import DATABASE, Rater, Study, read_study

if TYPE_CHECKING:
    from playwright.sync_api import Page

Open = Callable[..., "Page"]
Choices = dict[tuple[int, str], str | None]  # by trial and question


class Served:
    """A study with its server, which can be killed and started again at the same port."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.study, self.port = folder, read_study(folder), 0
        self.start()

    def start(self) -> None:
        words = ["study", "serve", str(self.folder), "--port", str(self.port), "--json"]
        self.process = subprocess.Popen([sys.executable, "-m", "realign_cli", *words], stdout=subprocess.PIPE)
        assert self.process.stdout
        self.links = json.loads(self.process.stdout.readline())["links"]
        self.port = int(self.links[0].split(":")[2].split("/")[0])

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        os.kill(self.process.pid, number)
        assert self.process.stdout
        self.process.stdout.close()
        return self.process.wait()

    def kept(self, rater: Rater) -> Choices:
        with closing(sqlite3.connect(self.folder / DATABASE)) as database:
            rows = database.execute("SELECT trial, question, choice FROM answers WHERE rater = ?", (rater.token,))
            return {(trial, question): choice for trial, question, choice in rows}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    one = Served(make_study(tmp_path_factory.mktemp("served"), ("alignment", "fidelity"), raters=3, texts=TEXTS[:3]))
    yield one
    assert one.kill(signal.SIGINT) == 0


def steps(study: Study, rater: Rater) -> list[tuple[int, str]]:
    return [(trial, question) for trial in range(len(rater.trials)) for question in study.questions]


def place(page: Page) -> int:
    return int(page.locator("#place").inner_text().split()[0]) - 1


def choose(page: Page, key: str) -> str | None:
    """Choose by a key when all images are there; returns the name of the image that stands there, or None for none."""
    page.locator("#choices:enabled").wait_for()
    page.keyboard.press(key)
    if key == "0":
        assert page.locator("#choices :checked").get_attribute("value") == "none"
        return None
    return str(page.locator(".option:has(:checked) img").get_attribute("src")).removeprefix("images/")


def answer(page: Page, study: Study, rater: Rater, keys: str) -> Choices:
    """Answer as many steps as there are keys; returns what was chosen, as seen on the screen."""
    clicked: Choices = {}
    for key in keys:
        at = place(page)
        clicked[steps(study, rater)[at]] = choose(page, key)
        page.keyboard.press("Enter")
        last = at + 1 == len(steps(study, rater))
        page.locator("#end" if last else f"#place:text-is('{at + 2} of {len(steps(study, rater))}')").wait_for()
    return clicked


def test_two_raters_at_once_with_a_reload_and_a_change_of_mind(visit: Open, served: Served) -> None:
    one, two = served.study.raters[:2]
    first, second = visit(served.links[0]), visit(served.links[1])
    first.keyboard.press("Enter")
    second.get_by_role("button", name="Start").click()
    clicked = answer(first, served.study, one, "123")
    others = answer(second, served.study, two, "0312")
    clicked |= answer(first, served.study, one, "01")
    first.reload()
    assert place(first) == 5, "it goes on with what is not answered"
    first.keyboard.press("Backspace")
    assert place(first) == 4
    assert first.locator("#choices :checked").get_attribute("value") == "0", "as it was answered"
    clicked |= answer(first, served.study, one, "2" + "1" * 5)
    assert first.get_by_role("heading", name="Thank you").is_visible()
    assert first.locator("progress").evaluate("bar => bar.value") == 1
    assert len(clicked) == 10 and served.kept(one) == clicked
    assert served.kept(two) == others


def test_the_server_is_killed_and_started_again(visit: Open, served: Served) -> None:
    rater = served.study.raters[2]
    page = visit(served.links[2], forgiven="net::ERR_CONNECTION")
    page.keyboard.press("Enter")
    clicked = answer(page, served.study, rater, "12")
    third = choose(page, "3")
    assert served.kill() == -signal.SIGKILL
    page.keyboard.press("Enter")
    page.get_by_text("Not saved yet").wait_for()
    assert place(page) == 2, "it does not go on before the answer is saved"
    served.start()
    page.locator("#place:text-is('4 of 10')").wait_for()
    assert not page.get_by_text("Not saved yet").is_visible()
    clicked[steps(served.study, rater)[2]] = third
    assert served.kept(rater) == clicked
    clicked |= answer(page, served.study, rater, "2")
    assert served.kept(rater) == clicked


def test_from_disk_the_browser_keeps_answers_until_they_are_downloaded(visit: Open, tmp_path: Path) -> None:
    folder = make_study(tmp_path, form="pairwise", raters=1, texts=TEXTS[:2])
    study = read_study(folder)
    (rater,) = study.raters
    page = visit(folder / "site" / f"{rater.token}.html")
    page.keyboard.press("Enter")
    clicked = answer(page, study, rater, "12")
    page.reload()
    assert place(page) == 2
    page.locator("#choices:enabled").wait_for()
    page.keyboard.press("0")  # one of the two has to be chosen
    assert page.locator("#choices :checked").count() == 0 and page.locator("#next").is_disabled()
    clicked |= answer(page, study, rater, "2" * 4)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    download.value.save_as(folder / "answers" / download.value.suggested_filename)
    answers, complaints = read_answers(folder, study)
    assert {(one.trial, one.question): one.choice for one in answers[rater.token]} == clicked and complaints == []


def test_a_prompt_of_html_does_nothing(visit: Open, tmp_path: Path) -> None:
    folder = make_study(tmp_path, raters=1, texts=HOSTILE)
    study = read_study(folder)
    (rater,) = study.raters
    page = visit(folder / "site" / f"{rater.token}.html")
    page.keyboard.press("Enter")
    shown = []
    for _ in rater.trials:
        shown.append(page.locator("#prompt").text_content())
        answer(page, study, rater, "1")
    assert set(HOSTILE) < set(shown)
    assert page.title() == "Which image is best?"


def test_mouse_back_and_instructions(visit: Open, finished: Path) -> None:
    study = read_study(finished)
    page = visit(finished / "site" / f"{study.raters[1].token}.html")
    page.get_by_role("button", name="Start").click()
    page.locator("#choices:enabled").wait_for()
    assert page.get_by_role("button", name="Next").is_disabled()
    page.get_by_label("Image 2").first.click()
    page.get_by_role("button", name="Next").click()
    assert place(page) == 1
    page.get_by_role("button", name="Instructions").click()
    page.get_by_role("button", name="Continue").click()
    assert place(page) == 1
    page.get_by_role("button", name="Back").click()
    assert place(page) == 0 and page.locator("#choices :checked").get_attribute("value") == "1"


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
def test_it_fits_the_screen_and_everything_has_a_name(visit: Open, finished: Path, width: int, scheme: str) -> None:
    page = visit(finished / "site" / f"{read_study(finished).raters[2].token}.html", width=width, color_scheme=scheme)
    for _ in range(2):  # the instructions, and a question
        assert page.evaluate("document.documentElement.scrollWidth") == width
        lightness = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] / 255")
        assert (lightness > 0.9) == (scheme == "light")
        nameless = page.evaluate(
            """[...document.querySelectorAll('button, input, progress, fieldset')].filter((one) => one.checkVisibility()
            && !(one.ariaLabel || one.textContent.trim() || (one.labels && one.labels[0].textContent.trim())))
            .map((one) => one.outerHTML)"""
        )
        assert nameless == []
        page.keyboard.press("Enter")
        page.locator("#choices:enabled").wait_for()
