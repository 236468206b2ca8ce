"""Attempts to read a user's stored data from a recommender without authorisation, one function each.

A probe asks about somebody who is stored and about somebody who is not, in the same words. Whatever differs between the
two answers, but for the ids themselves, is a leak. Everything is written out here, tokens too: an attacker does not use
the project's own code.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import itertools
import json
import queue
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

KEY_HEADER = "tritone-service-key"
TOKEN_HEADER = "tritone-user-token"  # noqa: S105 - a header's name
MOST_ITEMS = 10_000
N_TIMED = 200
_NUMBERS = {"k": np.int32, "filter_listened": np.bool_, "explain": np.bool_}
_TRITON = {"int32": "INT32", "bool": "BOOL", "object": "BYTES"}


@dataclass(frozen=True)
class PrivacyFinding:
    """The result of one probe.

    Attributes:
        leak: what was read; empty if nothing.
        note: figures that prove nothing by themselves.
    """

    probe: str
    leak: str = ""
    note: str = ""


@dataclass
class ProbeTarget:
    """A server and the ids of the probed users.

    Attributes:
        victim: a stored user.
        other: another stored user; the attacker may hold this one's token.
        key: the service key, to mint tokens that must not open the victim's data; None where the server has none.
        repository: the model repository, if it is on this machine.
        log: the server's log, if it is on this machine.
    """

    grpc_url: str
    http_url: str
    victim: str
    other: str
    key: str | None = None
    model: str = "recommender"
    repository: Path | None = None
    log: Path | None = None
    _client: Any = field(default=None, repr=False)
    _stranger: str = ""

    def ask(
        self, headers: Mapping[str, str] | None = None, parameters: dict[str, Any] | None = None, **given: Any
    ) -> dict[str, Any]:
        """Send one row over gRPC; an error counts as a response."""
        return self.rows(headers, parameters, {name: [value] for name, value in given.items()})[0]

    def rows(
        self, headers: Mapping[str, str] | None, parameters: dict[str, Any] | None, rows: Mapping[str, Sequence[Any]]
    ) -> list[dict[str, Any]]:
        """Send a complete request."""
        if self._client is None:
            self._client = triton.InferenceServerClient(self.grpc_url)
        try:
            result = self._client.infer(
                self.model, _tensors(rows), headers=dict(headers or {}), parameters=parameters, client_timeout=30
            )
        except InferenceServerException as error:
            return [{"error": error.message()}]
        return _answers(result)

    def stranger(self) -> str:
        """An id as long as the victim's that is not stored, in the same arm of an A/B test, which ids alone decide."""
        if not self._stranger:
            operator = {} if self.key is None else {KEY_HEADER: self.key}
            arm = self.ask(user_id=self.victim)["arm"]
            for letters in itertools.product("qzxj", repeat=4):
                answer = self.ask(operator, user_id=f"{self.victim[:-4]}{''.join(letters)}")
                if answer["unknown"]["user"] and answer["arm"] == arm:
                    self._stranger = f"{self.victim[:-4]}{''.join(letters)}"
                    break
        return self._stranger


def token(key: str, claims: Mapping[str, Any], *, header: Mapping[str, Any] | None = None, digest: Any = None) -> str:
    """Return a JSON Web Token with any header and claims."""
    parts = [_encoded(json.dumps(part).encode()) for part in (header or {"alg": "HS256", "typ": "JWT"}, claims)]
    signature = hmac.new(key.encode(), ".".join(parts).encode(), digest or hashlib.sha256).digest()
    return ".".join([*parts, _encoded(signature)])


def valid_token(target: ProbeTarget, user: str) -> str:
    """Return a token as the operator's backend mints it; signed with a placeholder if there is no key."""
    return token(target.key or "no-key", {"sub": user, "exp": int(time.time()) + 300})


