"""What in a preset looks like a secret, by its name or by its form."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

_NAMES = {
    *("token", "secret", "password", "passwd", "passphrase", "pass", "pwd", "auth", "authorization", "bearer"),
    *("credential", "cookie", "apikey", "accesskey", "secretkey", "privatekey"),
}
_KEYS = {"api", "access", "account", "auth", "private", "secret", "signing", "subscription"}  # before the word "key"
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_NAMED = re.compile(r"""([A-Za-z][\w.-]*)["']?\s*[:=]\s*["']?[^\s"'/]""")  # "name: value", "?name=value", JSON
_FORMS = re.compile(
    r"\w+://[^/\s?#]*@"  # a URL with a user
    r"|(?i:\bbearer\s+\S{6,})|\bBasic\s+[A-Za-z0-9+/]{6,}"
    r"|\b(?:sk-|hf_|gh[pousr]_|github_pat_|xox[a-z]-|AKIA)[A-Za-z0-9_-]{8,}"  # keys as well-known services issue them
)


def find_secret(value: Any, place: str = "", *, named: bool = False) -> str | None:
    """Where in `value`, as TOML gives it, the first secret stands, such as "scorer.headers.0"; None if there is none.

    `named` says that the name above `value` is that of a secret. Numbers and truth values are none.
    """
    if isinstance(value, str):
        return place if value and (named or _is_secret(value)) else None
    if isinstance(value, dict):
        parts = [(str(key), part, named or _is_name(str(key))) for key, part in value.items()]
    elif isinstance(value, list):
        before = ["", *value]  # an option and its value, or a header as a pair
        flagged = (isinstance(one, str) and (one[:1] == "-" or len(value) == 2) and _is_name(one) for one in before)
        parts = [(str(i), part, named or flag) for i, (part, flag) in enumerate(zip(value, flagged, strict=False))]
    else:
        return None
    found = (find_secret(part, f"{place}.{key}".lstrip("."), named=flag) for key, part, flag in parts)
    return next((one for one in found if one is not None), None)


def _is_secret(text: str) -> bool:
    return bool(_FORMS.search(text)) or any(_is_name(match[1]) for match in _NAMED.finditer(text))


def _is_name(text: str) -> bool:
    words = [word.lower() for word in _WORD.findall(text)]
    pairs = pairwise(words)
    return any({word, word.removesuffix("s")} & _NAMES for word in words) or any(
        before in _KEYS and word in ("key", "keys") for before, word in pairs
    )
