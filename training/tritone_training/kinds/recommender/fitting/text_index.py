"""Arrays of the text search: tags of items by how often they were given, their factors and their sentence embeddings.

Shapes: I items, G tags, F factors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.linalg import svds

from tritone_serving.recommender.artifact import rows_arrays, text_arrays
from tritone_serving.recommender.rows import Rows
from tritone_serving.recommender.text_search import (
    BY_TAG,
    ITEM_FACTORS,
    TAG_EMBEDDINGS,
    TAG_FACTORS,
    TAG_NAMES,
    VOCABULARY,
    tag_text,
)
from tritone_training.kinds.recommender.fitting.recording_embeddings import RecordingEmbeddings
from tritone_training.pretrained.sentence_encoder import MINILM, N_FEATURES, PretrainedEncoder

# Sentence encoders know sentences better than single words.
TAG_TEMPLATE: Final = "{} music"
MOST_TOKENS: Final = 64  # of a description; longer ones are cut
ENCODER_MODEL: Final = "sentence_encoder"  # its name on the server

_MOST_TAGS: Final = 20_000  # most frequent ones
_MOST_FACTORED_ITEMS: Final = 200_000  # the factors of more items would take too much memory and time at each search
_LEAST_SOUND_TAG: Final = 0.1  # probability of a tag that is used
_SOUND_TAG_COUNT: Final = 5  # a certain tag of a recording counts as much as one given by so many users
_IN_OTHER_FIELDS: Final = ("title: ", "artist: ")  # words of these are found in titles and artists

Embed = Callable[[Sequence[str]], npt.NDArray[np.float32]]


def text_search_arrays(
    tags: sparse.csr_matrix, names: Sequence[str], *, n_factors: int, embed: Embed | None = None
) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of the text search; none if no item has a tag.

    Args:
        tags: (I, T) how often each tag was given to each item.
        names: (T,) of the tags; values of metadata as "column: value".
        n_factors: size of the factorisation; 0 for none.
        embed: returns the sentence embeddings of texts; None for a search by words only.
    """
    merged, texts = _merged(tags, names)
    if not texts:
        return {}
    strengths = merged.copy()
    strengths.data = np.log1p(strengths.data)
    arrays = {
        **text_arrays(TAG_NAMES, texts),
        **rows_arrays(BY_TAG, Rows.from_csr(sparse.csr_matrix(strengths.T))),
    }
    if embed is not None:
        arrays[TAG_EMBEDDINGS] = embed([TAG_TEMPLATE.format(text) for text in texts])
    n_factors = min(n_factors, min(strengths.shape) - 1)
    if embed is not None and n_factors > 0 and strengths.shape[0] <= _MOST_FACTORED_ITEMS:
        arrays[ITEM_FACTORS], arrays[TAG_FACTORS] = _factors(strengths, n_factors)
    return arrays


def with_sound_tags(
    tags: sparse.csr_matrix, names: Sequence[str], rows: npt.NDArray[np.int64], sounds: RecordingEmbeddings
) -> tuple[sparse.csr_matrix, list[str]]:
    """Return tags and names with those that a pretrained backbone gives to the recordings.

    Args:
        tags: (I, T) how often each tag was given to each item.
        names: (T,) of the tags.
        rows: row of each recording's item.
        sounds: the recordings.
    """
    if sounds.tags is None:
        return tags, list(names)
    strengths = np.where(sounds.tags >= _LEAST_SOUND_TAG, sounds.tags * _SOUND_TAG_COUNT, 0)
    given = sparse.csr_matrix(strengths.astype(np.float32))
    item_of_recording = sparse.csr_matrix(
        (np.ones(len(rows), np.float32), (rows, np.arange(len(rows)))), shape=(tags.shape[0], len(rows))
    )
    return sparse.csr_matrix(sparse.hstack([tags, item_of_recording @ given]), dtype=np.float32), [
        *names,
        *sounds.tag_names,
    ]


def encoder_arrays(encoder: PretrainedEncoder) -> dict[str, npt.NDArray[Any]]:
    """Return the vocabulary of a sentence encoder, for the tokenizer of the server."""
    return text_arrays(VOCABULARY, encoder.vocabulary)


def encoder_entry() -> dict[str, Any]:
    """Return the manifest entry of the sentence encoder."""
    return {
        "model": ENCODER_MODEL,
        "weights": MINILM.requirement,
        "wheel_sha256": MINILM.sha256,
        "licence": MINILM.licence,
        "n_features": N_FEATURES,
        "most_tokens": MOST_TOKENS,
    }


def _merged(tags: sparse.csr_matrix, names: Sequence[str]) -> tuple[sparse.csr_matrix, list[str]]:
    """Return the most frequent tags (I, G) and their texts; tags of the same text become one."""
    kept = [index for index, name in enumerate(names) if not name.startswith(_IN_OTHER_FIELDS)]
    spread = tags[:, kept].getnnz(axis=0)
    best = sorted(np.argsort(-spread, kind="stable")[:_MOST_TAGS].tolist())
    chosen = [kept[index] for index in best if spread[index]]
    texts = [tag_text(names[index]).strip() for index in chosen]
    unique = sorted({text for text in texts if text})
    indices = {text: index for index, text in enumerate(unique)}
    named = [(column, indices[text]) for column, text in zip(chosen, texts, strict=True) if text]
    join = sparse.csr_matrix(
        (np.ones(len(named), np.float32), ([a for a, _ in named], [b for _, b in named])),
        shape=(tags.shape[1], len(unique)),
    )
    return sparse.csr_matrix(tags @ join, dtype=np.float32), unique


def _factors(strengths: sparse.csr_matrix, n_factors: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return factors of items (I, F) and tags (G, F), whose products approximate the strengths."""
    matrix = strengths.astype(np.float64)
    start = np.random.default_rng(0).standard_normal(min(matrix.shape))
    left, values, right = svds(matrix, n_factors, v0=start)
    roots = np.sqrt(np.maximum(values, 0))
    return np.asarray(left * roots, np.float32), np.asarray(right.T * roots, np.float32)