def bad_credentials(target: ProbeTarget) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield headers that must not give access to the victim's data, by name."""
    now, key, victim = int(time.time()), target.key or "no-key", target.victim
    claims = {"sub": victim, "exp": now + 300}
    good = token(key, claims)
    head, payload, signature = good.split(".")
    none = _encoded(json.dumps({"alg": "none", "typ": "JWT"}).encode())
    tokens = {
        "token of another user": valid_token(target, target.other),
        "expired token": token(key, {**claims, "exp": now - 1}),
        "token without expiry": token(key, {"sub": victim}),
        "token valid for a year": token(key, {**claims, "exp": now + 365 * 86_400}),
        "token not valid yet": token(key, {**claims, "nbf": now + 200}),
        "token of an expiry that is text": token(key, {**claims, "exp": str(now + 300)}),
        "token of infinite expiry": token(key, {**claims, "exp": float("inf")}),
        "token for another audience": token(key, {**claims, "aud": "billing"}),
        "token of a list of users": token(key, {**claims, "sub": [victim]}),
        "unsigned token (alg none)": f"{none}.{payload}.",
        "alg none with a signature": token(key, claims, header={"alg": "none"}),
        "alg none, signature kept": f"{none}.{payload}.{signature}",
        "HS512 token": token(key, claims, header={"alg": "HS512"}, digest=hashlib.sha512),
        "critical extension": token(key, claims, header={"alg": "HS256", "crit": ["x"]}),
        "token of a wrong key": token("x" * 43, claims),
        "token of an empty key": token("", claims),
        "truncated token": good[:-4],
        "token without signature": f"{head}.{payload}",
        "claims changed": f"{head}.{_encoded(json.dumps({**claims, 'iat': 1}).encode())}.{signature}",
        "nested JSON": f"{_encoded(b'[' * 1500)}.{payload}.{signature}",
        "oversized token": "a" * 6_000,
        "no token at all": "null",
    }
    for name, value in tokens.items():
        yield name, {TOKEN_HEADER: value}
    for name, value in {
        "wrong key": "x" * 43,
        "key cut short": key[:-1],
        "key and more": f"{key}x",
        "key in capitals": key.swapcase(),
        "user's id as key": victim,
        "wildcard": "*",
    }.items():
        yield name, {KEY_HEADER: value}
    yield "key as token", {TOKEN_HEADER: key}
    yield "token as key", {KEY_HEADER: good}
    yield "key in another header", {"x-tritone-service-key": key, "tritone-service-keys": key, "service-key": key}
    yield "claims to be trusted", {"tritone-trust-callers": "1", "tritone-user": victim, "x-user-id": victim}


# --- probes -------------------------------------------------------------------------------------------------


def membership(target: ProbeTarget) -> PrivacyFinding:
    """Probe whether the output `unknown` discloses that a user is stored."""
    return _compared(target, "membership by user_id", lambda who: target.ask(user_id=who))


def history(target: ProbeTarget) -> PrivacyFinding:
    """Probe whether two requests, with and without `filter_listened`, disclose a history."""

    def difference(who: str) -> dict[str, Any]:
        whole, rest = (target.ask(user_id=who, k=MOST_ITEMS, filter_listened=each) for each in (False, True))
        return {"heard": sorted(set(whole["item_ids"]) - set(rest["item_ids"]))}

    found = difference(target.victim)["heard"]
    return PrivacyFinding("history by filter_listened on and off", f"{len(found)} items read" if found else "")


def reasons(target: ProbeTarget) -> PrivacyFinding:
    """Probe whether reasons name items that a user listens to."""
    return _compared(target, "user_id with explain", lambda who: target.ask(user_id=who, explain=True, k=50))


def friend_reasons(target: ProbeTarget) -> PrivacyFinding:
    """Probe with the victim as the only friend: recommendations and reasons could disclose the listening."""
    return _compared(target, "friends=[victim] with explain", lambda who: target.ask(friends=[who], explain=True, k=50))


def friend_with_history(target: ProbeTarget) -> PrivacyFinding:
    """Probe with the victim as a friend and a history, where an unknown friend causes no error."""
    items = target.ask(k=2)["item_ids"]
    return _compared(
        target, "friends=[victim] with a history", lambda who: target.ask(history=items, friends=[who], k=50)
    )


def friendship(target: ProbeTarget) -> PrivacyFinding:
    """Probe whether two users are friends: listing one could change the response to the other."""
    headers = {TOKEN_HEADER: valid_token(target, target.other)}
    return _compared(
        target,
        "friendship, with a token of one of them",
        lambda who: target.ask(headers, user_id=target.other, friends=[who], explain=True, k=20),
    )


def credentials(target: ProbeTarget) -> Iterator[PrivacyFinding]:
    """Probe with invalid credentials."""
    for name, headers in bad_credentials(target):
        yield _compared(target, name, lambda who, headers=headers: target.ask(headers, user_id=who, k=20))  # type: ignore[misc]


