"""What the served recommender says to each listener, why, and whether both hold together."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tritone import TritoneError
from tritone_cli import console
from tritone_cli.demonstration.listeners import N_SUGGESTED, Listener, join_words

if TYPE_CHECKING:
    from tritone import MusicClient, Recommendation, Recommendations
    from tritone_training.catalogue import Catalogue, Track

_N_SAID: Final = 3  # in the terminal; the page has all
_N_REASONS: Final = 4
_N_NAMED: Final = 2  # pieces, friends or tags of one reason
_OF_PIECES: Final = ("history", "friends_listening")  # reasons that name pieces
_LEAST_SHARE: Final = 0.05  # of a score; what gives less is not worth a word
# What a reason says of the things that it names, and of nothing in particular; a member's own words come first.
_NAMED: Final[Mapping[str, str]] = {
    "history": "heard {}",
    "friend": "friends: {}",
    "friends_listening": "friends heard {}",
    "tag": "tagged {}",
}
_UNNAMED: Final[Mapping[tuple[str, str], str]] = {
    ("taste_vae", "history"): "fits what was heard, taken together",
    ("taste_vae", "friends_listening"): "fits what friends heard, taken together",
    ("sound", "history"): "sounds like what was heard",
    ("sound", "friends_listening"): "sounds like what friends heard",
}
_BECAUSE: Final[Mapping[str, str]] = {
    "history": "what was heard",
    "friend": "friends listen to it",
    "friends_listening": "what friends heard",
    "tag": "its tags",
    "recording": "sounds like the recording",
    "mood": "fits the mood",
    "listeners": "people of like taste listen to it",
    "popularity": "well known",
    "unheard": "nobody has heard it yet",
}


@dataclass(frozen=True)
class Suggestion:
    """A piece to play.

    Attributes:
        because: in words, the weightiest first.
        members: what each member of the ensemble gave to the score.
        sound: recording of its first 20 s.
    """

    track: Track
    score: float
    because: tuple[str, ...]
    members: Mapping[str, float]
    sound: Path


@dataclass(frozen=True)
class Suggested:
    """What somebody was recommended."""

    listener: Listener
    answer: Recommendations
    suggestions: tuple[Suggestion, ...]
    milliseconds: float
    picture: Path

    @property
    def collections(self) -> Mapping[str, int]:
        """How many pieces are of which collection, most first."""
        return dict(Counter(each.track.collection for each in self.suggestions).most_common())

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "name": self.listener.name,
            "title": self.listener.title,
            "python": self.listener.python(),
            "command": self.listener.shell(),
            "milliseconds": self.milliseconds,
            "collections": dict(self.collections),
            "picture": str(self.picture),
            "because": [list(each.because) for each in self.suggestions],
            "sounds": [str(each.sound) for each in self.suggestions],
            **self.answer.to_dict(),
        }


def recommend(music: MusicClient, listener: Listener, catalogue: Catalogue, out: Path) -> Suggested:
    """Ask for one listener, and draw what each member gave.

    Raises:
        TritoneError: the answer rests on something else than it must, or its reasons do not add up.
    """
    from tritone_cli.demonstration.shares import draw

    began = time.perf_counter()
    answer = listener.send(music)
    milliseconds = (time.perf_counter() - began) * 1e3
    _check(listener, answer)
    folder = out / "recommended"
    suggestions = tuple(_suggestion(each, catalogue, folder) for each in answer)
    picture = draw(suggestions, folder / f"{listener.name}.png")
    suggested = Suggested(listener, answer, suggestions, milliseconds, picture)
    counts = ", ".join(f"{n} from {collection}" for collection, n in suggested.collections.items())
    console.say(f"      {listener.title}: {counts}, in {milliseconds:.0f} ms")
    for each in suggestions[:_N_SAID]:
        console.say(f"        {each.track.title} ({each.track.composer}): {'; '.join(each.because)}")
    return suggested


def _check(listener: Listener, answer: Recommendations) -> None:
    if answer.source != listener.source or len(answer) != N_SUGGESTED:
        raise TritoneError(
            f"{listener.title}: expected {N_SUGGESTED} tracks from {listener.source}, "
            f"got {len(answer)} from {answer.source}"
        )
    for each in answer:
        total = sum(reason.amount for reason in each.reasons)
        if abs(total - each.score) > 1e-3 * max(1.0, abs(each.score)):
            raise TritoneError(
                f"{listener.title}: the reasons for {each.track_id} add up to {total:.4f}, its score is "
                f"{each.score:.4f}: something is broken"
            )


def _suggestion(recommended: Recommendation, catalogue: Catalogue, folder: Path) -> Suggestion:
    members: dict[str, float] = {}
    for reason in recommended.reasons:
        members[reason.member] = members.get(reason.member, 0.0) + reason.amount
    track = catalogue[recommended.track_id]
    because = _because(recommended, catalogue)
    return Suggestion(track, recommended.score, because, members, _sound(track, folder))


def _sound(track: Track, folder: Path) -> Path:
    """Write a recording of a piece as written."""
    from tritone_training.catalogue import write_audio

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{track.id.replace('/', '-')}.ogg"
    write_audio(track, path)
    return path


def _because(recommended: Recommendation, catalogue: Catalogue) -> tuple[str, ...]:
    """The weightiest reasons in words, each with its share of the score."""
    found: dict[str, dict[str, float]] = {}  # words -> what they name -> amount
    for reason in recommended.reasons:
        own = _UNNAMED.get((reason.member, reason.because)) or _BECAUSE.get(reason.because, reason.because)
        causes = found.setdefault(_NAMED.get(reason.because, own) if reason.id else own, {})
        name = catalogue[reason.id].title if reason.id and reason.because in _OF_PIECES else reason.id
        causes[name] = causes.get(name, 0.0) + reason.amount
    ranked = sorted(found.items(), key=lambda entry: -sum(entry[1].values()))[:_N_REASONS]
    shares = [(sum(causes.values()) / max(recommended.score, 1e-9), words, causes) for words, causes in ranked]
    return tuple(
        f"{share:.0%} {words.format(_names(causes))}" for share, words, causes in shares if share >= _LEAST_SHARE
    )


def _names(causes: Mapping[str, float]) -> str:
    """The weightiest by name, the others by number."""
    names = sorted(causes, key=lambda name: -causes[name])
    more = [f"{len(names) - _N_NAMED} more"] if len(names) > _N_NAMED else []
    return join_words([*names[:_N_NAMED], *more])
