"""No request brings the server down, and every one is answered in a sentence; `benchmarks/fuzz_web.py` sends more."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from tiny_web import client_of, tiny_app
from web_fuzzing import REQUESTS, check

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_any_request_is_answered_with_a_result_or_a_sentence() -> None:
    statuses = set()
    with client_of(tiny_app()) as client:

        @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(request=REQUESTS)
        def send(request: dict[str, Any]) -> None:
            statuses.add(check(client, request))

        send()
        assert client.get("/healthz").json()["pictures"] == 0
    assert {200, 422} <= statuses
