"""Loading of a log in order, with the tags and metadata of its items.

Shapes: U users, T items.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from tritone_training.data.interactions import (
    SESSIONS,
    CleaningRules,
    ListeningData,
    ListeningFiles,
    Log,
    MetadataTable,
    TagTable,
    UserSequences,
    columns_of,
    files_of,
    is_sequence_file,
    load_log,
    load_metadata,
    load_sequences,
    load_tags,
    simulated_sessions,
    words_matrix,
)
from tritone_training.exceptions import DataError
from tritone_training.kind import EvaluateRequest, TrainRequest
from tritone_training.kinds.taste_sequence.sequence_data import EventArrays, SequenceData

_HEAD_BYTES: Final = 65_536
_SEPARATORS: Final = ("\t", ",", ";", "|", "::", "{", "[")  # of tables


@dataclass(frozen=True, eq=False)
class OrderedLog:
    """A log in order, and the tables that describe its items.

    Attributes:
        sequences: all events of each user; those of `log`.
    """

    log: Log
    sequences: UserSequences
    tags: TagTable
    metadata: MetadataTable


def load_ordered(request: TrainRequest | EvaluateRequest, *, seed: int) -> OrderedLog:
    """Return the log of a request, or simulated sessions with `seed`, in which all events of each user are in order.

    Raises:
        DataError: a table cannot be read, or the log has neither times nor an order.
    """
    files = files_of(request.data)
    if files.interactions is None or str(files.interactions) == SESSIONS:
        simulated = simulated_sessions(seed=seed, progress=request.progress).world
        log, tags, metadata = simulated.log, simulated.tags, MetadataTable(simulated.metadata)
    else:
        if files.tag_names is not None and files.item_tags is None:
            raise DataError("--tag-names holds the names of --item-tags: give these too, or leave it out")
        columns = columns_of(files)
        log = read_ordered(files.interactions, files)
        tags = load_tags(files.item_tags, columns, names=files.tag_names) if files.item_tags else TagTable((), (), ())
        metadata = load_metadata(files.metadata, item=files.item_column) if files.metadata else MetadataTable({})
    if log.sequences is None:
        raise DataError(
            f"{log.source}: has neither times nor an order: expected a column of times, or lines `user item item ...` "
            f"in order of time; name the column with --time-column"
        )
    return OrderedLog(log, log.sequences, tags, metadata)


def read_ordered(path: Path, files: ListeningFiles) -> Log:
    """Read a table, or a file with lines `user item item ...`, also if each line has one item.

    Raises:
        DataError: as `load_log` and `load_sequences`.
    """
    rules = CleaningRules(most_events=0)
    if is_sequence_file(path) or _is_blank_separated(path):
        return load_sequences(path, rules=rules)
    return load_log(path, columns_of(files), rules=rules)


def _is_blank_separated(path: Path) -> bool:
    """Return whether the first line of text has several words and no separator of tables."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    try:
        lines = head.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:  # a table in another encoding, or a character that was cut
        return False
    first = next((line for line in lines if line.strip()), "")
    return len(first.split()) > 1 and not any(mark in first for mark in _SEPARATORS) and "\0" not in first


def load_data(request: TrainRequest) -> SequenceData:
    """Read the log, tags and metadata of a request.

    Raises:
        DataError: a table cannot be read, the log has no order, or no user has two items.
    """
    given = load_ordered(request, seed=request.seed)
    log, n_items = given.log, len(given.log.items)
    everything = EventArrays.of(given.sequences, len(log.users), np.arange(n_items))
    held_out = everything.last_new()
    if not (held_out >= 0).any():
        raise DataError(f"{log.source}: no user listens to two different items; train on a larger log")
    trained = everything.until(held_out)
    popularity = np.bincount(trained.item[trained.is_new], minlength=n_items)
    order = np.lexsort((np.arange(n_items), -popularity))
    index = np.empty(n_items, np.int64)
    index[order] = np.arange(n_items)
    events = EventArrays.of(given.sequences, len(log.users), index)
    listened = [log.items[number] for number in order.tolist()]
    unheard = sorted(({*given.tags.items} | {*given.metadata.rows}) - set(listened))
    items = [*listened, *unheard]
    trained_pairs = np.unique(trained.user_of_events() * n_items + trained.item)
    train = log.take(np.isin(log.pair_keys(), trained_pairs))
    words = words_matrix(ListeningData(train, train, None, [], given.tags, given.metadata.rows), items)
    in_log = set(listened)
    report = {
        "source": log.source,
        "n_in": log.report["n_in"],
        "n_used": log.report["n_used"],
        "n_events": len(events.item),
        "n_skips": int(events.skipped.sum()),
        "n_items_without_listeners": len(unheard),
        "n_words": int(words.shape[1]),
        "fingerprint": log.fingerprint(),
        "licence": log.report.get("licence", "unknown: the user's own data"),
        "parts": {
            "log": log.report,
            "valid": {"n_used": int((held_out >= 0).sum()), "how": "the last item of each user"},
            "tags": {**given.tags.report, "n_in_log": sum(item in in_log for item in given.tags.items)},
            "metadata": {**given.metadata.report, "n_in_log": sum(item in in_log for item in given.metadata.rows)},
        },
    }
    return SequenceData(items, events, held_out, words, report)
