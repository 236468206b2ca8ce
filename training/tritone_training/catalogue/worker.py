"""Worker process that reads candidates: one JSON object on each line of stdin, one result on each line of stdout.

`multiprocessing` is not used, because it would run the script of the caller again in each worker if the script has no
`__main__` guard, or fork a process in which PyTorch has started threads.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from tritone_training.catalogue.midi import write_midi
from tritone_training.catalogue.reading import Unusable, end_quarters, read_piece
from tritone_training.catalogue.sources import KNOWN_COLLECTIONS, Candidate


def handle(job: dict[str, Any]) -> dict[str, Any]:
    """Read one candidate and write its MIDI file.

    Returns:
        `{"reason", "detail"}` for what cannot be used, `{"failed"}` where nothing can be written, else the
        piece's facts without its notes.
    """
    candidate = Candidate(job["id"], job["collection"], Path(job["path"]), job["number"])
    piece = read_piece(candidate, KNOWN_COLLECTIONS[candidate.collection])
    if isinstance(piece, Unusable):
        return asdict(piece)
    # By intervals and rhythm: the same tune in another key is the same tune.
    first_pitch = piece.voices[0][0][2]
    shape = [[(round(o, 3), round(d, 3), p - first_pitch) for o, d, p in voice] for voice in piece.voices]
    try:
        write_midi(piece, Path(job["midi"]))
    except OSError as error:  # a full disk is not this piece's fault
        return {"failed": str(error)}
    facts = asdict(piece)
    del facts["voices"]
    return facts | {
        "n_notes": sum(map(len, piece.voices)),
        "n_voices": len(piece.voices),
        "duration_quarters": end_quarters(piece),
        "shape": json.dumps(shape),
    }


def main() -> None:
    """Answer jobs until stdin ends, which it also does when the builder dies."""
    answers = _claim_stdout()
    warnings.simplefilter("ignore")  # music21's remarks on a source are not for whoever asked for a catalogue
    for line in sys.stdin:
        answers.write(json.dumps(handle(json.loads(line))) + "\n")
        answers.flush()


def _claim_stdout() -> TextIO:
    """Keep stdout for answers and send to stderr whatever a library prints."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


if __name__ == "__main__":
    main()
