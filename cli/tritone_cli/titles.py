"""Titles where a verb expects ids of tracks: looked up only if the model does not know them as ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from tritone_cli import console

if TYPE_CHECKING:
    from tritone_client import MusicClient, Recommendations, Track

_N_LISTED: Final = 5
_WHOLE: Final = ("exact", "normalized")  # matches of a whole text; the others count only if they are the only one


def recommend(
    music: MusicClient,
    ask: Callable[[Mapping[str, Sequence[str]]], Recommendations],
    lists: Mapping[str, Sequence[str]],
    *,
    model: str,
) -> Recommendations:
    """Return what `ask` returns for lists of ids or titles.

    Args:
        ask: asks the model with lists of ids.
        lists: by name of the option without "--".

    Raises:
        InvalidInputError: a text is no id, but the title of several tracks; or nothing is known, and titles are
            similar.
        ClientError: as `ask`.
    """
    from tritone_client import InvalidInputError, NothingKnownError

    answer: Recommendations | None = None
    failure: NothingKnownError | None = None
    unknown = lists
    try:
        answer = ask(lists)
        unknown = {name: getattr(answer.unknown, name) for name in lists}
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
        answer = ask({name: [ids.get(text, text) for text in texts] for name, texts in lists.items()})
    if answer is None and hints:
        raise InvalidInputError(" ".join(hints)) from failure
    if answer is None:
        raise failure or InvalidInputError("nothing is given to recommend by")
    for hint in hints:
        console.say(hint)
    return answer


def similar(music: MusicClient, ask: Callable[[str], Recommendations], text: str, *, model: str) -> Recommendations:
    """Return what `ask` returns for an id or a title.

    Raises:
        InvalidInputError: as `recommend`.
        ClientError: as `ask`.
    """
    from tritone_client import InvalidInputError, NothingKnownError

    try:
        return ask(text)
    except NothingKnownError as error:
        track, suggestions = look_up(music, text, "TRACK", model=model)
        if track is not None and track.track_id != text:
            return ask(track.track_id)
        if suggestions:
            raise InvalidInputError(f"{text!r} is neither an id nor a title; did you mean {suggestions}?") from error
        raise


def look_up(music: MusicClient, text: str, option: str, *, model: str) -> tuple[Track | None, str]:
    """Return the track of a title, and similar ones in words if there is none.

    Raises:
        InvalidInputError: several tracks have this title.
    """
    from tritone_client import InvalidInputError, RequestRejectedError

    try:
        page = music.find_tracks(text, limit=_N_LISTED + 1, model=model)
    except (InvalidInputError, RequestRejectedError):  # blank, or a model without titles
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
            f"{option} {text!r} is no id, and names several tracks: {_listed(same[:_N_LISTED])}"
            f"{' and more' * (len(same) > _N_LISTED)}; give one of their ids (`tritone tracks` lists all)"
        )
    if best.track_id != text:
        console.say(f"{text}: taken as {_listed([best])}")
    return best, ""


def name_of(title: str | None, artist: str | None) -> str:
    """Return artist and title as one text; empty if neither is known."""
    return ": ".join(filter(None, (artist, title)))


def _listed(tracks: Sequence[Track]) -> str:
    names = ((track.track_id, name_of(track.title, track.artist)) for track in tracks)
    return ", ".join(f"{track_id} ({name})" if name else track_id for track_id, name in names)
