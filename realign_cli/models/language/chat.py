"""Any server that speaks OpenAI's chat completions: OpenAI itself, vLLM, Ollama, llama.cpp and others.

The key comes from OPENAI_API_KEY and the server from OPENAI_BASE_URL, and from nowhere else. The key goes into the
header of requests only; where a server repeats it, it is blotted out before anything else sees the server's words.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import httpx2  # of `openai`, whose client decides by these errors what to try again
import openai

from realign_cli.errors import RealignError, RecordError, UsageError
from realign_cli.models.language import reply
from realign_cli.models.language.blot import Blot

if TYPE_CHECKING:
    from realign_cli.models.language.budget import Budget
    from realign_cli.models.language.reply_cache import ReplyCache

Message = dict[str, str]

_OPENAI = "https://api.openai.com/v1"
_DUMMY_KEY = "none"  # the client wants one where a server of one's own does not
_SHORTEST_KEY = 8  # shorter ones ("ollama", "EMPTY") are dummies, and words of any text
_MOST_BYTES = 1_000_000  # of a reply; far more than the longest thoughts
_THOUGHTS = 8_192  # tokens that a model which thinks first may have for it
_LONGEST_PAUSE = 15.0  # seconds

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Frame:
    """What an answer is held to: its JSON schema and its length in tokens. A server that takes the schema is given the
    example, too, as more of what the system says; held to the schema, a model cannot copy it.
    """

    schema: Mapping[str, Any]
    example: str
    most_tokens: int


class Chat:
    """Asks one model, through the cache and within the budget.

    `timeout` is in seconds, for one attempt from the connection to the last byte. After an attempt that failed in a
    way that may pass, `openai` makes up to `retries` more: after what Retry-After says, if that is two minutes at most,
    otherwise after 0.5 s, doubling up to 8 s, less up to a quarter at random. A server that was there and is gone, or
    says that it is starting or behind a gateway (502, 503, 504), is waited for with growing pauses, up to `patience`
    seconds from when it was first missed.

    `form` is what is asked for at first: "json_schema" or "json_object". `mode` keeps apart in the cache what different
    dialogues ask. Use it as `async with`: connections last as long.
    """

    def __init__(
        self,
        model: str,
        mode: str,
        form: str,
        *,
        timeout: float,
        retries: int,
        patience: float,
        budget: Budget,
        cache: ReplyCache,
    ) -> None:
        self._model, self._mode = model, mode
        self._timeout, self._retries, self._patience = timeout, retries, patience
        self._budget, self._cache = budget, cache
        self._key = os.environ.get("OPENAI_API_KEY", "").strip()
        self._url = os.environ.get("OPENAI_BASE_URL", "").strip() or (_OPENAI if self._key else "")
        self._place, self._server, secrets = _checked(self._url, self._key)
        self._blot = Blot(secrets)
        self._client: openai.AsyncOpenAI | None = None
        self._form, self._terms_of = form, ("terms", self._server, model, mode)
        remembered = cache.get(*self._terms_of)
        self._terms = _Terms(*remembered) if remembered else _Terms(form)
        self._settled, self._answered = bool(remembered), False
        self._missed_since: float | None = None

    @property
    def settled(self) -> bool:
        """Whether it is known what the server takes."""
        return self._settled

    async def __aenter__(self) -> Chat:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._client:
            await self._client.close()
            self._client = None

    async def ask(self, messages: Sequence[Message], frame: Frame) -> str:
        """What the model answers to a conversation, which begins with what the system says.

        Raises:
            RecordError: there is no answer: "budget", "timeout", "unreachable", "connection_lost", "rate_limited",
                "server_error", "rejected", "bad_response" or "refused".
            RealignError: from the start nobody is there, or does not know the key or the model.
        """
        asked = {"server": self._server, "model": self._model, "mode": self._mode, "messages": list(messages)}
        kept = self._cache.get(*asked.values())
        if kept:
            return reply.read(kept["reply"]).answer()
        self._budget.take_call()
        replied = await self._send(messages, frame)
        self._cache.put(*asked.values(), entry={**asked, "reply": replied})
        return reply.read(replied).answer()

    async def _send(self, messages: Sequence[Message], frame: Frame) -> Any:
        """The reply, a JSON value. What the first answer of a run was given to is asked of all that follow; what a
        later question cannot have, it alone does without.
        """
        terms, waiting = self._terms, _Waiting()
        while True:
            try:
                response = await self._connected().chat.completions.with_raw_response.create(
                    model=self._model, **terms.parameters(messages, frame)
                )
            except openai.OpenAIError as error:
                if easier := self._easier(terms, error):
                    terms = easier
                elif not (self._is_missed(error) and await self._waited(waiting)):
                    raise self._failure(error) from None
                continue
            self._missed_since = None
            replied = self._decoded(response.content)
            completion = reply.read(replied)
            size = len(json.dumps([messages, replied]))
            self._budget.tokens += completion.tokens or size // 4  # some servers do not count
            if completion.thought_too_long and not terms.thinks:
                terms = replace(terms, thinks=True)
                continue
            if not self._answered:
                self._remember(terms)
            elif terms.thinks:
                self._remember(replace(self._terms, thinks=True))
            return replied

    def _remember(self, terms: _Terms) -> None:
        if terms.form != self._form and not self._answered:
            _log.warning("%s takes no %s; it is asked for %s", self._place, self._form, terms.form)
        if terms != self._terms or not self._settled:
            self._cache.put(*self._terms_of, entry=astuple(terms))
        self._terms, self._settled, self._answered = terms, True, True

    def _easier(self, terms: _Terms, error: openai.OpenAIError) -> _Terms | None:
        """The terms without what a server complains about, or None where it is none of them.

        At first every complaint about the request may be one about the form, in whatever words.
        """
        if not isinstance(error, openai.BadRequestError | openai.UnprocessableEntityError | openai.InternalServerError):
            return None
        guess = not self._settled and not isinstance(error, openai.InternalServerError)
        return terms.without(reply.words_of_error(error.body), guess=guess)

    def _is_missed(self, error: openai.OpenAIError) -> bool:
        if isinstance(error, openai.APIStatusError):
            return error.status_code in (502, 503, 504)
        lost = isinstance(error, openai.APIConnectionError) and not isinstance(error, openai.APITimeoutError)
        return lost and self._answered

    async def _waited(self, waiting: _Waiting) -> bool:
        """Wait for a server that is missed; False where that has lasted long enough."""
        now = time.monotonic()
        if self._missed_since is None:
            self._missed_since = now
            if self._patience:
                _log.warning("%s does not answer; waiting for it for up to %g s", self._place, self._patience)
        waiting.since = min(waiting.since or now, self._missed_since)
        left = waiting.since + self._patience - now
        if left <= 0:
            return False
        await asyncio.sleep(min(waiting.pause, left))
        waiting.pause = min(2 * waiting.pause, _LONGEST_PAUSE)
        return True

    def _decoded(self, content: bytes) -> Any:
        if len(content) > _MOST_BYTES:
            raise RecordError("bad_response", f"{self._place}: the reply is longer than {_MOST_BYTES:,} bytes")
        try:
            return self._blot(json.loads(content))
        except (ValueError, RecursionError):
            raise RecordError("bad_response", f"{self._place} replied with something else than JSON") from None

    def _connected(self) -> openai.AsyncOpenAI:
        if not self._url:
            raise UsageError("no OPENAI_API_KEY; set it, or set OPENAI_BASE_URL to a server of your own")
        if not self._client:
            self._client = openai.AsyncOpenAI(
                base_url=self._url,
                api_key=self._key or _DUMMY_KEY,
                timeout=self._timeout,
                max_retries=self._retries,
                http_client=_http(self._timeout),
            )
        return self._client

    def _failure(self, error: openai.OpenAIError) -> Exception:
        if isinstance(error, openai.APITimeoutError):
            return RecordError("timeout", f"{self._place}: no whole reply within {self._timeout:g} s")
        if isinstance(error, openai.APIConnectionError):
            cause = error.__cause__
            if isinstance(cause, httpx2.DecodingError):
                return RecordError("bad_response", f"{self._place}: the reply cannot be unpacked")
            if not isinstance(cause, httpx2.ConnectError):
                return RecordError("connection_lost", f"{self._place} broke off the connection")
            if self._answered:
                return RecordError("unreachable", f"{self._place} does not answer any more")
            why = self._blot(str(cause))
            return RealignError(f"{self._place}: no server answers ({why}); start the server, or set OPENAI_BASE_URL")
        said = f"{self._place}: {self._said(error)}"
        if isinstance(error, openai.RateLimitError):
            return RecordError("rate_limited", said)
        if isinstance(error, openai.InternalServerError):
            return RecordError("server_error", said)
        told = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)
        if isinstance(error, told) and not self._answered:
            remedy = f"check OPENAI_API_KEY, OPENAI_BASE_URL and the model, scorer.checkpoint ('{self._model}')"
            return RealignError(f"{said}; {remedy}")
        return RecordError("rejected", said)

    def _said(self, error: openai.OpenAIError) -> str:
        if not isinstance(error, openai.APIStatusError):
            return " ".join(self._blot(str(error)).split())[:300]
        words = self._blot(reply.words_of_error(error.body))
        return f"status {error.status_code}: {' '.join(words.split())[:300]}"


@dataclass
class _Waiting:
    """How one question has waited for the server; times in seconds."""

    since: float | None = None
    pause: float = 0.25


# How servers speak of the form of an answer: OpenAI's name for it, and what becomes of it inside.
_FORM = re.compile(r"response.?format|schema|structured|grammar|guided|json", re.IGNORECASE)
_EASIER_FORMS = {"json_schema": "json_object", "json_object": "text"}
# OpenAI's newer models take the second name only, most other servers the first.
_OTHER_BOUNDS = {"max_tokens": "max_completion_tokens", "max_completion_tokens": ""}


@dataclass(frozen=True)
class _Terms:
    """What is asked of the server beside the model and the messages; less and less as it rejects them."""

    form: str
    temperature: bool = True  # 0; some models take no other than their own
    bound: str = "max_tokens"  # the name of the bound on tokens; "" is none
    thinks: bool = False  # a model that needs tokens before it answers

    def parameters(self, messages: Sequence[Message], frame: Frame) -> dict[str, Any]:
        made: dict[str, Any] = {"messages": messages}
        if self.temperature:
            made["temperature"] = 0
        if self.bound:
            made[self.bound] = frame.most_tokens + _THOUGHTS * self.thinks
        if self.form == "json_schema":
            system = {**messages[0], "content": messages[0]["content"] + frame.example}
            made["messages"] = [system, *messages[1:]]
            made["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "strict": True, "schema": frame.schema},
            }
        elif self.form == "json_object":
            made["response_format"] = {"type": "json_object"}
        return made

    def without(self, complaint: str, *, guess: bool) -> _Terms | None:
        """The terms without what a complaint names; if it names nothing, without the form as a `guess`."""
        if "temperature" in complaint and self.temperature:
            return replace(self, temperature=False)
        if self.bound and (self.bound in complaint or "max_completion_tokens" in complaint):
            return replace(self, bound=_OTHER_BOUNDS[self.bound])
        if self.form in _EASIER_FORMS and (guess or _FORM.search(complaint)):
            return replace(self, form=_EASIER_FORMS[self.form])
        return None


class _Punctual(openai.DefaultAsyncHttpxClient):
    """Gives up an attempt after `seconds` in all, and stops reading where a reply is too long.

    httpx counts only each read, so that a slow drip never ends, and holds a reply whole, however large it unpacks. A
    reply that tells an error under the status 200 gets the status of the error.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(timeout=seconds)
        self._seconds = seconds

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        content = bytearray()
        try:
            async with asyncio.timeout(self._seconds):
                response = await super().send(request, **{**options, "stream": True})
                try:
                    async for chunk in response.aiter_bytes():
                        content += chunk
                        if len(content) > _MOST_BYTES:
                            break
                finally:
                    await response.aclose()
        except TimeoutError:
            raise httpx2.ReadTimeout("too slow", request=request) from None
        packed = {"content-encoding", "content-length", "transfer-encoding"}
        return httpx2.Response(
            _status(response.status_code, bytes(content)),
            headers=[(name, value) for name, value in response.headers.multi_items() if name.lower() not in packed],
            content=bytes(content),
            request=request,
        )


