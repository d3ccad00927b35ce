"""The page: it needs nothing but itself, shows text as text, and is the same bytes for the same folders."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import resource
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_folders import HOSTILE, caption, noise, objects, record, tries, write_eval, write_records, write_world

from realign_cli.errors import RealignError
from realign_cli.report.gather import gather
from realign_cli.report.page import Written, images_folder, write_page
from realign_cli.report.sources import read_sources
from realign_cli.report.thumbnails import PIXEL_ART, Thumbnails, plot


class Page(HTMLParser):
    """The elements of a page with their attributes, its text, and what its scripts hold."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self._in = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._in = tag

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        self.raw.get(self._in, self.texts).append(data)

    def all(self, attribute: str) -> list[str]:
        return [attributes[attribute] for _, attributes in self.elements if attribute in attributes]

    @property
    def data(self) -> dict[str, list[dict[str, object]]]:
        """What the script is given."""
        made: dict[str, list[dict[str, object]]] = json.loads(self.raw["script"][0])
        return made


def write(page: Path, *folders: Path, assets: bool = False) -> Written:
    sources = read_sources(folders)
    return write_page(sources, gather(sources), page, assets=assets, advance=lambda count: None)


def hostile(root: Path) -> Path:
    """A run in which every text that somebody else may have written is hostile."""
    lines = []
    for number, text in enumerate(HOSTILE):
        found = [one | {"phrase": text, "label": text} for one in objects()]
        made = [
            {"how": "draw", "caption": caption(text, 0.5)},
            {"how": "mend", "caption": caption(text, 0.9), "objects": found},
        ]
        failure = {"stage": text, "kind": "k", "message": text}
        keys = {"category": text, "tries": tries(1, *made), "caption": caption(text, 0.9), "failures": [failure]}
        lines.append(record(f"{number}", text, **keys))
    write_records(root / "coarse", [record(f"{number}", text) for number, text in enumerate(HOSTILE)], "generate")
    write_records(root / HOSTILE[0].replace("/", " "), [*lines, f"{{{HOSTILE[1]}"], HOSTILE[0])
    scores = {f"{number}": {text: 0.5} for number, text in enumerate(HOSTILE)}
    write_eval(root / "eval", root / "coarse", scores)
    return root


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    written = write(tmp_path / "r.html", hostile(tmp_path / "out"))
    page = Page(tmp_path / "r.html")
    assert [attributes.get("type") for tag, attributes in page.elements if tag == "script"] == [
        "application/json",
        None,
    ]
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert [tag for tag, _ in page.elements].count("h1") == 1
    text = "".join(page.texts)
    for one in HOSTILE:
        assert text.count(one) > 10, one
    assert [card["text"] for card in page.data["cards"]][: len(HOSTILE)] == list(HOSTILE)
    assert written.prompts == len(HOSTILE) + 1 == written.failed


