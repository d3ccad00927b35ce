"""How many inputs a fuzz tries: 500 in the ordinary suite, as many as REALIGN_FUZZ says in the long form."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# The same inputs every time, so that a failure is there again in the next run.
fuzzed = settings(
    max_examples=int(os.environ.get("REALIGN_FUZZ", "500")),
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
