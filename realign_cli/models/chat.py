"""Any server that speaks OpenAI's chat completions: OpenAI itself, vLLM, Ollama, llama.cpp and others.

The key comes from OPENAI_API_KEY and the server from OPENAI_BASE_URL, and from nowhere else. The key goes into the
header of requests only; where a server repeats it, it is blotted out before anything else sees the server's words.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Annotated, Any
from urllib.parse import urlsplit

import httpx2  # of `openai`, whose client decides by these errors what to try again
import openai
from pydantic import BaseModel, Field, ValidationError

from realign_cli.errors import RealignError, RecordError, UsageError
from realign_cli.models.budget import Budget
from realign_cli.models.reply_cache import ReplyCache

Message = dict[str, str]

_OPENAI = "https://api.openai.com/v1"
_DUMMY_KEY = "none"  # the client wants one where a server of one's own does not
_SHORTEST_KEY = 8  # shorter ones ("ollama", "EMPTY") are dummies, and words of any text


class Chat:
    """Asks one model, through the cache and within the budget.

    `timeout` is in seconds, for one attempt from the connection to the last byte. After an attempt that failed in a
    way that may pass, `openai` makes up to `retries` more: after what Retry-After says, if that is two minutes at most,
    otherwise after 0.5 s, doubling up to 8 s, less up to a quarter at random.

    `mode` keeps apart in the cache what different dialogues ask. Use it as `async with`: connections last as long.
    """

    def __init__(
        self,
        model: str,
        mode: str,
        schema: Mapping[str, Any] | None,
        *,
        timeout: float,
        retries: int,
        budget: Budget,
        cache: ReplyCache,
    ) -> None:
        self._model, self._mode, self._schema = model, mode, schema
        self._timeout, self._retries, self._budget, self._cache = timeout, retries, budget, cache
        self._key = os.environ.get("OPENAI_API_KEY", "").strip()
        self._url = os.environ.get("OPENAI_BASE_URL", "").strip() or (_OPENAI if self._key else "")
        self._place, self._secrets = _checked(self._url, self._key)
        self._client: openai.AsyncOpenAI | None = None
        self._terms_of = "terms", self._url, model, mode
        remembered = cache.get(*self._terms_of)
        self._taken = _Terms(*remembered) if remembered else None  # what the server is known to take
        self._terms = self._taken or _Terms("json_schema" if schema else "json_object")
        self._answered = False

    @property
    def settled(self) -> bool:
        """Whether it is known what the server takes."""
        return self._taken is not None

    async def __aenter__(self) -> Chat:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._client:
            await self._client.close()
            self._client = None

    async def ask(self, messages: Sequence[Message]) -> str:
        """What the model answers to a conversation.

        Raises:
            RecordError: there is no answer: "budget", "timeout", "unreachable", "connection_lost", "rate_limited",
                "server_error", "rejected", "bad_response" or "refused".
            RealignError: from the start nobody is there, or does not know the key or the model.
        """
        question = self._model, self._mode, list(messages)
        kept = self._cache.get(*question)
        if kept:
            return _answer(_completion(kept["reply"]))
        self._budget.take_call()
        reply, completion = await self._send(messages)
        self._cache.put(*question, entry=dict(zip(("model", "mode", "messages"), question, strict=True), reply=reply))
        counted = completion.usage.total_tokens if completion.usage else None
        self._budget.tokens += counted or len(json.dumps([messages, reply])) // 4  # some servers do not count
        return _answer(completion)

    async def _send(self, messages: Sequence[Message]) -> tuple[Any, _Completion]:
        """The reply as it came, a JSON value, and what of it matters."""
        while True:
            terms = self._terms
            try:
                response = await self._connected().chat.completions.with_raw_response.create(
                    model=self._model,
                    messages=messages,
                    **terms.parameters(self._schema),
                )
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                easier = terms.without(error.response.text)
                if not easier:
                    raise RecordError("rejected", self._said(error)) from None
                if self._terms is terms:  # else another question has found out already
                    self._terms = easier
                continue
            except openai.OpenAIError as error:
                raise self._failure(error) from None
            try:
                reply = json.loads(self._clean(response.text))
            except (ValueError, RecursionError):
                raise RecordError("bad_response", f"{self._place} replied with something else than JSON") from None
            completion = _completion(reply)
            self._answered = True
            if terms != self._taken:
                self._cache.put(*self._terms_of, entry=astuple(terms))
                self._taken = terms
            return reply, completion

    def _connected(self) -> openai.AsyncOpenAI:
        if not self._url:
            raise UsageError("no OPENAI_API_KEY; set it, or set OPENAI_BASE_URL to a server of your own")
        if not self._client:
            self._client = openai.AsyncOpenAI(
                base_url=self._url,
                api_key=self._key or _DUMMY_KEY,
                timeout=self._timeout,
                max_retries=self._retries,
                http_client=_Punctual(self._timeout),
            )
        return self._client

    def _failure(self, error: openai.OpenAIError) -> Exception:
        if isinstance(error, openai.APITimeoutError):
            return RecordError("timeout", f"{self._place}: no whole reply within {self._timeout:g} s")
        if isinstance(error, openai.APIConnectionError):
            if not isinstance(error.__cause__, httpx2.ConnectError):
                return RecordError("connection_lost", f"{self._place} broke off the connection")
            if self._answered:
                return RecordError("unreachable", f"{self._place} does not answer any more")
            why = self._clean(str(error.__cause__))
            return RealignError(f"{self._place}: nobody answers ({why}); start the server, or set OPENAI_BASE_URL")
        if isinstance(error, openai.RateLimitError):
            return RecordError("rate_limited", self._said(error))
        if isinstance(error, openai.InternalServerError):
            return RecordError("server_error", self._said(error))
        told = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)
        if isinstance(error, told) and not self._answered:
            remedy = f"check OPENAI_API_KEY, OPENAI_BASE_URL and the model, scorer.checkpoint ('{self._model}')"
            return RealignError(f"{self._said(error)}; {remedy}")
        return RecordError("rejected", self._said(error))

    def _said(self, error: Exception) -> str:
        return f"{self._place}: {' '.join(self._clean(str(error)).split())[:300]}"

    def _clean(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "[key]")
        return text


@dataclass(frozen=True)
class _Terms:
    """What is asked of the server beside the model and the messages; less and less as it rejects them by name."""

    form: str
    temperature: bool = True  # 0; some models take no other than their own

    def parameters(self, schema: Mapping[str, Any] | None) -> dict[str, Any]:
        made: dict[str, Any] = {"temperature": 0} if self.temperature else {}
        if self.form == "json_schema":
            made["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "strict": True, "schema": schema},
            }
        elif self.form == "json_object":
            made["response_format"] = {"type": "json_object"}
        return made

    def without(self, complaint: str) -> _Terms | None:
        """The terms without what a server complains about, or None where it is none of them."""
        if "response_format" in complaint and self.form != "text":
            return replace(self, form="json_object" if self.form == "json_schema" else "text")
        if "temperature" in complaint and self.temperature:
            return replace(self, temperature=False)
        return None


class _Punctual(openai.DefaultAsyncHttpxClient):
    """Gives up an attempt after `seconds` in all; httpx counts only each read, and a slow drip never ends."""

    def __init__(self, seconds: float) -> None:
        super().__init__(timeout=seconds)
        self._seconds = seconds

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        try:
            async with asyncio.timeout(self._seconds):
                return await super().send(request, **options)
        except TimeoutError:
            raise httpx2.ReadTimeout("too slow", request=request) from None


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    total_tokens: int | None = None


class _Completion(BaseModel):
    """The part of a chat completion that matters here."""

    choices: Annotated[list[_Choice], Field(min_length=1)]
    usage: _Usage | None = None


def _completion(reply: Any) -> _Completion:
    try:
        return _Completion.model_validate(reply)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "reply"
        raise RecordError("bad_response", f"the reply is no chat completion ({place}: {first['msg']})") from None


def _answer(completion: _Completion) -> str:
    choice = completion.choices[0]
    if choice.message.refusal or choice.finish_reason == "content_filter":
        raise RecordError("refused", f"the model refuses: {_whole(choice.message.refusal or 'content filter')[:300]}")
    return _whole(choice.message.content or "")


def _whole(text: str) -> str:
    """Text without half characters, which JSON can hold but no file can."""
    return text.encode(errors="replace").decode()


def _checked(url: str, key: str) -> tuple[str, list[str]]:
    """How messages name a server, and what they must not say."""
    if not (key.isascii() and key.isprintable()):
        raise UsageError("OPENAI_API_KEY holds characters that no key has")
    try:
        parts = urlsplit(url)
        place = f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
    except ValueError:
        parts, place = urlsplit("bad"), ""
    if url and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise UsageError("OPENAI_BASE_URL is no address; write one such as http://localhost:8000/v1")
    return place, [secret for secret in (key, parts.password or "") if len(secret) >= _SHORTEST_KEY]
