"""`recommender`: what to listen to next, by an ensemble of collaborative filters."""

from __future__ import annotations

from tritone_training.kind import ModelKind
from tritone_training.kinds.recommender.build import example_inputs, exportable
from tritone_training.kinds.recommender.config import PRESETS, suggest
from tritone_training.kinds.recommender.crossvalidate import crossvalidate
from tritone_training.kinds.recommender.declaration import DECLARATION
from tritone_training.kinds.recommender.evaluate import evaluate
from tritone_training.kinds.recommender.train import trainer

KIND = ModelKind(
    name="recommender",
    summary=DECLARATION.summary,
    declaration=DECLARATION,
    presets=tuple(PRESETS),
    trainer=trainer,
    evaluate=evaluate,
    crossvalidate=crossvalidate,
    score="ndcg@10",
    suggest=suggest,
    export=exportable,
    example_inputs=example_inputs,
)
