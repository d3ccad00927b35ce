"""A scorer that asks a language model, holds its answer against the rules, and falls back to rules of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from realign_cli.errors import RecordError, UsageError
from realign_cli.models.language import instruction
from realign_cli.models.language.budget import Budget
from realign_cli.models.language.chat import Chat, Frame, Message
from realign_cli.models.language.instruction import InvalidReply
from realign_cli.models.language.reply_cache import ReplyCache
from realign_cli.models.language.rule_scorer import by_rules
from realign_cli.roles import ScoredObjects

if TYPE_CHECKING:
    from realign_cli.records import Object

_SINGLE, _TWO_TURN = "single", "two-turn"
_MOST_CALLS = {_SINGLE: 2, _TWO_TURN: 3}  # for one record, with the repair turn

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class LanguageModelScorer:
    """A `roles.Scorer` on a chat server; `checkpoint` is the server's name of the model.

    `mode` "single" asks once for all, "two-turn" holds the two turns of Table 4 of the paper. An answer that breaks a
    rule is sent back once with what is wrong. Where the model still gives no usable answer, the record is scored by
    rules, with the reason.

    Up to `concurrency` records are asked about at a time. `timeout` and `patience` (seconds) and `retries` are of
    `Chat`; `max_calls` and `max_tokens` of `Budget`; `cache` is a folder, "" the user's own.
    """

    def __init__(
        self,
        checkpoint: str,
        *,
        device: object = None,
        mode: str = _SINGLE,
        concurrency: int = 4,
        timeout: float = 60.0,
        retries: int = 2,
        patience: float = 120.0,
        max_calls: int = 0,
        max_tokens: int = 0,
        cache: str = "",
    ) -> None:
        del device
        if mode not in _MOST_CALLS:
            raise UsageError(f"scorer.mode {mode!r}: there are {' and '.join(_MOST_CALLS)}")
        if concurrency < 1 or timeout <= 0 or min(retries, patience, max_calls, max_tokens) < 0:
            raise UsageError("scorer: concurrency and timeout must be above 0; retries, patience and caps not below")
        self._model, self._mode, self._concurrency = checkpoint, mode, concurrency
        self._budget = Budget(max_calls, max_tokens)
        self._chat = Chat(
            checkpoint,
            mode,
            "json_schema" if mode == _SINGLE else "json_object",  # the paper's two turns prescribe no more
            timeout=timeout,
            retries=retries,
            patience=patience,
            budget=self._budget,
            cache=ReplyCache(cache),
        )

    def score(self, prompts: Sequence[str], labels: Sequence[Sequence[str]]) -> list[ScoredObjects]:
        questions = [(prompt, tuple(own)) for prompt, own in zip(prompts, labels, strict=True)]
        different = list(dict.fromkeys(questions))
        answers = dict(zip(different, asyncio.run(self._rounds(different)), strict=True))
        _log.info("asked %s so far: %d calls, %d tokens", self._model, self._budget.calls, self._budget.tokens)
        return [answers[question] for question in questions]

    async def _rounds(self, questions: Sequence[tuple[str, tuple[str, ...]]]) -> list[ScoredObjects]:
        """Ask in rounds, each of as many records as the calls that are left do for.

        So neither the answers nor who gets one depends on who is faster. The first question of all is asked alone, to
        learn what the server takes.
        """
        scored: list[ScoredObjects] = []
        async with self._chat:
            while len(scored) < len(questions):
                self._budget.begin_round()
                enough = self._budget.calls_left // _MOST_CALLS[self._mode] if self._chat.settled else 1
                width = max(1, min(self._concurrency, enough))
                begun = questions[len(scored) : len(scored) + width]
                scored += await asyncio.gather(*(self._scored(*question) for question in begun))
        return scored

    async def _scored(self, prompt: str, labels: Sequence[str]) -> ScoredObjects:
        try:
            return ScoredObjects(await self._asked(prompt, labels), self._model)
        except RecordError as error:
            rules = by_rules(prompt, labels)
            return ScoredObjects(rules.objects, rules.scorer, recovered=error)

    async def _asked(self, prompt: str, labels: Sequence[str]) -> list[Object]:
        if not labels:
            return []
        frame = Frame(instruction.schema(prompt, labels), instruction.EXAMPLE, instruction.most_tokens(prompt, labels))
        ask = partial(self._chat.ask, frame=frame)
        if self._mode == _SINGLE:
            dialogue = _Dialogue(ask, instruction.SINGLE)
            question = instruction.form(prompt, labels)
            return await dialogue.turn(question, partial(instruction.read_objects, prompt=prompt, labels=labels))
        dialogue = _Dialogue(ask, instruction.TWO_TURN)
        question = instruction.question(prompt, labels, instruction.BINDING)
        phrases = await dialogue.turn(question, partial(instruction.read_phrases, prompt=prompt, labels=labels))
        question = instruction.question(prompt, labels, instruction.LIKELIHOOD)
        likelihoods = await dialogue.turn(question, partial(instruction.read_likelihoods, labels=labels))
        return instruction.bind(prompt, labels, phrases, likelihoods)


class _Dialogue:
    """A conversation in which one answer may be sent back."""

    def __init__(self, ask: Callable[[Sequence[Message]], Awaitable[str]], instructions: str) -> None:
        self._ask = ask
        self._messages: list[Message] = [{"role": "system", "content": instructions}]
        self._repaired = False

    async def turn(self, question: str, read: Callable[[str], _T]) -> _T:
        """What `read` makes of the answer.

        Raises:
            RecordError: kind "malformed_reply", where a second answer is invalid; or there is none, see `Chat.ask`.
        """
        self._say("user", question)
        while True:
            answer = await self._ask(self._messages)
            try:
                found = read(answer)
            except InvalidReply as error:
                if self._repaired:
                    raise RecordError("malformed_reply", f"the language model's answer is invalid: {error}") from None
                self._repaired = True
                self._say("assistant", instruction.quoted_back(answer))
                self._say("user", instruction.repair(error))
            else:
                self._say("assistant", answer)
                return found

    def _say(self, role: str, content: str) -> None:
        self._messages.append({"role": role, "content": content})
