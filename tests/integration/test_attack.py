"""Tests of the attack script: the contents of its requests, and on request a run against a real server."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from typing import Any

import numpy as np
import pytest
from tests.deploy.balancing import haproxy_path
from tests.support.benchmark_tools import run_tool

from benchmarks.attack import table
from benchmarks.attack_requests import ATTACKS, DENORMALS, MB, ODD_FLOATS, AttackResult, _resized, packed_zeros
from benchmarks.fuzzing.outcomes import HUNG_UP, OK, Outcome
from benchmarks.fuzzing.requests import FuzzRequest, RequestTensor

ROW: dict[str, Any] = {
    "behind": "server", "attack": "one packed body", "sent": "1 x 611 kB", "answers": {"refused 415": 1}, "accepted": 0,
    "gap_s": 0.1, "p99_ms": 3.0, "ended": 0, "replicas": 0, "given_up": False, "memory_mb": [100, 120], "passed": True,
}  # fmt: skip


@pytest.mark.parametrize(("wbits", "name"), [(31, "gzip"), (15, "deflate")])
def test_packed_zeros_unpack_to_what_they_say(wbits: int, name: str) -> None:
    body = packed_zeros(64 * MB, wbits=wbits)
    assert len(body) < 100_000, name
    assert len(zlib.decompress(body, wbits=wbits)) == 64 * MB


def test_a_resized_input_has_the_data_that_its_shape_needs() -> None:
    ask = FuzzRequest(
        "m", (RequestTensor("a", "UINT8", (1, 2, 88), bytes(176)), RequestTensor("b", "INT64", (1, 3), bytes(24)))
    )
    for name, n_bytes, shape in (("a", 88 * 200_000, (1, 200_000, 88)), ("b", 8 * 200_000, (1, 200_000))):
        changed = {tensor.name: tensor for tensor in _resized(ask, name, 200_000).tensors}[name]
        assert (len(changed.data), changed.shape) == (n_bytes, shape)


def test_odd_numbers_are_what_they_say() -> None:
    assert not np.isfinite([np.float32(value) for name, value in ODD_FLOATS.items() if name != "1e38"]).any()
    tiny = np.finfo(np.float32).tiny
    assert all(0 < abs(np.float32(value)) < tiny for value in DENORMALS.values())


def test_answers_are_counted() -> None:
    sent = AttackResult("x")
    for outcome in (Outcome(OK, "200"), Outcome(OK, "200"), Outcome(HUNG_UP)):
        sent.note(outcome)
    assert sent.answers == Counter({"ok 200": 2, "hung up": 1})
    assert sent.n_accepted == 2


def test_a_table_says_what_failed() -> None:
    dead = {**ROW, "ended": 3, "replicas": 2, "given_up": True, "passed": False}
    lines = table([ROW, dead]).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].endswith("| ok |")
    assert "3 (2 replicas), **given up**" in lines[3]
    assert lines[3].endswith("| **fails** |")


@pytest.mark.fuzz
@pytest.mark.triton
@pytest.mark.timeout(300)
@pytest.mark.skipif(haproxy_path() is None, reason="no haproxy on this machine")
def test_behind_the_balancer_no_attack_of_the_protocol_ends_a_server() -> None:
    names = [name for name in ATTACKS if name.startswith(("classes", "gzip", "deflate"))] + ["five"]
    done = run_tool("attack", *names, "--no-music", "--behind", "balancer", "--json")
    rows = json.loads(done.stdout)["rows"]
    assert len(rows) == len(names)
    assert [row for row in rows if not row["passed"]] == []
    assert done.returncode == 0
