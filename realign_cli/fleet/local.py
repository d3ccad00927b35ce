"""Workers of this computer: each a process of this program, which has a shard and is started again if it is killed."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from realign_cli.data.records import journal_path
from realign_cli.data.shards import Shard
from realign_cli.fleet.supervisor import Work, restart_until_done


@contextmanager
def workers(commands: Sequence[Sequence[str]], folders: Sequence[Path]) -> Iterator[list[Work]]:
    """The work of processes that fill `folders`; `commands` has the words of `realign` for each shard, in order."""
    works = []
    for words, shard in zip(commands, Shard.all(len(commands)), strict=True):
        works.append(_work(words, [journal_path(folder, shard) for folder in folders]))
    yield works


def _work(words: Sequence[str], journals: Sequence[Path]) -> Work:
    def achieved() -> list[int]:
        return [path.stat().st_size if path.exists() else -1 for path in journals]

    return partial(restart_until_done, [sys.executable, "-m", "realign_cli", *words], achieved)
