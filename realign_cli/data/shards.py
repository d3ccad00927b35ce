"""Parts of a record set, so that several workers can share it."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from realign_cli.errors import UsageError


@dataclass(frozen=True)
class Shard:
    """The i-th of n parts of a record set, by a hash of the prompt's id; the union of all n parts is the whole."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
            raise UsageError(f"--shard {text}: write i/n with 1 <= i <= n, such as 1/4")
        return cls(int(index), int(count))

    @classmethod
    def all(cls, count: int) -> list[Shard]:
        """The parts of a record set that is cut into so many."""
        return [cls(index, count) for index in range(1, count + 1)]

    @classmethod
    def of_name(cls, suffix: str) -> Shard | None:
        """The shard that ends a file's name with this `suffix`, if it is one."""
        if not suffix:
            return WHOLE
        found = re.fullmatch(r"-(\d+)-of-(\d+)", suffix)
        return cls(int(found[1]), int(found[2])) if found else None

    @property
    def suffix(self) -> str:
        """What the names of this shard's files end with; nothing for the whole."""
        return "" if self.count == 1 else f"-{self.index}-of-{self.count}"

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def owns(self, prompt_id: str) -> bool:
        return self.owner(prompt_id) == self.index

    def sizes(self, ids: Iterable[str]) -> list[int]:
        """How many records each of the n shards owns; `ids` has that of the prompt of each."""
        owners = Counter(map(self.owner, ids))
        return [owners[index] for index in range(1, self.count + 1)]

    def owner(self, prompt_id: str) -> int:
        """The index of the shard, of as many as this one is of, that owns the records of a prompt."""
        digest = hashlib.sha256(prompt_id.encode()).digest()
        return int.from_bytes(digest[:8], "big") % self.count + 1


WHOLE = Shard(1, 1)
