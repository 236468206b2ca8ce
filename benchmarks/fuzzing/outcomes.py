"""Requests that must not be sent, outcomes of the others, and which outcomes are expected."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.fuzzing.requests import ITEM_BYTES, FuzzRequest

# Kinds of outcomes. `hung up`: the server closed the connection without a response. `not waited for`: the client left
# early, as part of the mutation.
OK, REFUSED, FAILED, HUNG_UP, LEFT, HANG = "ok", "refused", "failed", "hung up", "not waited for", "hang"
NOT_SENT: Final = "not sent"
KINDS: Final = (OK, REFUSED, FAILED, HUNG_UP, LEFT, HANG, NOT_SENT)

# Requests that end Triton 2.51 or that it never answers, before our code sees them; counted but not sent.
OVERFLOW: Final = "a shape whose bytes overflow 64 bits ends the server or a model's process"
MEMORY: Final = "numbers as JSON under a shape that memory cannot hold end the server: it allocates what the shape says"
NO_ROWS: Final = "a batch of no rows is never taken out of Triton's batcher"
CLASSES: Final = "classes of an output of type BYTES end the server: it divides by the size of an item, which is 0"
FATAL: Final = (OVERFLOW, MEMORY, NO_ROWS, CLASSES)
_MOST_JSON_BYTES: Final = 1 << 26
_TYPE_STRING: Final = 13  # of Triton's model_config.proto

# Server errors of Triton 2.51 for mistakes of a client: (transport, message, reason).
KNOWN: Final = tuple(
    (transport, re.compile(text), why)
    for transport, text, why in (
        ("http", r"failed to parse the request JSON", "its JSON parser's errors are 500"),
        ("http", r"[Uu]nable to parse '|attempt to access JSON", "a JSON field of the wrong type is 500"),
        ("http", r"parameter key '.*' was not found", "a parameter whose name holds NUL is 500"),
        ("http", r"Request timeout expired", "the request's own time limit in the queue is 503"),
        ("grpc", r"^batch size \d+ for '\w+', max allowed is", "rows beyond 32 bits are counted wrongly, and INTERNAL"),
        ("http", r"batch size \d+ for '\w+', max allowed is", "rows beyond 32 bits are counted wrongly, and 500"),
        ("grpc", r"^Unable to parse request$", "bytes that are no protobuf are INTERNAL"),
        ("grpc", r"^Unexpected error decompressing data", "the fixed server refuses compressed messages as INTERNAL"),
        (
            "grpc",
            r"^response output count mismatch$",
            "a model with a response cache, asked over a stream, refuses what is not in the cache yet",
        ),
    )
)


@dataclass(frozen=True)
class Outcome:
    """Outcome of one request.

    Attributes:
        code: status of HTTP or gRPC, as text.
        message: error message of the server, shortened.
    """

    kind: str
    code: str = ""
    message: str = ""


@dataclass(frozen=True)
class FuzzFinding:
    """An unexpected outcome."""

    transport: str
    category: str
    outcome: Outcome
    request: str


@dataclass
class OutcomeTally:
    """Outcomes by mutation."""

    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    codes: Counter[tuple[str, str]] = field(default_factory=Counter)
    known: Counter[str] = field(default_factory=Counter)
    not_sent: Counter[str] = field(default_factory=Counter)
    findings: list[FuzzFinding] = field(default_factory=list)
    options: Counter[str] = field(default_factory=Counter)  # options that were sent, by their names in `options.ALL`

    @property
    def n_sent(self) -> int:
        """Number of requests that were sent."""
        return sum(n for (_, _, kind), n in self.counts.items() if kind != NOT_SENT)

    def add(self, transport: str, category: str, outcome: Outcome, request: str, *, must: str = "") -> None:
        """Add an outcome; `must` is the only expected kind, or empty."""
        self.counts[transport, category, outcome.kind] += 1
        if outcome.kind == NOT_SENT:
            self.not_sent[outcome.message] += 1
            return
        if outcome.code:
            self.codes[transport, outcome.code] += 1
        why = known_exception(transport, outcome) if outcome.kind in (FAILED, REFUSED) else None
        if why is not None and must != OK:
            self.known[f"{transport} {outcome.code}: {why}"] += 1
        elif (must and outcome.kind != must) or outcome.kind in (FAILED, HANG):
            self.findings.append(FuzzFinding(transport, category, outcome, request))

    def table(self) -> str:
        """Return a Markdown table: mutations by outcomes."""
        rows = sorted({(transport, category) for transport, category, _ in self.counts})
        lines = [f"| request | {' | '.join(KINDS)} |", "|---|" + "---:|" * len(KINDS)]
        for transport, category in rows:
            cells = " | ".join(str(self.counts[transport, category, kind] or "") for kind in KINDS)
            lines.append(f"| {transport}: {category} | {cells} |")
        totals = (sum(n for (*_, each), n in self.counts.items() if each == kind) for kind in KINDS)
        return "\n".join([*lines, f"| together | {' | '.join(map(str, totals))} |"])


@dataclass(frozen=True)
class Guard:
    """Requests that end one server, in addition to those that end every server of this version.

    Attributes:
        text_outputs: names of the outputs of type BYTES of all its models.
        fixes: bugs that are fixed in its binary, as `TritonServer.binary_fixes` names it.
    """

    text_outputs: frozenset[str] = frozenset()
    fixes: frozenset[str] = frozenset()

    @classmethod
    def of(cls, server: Any, configs: Mapping[str, Any]) -> Guard:
        """Return the guard for a running server and its models' configurations."""
        texts = {each.name for config in configs.values() for each in config.output if each.data_type == _TYPE_STRING}
        return cls(frozenset(texts), frozenset(getattr(server, "binary_fixes", ())))

    def fatal_outputs(self, outputs: Iterable[tuple[str, Iterable[str]]]) -> str | None:
        """Return why requested outputs, each with the names of its parameters, must not be sent; None if they may."""
        if "classification" in self.fixes:
            return None
        asked = (name in self.text_outputs and "classification" in parameters for name, parameters in outputs)
        return CLASSES if any(asked) else None


