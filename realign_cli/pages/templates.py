"""What every page of HTML stands on: templates that escape, packaged styles and scripts, and their hashes."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined

_ROOM = "realign_cli.pages"


def environment(room: str) -> Environment:
    """Templates of a package: text is escaped wherever it stands, and what a template misses is an error."""
    return Environment(
        loader=PackageLoader(room, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def style_of(room: str) -> str:
    """The look that all pages share, and what `page.css` of a package adds to it."""
    return packaged(_ROOM, "base.css") + packaged(room, "page.css")


def packaged(room: str, name: str) -> str:
    """The text of a file of a package."""
    return resources.files(room).joinpath(name).read_text(encoding="utf-8")


def source_hash(text: str) -> str:
    """What a content security policy calls a script or a style by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"
