"""Files that are fetched when they are first wanted, and kept."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
from pathlib import Path

from realign_cli import console
from realign_cli.errors import RealignError

_TIMEOUT = 60  # seconds without a byte
_ATTEMPTS = 5
_CHUNK = 1 << 16  # bytes that a kill may lose
_USER = re.compile(r"(?<=://)[^/\s?#]*@")
_QUERY = re.compile(r"(?<=[?&])([^=&\s]+)=[^&\s#)]+")


def download_file(url: str, path: Path, sha256: str | None = None, *, remedy: str, quiet: bool = True) -> Path:
    """`path`, with what is at `url`; nothing is asked for if an earlier call put it there.

    Of a file whose SHA-256 is known, what came before a connection broke is kept: this call tries again, and so does
    the next, from there on. `remedy` ends the message of every error.

    Raises:
        RealignError: it cannot be fetched or written, or is not the file of that SHA-256, or `url` is no web address.
    """
    if path.exists():
        return path
    if not url.startswith(("http://", "https://")):
        raise RealignError(f"cannot fetch {without_secrets(url)} (not http:// or https://): {remedy}")
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not sha256:
            part.unlink(missing_ok=True)  # it may be of another file
        _complete(url, part, 1 + (_ATTEMPTS - 1) * bool(sha256), quiet=quiet)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ValueError) as error:
        if not sha256:
            part.unlink(missing_ok=True)
        reason = getattr(error, "reason", error)
        if isinstance(error, http.client.InvalidURL | ValueError):
            reason = "not a web address"  # their words quote parts of it
        raise RealignError(f"cannot fetch {without_secrets(url)} ({reason}): {remedy}") from None
    except OSError as error:
        raise RealignError(f"cannot write {part}: {error.strerror}; make room, and the same command goes on") from None
    if sha256 and _digest(part) != sha256:
        part.unlink()
        raise RealignError(f"{without_secrets(url)}: not the file that was published (SHA-256); {remedy}")
    os.replace(part, path)
    return path


def without_secrets(text: str) -> str:
    """A text with URLs in it, less the users, passwords and values of parameters that these hold."""
    return _QUERY.sub(r"\1=...", _USER.sub("...@", text))


def _complete(url: str, part: Path, attempts: int, *, quiet: bool) -> None:
    """Append to `part` what is missing of it."""
    for left in reversed(range(attempts)):
        try:
            return _append(url, part, quiet=quiet)
        except (http.client.HTTPException, TimeoutError, ConnectionError):
            if not left:
                raise


def _append(url: str, part: Path, *, quiet: bool) -> None:
    begun = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={begun}-"} if begun else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and begun:  # there is no more
            return
        raise
    with response:
        goes_on = response.status == 206
        total = response.length + begun * goes_on if response.length is not None else None
        with (
            part.open("ab" if goes_on else "wb") as file,
            console.transfer(part.stem, total, begun * goes_on, quiet=quiet) as advance,
        ):
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                advance(len(chunk))
            file.flush()
            os.fsync(file.fileno())
        if response.length:  # bytes that were promised and did not come
            raise ConnectionError(f"it broke off {response.length} bytes before the end")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
