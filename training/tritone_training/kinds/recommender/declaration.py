"""Inputs, outputs and serving parameters of `recommender`, and the Triton ensembles that contain it."""

from __future__ import annotations

from typing import Final

from tritone.constants import (
    EMBEDDING_SIZE,
    EMOTIONS,
    GENRE_MODEL,
    LARGEST_ARTIST_GAP,
    LARGEST_EMBEDDING,
    LARGEST_OFFSET,
    N_IDS_MAX,
    N_RECOMMENDED_MAX,
    SEARCH_FIELDS,
    WAYS_TO_BE_ALIKE,
    WINDOW_SAMPLES,
)
from tritone_training.declaration import (
    Axis,
    Batching,
    Declaration,
    DType,
    EnsembleDeclaration,
    Instances,
    Limits,
    QueuePolicy,
    Serving,
    Step,
    Tensor,
)

MANIFEST_FILENAME: Final = "recommender.json"
TASTE_MODEL_PARAMETER: Final = "taste_model"
TEXT_ENCODER_PARAMETER: Final = "text_encoder_model"


def _list(name: str, dtype: DType, description: str, *, axis: str = "", limits: Limits | None = None) -> Tensor:
    # The limit for one row is also the limit for all rows of a request together.
    axes = (Axis(axis or name, min_size=0, max_size=N_IDS_MAX, max_total=N_IDS_MAX),)
    return Tensor(name, dtype, axes, description, optional=True, ragged=True, limits=limits)


def _one(name: str, dtype: DType, description: str, limits: Limits | None = None) -> Tensor:
    return Tensor(name, dtype, (Axis(name, 1),), description, optional=True, limits=limits)


def _answer(name: str, dtype: DType, description: str) -> Tensor:
    return Tensor(name, dtype, (Axis("item"),), description)


_SHARE: Final = Limits(minimum=0, maximum=1)

USER_ID: Final = _one(
    "user_id", "BYTES", "user id as in the log; the stored history and friends are used if the user is known"
)
HISTORY: Final = _list(
    "history", "BYTES", "ids of items listened to, in order, the most recent last; added to the stored history"
)
WEIGHTS: Final = _list(
    "weights",
    "FP32",
    "play counts of the items in `history`; all 1 if left out",
    axis="history",
    limits=Limits(minimum=0),
)
TIMES: Final = _list(
    "times",
    "INT64",
    "when the items in `history` were listened to, whole seconds since 1970, 0 if unknown; at most a day ahead of "
    "the server's clock",
    axis="history",
    limits=Limits(minimum=0),
)
SKIPPED: Final = _list(
    "skipped",
    "BYTES",
    "ids of items that the user skipped or disliked; they are not recommended, and similar ones rank lower",
)
FRIENDS: Final = _list("friends", "BYTES", "user ids of friends")
EMBEDDING: Final = Tensor(
    "embedding",
    "FP32",
    (Axis("feature", EMBEDDING_SIZE),),
    "embedding of a recording, by genre_cnn",
    optional=True,
    limits=Limits(minimum=-LARGEST_EMBEDDING, maximum=LARGEST_EMBEDDING),
)
MOOD: Final = _one("mood", "BYTES", "one of the nine emotions", Limits(words=("", *EMOTIONS)))
MOOD_STRENGTHS: Final = Tensor(
    "mood_strengths",
    "FP32",
    (Axis("emotion", len(EMOTIONS)),),
    "0..1, strength of each of the nine emotions, instead of `mood`; zeros for none",
    optional=True,
    limits=Limits(minimum=0, maximum=1),
)
K: Final = _one(
    "k",
    "INT32",
    "number of items to return; 10 if left out; at most 10,000, 1,000 with `diversity` and 200 with `explain`, and "
    "100,000 (2,000 with `explain`) in all rows of a request",
    Limits(minimum=1, maximum=N_RECOMMENDED_MAX),
)
EXCLUDE: Final = _list("exclude", "BYTES", "ids of items that must not be recommended")
FILTER_LISTENED: Final = _one(
    "filter_listened", "BOOL", "exclude items that the user has listened to; true if left out"
)
DIVERSITY: Final = _one("diversity", "FP32", "0..1, penalty for similarity between the items; 0 if left out", _SHARE)
NOVELTY: Final = _one("novelty", "FP32", "0..1, preference for less popular items; 0 if left out", _SHARE)
EXPLAIN: Final = _one("explain", "BOOL", "return reasons; false if left out")
SIMILAR_TO: Final = _one("similar_to", "BYTES", "item id: return similar items instead of recommendations")
BY: Final = _one(
    "by",
    "BYTES",
    "listening, sound or both: how items are compared with `similar_to` or `embedding`",
    Limits(words=("", *WAYS_TO_BE_ALIKE)),
)

