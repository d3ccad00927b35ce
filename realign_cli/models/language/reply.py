"""What a server of chat completions replied: bytes that may be anything, read as far as they make sense."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from realign_cli.errors import RecordError

# Models mark what they think before they answer in their own ways, and not every server takes it out.
_NAMES = r"(?:\w+:)?(?:think|thinking|thoughts?|reasoning|reflection|analysis|scratchpad)"
_BEGINS = re.compile(
    rf"<{_NAMES}>|\[THINK\]|<\|START_THINKING\|>|\u25c1think\u25b7|<\|channel\|>(?!final\b)", re.IGNORECASE
)
_ENDS = re.compile(
    rf"</{_NAMES}>|\[/THINK\]|<\|END_THINKING\|>|\u25c1/think\u25b7|<\|channel\|>final\b[^<]*<\|message\|>",
    re.IGNORECASE,
)


def _text(value: Any) -> str:
    """The text of a message: a string, or a list of parts of which some may be thoughts or pictures."""
    parts = value if isinstance(value, list) else [value]
    texts = [part.get("text") if isinstance(part, dict) and "text" in str(part.get("type")) else part for part in parts]
    return "".join(text for text in texts if isinstance(text, str)).encode(errors="replace").decode()


def _count(value: Any) -> int:
    """A number of tokens; 0 where a server says none that can be."""
    return value if isinstance(value, int) and value > 0 else 0


_Text = Annotated[str, BeforeValidator(_text)]  # without half characters, which JSON can hold but no file can
_Count = Annotated[int, BeforeValidator(_count)]


class _Message(BaseModel):
    content: _Text = ""
    reasoning: _Text = ""
    reasoning_content: _Text = ""
    refusal: _Text = ""


class _Choice(BaseModel):
    message: _Message
    finish_reason: _Text = ""


class _Usage(BaseModel):
    total_tokens: _Count = 0


class Completion(BaseModel):
    """The part of a chat completion that matters here."""

    choices: Annotated[list[_Choice], Field(min_length=1)]
    usage: Annotated[_Usage, BeforeValidator(lambda value: value if isinstance(value, dict) else {})] = _Usage()

    @property
    def tokens(self) -> int:
        """What the server counted for question and answer; 0 where it did not."""
        return self.usage.total_tokens

    @property
    def thought_too_long(self) -> bool:
        """Whether the tokens were spent before an answer began."""
        choice = self.choices[0]
        return choice.finish_reason == "length" and not _answer(choice.message.content)

    def answer(self) -> str:
        """What the model says after its thoughts.

        Raises:
            RecordError: "refused".
        """
        choice = self.choices[0]
        said = choice.message
        if said.refusal or choice.finish_reason == "content_filter":
            raise RecordError("refused", f"the model refuses: {(said.refusal or 'content filter')[:300]}")
        if not said.content and choice.finish_reason != "length":
            return _answer(said.reasoning_content or said.reasoning)  # where a server takes an answer for thoughts
        return _answer(said.content)


def read(reply: Any) -> Completion:
    """A reply, a JSON value, as far as it matters.

    Raises:
        RecordError: "bad_response".
    """
    try:
        return Completion.model_validate(reply)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "reply"
        raise RecordError("bad_response", f"the reply is no chat completion ({place}: {first['msg']})") from None


def status_of_error(reply: Any) -> int | None:
    """The HTTP status that a reply should have come with, as some servers say errors under 200; None for no error."""
    if not isinstance(reply, dict) or reply.get("choices"):
        return None
    error = reply if reply.get("object") == "error" else reply.get("error")
    if not error:
        return None
    code = str(error.get("code")) if isinstance(error, dict) else ""
    return int(code) if re.fullmatch("[45][0-9][0-9]", code) else 500


def words_of_error(body: Any) -> str:
    """What a server says of an error: its message, where it has one in any of the usual places, or all of it."""
    for key in ("error", "message", "detail"):
        if isinstance(body, dict) and body.get(key):
            return words_of_error(body[key])
    return _text(body) or json.dumps(body)


def _answer(text: str) -> str:
    """A text without the thoughts that are marked in it; where they do not end, there is no answer."""
    ends = [end.end() for end in _ENDS.finditer(text)]
    text = text[ends[-1] :] if ends else text
    begins = _BEGINS.search(text)
    return (text[: begins.start()] if begins else text).strip()
