"""Secrets are blotted out of what a server says, however it writes them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any


class Blot:
    """Puts "[key]" in the place of secrets, in every string of a JSON value.

    A string may hold JSON, HTML or an address in turn, so each character of a secret may be escaped in their ways.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = ["".join(map(_forms, secret)) for secret in secrets]
        self._pattern = re.compile("|".join(forms) or "(?!)", re.ASCII)

    def __call__(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._pattern.sub("[key]", value)
        if isinstance(value, list):
            return [self(one) for one in value]
        if isinstance(value, dict):
            return {self(key): self(one) for key, one in value.items()}
        return value


def _forms(char: str) -> str:
    """What may stand for a character; runs are bounded, so that a text of nothing else is read in linear time."""
    code, hexadecimal = ord(char), f"{ord(char):02x}"
    escaped = rf"\\{{1,8}}(?:u00|x){hexadecimal}|%{hexadecimal}|&#0{{0,8}}{code};|&#x0{{0,8}}{hexadecimal};"
    return rf"(?:\\{{0,8}}{re.escape(char)}|(?i:{escaped}))"