QUERY: Final = _one("query", "BYTES", "a title, an artist or an id: search for items instead of recommending")
QUERY_FIELD: Final = _one(
    "query_field", "BYTES", "what to search: id, title or artist; all if left out", Limits(words=("", *SEARCH_FIELDS))
)
OFFSET: Final = _one(
    "offset",
    "INT32",
    "how many of the items found by `query` to skip; `k` is how many to return",
    Limits(minimum=0, maximum=LARGEST_OFFSET),
)

RESOLVE: Final = _one(
    "resolve", "BOOL", "ids of items may be titles, each of which names a single item; false if left out"
)
TEXT: Final = _one(
    "text", "BYTES", "a description, such as `calm piano for reading`: search for items by its words and its meaning"
)
PLAYLIST_FROM: Final = _one(
    "playlist_from",
    "BYTES",
    "item id: make a playlist from this item instead of recommending; `k` is its length, at most 200",
)
PLAYLIST_TO: Final = _one("playlist_to", "BYTES", "item id: last item of the playlist; without it, a mix is made")
AFTER: Final = _list("after", "BYTES", "ids of the earlier items of a mix, which goes on after the last of them")
ARTIST_GAP: Final = _one(
    "artist_gap",
    "INT32",
    "number of items of a playlist between two of the same artist; -1 or left out for 3, or fewer where there are few "
    "artists",
    Limits(minimum=-1, maximum=LARGEST_ARTIST_GAP),
)
SEED: Final = _one("seed", "INT64", "seed of a playlist; -1 or left out for 0", Limits(minimum=-1))

ITEM_IDS: Final = _answer("item_ids", "BYTES", "best first; padded with empty ids")
SCORES: Final = _answer(
    "scores",
    "FP32",
    "score of each item, descending; cosine similarities for `similar_to` and `by`; in a playlist "
    "the similarity to the item before it, 0 for the first",
)
TITLES: Final = _answer("titles", "BYTES", "title of each item, empty if unknown")
ARTISTS: Final = _answer("artists", "BYTES", "artist of each item, empty if unknown")
REASONS: Final = _answer(
    "reasons",
    "BYTES",
    'JSON for each item: [{"base_model", "because", "id", "amount", "title", "artist"}, ...]; the amounts add up to '
    "the score; title and artist are given where `id` is an item that has them; empty without `explain`",
)
SOURCE: Final = Tensor(
    "source",
    "BYTES",
    (Axis("one", 1),),
    (
        "most specific input used: user, history, friends, audio, mood or popularity; for `text`: meaning, or words "
        "without a sentence encoder; else similar, playlist or search (of `query`)"
    ),
)
ARM: Final = Tensor("arm", "BYTES", (Axis("one", 1),), "arm of the A/B test")
UNKNOWN: Final = Tensor(
    "unknown",
    "BYTES",
    (Axis("one", 1),),
    'JSON with two parts. The inputs that were ignored: {"user": bool, "history": [...], "skipped": [...], "friends": '
    '[...], "exclude": [...], "mood": bool, "audio": bool, "events": bool}. And, in the same object, the mood that was '
    'used, if there is one: {"mood_used": {"source": "given" or "inferred", "strengths": {emotion: number}}}',
)

MATCH: Final = _answer(
    "match", "BYTES", "how each item matches `query`: exact, normalized, prefix, words or near; else empty"
)
MATCH_FIELD: Final = _answer(
    "match_field", "BYTES", "field of each item that matches `query`: id, title or artist; else empty"
)
PLAYLIST: Final = Tensor(
    "playlist",
    "BYTES",
    (Axis("one", 1),),
    'JSON of how a playlist was made: {"artist_gap": int, "relaxed": ["artist_gap", "n"], "compared_by": ["listening", '
    '"sound", "tags"], "by_taste": bool}; else empty',
)
TOTAL: Final = Tensor("total", "INT32", (Axis("one", 1),), "how many items `query` found in all; else 0")

