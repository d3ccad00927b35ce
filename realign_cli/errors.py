"""What can go wrong, as one line a user can act on."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """What an error of a library says, short enough for the middle of a line of our own.

    That is its first line without the full stop; of a heading, which ends in a colon, with the first detail below it.
    An error that says nothing is told by its class.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[: 1 + lines[0].endswith(":")]).rstrip(".")


class RealignError(Exception):
    """A failure with a one-line message that names the place and the remedy; ends the command with `exit_code`."""

    exit_code = 1


class UsageError(RealignError):
    """The command line, a preset or an input cannot be used as given."""

    exit_code = 2


class NoInput(UsageError):
    """Records are awaited from a terminal, where nobody types them; the command says how it is used."""


class RecordError(Exception):
    """One record cannot be processed. It becomes an entry of the record's `failures`; the others go on.

    `kind` is a short snake_case name that programs can match, such as "malformed_reply".
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[type[RecordError], tuple[str, str]]:
        return type(self), (self.kind, str(self))  # it may cross from a worker process