def smuggling(target: ProbeTarget) -> Iterator[PrivacyFinding]:
    """Probe with credentials in request parameters, repeated headers, other capitalisation and streams."""
    wrong = "x" * 43
    for name, parameters in {
        "wrong key as a parameter": {KEY_HEADER: wrong},
        "true as key": {KEY_HEADER: True},
        "number as key": {KEY_HEADER: 0},
        "parameter to trust callers": {"trust_callers": True, "TRITONE_TRUST_CALLERS": "1"},
        "canary parameter": {"tritone_canary": True},
    }.items():
        yield _compared(
            target,
            name,
            lambda who, given=parameters: target.ask(parameters=dict(given), user_id=who, k=20),  # type: ignore[misc]
        )
    if target.key is not None:
        yield _compared(
            target,
            "two keys, one of them right",
            lambda who: target.ask({KEY_HEADER: target.key or ""}, {KEY_HEADER: wrong}, user_id=who),
        )
    own = valid_token(target, target.other)
    for name, headers in {
        "HTTP without credentials": [],
        "HTTP, header in capitals, wrong key": [(KEY_HEADER.upper(), wrong)],
        "HTTP, another user's token twice": [(TOKEN_HEADER, own), (TOKEN_HEADER.title(), own)],
        "HTTP, header of bytes that are no text": [(TOKEN_HEADER, "\xff\xfe")],
        "HTTP, empty headers": [(KEY_HEADER, ""), (TOKEN_HEADER, "")],
    }.items():
        yield _compared(target, name, lambda who, given=headers: _over_http(target, who, given))  # type: ignore[misc]
    yield _compared(target, "gRPC stream", lambda who: _over_stream(target, who))


def rows(target: ProbeTarget) -> PrivacyFinding:
    """Probe whether an authorised row authorises the next one."""
    headers = {TOKEN_HEADER: valid_token(target, target.other)}

    def second(who: str) -> dict[str, Any]:
        answers = target.rows(headers, None, {"user_id": [target.other, who], "k": [20, 20]})
        return answers[-1]

    return _compared(target, "row next to an authorised row", second)


def cache(target: ProbeTarget) -> PrivacyFinding:
    """Probe whether equal requests of an authorised and another caller get each other's response."""
    if target.key is None:
        return PrivacyFinding("response cache")
    headers = {KEY_HEADER: target.key}
    first = target.ask(user_id=target.victim, k=20)
    known = target.ask(headers, user_id=target.victim, k=20)
    again = target.ask(user_id=target.victim, k=20)
    leak = "an authorised answer came from the cache" if again != first else ""
    if known == first:
        leak = "an answer without authorisation was given to an authorised caller, or the victim is not stored"
    return PrivacyFinding("response cache", leak)


def timing(target: ProbeTarget, n: int = N_TIMED) -> PrivacyFinding:
    """Report the median times of known and unknown ids and a rank test of their difference, without a verdict.

    In random order: in turns, each of two ids would meet the same one of a model's two instances every time.
    """
    stranger = target.stranger()
    times: dict[str, list[float]] = {target.victim: [], stranger: []}
    order = np.random.default_rng(1).permutation(np.repeat([0, 1], n)).tolist()
    for turn, place in enumerate([*order[:20], *order]):
        who = (target.victim, stranger)[place]
        began_s = time.perf_counter()
        target.ask(user_id=who)
        if turn >= 20:
            times[who].append(time.perf_counter() - began_s)
    known, unknown = times[target.victim], times[stranger]
    note = (
        f"median {1e3 * statistics.median(known):.3f} ms known, {1e3 * statistics.median(unknown):.3f} ms unknown, "
        f"rank test z {rank_z(known, unknown):+.2f}, n {n} each"
    )
    return PrivacyFinding("timing of known and unknown ids", note=note)


def file_modes(target: ProbeTarget) -> PrivacyFinding:
    """Find files with histories that other users of the machine may read."""
    if target.repository is None:
        return PrivacyFinding("files open to others", note="not on this machine")
    open_to_others = [
        path
        for manifest in target.repository.rglob("recommender.json")
        for path in (manifest.parent, *manifest.parent.rglob("*"))
        if path.stat().st_mode & 0o077
    ]
    return PrivacyFinding("files open to others", f"{len(open_to_others)} files and folders" if open_to_others else "")


