"""The working directory is no place to import from: whatever lies there under the name of a library would run.

This module must import nothing that is not built in, for it is there to decide where that would come from.
"""

from __future__ import annotations

import os
import sys

_HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def shun_working_directory(*, by_name: bool = False) -> None:
    """Keep it off the import path of this process, if Python was started `by_name` (-m), and of those that it starts.

    PYTHONPATH stays as it is. Where this package itself lies in the working directory, nothing changes, for then it may
    have been found there.
    """
    try:
        if os.path.samefile(_HOME, os.getcwd()):
            return
    except OSError:  # the working directory is gone
        pass
    os.environ["PYTHONSAFEPATH"] = "1"
    if by_name and not sys.flags.safe_path:
        del sys.path[0]  # where -m put it
