"""Tracks on the command line: resolve titles to ids, and print recommendations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final, TypeVar

import typer

from tritone_cli import console
from tritone_cli.tables import plain_table

if TYPE_CHECKING:
    from tritone import MusicClient, Reason, Recommendation, Recommendations, Track, UnknownIds

Result = TypeVar("Result")
N_REASONS_SHOWN: Final = 3
N_CAUSES_SHOWN: Final = 2
N_UNKNOWN_SHOWN: Final = 5
# Texts for the source of a response.
_SOURCES: Final = {
    "user": "this user's listening history",
    "history": "the given history",
    "friends": "the friends' listening",
    "audio": "the recording",
    "mood": "the mood",
    "popularity": "popularity, since nothing else is known",
    "meaning": "the words and the meaning of the description",
    "words": "the words of the description",
}
_BECAUSE: Final = {
    "history": "listened to",
    "friend": "friend",
    "friends_listening": "friends listened to",
    "cold_item": "no listens yet",
    "tag": "tag",
    "audio": "sounds like the recording",
    "mood": "fits the mood",
    "listeners": "what others listen to",
    "popularity": "popular",
    "diversity": "differs from the others",
    "novelty": "little known",
}
_BECAUSE_UNNAMED: Final = {  # of reasons without an id, such as those of taste_vae
    "history": "the listening history",
    "friend": "friends",
    "friends_listening": "the friends' listening",
    "tag": "tags",
}
_N_LISTED: Final = 5
_WHOLE: Final = ("exact", "normalized")  # matches of the whole title; other matches are used only if they are unique


def recommend(
    music: MusicClient,
    request: Callable[[Mapping[str, Sequence[str]]], Recommendations],
    lists: Mapping[str, Sequence[str]],
    *,
    model: str,
) -> Recommendations:
    """Return recommendations for lists of ids or titles.

    Args:
        request: calls the model with lists of ids.
        lists: ids or titles by name of the option, without "--".

    Raises:
        InvalidInputError: a text is the title of several tracks; or the model knows none of the texts, but there are
            similar titles.
        ClientError: as in `request`.
    """
    from tritone import InvalidInputError, NothingKnownError

    found: Recommendations | None = None
    failure: NothingKnownError | None = None
    unknown = lists
    try:
        found = request(lists)
        unknown = {name: getattr(found.unknown, name) for name in lists}
    except NothingKnownError as error:
        failure = error
    ids: dict[str, str] = {}
    hints = []
    for name, texts in unknown.items():
        for text in dict.fromkeys(texts):
            track, suggestions = look_up(music, text, f"--{name}", model=model)
            if track is not None:
                ids[text] = track.track_id
            elif suggestions:
                hints.append(f"{text!r} is neither an id nor a title; did you mean {suggestions}?")
    if ids:
        found = request({name: [ids.get(text, text) for text in texts] for name, texts in lists.items()})
    if found is None and hints:
        raise InvalidInputError(" ".join(hints)) from failure
    if found is None:
        raise failure or InvalidInputError("no input: expected at least one input to recommend by, got none")
    for hint in hints:
        console.say(hint)
    return found


def time_of(text: str) -> float | None:
    """Return a time of the command line in seconds since 1970; None for "-".

    Raises:
        typer.BadParameter: it is neither a number nor a date and time in ISO 8601.
    """
    if text == "-":
        return None
    try:
        return float(text)
    except ValueError:
        pass
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"invalid --time: expected seconds since 1970, a date and time such as 2025-11-29T20:15, or -, got {text!r}"
        ) from None
    return read.timestamp()  # without a zone, in the zone of this machine


def similar(music: MusicClient, request: Callable[[str], Recommendations], text: str, *, model: str) -> Recommendations:
    """Return similar tracks for an id or a title; see `with_titles`."""
    return with_titles(music, lambda ids: request(ids["TRACK"]), {"TRACK": text}, model=model)


def with_titles(
    music: MusicClient, request: Callable[[Mapping[str, str]], Result], texts: Mapping[str, str], *, model: str
) -> Result:
    """Return the result of a request for ids; texts that are no ids are looked up as titles.

    Args:
        request: calls the model with ids by name of the argument.
        texts: ids or titles by name of the argument.

    Raises:
        InvalidInputError: as in `recommend`.
        ClientError: as in `request`.
    """
    from tritone import InvalidInputError, NothingKnownError

    try:
        return request(texts)
    except NothingKnownError as error:
        ids = dict(texts)
        hints = []
        for name, text in texts.items():
            track, suggestions = look_up(music, text, name, model=model)
            if track is not None:
                ids[name] = track.track_id
            elif suggestions:
                hints.append(f"{text!r} is neither an id nor a title; did you mean {suggestions}?")
        if hints:
            raise InvalidInputError(" ".join(hints)) from error
        if ids == texts:
            raise
        return request(ids)


def look_up(music: MusicClient, text: str, option: str, *, model: str) -> tuple[Track | None, str]:
    """Return (the track with this title, "") or (None, suggestions as text).

    Raises:
        InvalidInputError: several tracks have this title.
    """
    from tritone import InvalidInputError, RequestRejectedError

    try:
        page = music.find_tracks(text, limit=_N_LISTED + 1, model=model)
    except (InvalidInputError, RequestRejectedError):  # an empty text, or a model without titles
        return None, ""
    if not page:
        return None, ""
    best = page[0]
    if best.match == "near":
        return None, _listed(page[:3])
    if best.match not in _WHOLE and page.total > 1:
        return None, _listed(page[:_N_LISTED])
    same = [track for track in page if track.match == best.match]
    if len(same) > 1:
        raise InvalidInputError(
            f"{option} {text!r} is not an id and matches several tracks: {_listed(same[:_N_LISTED])}"
            f"{' and more' * (len(same) > _N_LISTED)}; give one of their ids (`tritone tracks` lists all)"
        )
    if best.track_id != text:
        console.say(f"{text}: using {_listed([best])}")
    return best, ""


def name_of(title: str | None, artist: str | None) -> str:
    """Return artist and title as one text; empty if neither is known."""
    return ": ".join(filter(None, (artist, title)))


def _listed(tracks: Sequence[Track]) -> str:
    names = ((track.track_id, name_of(track.title, track.artist)) for track in tracks)
    return ", ".join(f"{track_id} ({name})" if name else track_id for track_id, name in names)


def print_recommendations(tracks: Recommendations, *, as_json: bool) -> None:
    """Print recommendations: one JSON object on stdout, or a table for people."""
    if as_json:
        console.print_json(tracks.to_dict())
        return
    model = f"{tracks.model} v{tracks.model_version}" + (f", arm {tracks.arm}" if tracks.arm else "")
    console.say(f"based on {_SOURCES.get(tracks.source, tracks.source)}; {model}" if tracks.source else model)
    if tracks:
        _print_table(tracks)
    else:
        is_search = tracks.source in ("meaning", "words")
        console.say("  no track fits the description" if is_search else "  no tracks left to recommend")
    if tracks.unknown:
        console.say(f"unknown and ignored: {unknown_text(tracks.unknown)}")


def _print_table(tracks: Recommendations) -> None:
    has_titles = any(track.title or track.artist for track in tracks)
    has_reasons = any(track.reasons for track in tracks)
    columns = ["", "score", "track", *["title"] * has_titles, *["because"] * has_reasons]
    rows = []
    for rank, track in enumerate(tracks, 1):
        cells = [str(rank), f"{track.score:.4g}", track.track_id]
        cells += [_title(track)] if has_titles else []
        cells += [_reasons(track.reasons)] if has_reasons else []
        rows.append(cells)
    console.people.print(plain_table(columns, rows, n_numbers=2))


def _title(track: Recommendation) -> str:
    return name_of(track.title, track.artist)


def _reasons(reasons: tuple[Reason, ...]) -> str:
    """Return the reasons for one score as text, grouped by base model and cause, the largest first."""
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
    text = _BECAUSE.get(because, because)
    return f"{text} {', '.join(ids[:N_CAUSES_SHOWN])}{more}" if ids else _BECAUSE_UNNAMED.get(because, text)


def unknown_text(unknown: UnknownIds) -> str:
    """Return the ignored parts of a request as text."""
    # The server does not distinguish these cases, so that callers cannot find out who is stored.
    user = "the user (not in the log, or called without a valid service key or user token)"
    recording = "the recording (the model was trained without recordings, or with another genre_cnn than the server's)"
    mood = "the mood, since the model was trained without emotions"
    events = "the user's recorded events (the event store does not answer)"
    parts = [user] * unknown.user + [recording] * unknown.audio + [mood] * unknown.mood + [events] * unknown.events
    for name in ("history", "skipped", "friends", "exclude"):
        ids = getattr(unknown, name)
        more = f" and {len(ids) - N_UNKNOWN_SHOWN} more" if len(ids) > N_UNKNOWN_SHOWN else ""
        if ids:
            parts.append(f"{name} {', '.join(ids[:N_UNKNOWN_SHOWN])}{more}")
    return "; ".join(parts)