def logged(target: ProbeTarget) -> PrivacyFinding:
    """Find ids or secrets in the server's log."""
    if target.log is None:
        return PrivacyFinding("ids and secrets in the log", note="not on this machine")
    text = target.log.read_text(encoding="utf-8", errors="replace")
    secrets = {"victim's id": target.victim, "other's id": target.other, "service key": target.key or "\0"}
    found = [name for name, value in secrets.items() if value in text]
    return PrivacyFinding("ids and secrets in the log", ", ".join(found))


def control(target: ProbeTarget) -> PrivacyFinding:
    """Check that the victim is known with the service key; otherwise the probes prove nothing."""
    headers = {} if target.key is None else {KEY_HEADER: target.key}
    answer = target.ask(headers, user_id=target.victim)
    is_known = answer.get("unknown", {}).get("user") is False
    return PrivacyFinding("control: the operator is answered", "" if is_known else "no: the probes prove nothing")


def run_all(target: ProbeTarget, *, n_timed: int = N_TIMED) -> list[PrivacyFinding]:
    """Run every probe, the log last."""
    single = (membership, history, reasons, friend_reasons, friend_with_history, friendship, rows, cache, file_modes)
    found = [control(target), *(probe(target) for probe in single)]
    return [*found, *credentials(target), *smuggling(target), timing(target, n_timed), logged(target)]


def rank_z(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the z-score of the Mann-Whitney U statistic; ties are broken by position."""
    order = np.argsort(np.concatenate([first, second]), kind="stable")
    ranks = np.empty(len(order))
    ranks[order] = np.arange(1, len(order) + 1)
    n, m = len(first), len(second)
    u = ranks[:n].sum() - n * (n + 1) / 2
    return float((u - n * m / 2) / np.sqrt(n * m * (n + m + 1) / 12))


# --- how --------------------------------------------------------------------------------------------------


def _compared(target: ProbeTarget, probe: str, ask: Callable[[str], dict[str, Any]]) -> PrivacyFinding:
    victim, stranger = target.victim, target.stranger()
    one, other = _without(ask(victim), victim), _without(ask(stranger), stranger)
    parts = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    return PrivacyFinding(probe, f"differs in {', '.join(parts)}" if parts else "")


def _without(answer: Mapping[str, Any], who: str) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(json.dumps(answer).replace(json.dumps(who)[1:-1], "ID"))
    return parsed


def _tensors(rows: Mapping[str, Sequence[Any]]) -> list[triton.InferInput]:
    made = []
    for name, values in rows.items():
        lists = [value if isinstance(value, list) else [value] for value in values]
        dtype = _NUMBERS.get(name, np.object_)
        array = np.array([[v.encode() if isinstance(v, str) else v for v in row] for row in lists], dtype)
        made.append(triton.InferInput(name, array.shape, _TRITON[array.dtype.name]))
        made[-1].set_data_from_numpy(array)
    return made


def _answers(result: Any) -> list[dict[str, Any]]:
    outputs = {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}
    answers = []
    for row in range(len(next(iter(outputs.values())))):
        values = {name: [_text(value) for value in each[row].tolist()] for name, each in outputs.items()}
        answers.append(
            {
                **values,
                **{name: values[name][0] for name in ("source", "arm")},
                "unknown": json.loads(values["unknown"][0]),
            }
        )
    return answers


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _over_http(target: ProbeTarget, who: str, headers: Sequence[tuple[str, str]]) -> dict[str, Any]:
    body = json.dumps(
        {
            "inputs": [
                {"name": "user_id", "shape": [1, 1], "datatype": "BYTES", "data": [who]},
                {"name": "k", "shape": [1, 1], "datatype": "INT32", "data": [20]},
            ]
        }
    ).encode()
    connection = http.client.HTTPConnection(target.http_url.removeprefix("http://"), timeout=30)
    try:
        connection.putrequest("POST", f"/v2/models/{target.model}/infer")
        connection.putheader("content-length", str(len(body)))
        for name, value in headers:
            connection.putheader(name, value.encode("latin-1"))
        connection.endheaders(body)
        answered = connection.getresponse()
        parsed = json.loads(answered.read())
    finally:
        connection.close()
    outputs = {output["name"]: output["data"] for output in parsed.get("outputs", ())}
    return {"status": answered.status, "error": parsed.get("error"), **outputs}


def _over_stream(target: ProbeTarget, who: str) -> dict[str, Any]:
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with triton.InferenceServerClient(target.grpc_url) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer(target.model, _tensors({"user_id": [who], "k": [20]}))
        result, error = answers.get(timeout=30)
        client.stop_stream()
    return {"error": error.message()} if error is not None else _answers(result)[0]


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
