"""`polyphony_rnn`: predicts the next frame of a piece, and continues pieces."""

from __future__ import annotations

from tritone_training.kind import Companion, ModelKind
from tritone_training.kinds.polyphony_rnn.config import PRESETS, suggest
from tritone_training.kinds.polyphony_rnn.declaration import DECLARATION, KIND_NAME, SAMPLER
from tritone_training.kinds.polyphony_rnn.evaluate import evaluate
from tritone_training.kinds.polyphony_rnn.examples import example_inputs, example_sampler_inputs
from tritone_training.kinds.polyphony_rnn.export import exportable
from tritone_training.kinds.polyphony_rnn.train import prepare, train_prepared

KIND = ModelKind(
    name=KIND_NAME,
    summary=DECLARATION.summary,
    declaration=DECLARATION,
    presets=PRESETS,
    reader=prepare,
    trainer=train_prepared,
    evaluator=evaluate,
    score="log_likelihood_per_frame",
    suggest=suggest,
    options=frozenset({"data", "devices", "report", "warm_start"}),
    exporter=exportable,
    example_inputs=example_inputs,
    companions=(Companion(SAMPLER, example_sampler_inputs),),
)
