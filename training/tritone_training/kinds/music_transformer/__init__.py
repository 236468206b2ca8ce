"""`music_transformer`: composes, continues, harmonises and fills in scores."""

from __future__ import annotations

from tritone_training.data.scores import load_scores
from tritone_training.kind import Companion, ModelKind, data_path
from tritone_training.kinds.music_transformer.config import PRESETS, suggest
from tritone_training.kinds.music_transformer.declaration import COMPOSER, DECLARATION
from tritone_training.kinds.music_transformer.evaluate import evaluate
from tritone_training.kinds.music_transformer.export import default_chunk_inputs, example_inputs, exportable
from tritone_training.kinds.music_transformer.train import train_on

KIND = ModelKind(
    name="music_transformer",
    summary=DECLARATION.summary,
    declaration=DECLARATION,
    presets=PRESETS,
    reader=lambda request, _: load_scores(data_path(request), progress=request.progress),
    trainer=train_on,
    evaluator=evaluate,
    score="log_likelihood_per_frame",
    suggest=suggest,
    options=frozenset({"data", "devices", "report", "warm_start"}),
    exporter=exportable,
    example_inputs=example_inputs,
    companions=(Companion(COMPOSER, default_chunk_inputs),),
)
