"""Features of many images, in a file instead of in memory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from realign_cli.files import atomic

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class RowFile:
    """Rows of float32 numbers in an unnamed file, so that the memory does not grow with their number."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # it is open as long as this object lives
        self._width = 0
        self._count = 0

    def put(self, index: int, row: bytes) -> None:
        """Write row `index`; rows may come in any order and must have one length."""
        self._width = len(row)
        self._count = max(self._count, index + 1)
        with atomic.report_os_errors(self._folder, len(row)):
            self._file.seek(index * len(row))
            self._file.write(row)

    def matrix(self) -> NDArray[np.float32]:
        """All rows, (n, D), as a memory map."""
        import numpy as np

        with atomic.report_os_errors(self._folder, self._count * self._width):
            self._file.flush()
        shape = (self._count, self._width // 4)
        return np.memmap(self._file, np.float32, "r", shape=shape) if self._count else np.empty((0, 0), np.float32)
