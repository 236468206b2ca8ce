"""`taste_vae`: which items a listener will like, from a history that comes with the request."""

from __future__ import annotations

from tritone_training.data.interactions import LOG_OPTIONS, load_listening
from tritone_training.kind import ModelKind
from tritone_training.kinds.taste_vae.config import PRESETS, suggest
from tritone_training.kinds.taste_vae.declaration import DECLARATION
from tritone_training.kinds.taste_vae.evaluate import QUALITY, evaluate
from tritone_training.kinds.taste_vae.export import example_inputs, exportable
from tritone_training.kinds.taste_vae.train import train_listening

KIND = ModelKind(
    name="taste_vae",
    summary=DECLARATION.summary,
    declaration=DECLARATION,
    presets=PRESETS,
    reader=lambda request, _: load_listening(request),
    trainer=train_listening,
    evaluator=evaluate,
    score="ndcg@40",
    suggest=suggest,
    options=LOG_OPTIONS | {"devices", "item_tags", "tag_names", "tag_column", "metadata", "warm_start"},
    exporter=exportable,
    example_inputs=example_inputs,
    quality=QUALITY,
)
