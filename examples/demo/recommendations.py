"""Recommend pieces to each simulated listener with the served recommender, and check and plot the explanations."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from examples.demo.listeners import N_SUGGESTED, SimulatedListener, join_words
from tritone import TritoneError
from tritone_cli import console

if TYPE_CHECKING:
    from tritone import MusicClient, Recommendation, Recommendations
    from tritone_training.corpus import Corpus, CorpusTrack

_N_PRINTED: Final = 3  # in the terminal; the page shows all
_N_REASONS: Final = 4
_N_NAMED: Final = 2  # pieces, friends or tags named per reason
_OF_PIECES: Final = ("history", "friends_listening")  # reasons whose ids are pieces
_LEAST_SHARE: Final = 0.05  # share of the score; smaller reasons are left out
# Texts of reasons with ids; of reasons without ids by base model; and of all other reasons without ids.
_NAMED: Final[Mapping[str, str]] = {
    "history": "listened to {}",
    "friend": "friends: {}",
    "friends_listening": "friends listened to {}",
    "tag": "tagged {}",
}
_UNNAMED: Final[Mapping[tuple[str, str], str]] = {
    ("taste_vae", "history"): "fits the listening history as a whole",
    ("taste_vae", "friends_listening"): "fits the friends' listening as a whole",
    ("taste_sequence", "history"): "fits the order of the listening history",
    ("sound", "history"): "sounds like the listening history",
    ("sound", "friends_listening"): "sounds like the friends' listening",
}
_BECAUSE: Final[Mapping[str, str]] = {
    "history": "the listening history",
    "friend": "friends listen to it",
    "friends_listening": "the friends' listening",
    "tag": "its tags",
    "audio": "sounds like the recording",
    "mood": "fits the mood",
    "listeners": "people with similar taste listen to it",
    "popularity": "popular",
    "cold_item": "no listens yet",
}

# The same colour in every plot; "ensemble" is the effect of re-ranking.
_COLOURS: Final = {
    "user_knn": "#31688e",
    "item_knn": "#7fb8dc",
    "ease": "#35b779",
    "graph": "#1f7a4d",
    "factorization": "#4f9d92",
    "taste_vae": "#8e6bbf",
    "taste_sequence": "#5b3f91",
    "transitions": "#4a8c8c",
    "markov": "#8cc0bd",
    "social": "#e07b39",
    "sound": "#d8a31a",
    "mood": "#f2d16b",
    "tags": "#b5598a",
    "popularity": "#9aa5b1",
    "mainstream": "#6f7d8c",
    "ensemble": "#444c55",
}
_OTHER: Final = "#c7c2b8"
_LONGEST_TITLE: Final = 40


@dataclass(frozen=True)
class RecommendedPiece:
    """A recommended piece.

    Attributes:
        because: the reasons as text, the largest first.
        contributions: contribution of each base model to the score.
        sound: recording of the first 20 s.
    """

    track: CorpusTrack
    score: float
    because: tuple[str, ...]
    contributions: Mapping[str, float]
    sound: Path


@dataclass(frozen=True)
class ListenerRecommendations:
    """The recommendations of one listener."""

    listener: SimulatedListener
    answer: Recommendations
    pieces: tuple[RecommendedPiece, ...]
    milliseconds: float
    picture: Path

    @property
    def collections(self) -> Mapping[str, int]:
        """Number of pieces by collection, the largest first."""
        return dict(Counter(each.track.collection for each in self.pieces).most_common())

    def to_dict(self) -> dict[str, Any]:
        """Return the recommendations for `--json`."""
        return {
            "name": self.listener.name,
            "title": self.listener.title,
            "python": self.listener.python(),
            "command": self.listener.shell(),
            "milliseconds": self.milliseconds,
            "collections": dict(self.collections),
            "picture": str(self.picture),
            "because": [list(each.because) for each in self.pieces],
            "sounds": [str(each.sound) for each in self.pieces],
            **self.answer.to_dict(),
        }


def recommend(music: MusicClient, listener: SimulatedListener, corpus: Corpus, out: Path) -> ListenerRecommendations:
    """Send one listener's request, check the answer and plot the contribution of each base model.

    Raises:
        TritoneError: the answer has an unexpected source, or reasons that do not add up to the scores.
    """
    began = time.perf_counter()
    answer = listener.send(music)
    milliseconds = (time.perf_counter() - began) * 1e3
    _check(listener, answer)
    folder = out / "recommended"
    pieces = tuple(_suggestion(each, corpus, folder) for each in answer)
    picture = plot_contributions(pieces, folder / f"{listener.name}.png")
    suggested = ListenerRecommendations(listener, answer, pieces, milliseconds, picture)
    counts = ", ".join(f"{n} from {collection}" for collection, n in suggested.collections.items())
    console.say(f"      {listener.title}: {counts}, in {milliseconds:.0f} ms")
    for each in pieces[:_N_PRINTED]:
        console.say(f"        {each.track.title} ({each.track.composer}): {'; '.join(each.because)}")
    return suggested


def _check(listener: SimulatedListener, answer: Recommendations) -> None:
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
                f"{each.score:.4f}; this is a bug, please report it"
            )


def _suggestion(recommended: Recommendation, corpus: Corpus, folder: Path) -> RecommendedPiece:
    contributions: dict[str, float] = {}
    for reason in recommended.reasons:
        contributions[reason.base_model] = contributions.get(reason.base_model, 0.0) + reason.amount
    track = corpus[recommended.track_id]
    because = _because(recommended, corpus)
    return RecommendedPiece(track, recommended.score, because, contributions, _sound(track, folder))


def _sound(track: CorpusTrack, folder: Path) -> Path:
    """Write a recording of a piece."""
    from tritone_training.corpus import write_audio

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{track.id.replace('/', '-')}.ogg"
    write_audio(track, path)
    return path


def _because(recommended: Recommendation, corpus: Corpus) -> tuple[str, ...]:
    """Return the largest reasons as text, each with its share of all that raises the score in parentheses."""
    found: dict[str, dict[str, float]] = {}  # text -> name -> amount
    for reason in recommended.reasons:
        own = _UNNAMED.get((reason.base_model, reason.because)) or _BECAUSE.get(reason.because, reason.because)
        causes = found.setdefault(_NAMED.get(reason.because, own) if reason.id else own, {})
        name = corpus[reason.id].title if reason.id and reason.because in _OF_PIECES else reason.id
        causes[name] = causes.get(name, 0.0) + reason.amount
    ranked = sorted(found.items(), key=lambda entry: -sum(entry[1].values()))[:_N_REASONS]
    raising = sum(max(sum(causes.values()), 0.0) for causes in found.values())  # others, such as popularity, lower it
    if ranked and raising == 0:
        words, causes = ranked[0]
        return (f"{words.format(_names(causes))} (lowers it least)",)
    shares = [(sum(causes.values()) / max(raising, 1e-9), words, causes) for words, causes in ranked]
    return tuple(
        f"{words.format(_names(causes))} ({share:.0%})" for share, words, causes in shares if share >= _LEAST_SHARE
    )


def _names(causes: Mapping[str, float]) -> str:
    """Return the names with the largest amounts, and the number of the others."""
    names = sorted(causes, key=lambda name: -causes[name])
    more = [f"{len(names) - _N_NAMED} more"] if len(names) > _N_NAMED else []
    return join_words([*names[:_N_NAMED], *more])


def plot_contributions(pieces: Sequence[RecommendedPiece], path: Path) -> Path:
    """Plot a bar for each piece, the best on top, divided by base model."""
    from matplotlib.figure import Figure  # not pyplot, which would look for a display

    figure = Figure(figsize=(9, 0.6 + 0.34 * len(pieces)), layout="constrained")
    axes = figure.add_subplot()
    totals: dict[str, float] = {}
    for each in pieces:
        for base_model, amount in each.contributions.items():
            totals[base_model] = totals.get(base_model, 0.0) + abs(amount)
    ends, starts = [0.0] * len(pieces), [0.0] * len(pieces)
    for base_model in sorted(totals, key=lambda name: -totals[name]):
        amounts = [each.contributions.get(base_model, 0.0) for each in pieces]
        lefts = [end if amount >= 0 else start for amount, end, start in zip(amounts, ends, starts, strict=True)]
        axes.barh(
            range(len(pieces)),
            amounts,
            left=lefts,
            height=0.72,
            label=base_model,
            color=_COLOURS.get(base_model, _OTHER),
        )
        ends = [end + max(amount, 0.0) for end, amount in zip(ends, amounts, strict=True)]
        starts = [start + min(amount, 0.0) for start, amount in zip(starts, amounts, strict=True)]
    titles = [_short(each.track.title) for each in pieces]
    axes.set_yticks(range(len(pieces)), titles, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel("score, by base model")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def _short(title: str) -> str:
    return title if len(title) <= _LONGEST_TITLE else title[: _LONGEST_TITLE - 1].rstrip() + "…"
