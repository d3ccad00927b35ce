"""What adapters share to load a checkpoint."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from realign_cli.errors import RealignError, first_line

Checkpoint = str | os.PathLike[str]


def cannot_load(checkpoint: Checkpoint, error: Exception) -> RealignError:
    """A library's account of why there is no checkpoint, in one line and with what to do."""
    return RealignError(
        f"cannot load {os.fspath(checkpoint)}: {first_line(error)}. "
        "Name a folder that holds the checkpoint, make the hub reachable, or use '--preset tiny'"
    )


@contextmanager
def silent() -> Iterator[None]:
    """Inside, the libraries log nothing: what they raise says it too."""
    loggers = [logging.getLogger(library) for library in ("diffusers", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
