"""What can go wrong, as one line a user can act on."""

from __future__ import annotations


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
