"""What the served recommender says to each listener, why, and whether both hold together."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tritone_cli import console
from tritone_cli.demonstration.listeners import N_SUGGESTED, Listener
from tritone_client import TritoneError

if TYPE_CHECKING:
    from tritone_client import MusicClient, Recommendation, Recommendations
    from tritone_training.catalogue import Catalogue, Track

_N_REASONS: Final = 3
_LEAST_SHARE: Final = 0.05  # of a score; what gives less is not worth a word
# What a reason rests on: with a name to give, and without.
_BECAUSE: Final[Mapping[str, tuple[str, str]]] = {
    "history": ("heard {}", "all that was heard"),
    "friend": ("{} listens to it", "friends listen to it"),
    "friends_listening": ("friends listen to {}", "all that friends listen to"),
    "tag": ("tagged {}", "tags"),
    "recording": ("sounds like the recording", "sounds like the recording"),
    "mood": ("fits the mood", "fits the mood"),
    "listeners": ("people of like taste", "people of like taste"),
    "popularity": ("well known", "well known"),
    "unheard": ("nobody has heard it yet", "nobody has heard it yet"),
}


@dataclass(frozen=True)
class Suggestion:
    """A piece to play.

    Attributes:
        because: in words, the weightiest first.
        members: what each member of the ensemble gave to the score.
    """

    track: Track
    score: float
    because: tuple[str, ...]
    members: Mapping[str, float]


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
    suggestions = tuple(_suggestion(each, catalogue) for each in answer)
    picture = draw(suggestions, out / "recommended" / f"{listener.name}.png")
    suggested = Suggested(listener, answer, suggestions, milliseconds, picture)
    counts = ", ".join(f"{n} from {collection}" for collection, n in suggested.collections.items())
    console.say(f"      {listener.title}: {counts}, in {milliseconds:.0f} ms")
    for each in suggestions[:_N_REASONS]:
        console.say(f"        {each.track.title} ({each.track.composer}): {'; '.join(each.because)}")
    return suggested


def _check(listener: Listener, answer: Recommendations) -> None:
    if answer.rung != listener.rung or len(answer) != N_SUGGESTED:
        raise TritoneError(
            f"{listener.title}: got {len(answer)} tracks by {answer.rung}, expected {N_SUGGESTED} by {listener.rung}: "
            f"something is broken"
        )
    for each in answer:
        total = sum(reason.amount for reason in each.reasons)
        if abs(total - each.score) > 1e-3 * max(1.0, abs(each.score)):
            raise TritoneError(
                f"{listener.title}: the reasons for {each.track_id} add up to {total:.4f}, its score is "
                f"{each.score:.4f}: something is broken"
            )


def _suggestion(recommended: Recommendation, catalogue: Catalogue) -> Suggestion:
    causes: Counter[str] = Counter()
    members: Counter[str] = Counter()
    for reason in recommended.reasons:
        causes[_words(reason.because, reason.id, catalogue)] += reason.amount  # type: ignore[assignment]
        members[reason.member] += reason.amount  # type: ignore[assignment]
    shares = {words: amount / max(recommended.score, 1e-9) for words, amount in causes.most_common(_N_REASONS)}
    because = tuple(f"{share:.0%} {words}" for words, share in shares.items() if share >= _LEAST_SHARE)
    return Suggestion(catalogue[recommended.track_id], recommended.score, because, dict(members))


def _words(because: str, cause: str, catalogue: Catalogue) -> str:
    named, nameless = _BECAUSE.get(because, (because, because))
    if because in ("history", "friends_listening") and cause:
        cause = catalogue[cause].title
    return named.format(cause) if cause else nameless
