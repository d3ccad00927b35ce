"""How much a run may still ask of a language model."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from realign_cli.errors import RecordError


@dataclass
class Budget:
    """Caps on calls and tokens, 0 for none. A call is one question; sending it again after an error is no new call.

    Records are asked about in rounds. Calls count at once and never pass their cap. Tokens, known only afterwards,
    count from the next round on, so they may pass theirs by one round; in return, who is still asked does not hang on
    who answers first.
    """

    max_calls: int = 0
    max_tokens: int = 0
    calls: int = 0
    tokens: int = 0
    _tokens_of_earlier_rounds: int = 0

    def begin_round(self) -> None:
        self._tokens_of_earlier_rounds = self.tokens

    @property
    def calls_left(self) -> int:
        return self.max_calls - self.calls if self.max_calls else sys.maxsize

    def take_call(self) -> None:
        """Count a call.

        Raises:
            RecordError: kind "budget", where a cap is reached.
        """
        if not self.calls_left:
            raise RecordError("budget", f"all {self.max_calls} calls of --max-calls are spent")
        if 0 < self.max_tokens <= self._tokens_of_earlier_rounds:
            raise RecordError("budget", f"all {self.max_tokens} tokens of --max-tokens are spent")
        self.calls += 1
