"""Rows of text as tables of Markdown and of LaTeX."""

from __future__ import annotations

from collections.abc import Sequence

_SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\~{}", "^": r"\^{}"}


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, without a newline at its end."""
    return "\n".join(map(_markdown, [columns, ["---"] * len(columns), *rows]))


def latex_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str, alignment: str = "l") -> str:
    """A table for the package booktabs, its title in a comment; `alignment` is that of the first columns."""
    begin = rf"\begin{{tabular}}{{{alignment.ljust(len(columns), 'r')}}}"
    body = (r"\toprule", _latex(columns), r"\midrule", *map(_latex, rows), r"\bottomrule")
    return "\n".join((f"% {title}", begin, *body, r"\end{tabular}", ""))


def _markdown(texts: Sequence[str]) -> str:
    escaped = (text.replace("|", "\\|") for text in texts)
    return f"| {' | '.join(escaped)} |"


def _latex(texts: Sequence[str]) -> str:
    return " & ".join("".join(_SPECIAL.get(c, c) for c in text) for text in texts) + r" \\"
