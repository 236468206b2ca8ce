"""What the registry holds of the kind `recommender`."""

from __future__ import annotations

from tritone_training.kind import KIND_OPTIONS, Companion, ModelKind
from tritone_training.kinds.recommender.config import PRESETS, suggest
from tritone_training.kinds.recommender.crossvalidate import crossvalidate
from tritone_training.kinds.recommender.declaration import DECLARATION, EVENTS_DECLARATION, RECORDING_RECOMMENDER
from tritone_training.kinds.recommender.evaluate import evaluate
from tritone_training.kinds.recommender.export import example_inputs, exportable
from tritone_training.kinds.recommender.inspire import INSPIRE
from tritone_training.kinds.recommender.text_encoder import DECLARATION as TEXT_ENCODER
from tritone_training.kinds.recommender.text_encoder import example_inputs as text_encoder_inputs
from tritone_training.kinds.recommender.train import train_prepared
from tritone_training.kinds.recommender.training_data import prepare
from tritone_training.kinds.taste_sequence.declaration import DECLARATION as TASTE_SEQUENCE
from tritone_training.kinds.taste_sequence.export import example_inputs as sequence_inputs
from tritone_training.kinds.taste_vae.declaration import DECLARATION as TASTE
from tritone_training.kinds.taste_vae.evaluate import QUALITY_IN_RECOMMENDER
from tritone_training.kinds.taste_vae.export import example_inputs as taste_inputs

KIND = ModelKind(
    name="recommender",
    summary=DECLARATION.summary,
    declaration=DECLARATION,
    presets=PRESETS,
    epochs_field="taste_vae_epochs",
    reader=lambda request, _: prepare(request),
    trainer=train_prepared,
    evaluator=evaluate,
    cross_validator=crossvalidate,
    score="ndcg@10",
    suggest=suggest,
    options=KIND_OPTIONS - {"fold", "pretrained", "warm_start"},
    exporter=exportable,
    example_inputs=example_inputs,
    companions=(
        Companion(TASTE, taste_inputs, quality=QUALITY_IN_RECOMMENDER),
        Companion(TASTE_SEQUENCE, sequence_inputs),
        Companion(TEXT_ENCODER, text_encoder_inputs),
    ),
    data_models=(EVENTS_DECLARATION,),
    ensembles=(RECORDING_RECOMMENDER, INSPIRE),
    in_several_processes=False,
    is_private=True,
)
