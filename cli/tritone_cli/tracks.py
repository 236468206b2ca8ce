"""What the verbs that say what to play have in common: how their answer is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tritone_cli import console
from tritone_cli.titles import name_of

if TYPE_CHECKING:
    from tritone import Reason, Recommendation, Recommendations, UnknownIds

N_REASONS_SHOWN: Final = 3
N_CAUSES_SHOWN: Final = 2
N_UNKNOWN_SHOWN: Final = 5
# What an answer rests on, by its source.
_SOURCES: Final = {
    "user": "what this user has heard",
    "history": "the history given",
    "friends": "what friends listen to",
    "audio": "the recording",
    "mood": "the mood",
    "popularity": "what is popular, for nothing else is known",
}
_BECAUSE: Final = {
    "history": "heard",
    "friend": "friend",
    "friends_listening": "friends heard",
    "cold_item": "nobody has heard it yet",
    "tag": "tag",
    "audio": "sounds like the recording",
    "mood": "fits the mood",
    "listeners": "what others listen to",
    "popularity": "popular",
    "diversity": "unlike the others",
    "novelty": "little known",
}


def hand_over(tracks: Recommendations, *, as_json: bool) -> None:
    """Print an answer: one JSON object on stdout, or a table for people."""
    if as_json:
        console.print_json(tracks.to_dict())
        return
    model = f"{tracks.model} v{tracks.model_version}" + (f", arm {tracks.arm}" if tracks.arm else "")
    console.say(f"by {_SOURCES.get(tracks.source, tracks.source)}; {model}" if tracks.source else model)
    if tracks:
        _show(tracks)
    else:
        console.say("  nothing is left to recommend")
    if tracks.unknown:
        console.say(f"not known, passed over: {_unknown(tracks.unknown)}")


def _show(tracks: Recommendations) -> None:
    from rich.table import Table
    from rich.text import Text

    has_titles = any(track.title or track.artist for track in tracks)
    explained = any(track.reasons for track in tracks)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    for name in ("track", *(("title",) if has_titles else ()), *(("because",) if explained else ())):
        table.add_column(name, overflow="fold")
    for place, track in enumerate(tracks, 1):
        cells = [str(place), f"{track.score:.4g}", track.track_id]
        cells += [_title(track)] if has_titles else []
        cells += [_reasons(track.reasons)] if explained else []
        table.add_row(*map(Text, cells))  # as plain text: titles may hold "[b]"
    console.people.print(table)


def _title(track: Recommendation) -> str:
    return name_of(track.title, track.artist)


def _reasons(reasons: tuple[Reason, ...]) -> str:
    """Summands of one score: each member's for one cause together, the weightiest first."""
    found: dict[tuple[str, str], list[Reason]] = {}
    for reason in reasons:
        found.setdefault((reason.because, reason.base_model), []).append(reason)
    amounts = {key: sum(reason.amount for reason in each) for key, each in found.items()}
    ranked = sorted(found, key=lambda key: -abs(amounts[key]))
    shown = [f"{amounts[key]:+.3g} {_cause(key[0], found[key])} ({key[1]})" for key in ranked[:N_REASONS_SHOWN]]
    rest = ranked[N_REASONS_SHOWN:]
    if rest:
        shown.append(f"{sum(amounts[key] for key in rest):+.3g} by {len(rest)} more")
    return "; ".join(shown)


def _cause(because: str, reasons: list[Reason]) -> str:
    ids = [name_of(reason.title, reason.artist) or reason.id for reason in reasons if reason.id]
    more = f" and {len(ids) - N_CAUSES_SHOWN} more" if len(ids) > N_CAUSES_SHOWN else ""
    return f"{_BECAUSE.get(because, because)} {', '.join(ids[:N_CAUSES_SHOWN])}{more}".rstrip()


def _unknown(unknown: UnknownIds) -> str:
    # The server answers both cases alike, so that nobody learns who is stored.
    user = "the user (not in the log, or asked without a valid service key or user token)"
    recording = "the recording (the model was trained without recordings, or by another genre_cnn than the server's)"
    mood = "the mood, since the model was trained without emotions"
    parts = [user] * unknown.user + [recording] * unknown.audio + [mood] * unknown.mood
    for name in ("history", "skipped", "friends", "exclude"):
        ids = getattr(unknown, name)
        more = f" and {len(ids) - N_UNKNOWN_SHOWN} more" if len(ids) > N_UNKNOWN_SHOWN else ""
        if ids:
            parts.append(f"{name} {', '.join(ids[:N_UNKNOWN_SHOWN])}{more}")
    return "; ".join(parts)
