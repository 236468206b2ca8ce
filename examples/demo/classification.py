"""Classify recordings of held-out pieces with the served `genre_cnn`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tritone_cli import console

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from tritone import Classification, MusicClient
    from tritone_training.corpus import Corpus, CorpusTrack

KIND: Final = "genre_cnn"
_EXCERPT_S: Final = 12.0


@dataclass(frozen=True)
class ClassifiedRecording:
    """A recording, its track and its classification."""

    track: CorpusTrack
    path: Path
    answer: Classification

    @property
    def is_correct(self) -> bool:
        """Whether the label is the collection of the track."""
        return self.answer.label == self.track.collection


@dataclass(frozen=True)
class Medley:
    """A concatenation of excerpts, its classification and a plot of the timeline."""

    path: Path
    answer: Classification
    picture: Path


def classify_recordings(
    music: MusicClient, corpus: Corpus, info: Mapping[str, Any], out: Path
) -> tuple[tuple[ClassifiedRecording, ...], Medley]:
    """Classify a held-out piece of each collection, and a medley of excerpts."""
    folder = out / "recordings"
    folder.mkdir(parents=True, exist_ok=True)
    tracks = held_out(corpus, info)
    recordings = tuple(_classify(music, track, folder) for track in tracks)
    return recordings, _medley(music, tracks, folder, out)


def held_out(corpus: Corpus, info: Mapping[str, Any]) -> tuple[CorpusTrack, ...]:
    """Return one held-out track of each collection."""
    chosen: dict[str, CorpusTrack] = {}
    for name in info["splits"]["test"]:
        track = corpus[name.rpartition("#")[0]]
        chosen.setdefault(track.collection, track)
    return tuple(track for _, track in sorted(chosen.items()))


def _classify(music: MusicClient, track: CorpusTrack, folder: Path) -> ClassifiedRecording:
    from tritone_training.corpus import write_audio

    path = folder / f"{track.id.replace('/', '-')}.ogg"
    write_audio(track, path, seed=1_000)  # a rendering that training does not use
    answer = music.classify(path)
    console.say(f"      {track.title} ({track.collection}): {answer.label} {answer.probabilities[answer.label]:.2f}")
    return ClassifiedRecording(track, path, answer)


def _medley(music: MusicClient, tracks: tuple[CorpusTrack, ...], folder: Path, out: Path) -> Medley:
    import numpy as np

    from tritone.constants import SAMPLE_RATE_HZ
    from tritone_training.corpus import render, write_samples

    parts: list[npt.NDArray[np.float32]] = [render(track, seed=2_000, duration_s=_EXCERPT_S) for track in tracks]
    path = folder / "medley.ogg"
    write_samples(np.concatenate(parts), path, rate_hz=SAMPLE_RATE_HZ)
    answer = music.classify(path)
    return Medley(path, answer, answer.plot(out / "timeline.png"))
