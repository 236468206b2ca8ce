"""Numbers and names on the wire that the client, the training code and the server agree on.

The contract tests compare them with the declarations of the model kinds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias, get_args

# --- audio -------------------------------------------------------------------------------------
SAMPLE_RATE_HZ: Final = 22_050  # half of CD: most musical information is below 11 kHz, and the public data sets use it
WINDOW_S: Final = 3.0  # long enough for a bar of music, short enough for a timeline
WINDOW_SAMPLES: Final = 66_150  # WINDOW_S * SAMPLE_RATE_HZ
MIN_DURATION_S: Final = 0.5  # shorter recordings are rejected
SILENCE_PEAK: Final = 1e-4  # -80 dBFS: recordings with a lower peak are rejected as silent
LARGEST_SAMPLE: Final = 64.0  # 36 dB over full scale: above it, integers were passed as floats

# --- genre_cnn ---------------------------------------------------------------------------------
GENRE_MODEL: Final = "genre_cnn"
EMBEDDING_SIZE: Final = 256
# GEMS-9, in the order of the Emotify manifest's `emotion_*` columns (Zentner et al. 2008).
EMOTIONS: Final = (
    "amazement",
    "solemnity",
    "tenderness",
    "nostalgia",
    "calmness",
    "power",
    "joyful_activation",
    "tension",
    "sadness",
)
# The value of `emotions` in a model trained without emotion columns: impossible as a fraction and, unlike NaN, valid in
# JSON, so that plain HTTP clients can read it too.
EMOTION_NOT_TRAINED: Final = -1.0

AudioFormat: TypeAlias = Literal["float32", "int16", "file"]  # in which clients send recordings
PCM16_FULL_SCALE: Final = 32_768  # of samples as 16-bit integers
# Parameters in config.pbtxt of a classifier: the model with the same network that takes 16-bit samples, the digest of
# the weights, by which a client recognises that both have the same network, and the model that decodes files.
PCM16_MODEL_PARAMETER: Final = "pcm16_model"
WEIGHTS_PARAMETER: Final = "weights_sha256"
FILE_MODEL_PARAMETER: Final = "file_model"
# Parameters in config.pbtxt of the model that decodes files: the classifier that it calls, and the largest file.
CLASSIFIER_PARAMETER: Final = "classifier_model"
MAX_RECORDING_BYTES_PARAMETER: Final = "max_recording_bytes"
CLASSIFIER_VERSION: Final = "classifier_version"  # parameter of a request to that model

# --- models of symbolic music ------------------------------------------------------------------
COMPOSE_MODEL: Final = "music_transformer"
STREAM_MODEL: Final = "composer"
PREDICT_MODEL: Final = "polyphony_rnn"
LATENT_MODEL: Final = "music_vae"
SAMPLE_MODEL: Final = "music_gan"
# Attributes along which music_vae varies a piece, in the order of the input `attributes` of its decoder.
ATTRIBUTES: Final = ("note_density", "pitch_range", "rhythmic_complexity")
LARGEST_AMOUNT: Final = 10.0  # standard deviations along an attribute: training music stays within
LARGEST_DENSITY: Final = 16.0  # struck notes per quarter: the maximum of four voices with four steps
# Sampling temperature.
LEAST_TEMPERATURE: Final = 0.001  # lower values would equal `top_k=1`
LARGEST_TEMPERATURE: Final = 100.0

# --- recommending -------------------------------------------------------------------------------
RECOMMEND_MODEL: Final = "recommender"
N_RECOMMENDED_MAX: Final = 10_000  # tracks in one response
# With reasons: up to 20 per item and base model; 200 items with a very long history take a server 0.3 s.
N_EXPLAINED_MAX: Final = 200
N_DIVERSE_MAX: Final = 1_000  # with diversity: the work grows with the square of the number
N_PLAYLIST_MAX: Final = 200  # tracks of a playlist in one response
PLAYLIST_DIVERSITY: Final = 0.3  # default of a playlist
LARGEST_ARTIST_GAP: Final = 100  # tracks of a playlist between two of the same artist
N_ID_BYTES_MAX: Final = 4_096  # of one id, in UTF-8
N_IDS_MAX: Final = 100_000  # ids in one list of a request, duplicates included
N_FRIENDS_MAX: Final = 1_000  # different ones
LARGEST_EMBEDDING: Final = 1e6  # of each number; `genre_cnn` returns vectors of length 1
# Kinds of similarity between tracks.
WAYS_TO_BE_ALIKE: Final = ("listening", "sound", "both")
# Fields of the search for tracks, in the order in which equally good matches are listed.
SEARCH_FIELDS: Final = ("id", "title", "artist")
LARGEST_OFFSET: Final = 2**31 - 1

# --- events -------------------------------------------------------------------------------------
EVENTS_MODEL: Final = "recommender_events"
EventKind: TypeAlias = Literal["play", "skip", "like", "dislike"]
EVENT_KINDS: Final[tuple[EventKind, ...]] = get_args(EventKind)
N_EVENTS_MAX: Final = 256  # of one request
N_EVENT_ID_MAX: Final = 128  # printable ASCII characters
N_EVENT_TRACK_BYTES_MAX: Final = 1_024  # in UTF-8
LONGEST_PLAY_S: Final = 86_400.0
# Of the context of an event.
N_CONTEXT_MAX: Final = 8
N_CONTEXT_VALUE_MAX: Final = 64  # characters

# --- inspire ------------------------------------------------------------------------------------
INSPIRE_MODEL: Final = "inspire"
N_RENDERED_WINDOWS_MAX: Final = 64  # windows of a rendered piece, 192 s; the largest batch of `genre_cnn`

# Ends the name of a model that is on trial; neither listed to callers nor served at start-up.
CANDIDATE_SUFFIX: Final = ".candidate"

Priority: TypeAlias = Literal["interactive", "batch"]
# Priority levels of Triton's queues: the smallest number is served first. The export writes them to config.pbtxt.
PRIORITIES: Final[Mapping[Priority, int]] = {"interactive": 1, "batch": 2}