def _status(status: int, content: bytes) -> int:
    if status != 200 or len(content) > _MOST_BYTES:
        return status
    try:
        return reply.status_of_error(json.loads(content)) or status
    except (ValueError, RecursionError):
        return status


_PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY")


def _http(timeout: float) -> _Punctual:
    """The client of the machine as it is set up.

    Raises:
        UsageError: its proxy or its certificates cannot be used.
    """
    try:
        return _Punctual(timeout)
    except (ImportError, ValueError):
        # What these errors say may hold the password of a proxy.
        names = [name for name in (*_PROXIES, *map(str.lower, _PROXIES)) if os.environ.get(name)]
        raise UsageError(
            f"the proxy that {' or '.join(names)} names cannot be used; set one such as http://HOST:PORT, "
            "or unset it (pip install socksio lets socks5:// be used)"
        ) from None
    except OSError as error:
        names = [name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)]
        raise UsageError(f"{' or '.join(names)}: the certificates cannot be read ({error.strerror})") from None


def _checked(url: str, key: str) -> tuple[str, str, list[str]]:
    """How messages name a server, how the cache does, and what neither may say."""
    if not (key.isascii() and key.isprintable()):
        raise UsageError("OPENAI_API_KEY holds characters that no key has")
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        if not ((value := os.environ.get(name, "")).isascii() and value.isprintable()):
            raise UsageError(f"{name} holds characters that no such name has")
    try:
        parts = urlsplit(url)
        place = f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
    except ValueError:
        parts, place = urlsplit("bad"), ""
    if url and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise UsageError("OPENAI_BASE_URL is no address; write one such as http://localhost:8000/v1")
    secrets = [key, unquote(parts.password or "")]
    return place, place + parts.path.rstrip("/"), [secret for secret in secrets if len(secret) >= _SHORTEST_KEY]
