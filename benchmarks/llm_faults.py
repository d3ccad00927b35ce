"""What `score` makes of a language model's server that fails three times in four, in a different way each time.

200 records, eight at a time; seven attempts at each question. Every record comes out, scored by the model as if nothing
had happened, or by the rules with the reason.
"""

from __future__ import annotations

import gzip
import os
import random
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from unittest import mock

from ratios import Row

from realign_cli.models.language.llm_scorer import LanguageModelScorer

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from chat_server import Behaviour, ChatServer, Handler, answers, breaks_off, completion, resets, says, status

SHARE = 0.75  # of the requests that fail
_AT_ONCE = {"Retry_After_Ms": "10"}
FAULTS: dict[str, Behaviour] = {
    **{f"status {code}": status(code, "try again", **_AT_ONCE) for code in (408, 409, 429, 500, 502, 503, 504)},
    "an error under 200": lambda at: at.send(200, '{"error": {"message": "overloaded", "code": 502}}', **_AT_ONCE),
    "a reset": resets,
    "half a reply": breaks_off,
    "bytes that do not unpack": lambda at: at.send(200, b"no gzip", Content_Encoding="gzip"),
    "an answer that breaks a rule": says('{"cat": 7}'),
    "a page of HTML": lambda at: at.send(200, "<html>", kind="text/html"),
    "a reply without choices": lambda at: at.send(200, '{"choices": []}'),
    "a reply without an end": lambda at: at.send(200, gzip.compress(b" " * 10_000_000), Content_Encoding="gzip"),
    "a refusal": lambda at: at.send(200, completion(None, refusal="no")),
}
# Asking again helps against these; after the others the rules score the record, or the model is told what was wrong.
_PASSING = ("status", "an error", "a reset", "half a reply", "bytes")


def measure(quick: bool) -> list[Row]:
    count = 16 if quick else 200
    prompts = [f"a red ball and a blue box in room {number}" for number in range(count)]
    draw, lock, injected = random.Random(42), threading.Lock(), Counter[str]()
    passing = [name for name in FAULTS if name.startswith(_PASSING)]

    def behave(at: Handler) -> None:
        with lock:
            fault = ""
            if draw.random() < SHARE:
                fault = draw.choice(passing if draw.random() < 0.95 else list(FAULTS))
                injected[fault] += 1
        FAULTS.get(fault, answers)(at)

    with ChatServer() as server, tempfile.TemporaryDirectory() as cache:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        server.script = [answers]  # to the first question, by which the server is known
        server.after = behave
        with mock.patch.dict(os.environ, {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": ""}):
            scorer = LanguageModelScorer("any", concurrency=8, retries=6, patience=0.0, cache=cache)
            scored = scorer.score(prompts, [["ball", "box"]] * count)
        server.shutdown()
        thread.join()
    answered = [one for one in scored if one.recovered is None]
    for prompt, one in zip(prompts, scored, strict=True):
        assert [each.phrase for each in one.objects] == ["a red ball", "a blue box"], prompt
        assert (one.scorer, one.objects[0].likelihood) == (("any", 0.5) if one.recovered is None else ("rules", 2.0))
    kinds = f"{len(injected)} of {len(FAULTS)} kinds"
    return [
        Row("faults / records", [injected.total() / count], kinds),
        Row("records that come out / records", [len(scored) / count], "all asked", "1"),
        Row(
            "records that the model scored / records", [len(answered) / count], "all asked; the rules score the others"
        ),
    ]
