"""Resolve titles where a command expects track ids; texts that the model knows as ids are not looked up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from tritone_cli import console

if TYPE_CHECKING:
    from tritone import MusicClient, Recommendations, Track

_N_LISTED: Final = 5
_WHOLE: Final = ("exact", "normalized")  # matches of a whole text; another match counts only if it is the only one


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
        lists: name of the option without "--" -> ids or titles.

    Raises:
        InvalidInputError: a text is the title of several tracks; or the model knows none of the texts, and there are
            similar titles.
        ClientError: as `request`.
    """
    from tritone import InvalidInputError, NothingKnownError

    answer: Recommendations | None = None
    failure: NothingKnownError | None = None
    unknown = lists
    try:
        answer = request(lists)
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
        answer = request({name: [ids.get(text, text) for text in texts] for name, texts in lists.items()})
    if answer is None and hints:
        raise InvalidInputError(" ".join(hints)) from failure
    if answer is None:
        raise failure or InvalidInputError("nothing is given to recommend by")
    for hint in hints:
        console.say(hint)
    return answer


def similar(music: MusicClient, request: Callable[[str], Recommendations], text: str, *, model: str) -> Recommendations:
    """Return similar tracks for an id or a title.

    Args:
        request: calls the model with an id.

    Raises:
        InvalidInputError: as `recommend`.
        ClientError: as `request`.
    """
    from tritone import InvalidInputError, NothingKnownError

    try:
        return request(text)
    except NothingKnownError as error:
        track, suggestions = look_up(music, text, "TRACK", model=model)
        if track is not None and track.track_id != text:
            return request(track.track_id)
        if suggestions:
            raise InvalidInputError(f"{text!r} is neither an id nor a title; did you mean {suggestions}?") from error
        raise


def look_up(music: MusicClient, text: str, option: str, *, model: str) -> tuple[Track | None, str]:
    """Return (the track with this title, ""), or (None, suggestions as text).

    Raises:
        InvalidInputError: several tracks have this title.
    """
    from tritone import InvalidInputError, RequestRejectedError

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
