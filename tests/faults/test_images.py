"""Odd images through the commands that read images: each is seen as a person sees it, or named and passed by."""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.warm import QUICK, Warm
from fuzz import fuzzed
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from realign_cli.data.images import open_image
from realign_cli.data.records import METADATA
from realign_cli.errors import RecordError

pytestmark = pytest.mark.fault

RED = (200, 30, 40)
SIZE = 64, 48


def plain() -> Image.Image:
    image = Image.new("RGB", SIZE, RED)
    image.paste((255, 255, 255), (0, 0, 16, 48))  # a white edge on the left tells which way is up
    return image


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def alpha() -> bytes:
    image = plain().convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 16, 48))
    return saved(image)


def sixteen_bits() -> bytes:
    return saved(
        Image.frombytes("I;16", (2, 1), struct.pack("<2H", 65535, 25700)).resize(SIZE, Image.Resampling.NEAREST)
    )


def turned() -> bytes:
    image = plain().transpose(Image.Transpose.ROTATE_90)
    exif = image.getexif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees to see it upright
    return saved(image, "JPEG", exif=exif, quality=95)


def animated() -> bytes:
    return saved(plain(), "GIF", save_all=True, append_images=[Image.new("RGB", SIZE, "blue")])


def chunk(kind: bytes, data: bytes) -> bytes:
    """A piece of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def talkative(**options: object) -> bytes:
    """A PNG with two megabytes of text, as programs write that keep their whole workflow in it."""
    text = PngInfo()
    text.add_text("workflow", "x" * 2_000_000, **options)
    return saved(plain(), pnginfo=text)


Tag = tuple[int, int, int, bytes]  # as EXIF has it: tag, type, count, value
TURNED: Tag = (0x0112, 3, 1, struct.pack("<H", 6))


def exif(tags: list[Tag]) -> bytes:
    """A block of one directory, low byte first; values of more than four bytes lie behind it."""
    head, values = struct.pack("<H", len(tags)), b""
    behind = 8 + 2 + 12 * len(tags) + 4
    for tag, kind, count, value in tags:
        head += struct.pack("<HHI", tag, kind, count)
        head += value.ljust(4, b"\0") if len(value) <= 4 else struct.pack("<I", behind + len(values))
        values += value if len(value) > 4 else b""
    return b"II*\0\x08\0\0\0" + head + bytes(4) + values


def photograph(block: bytes) -> bytes:
    """A JPEG on its side with this block in it."""
    data = saved(plain().transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 8) + b"Exif\0\0" + block + data[2:]


# What cameras and editors leave beside the orientation.
ODD: dict[str, Tag] = {
    "rational with a zero denominator": (0x829A, 10, 1, struct.pack("<ii", -1, 0)),
    "float where a number is due": (0x0213, 11, 1, struct.pack("<f", 1.0)),
    "rational where a name is due": (0x010F, 5, 1, struct.pack("<II", 1, 1)),
    "bytes where a rational is due": (0x011A, 7, 8, b"\xff" * 8),
    "number beyond its type": (0x0128, 4, 1, struct.pack("<I", 0x20000)),
    "resolution by zero": (0x011A, 5, 1, struct.pack("<II", 0, 0)),
    "directory that is nowhere": (0x8769, 4, 1, struct.pack("<I", 2**31)),
}


def bomb() -> bytes:
    """A well-formed PNG of a few bytes that unpacks to 40,000 x 40,000 pixels."""
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 40_001)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


SEEN: dict[str, Callable[[], bytes]] = {
    "plain": lambda: saved(plain()),
    "palette": lambda: saved(plain().quantize(16)),
    "alpha": alpha,
    "cmyk": lambda: saved(plain().convert("CMYK"), "JPEG", quality=95),
    "turned": turned,
    "animated": animated,
    "webp": lambda: saved(plain(), "WEBP", lossless=True),
    "text": talkative,
    "packed text": lambda: talkative(zip=True),
    **{kind: lambda odd=odd: photograph(exif(sorted([TURNED, odd]))) for kind, odd in ODD.items()},
}
UNREADABLE: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "truncated": lambda: saved(Image.effect_noise(SIZE, 80))[:-500],
    "prose": lambda: b"no image\n",
    "bomb": bomb,
    "postscript": lambda: saved(plain(), "EPS"),  # a program, which Pillow would have Ghostscript run
}


@pytest.mark.parametrize("kind", SEEN)
def test_a_person_sees_the_same(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.png").write_bytes(SEEN[kind]())
    image = open_image(tmp_path / "a.png")
    assert (image.mode, image.size) == ("RGB", SIZE)
    for place, expected in (((2, 24), (255, 255, 255)), ((50, 24), RED)):
        assert image.getpixel(place) == pytest.approx(expected, abs=6), kind  # lossy kinds differ a little


def test_sixteen_bits_are_not_clipped(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(sixteen_bits())
    image = open_image(tmp_path / "a.png")
    assert (image.getpixel((0, 0)), image.getpixel((63, 0))) == ((255,) * 3, (100,) * 3)


def test_commands_name_what_they_cannot_read_and_go_on(warm: Warm, tmp_path: Path) -> None:
    """Through tag, eval and import: of each record the very same verdict."""
    names = {kind.replace(" ", "_"): data for kind, data in {**SEEN, **UNREADABLE, "sixteen": sixteen_bits}.items()}
    folder = tmp_path / "odd"
    folder.mkdir()
    for name, data in names.items():
        (folder / f"{name}.png").write_bytes(data())
    (folder / "loop.png").symlink_to("loop.png")
    os.mkfifo(folder / "fifo.png")
    (folder / "folder.png").mkdir()
    # Names that differ only in case are two images.
    (folder / "PLAIN.png").write_bytes(saved(Image.new("RGB", SIZE, "blue")))
    ids = [*names, "loop", "fifo", "folder", "PLAIN"]
    lines = [{"file_name": f"{i}.png", "text": "a red circle", "id": i} for i in ids]
    (folder / METADATA).write_text("".join(json.dumps(line) + "\n" for line in lines))
    bad = {*UNREADABLE, "loop", "fifo", "folder"}

    tagged = warm("tag", "--in", "odd", "--out", "tagged", *QUICK, cwd=tmp_path)
    assert tagged.code == 3 and "Traceback" not in tagged.stderr, tagged.stderr
    records = [json.loads(line) for line in (tmp_path / "tagged" / METADATA).read_text().splitlines()]
    assert [record["id"] for record in records] == ids
    assert {record["id"] for record in records if "failures" in record} == bad
    assert all("tags" in record for record in records if record["id"] not in bad)
    same, other = (open_image(tmp_path / "tagged" / f"{name}.png") for name in ("plain", "PLAIN"))
    assert same.getpixel((50, 24)) == RED and other.getpixel((50, 24)) == (0, 0, 255)

    measured = warm("eval", "--in", "odd", "--metrics", "oracle", "--cache", "c", "--out", "e", "-q", cwd=tmp_path)
    assert measured.code == 3 and "Traceback" not in measured.stderr, measured.stderr
    scores = [json.loads(line)["id"] for line in (tmp_path / "e" / "scores.jsonl").read_text().splitlines()]
    assert scores == [i for i in ids if i not in bad]

    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    taken = warm("import", "--in", "odd", "--prompts", "prompts.jsonl", "--out", "taken", "-q", cwd=tmp_path)
    assert taken.code == 3 and "Traceback" not in taken.stderr, taken.stderr
    kept = [json.loads(line)["id"] for line in (tmp_path / "taken" / METADATA).read_text().splitlines()]
    assert kept == [i for i in ids if i not in bad]


def test_thin_images_are_segmented_and_refined(warm: Warm, tmp_path: Path) -> None:
    """Spacers and rules, as scraped sets have them, with objects that somebody else named."""
    sizes = {"rule": (300, 1), "spacer": (1, 300), "dot": (1, 1), "long": (5000, 2), "plain": (64, 64)}
    ring = {"label": "ring", "phrase": "a red ring", "likelihood": 2.0}
    (tmp_path / "thin").mkdir()
    for name, size in sizes.items():
        Image.new("RGB", size, RED).save(tmp_path / "thin" / f"{name}.png")
    lines = [{"file_name": f"{name}.png", "text": "a red ring", "id": name, "objects": [ring]} for name in sizes]
    (tmp_path / "thin" / METADATA).write_text("".join(json.dumps(line) + "\n" for line in lines))
    lowest = ("--set", "detector.threshold=0.0")  # so that masks are cut from whatever it sees
    segmented = warm("segment", "--in", "thin", "--out", "segmented", *lowest, *QUICK, cwd=tmp_path)
    assert segmented.code == 0, segmented.stderr
    records = [json.loads(line) for line in (tmp_path / "segmented" / METADATA).read_text().splitlines()]
    assert [record["id"] for record in records] == list(sizes)
    assert any(record["objects"][0]["boxes"] for record in records if record["id"] != "plain")
    refined = warm("refine", "--in", "segmented", "--out", "refined", *QUICK, cwd=tmp_path)
    assert refined.code == 0, refined.stderr


GOOD = [saved(plain(), kind) for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM")] + [turned(), alpha()]


@fuzzed
@given(st.sampled_from(GOOD), st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=4)), max_size=6))
def test_no_damage_raises_anything_else(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, damage: list[tuple[float, bytes]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged"
    broken = bytearray(data)
    for where, change in damage:
        at = int(where * len(broken))
        broken[at : at + len(change)] = change
    path.write_bytes(broken)
    try:
        assert open_image(path).mode == "RGB"
    except RecordError as error:
        assert error.kind == "unreadable_image" and str(path) in str(error)


TAGS = st.sampled_from([0x0100, 0x010F, 0x0112, 0x011A, 0x0128, 0x0131, 0x0213, 0x8769, 0x8825, 0x829A, 0xA005])
EXTREME = st.sampled_from([0, 1, 2**31, 2**32 - 1])
ENTRY = st.tuples(
    TAGS | st.integers(0, 2**16 - 1),
    st.integers(0, 20),  # types beyond the 13 that there are
    st.integers(0, 8) | EXTREME,
    st.binary(max_size=16) | st.tuples(EXTREME, EXTREME).map(lambda pair: struct.pack("<2I", *pair)),
)
BLOCK = (
    st.lists(ENTRY, max_size=5).map(exif)
    | st.lists(ENTRY, max_size=5).map(lambda tags: exif(sorted([TURNED, *tags])))
    | st.binary(max_size=64)
    | st.tuples(st.lists(ENTRY, max_size=3), st.integers(0, 60)).map(lambda cut: exif([TURNED, *cut[0]])[: cut[1]])
)
UPRIGHT = {
    kind: {image.tobytes() for image in [made, *map(made.transpose, Image.Transpose)]}
    for kind, made in [(kind, Image.open(io.BytesIO(saved(plain(), kind)))) for kind in ("JPEG", "PNG")]
}


@fuzzed
@given(st.sampled_from(["JPEG", "PNG"]), BLOCK)
def test_no_exif_block_costs_more_than_its_orientation(
    tmp_path_factory: pytest.TempPathFactory, kind: str, block: bytes
) -> None:
    """In a PNG, that is; of a JPEG Pillow reads the resolution from EXIF first, and a few such blocks stop it there."""
    path = tmp_path_factory.getbasetemp() / "block"
    data = saved(plain(), kind)
    if kind == "JPEG":
        data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 8) + b"Exif\0\0" + block + data[2:]
    else:
        data = data[:33] + chunk(b"eXIf", block) + data[33:]
    path.write_bytes(data)
    try:
        assert open_image(path).tobytes() in UPRIGHT[kind]
    except RecordError as error:
        assert kind == "JPEG" and error.kind == "unreadable_image" and str(path) in str(error)