DECLARATION: Final = Declaration(
    name="recommender",
    summary="Recommends items to known and new users or for a recording, finds similar items, makes playlists.",
    inputs=(
        USER_ID,
        HISTORY,
        WEIGHTS,
        TIMES,
        SKIPPED,
        FRIENDS,
        EMBEDDING,
        MOOD,
        MOOD_STRENGTHS,
        K,
        EXCLUDE,
        FILTER_LISTENED,
        DIVERSITY,
        NOVELTY,
        EXPLAIN,
        SIMILAR_TO,
        BY,
        QUERY,
        QUERY_FIELD,
        OFFSET,
        TEXT,
        RESOLVE,
        PLAYLIST_FROM,
        PLAYLIST_TO,
        AFTER,
        ARTIST_GAP,
        SEED,
    ),
    outputs=(
        ITEM_IDS,
        SCORES,
        TITLES,
        ARTISTS,
        REASONS,
        SOURCE,
        ARM,
        UNKNOWN,
        MATCH,
        MATCH_FIELD,
        TOTAL,
        PLAYLIST,
    ),
    serving=Serving(
        batching=Batching(max_batch_size=64, preferred_batch_sizes=(), max_queue_delay_microseconds=0),
        queue=QueuePolicy(default_timeout_microseconds=5_000_000, max_queue_size=1024),
        instances=Instances(n_cpu=2, n_gpu=0, n_intra_op_threads=1),
        warmup_batch_sizes=(),  # the backend runs a request when it loads
    ),
    # key_file: path of the key of the users' pseudonyms. If empty, TRITONE_RECOMMENDER_KEY names the file; by default
    # it is in the state folder of the server's user, where `tritone export` stores it.
    # candidates_min_items: minimum number of items for candidate scoring; `never` disables it; 500,000 if empty.
    # candidates_per_model: number of candidates of each base model; 2,000 if empty.
    # taste_timeout_ms, sequence_timeout_ms: longest time until a response of `taste_vae` and `taste_sequence`, in
    # milliseconds; 1,000 if empty.
    parameters={
        TASTE_MODEL_PARAMETER: "taste_vae",
        "taste_timeout_ms": "",
        "sequence_model": "taste_sequence",
        "sequence_timeout_ms": "",
        TEXT_ENCODER_PARAMETER: "sentence_encoder",
        "key_file": "",
        "min_friends": "3",
        "candidates_min_items": "",
        "candidates_per_model": "",
    },
    backend="cf_ensemble",
    filename=MANIFEST_FILENAME,
)

EVENTS_FILENAME: Final = "events.json"  # names the key of the pseudonyms; events are in a store, not in the version
MOST_EVENTS: Final = 256  # of a request, and of what is stored together

# A model of its own, so that writing events does not wait for recommendations, nor they for it.
EVENTS_DECLARATION: Final = Declaration(
    name="recommender_events",
    summary="Stores plays, skips, likes and dislikes, from which a user's next recommendations are computed.",
    inputs=(
        Tensor(
            "event",
            "BYTES",
            (Axis("one", 1),),
            'JSON: {"id", "user", "track", "kind": "play", "skip", "like" or "dislike", "at": seconds since 1970, '
            '"played_s": seconds, "context": {name: text}}; all after `track` may be left out',
        ),
    ),
    outputs=(
        Tensor("outcome", "BYTES", (Axis("one", 1),), "new, duplicate, refused (invalid) or denied (no access)"),
        Tensor("reason", "BYTES", (Axis("one", 1),), "why an event was refused or denied; else empty"),
    ),
    serving=Serving(
        batching=Batching(max_batch_size=MOST_EVENTS, preferred_batch_sizes=(), max_queue_delay_microseconds=0),
        queue=QueuePolicy(default_timeout_microseconds=5_000_000, max_queue_size=1024),
        instances=Instances(n_cpu=2, n_gpu=0, n_intra_op_threads=1),
        warmup_batch_sizes=(),
    ),
    parameters={"key_file": ""},  # as for `recommender`
    backend="events",
    filename=EVENTS_FILENAME,
)

POOLING_MODEL: Final = "recording_embedding"  # normalised mean of the windows' embeddings

_ROW: Final = Axis("row", 1)


def _row(tensor: Tensor) -> Tensor:
    """Return a tensor with an explicit batch axis of 1."""
    return Tensor(tensor.name, tensor.dtype, (_ROW, *tensor.axes), tensor.description)


# From audio to recommendations in one request.
RECORDING_RECOMMENDER: Final = EnsembleDeclaration(
    name="recording_recommender",
    summary="Recommends items similar to a recording.",
    inputs=(
        Tensor(
            "audio",
            "FP32",
            (Axis("window"), Axis("sample", WINDOW_SAMPLES)),
            "one recording: windows of 3 s of mono PCM at 22,050 Hz, -1..1, at most 64",
        ),
        _row(K),
    ),
    outputs=tuple(_row(tensor) for tensor in (ITEM_IDS, SCORES, TITLES, ARTISTS, SOURCE, ARM)),
    steps=(
        Step(GENRE_MODEL, {"audio": "audio"}, {"embedding": "window_embeddings"}),
        Step(POOLING_MODEL, {"embeddings": "window_embeddings"}, {"embedding": "recording_embedding"}),
        Step(
            "recommender",
            {"embedding": "recording_embedding", "k": "k"},
            {tensor.name: tensor.name for tensor in (ITEM_IDS, SCORES, TITLES, ARTISTS, SOURCE, ARM)},
        ),
    ),
)