@pytest.mark.parametrize("assets", [False, True])
def test_it_needs_nothing_but_itself(tmp_path: Path, assets: bool) -> None:
    root = write_world(tmp_path / "out")
    write(tmp_path / "a page.html", root, assets=assets)
    page = Page(tmp_path / "a page.html")
    assert all(re.fullmatch(r"data:image/(webp|png);base64,[A-Za-z0-9+/=]+", one) for one in page.all("src"))
    assert all(one.startswith("#") for one in page.all("href"))
    assert not page.all("srcset") + page.all("action") + page.all("poster") + page.all("background")
    ours = "".join([*page.raw["style"], page.raw["script"][1]])
    assert not re.search(r"https?:|//\w|url\(|@import|import\(|fetch\(|XMLHttp|localStorage", ours)
    assert not [tag for tag, _ in page.elements if tag in ("link", "base", "iframe", "object", "embed")]
    (policy,) = page.all("content")[-1:]
    assert policy.startswith("default-src 'none'; img-src data: file: 'self'; ")
    for kind, place in (("style", 0), ("script", 1)):
        digest = base64.b64encode(hashlib.sha256(page.raw[kind][place].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    full = page.all("data-full")
    assert bool(full) == assets
    assert all((tmp_path / one.replace("%20", " ")).is_file() for one in full)


def test_the_same_folders_give_the_same_bytes(tmp_path: Path) -> None:
    root = write_world(tmp_path / "out")
    for name in ("one.html", "two.html"):
        write(tmp_path / name, root)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"out", "one.html", "two.html"}


def test_what_it_tells(tmp_path: Path) -> None:
    written = write(tmp_path / "r.html", write_world(tmp_path / "out"))
    assert (written.prompts, written.failed, written.images) == (4, 1, None)
    assert written.bytes == (tmp_path / "r.html").stat().st_size
    page = Page(tmp_path / "r.html")
    text = " ".join(" ".join(page.texts).split())
    for words in (
        "coarse → final",
        "4 prompts, 1 failed in 2 folders of records, 1 eval",
        "final against coarse: means over prompts, with 95 % intervals",
        "realign generate --out 'x y'",
        "generator.checkpoint package:generator",
        "generate: no image came of it",
        "cost (in): 2.00 passes of the generator",
        "m: a note",
    ):
        assert words in text, words
    alternatives = {attributes["alt"] for tag, attributes in page.elements if tag == "img"}
    assert "found: a red square and a blue ring" in alternatives and "final: a pink cross" in alternatives
    cards = {card["id"]: card for card in page.data["cards"]}
    assert [cards[i]["failed"] for i in "0123"] == [False, False, True, False]
    assert cards["0"]["kept"] == "mend" and cards["0"]["values"]["clip"] == [0.5, 0.875]  # type: ignore[index]
    assert page.data["columns"] == ["caption reward", "clip", "passes"]


def test_an_image_that_is_in_a_card_twice_is_in_the_page_once(tmp_path: Path) -> None:
    write(tmp_path / "r.html", write_world(tmp_path / "out"))
    page = Page(tmp_path / "r.html")
    # Of the first prompt, coarse, found and final; its two tries are the coarse and the final image.
    assert [attributes.get("data-same") for tag, attributes in page.elements if tag == "img"][1:6] == [
        *(None, None, None),
        *("0", "2"),
    ]


def test_missing_and_broken_images_are_failures(tmp_path: Path) -> None:
    root = write_world(tmp_path / "out")
    (root / "final" / "0.png").unlink()
    (root / "coarse" / "3.png").write_bytes(b"GIF89a")
    assert write(tmp_path / "r.html", root).failed == 3
    text = " ".join(Page(tmp_path / "r.html").texts)
    assert "0.png: no such image; generate it again" in text and "3.png: not a readable image" in text


def test_full_images_are_the_files_themselves(tmp_path: Path) -> None:
    root = write_world(tmp_path / "out")
    written = write(tmp_path / "r.html", root, assets=True)
    folder = tmp_path / "r-images"
    assert written.images == folder == images_folder(tmp_path / "r.html")
    assert (folder / "0-0.png").read_bytes() == (root / "coarse" / "0.png").read_bytes()
    assert (folder / "0-2.png").read_bytes() == (root / "final" / "0.png").read_bytes()
    with Image.open(folder / "0-1.png") as found:
        assert found.size == (256, 256)


def test_a_folder_whose_name_is_no_text(tmp_path: Path) -> None:
    folder = write_records(tmp_path / "a\udcff", [record("a", "one")])
    write(tmp_path / "r.html", folder)
    assert "<h1>a?</h1>" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_an_eval_alone(tmp_path: Path) -> None:
    root = write_world(tmp_path / "out")
    assert write(tmp_path / "r.html", root / "eval").prompts == 0
    page = Page(tmp_path / "r.html")
    assert "final against coarse" in "".join(page.texts) and "gallery" not in page.all("id")


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    root = write_world(tmp_path / "out")
    page = tmp_path / "r.html"
    page.write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # Python ignores the signal that comes of it
    try:
        with pytest.raises(RealignError, match=r"cannot write .*r\.html: File too large"):
            write(page, root)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert page.read_text() == "old" and {path.name for path in tmp_path.iterdir()} == {"out", "r.html"}


@pytest.mark.parametrize("size", [64, 96, 256, 512])
@pytest.mark.parametrize("pictures", [1, 2_000, 7_000])
def test_a_thumbnail_keeps_to_its_share(size: int, pictures: int) -> None:
    uri = Thumbnails(pictures)(noise(size))
    assert uri.startswith("data:image/webp;base64,")
    assert len(uri) <= min(24_000, 40_000_000 / pictures) * 4 / 3 + 100


def test_small_images_lose_nothing() -> None:
    image = noise(64)
    uri = Thumbnails(1)(image)
    with Image.open(_bytes(uri)) as shown:
        assert max(shown.size) <= PIXEL_ART and np.array_equal(np.asarray(shown), np.asarray(image))


def test_a_plot_is_as_its_file_unless_it_is_large(tmp_path: Path) -> None:
    for size, kind, tall in (((80, 40), "png", False), ((600, 900), "webp", True)):
        large = Image.fromarray(np.resize(np.asarray(noise(900)), (size[1], size[0], 3)))
        large.save(tmp_path / "p.png")
        made = plot(tmp_path / "p.png")
        assert made.src.startswith(f"data:image/{kind};") and made.tall == tall
        assert len(made.src) < 1_500_000
    (tmp_path / "p.png").write_bytes(b"")
    with pytest.raises(RealignError, match="run 'realign eval --out' again"):
        plot(tmp_path / "p.png")


def _bytes(uri: str) -> io.BytesIO:
    return io.BytesIO(base64.b64decode(uri.partition(",")[2]))
