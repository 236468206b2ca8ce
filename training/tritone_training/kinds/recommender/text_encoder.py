"""The sentence encoder that is served with a recommender, and its export."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from tritone_training.declaration import Axis, Batching, Declaration, Instances, Limits, QueuePolicy, Serving, Tensor
from tritone_training.kind import Exportable
from tritone_training.kinds.recommender.fitting.text_index import ENCODER_MODEL
from tritone_training.pretrained.sentence_encoder import MINILM, MOST_TOKENS, N_FEATURES, load_sentence_encoder

_N_TOKENS: Final = "n_tokens"  # key in the ONNX file's metadata: size of the vocabulary

TOKENS: Final = Tensor(
    "tokens",
    "INT64",
    (Axis("token", max_size=MOST_TOKENS, max_total=8_192),),
    "WordPiece tokens of a text with [CLS] and [SEP]; padded with 0",
    limits=Limits(minimum=0, n_values_key=_N_TOKENS),
)
EMBEDDING: Final = Tensor("embedding", "FP32", (Axis("feature", N_FEATURES),), "embedding of norm 1", tolerance=1e-4)

DECLARATION: Final = Declaration(
    name=ENCODER_MODEL,
    summary="Embeds texts for the search of `recommender` (all-MiniLM-L6-v2).",
    inputs=(TOKENS,),
    outputs=(EMBEDDING,),
    serving=Serving(
        batching=Batching(max_batch_size=32, preferred_batch_sizes=(), max_queue_delay_microseconds=0),
        # `recommender` waits for the answer, and searches by words alone if there is none.
        queue=QueuePolicy(default_timeout_microseconds=500_000, max_queue_size=256),
        instances=Instances(n_cpu=2, n_gpu=2, n_intra_op_threads=1),  # as taste_vae
    ),
)


def exportable() -> Exportable:
    """Return the network for export by `tritone export`.

    Raises:
        PretrainedWeightsError: the weights are not in the user's cache and cannot be downloaded.
    """
    encoder = load_sentence_encoder()
    n_tokens = len(encoder.vocabulary)
    return Exportable(
        network=encoder.network,
        declaration=DECLARATION,
        label_files={},
        metadata={_N_TOKENS: str(n_tokens)},
        card={
            "weights_sha256": MINILM.sha256,
            "pretrained": {"package": MINILM.requirement, "licence": MINILM.licence},
            "n_tokens": n_tokens,
        },
        example_inputs=lambda n_batch, seed: example_inputs(n_batch, seed, n_tokens=n_tokens),
    )


def example_inputs(n_batch: int, seed: int, *, n_tokens: int = 50) -> dict[str, npt.NDArray[np.generic]]:
    """Return random tokens of texts of 3 to 16 tokens, padded, (n_batch, 16)."""
    random = np.random.default_rng(seed)
    tokens = np.zeros((n_batch, 16), np.int64)
    for row in tokens:
        n_given = int(random.integers(3, 17))
        row[:n_given] = random.integers(1, n_tokens, n_given)
    return {"tokens": tokens}
