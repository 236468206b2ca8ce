"""`taste_sequence`: predicts a listener's next item from the ordered history in the request."""

from __future__ import annotations

from tritone_training.data.interactions import LOG_OPTIONS
from tritone_training.kind import ModelKind
from tritone_training.kinds.taste_sequence.config import PRESETS, suggest
from tritone_training.kinds.taste_sequence.declaration import DECLARATION
from tritone_training.kinds.taste_sequence.evaluate import evaluate
from tritone_training.kinds.taste_sequence.export import example_inputs, exportable
from tritone_training.kinds.taste_sequence.loading import load_data
from tritone_training.kinds.taste_sequence.train import train_sequences

_NOT_TAKEN = frozenset({"valid", "plays_column", "rating_column"})

KIND = ModelKind(
    name="taste_sequence",
    summary=DECLARATION.summary,
    declaration=DECLARATION,
    presets=PRESETS,
    reader=lambda request, _: load_data(request),
    trainer=train_sequences,
    evaluator=evaluate,
    score="ndcg@10",
    suggest=suggest,
    options=(LOG_OPTIONS - _NOT_TAKEN)
    | {
        "devices",
        "test",
        "item_tags",
        "tag_names",
        "tag_column",
        "metadata",
        "warm_start",
        "refit_on_all",
        "baselines",
    },
    exporter=exportable,
    example_inputs=example_inputs,
    quality=None,  # half precision cannot hold the seconds of `ages`
)
