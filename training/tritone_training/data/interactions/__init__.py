"""Listening logs with friends, tags and metadata: read from tables, cleaned with a report, and split.

```python
log = load_log(Path("plays.tsv"), Columns(user="userID", item="artistID", plays="weight"))
log.report                       # rows read, rows used, and why the others were left out
train, held_out = split_log(log, fraction=0.1, seed=0)
```
"""

from tritone_training.data.interactions.cleaning import CleaningRules
from tritone_training.data.interactions.columns import Columns
from tritone_training.data.interactions.files import LOG_OPTIONS, ListeningFiles, files_of, join_data
from tritone_training.data.interactions.item_words import words_matrix
from tritone_training.data.interactions.listening import SESSIONS, ListeningData, columns_of, load_listening
from tritone_training.data.interactions.log import (
    Log,
    MetadataTable,
    TagTable,
    held_out_counts,
)
from tritone_training.data.interactions.log_reading import keep_log, load_log, load_sequences
from tritone_training.data.interactions.parts_staging import ReadingWorkers
from tritone_training.data.interactions.reading import load_friends, load_metadata, load_tags, words_of
from tritone_training.data.interactions.simulated import SIMULATED, SimulatedWorld, simulated_world
from tritone_training.data.interactions.simulated_sessions import (
    SIMULATED_SESSIONS,
    SimulatedSessions,
    simulate_sessions,
    simulated_sessions,
)
from tritone_training.data.interactions.splitting import last_pairs, split_log
from tritone_training.data.interactions.user_sequences import (
    MOST_EVENTS,
    UserSequences,
    is_sequence_file,
    last_of_users,
)

__all__ = [
    "LOG_OPTIONS",
    "MOST_EVENTS",
    "SESSIONS",
    "SIMULATED",
    "SIMULATED_SESSIONS",
    "CleaningRules",
    "Columns",
    "ListeningData",
    "ListeningFiles",
    "Log",
    "MetadataTable",
    "ReadingWorkers",
    "SimulatedSessions",
    "SimulatedWorld",
    "TagTable",
    "UserSequences",
    "columns_of",
    "files_of",
    "held_out_counts",
    "is_sequence_file",
    "join_data",
    "keep_log",
    "last_of_users",
    "last_pairs",
    "load_friends",
    "load_listening",
    "load_log",
    "load_metadata",
    "load_sequences",
    "load_tags",
    "simulate_sessions",
    "simulated_sessions",
    "simulated_world",
    "split_log",
    "words_matrix",
    "words_of",
]
