"""What a command reads: what --in says, else a pipe, else the folder that the stage before it writes by convention."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from realign_cli.commands.options import COARSE, FINAL, MapOptions
from realign_cli.console import console, plain
from realign_cli.data.records import METADATA, STDIN, Entry, parts, prompt_ids, read_records
from realign_cli.errors import UsageError

_MAKERS = {
    COARSE: "realign generate --prompts prompts.txt --out coarse/",
    FINAL: "realign refine --in coarse/ --out final/",
}


@dataclass(frozen=True)
class Input:
    """Records to come: one after the other, the id of each one's prompt where these can be known, and their --in.

    `left_out` will have the ids of records that were there and are not among them.
    """

    entries: Iterable[Entry]
    ids: Sequence[str] | None
    source: str = STDIN
    left_out: Set[str] = frozenset()

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> Input:
        """Records that are there already."""
        return cls(entries, [entry.record.prompt_key for entry in entries])


def read(options: MapOptions) -> Input:
    """The records that a map command reads, of which coarse/ has those of the stage before it.

    Raises:
        UsageError: there are none, or they lie where the command writes; or as `read_records`.
    """
    source = records(options.source, (COARSE,), quiet=options.quiet)
    if source != STDIN and options.out:
        path = Path(source)
        folder = path if path.is_dir() else path.parent
        if folder.resolve().is_relative_to(options.out.resolve()):
            raise UsageError(f"--in {source} lies in --out {options.out}; give --out another folder")
    return Input(read_records(source), prompt_ids(source), source)


def records(given: str | None, folders: Sequence[str], *, quiet: bool) -> str:
    """What is `given`; else standard input, if something is piped into it; else the first of `folders` with records.

    Raises:
        UsageError: there is none of these.
    """
    if given is not None:
        return given
    if _piped():
        return STDIN
    source = _with_records(folders)[0]
    _say(f"no --in: reading {source}/", quiet=quiet)
    return source


def comparison(given: str | None, baseline: Path | None, *, quiet: bool) -> tuple[str, Path | None]:
    """What to judge, chosen as `records` does, and its baseline: coarse/ where final/ is judged by convention.

    Raises:
        UsageError: there is nothing to judge.
    """
    if given is not None or baseline or _piped():
        return records(given, (FINAL, COARSE), quiet=quiet), baseline
    source, *others = _with_records((FINAL, COARSE))
    _say(
        "".join([f"no --in: reading {source}/", *(f", with {other}/ as the baseline" for other in others)]), quiet=quiet
    )
    return source, Path(others[0]) if others else None


def _with_records(folders: Sequence[str]) -> list[str]:
    """Those of `folders` with records, be it of a run that is not complete, which whoever reads it tells."""
    found = [name for name in folders if (Path(name) / METADATA).exists() or parts(Path(name))]
    if found:
        return found
    places = " or ".join(f"{name}/" for name in folders)
    makers = " or ".join(f"'{_MAKERS[name]}'" for name in folders)
    raise UsageError(f"no records: nothing is piped in, and none are in {places}; {makers} makes them, or give --in")


def _piped() -> bool:
    """Whether standard input is a pipe, a file or a socket, and no terminal, null device or closed stream."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


def _say(line: str, *, quiet: bool) -> None:
    if not quiet:
        console.print(plain(line), soft_wrap=True)