def known_exception(transport: str, outcome: Outcome) -> str | None:
    """Return the reason if a failure is a known decision of Triton, else None."""
    for where, pattern, why in KNOWN:
        if where == transport and pattern.search(outcome.message):
            return why
    return None


def fatal(ask: FuzzRequest, guard: Guard | None = None, *, as_json: bool = False) -> str | None:
    """Return why a request must not be sent; None if it may."""
    if guard is not None and (why := guard.fatal_outputs(ask.outputs)) is not None:
        return why
    fixes = guard.fixes if guard is not None else frozenset()
    return fatal_shapes([(tensor.shape, tensor.datatype) for tensor in ask.tensors], as_json=as_json, fixes=fixes)


def fatal_shapes(
    tensors: Iterable[tuple[Iterable[int], str]], *, as_json: bool = False, fixes: frozenset[str] = frozenset()
) -> str | None:
    """As `fatal`, for shapes and types.

    Args:
        fixes: as `TritonServer.binary_fixes` names them.
    """
    shapes = [(tuple(shape), datatype) for shape, datatype in tensors]
    for shape, datatype in shapes:
        n_bytes = math.prod(abs(size) for size in shape if size) * ITEM_BYTES.get(datatype, 8)
        if n_bytes >= 1 << 62 and not {"tensor-shape", "json-shape"} <= fixes:
            return OVERFLOW
        if as_json and n_bytes > _MOST_JSON_BYTES and "json-shape" not in fixes:
            return MEMORY
    if shapes and all(shape and shape[0] == 0 for shape, _ in shapes):
        return NO_ROWS
    return None


def fatal_json(parsed: Any, guard: Guard | None = None) -> str | None:
    """As `fatal`, for a malformed JSON body; objects are lists of pairs, so that repeated keys are kept."""
    shapes: list[tuple[list[int], str]] = []
    if guard is not None:  # searched as text, since it is uncertain to which output a parameter belongs
        text = repr(parsed)
        names = [name for name in guard.text_outputs if repr(name) in text]
        if "'classification'" in text and (why := guard.fatal_outputs((name, ["classification"]) for name in names)):
            return why

    def walk(value: Any) -> None:
        if isinstance(value, list):
            for each in value:
                walk(each)
        elif isinstance(value, tuple) and len(value) == 2:
            if value[0] == "shape" and isinstance(value[1], list):
                shapes.append(([int(size) for size in value[1] if isinstance(size, int)], "INT64"))
            walk(value[1])

    walk(parsed)
    return fatal_shapes(shapes, as_json=True, fixes=guard.fixes if guard is not None else frozenset())
