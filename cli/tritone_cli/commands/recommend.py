"""`tritone recommend`, `similar` and `tracks`: call a recommender."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tritone_cli import connections, console, options, recommendations
from tritone_cli.tables import plain_table

if TYPE_CHECKING:
    from tritone import TrackPage


def recommend(
    *,
    user: Annotated[str | None, typer.Option(help="User id, as in the listening log.", show_default=False)] = None,
    history: Annotated[
        list[str] | None,
        typer.Option(help="Id or title of a track listened to, oldest first; repeatable.", show_default=False),
    ] = None,
    weight: Annotated[
        list[float] | None,
        typer.Option(help="Weight of each --history, in the same order; repeatable.", show_default=False),
    ] = None,
    time: Annotated[
        list[str] | None,
        typer.Option(
            help="Time of each --history, in the same order: seconds since 1970, a date and time (ISO 8601; without an "
            "offset, in the time zone of this machine), or - if unknown; repeatable.",
            show_default=False,
        ),
    ] = None,
    skipped: Annotated[
        list[str] | None,
        typer.Option(help="Id or title of a track that the user skipped or disliked; repeatable.", show_default=False),
    ] = None,
    friend: Annotated[
        list[str] | None, typer.Option(help="User id of a friend; repeatable.", show_default=False)
    ] = None,
    audio: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Audio file; recommends tracks that sound similar.", show_default=False),
    ] = None,
    mood: options.Mood = None,
    n: options.TrackCount = 10,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Id or title of a track to exclude; repeatable.", show_default=False)
    ] = None,
    filter_listened: Annotated[
        bool, typer.Option("--filter-listened/--with-listened", help="Exclude tracks that the user has listened to.")
    ] = True,
    diversity: Annotated[float, typer.Option(help="Preference for tracks that differ from each other, 0 to 1.")] = 0.0,
    novelty: Annotated[float, typer.Option(help="Preference for little-known tracks, 0 to 1.")] = 0.0,
    explain: Annotated[bool, typer.Option("--explain", help="Show the reasons for each score.")] = False,
    reasons: Annotated[
        int | None,
        typer.Option(min=1, help="Maximum number of reasons for each track; implies --explain.", show_default=False),
    ] = None,
    model: options.Model = "recommender",
    server: options.Server = "localhost:8001",
    timeout: options.Timeout = 60.0,
    api_key_file: options.ApiKeyFile = None,
    service_key_file: options.ServiceKeyFile = None,
    user_token_file: options.UserTokenFile = None,
    ca_file: options.CaFile = None,
    as_json: options.Json = False,
) -> None:
    """Recommend tracks. All inputs are optional and can be combined.

    Stored data of a user is used only for callers with the service key or with that user's token; see
    `tritone user-token`. Without a credential every user is unknown.
    """
    strengths = options.parse_mood(mood)
    credentials = connections.credentials(service_key_file, user_token_file)
    with (
        connections.connect(server, timeout, api_key_file, ca_file, **credentials) as music,
        console.people.status("recommending"),
    ):
        found = recommendations.recommend(
            music,
            lambda ids: music.recommend(
                user,
                history=ids["history"] or None,
                skipped=ids["skipped"] or None,
                exclude=ids["exclude"] or None,
                weights=weight,
                times=None if time is None else [recommendations.time_of(each) for each in time],
                friends=friend,
                audio=audio,
                mood=strengths,
                n=n,
                filter_listened=filter_listened,
                diversity=diversity,
                novelty=novelty,
                explain=reasons or explain,
                model=model,
            ),
            {"history": history or [], "skipped": skipped or [], "exclude": exclude or []},
            model=model,
        )
    recommendations.print_recommendations(found, as_json=as_json)


def similar(
    track: Annotated[str | None, typer.Argument(help="Id or title of a track.", show_default=False)] = None,
    *,
    audio: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Audio file instead of TRACK.", show_default=False)
    ] = None,
    by: Annotated[str, typer.Option(help="Type of similarity: listening, sound or both.")] = "both",
    n: options.TrackCount = 10,
    model: options.Model = "recommender",
    server: options.Server = "localhost:8001",
    timeout: options.Timeout = 60.0,
    api_key_file: options.ApiKeyFile = None,
    ca_file: options.CaFile = None,
    as_json: options.Json = False,
) -> None:
    """Find tracks that are similar to a track or a recording."""
    if (track is None) == (audio is None):
        raise typer.BadParameter("expected either TRACK or --audio FILE")
    with (
        connections.connect(server, timeout, api_key_file, ca_file) as music,
        console.people.status("comparing"),
    ):
        if track is None:
            found = music.similar(audio=audio, by=by, n=n, model=model)
        else:
            found = recommendations.similar(
                music, lambda each: music.similar(each, by=by, n=n, model=model), track, model=model
            )
    recommendations.print_recommendations(found, as_json=as_json)


def tracks(
    query: Annotated[str, typer.Argument(help="Title, artist or id, or some words of it.", show_default=False)],
    *,
    by: Annotated[
        str | None,
        typer.Option(help="Field to search: title, artist or id. Default: all.", show_default=False),
    ] = None,
    n: options.TrackCount = 10,
    offset: Annotated[int, typer.Option(help="Number of tracks to skip.")] = 0,
    model: options.Model = "recommender",
    server: options.Server = "localhost:8001",
    timeout: options.Timeout = 60.0,
    api_key_file: options.ApiKeyFile = None,
    ca_file: options.CaFile = None,
    as_json: options.Json = False,
) -> None:
    """Find tracks by title, artist or id, for example to use their ids in `recommend` and `similar`."""
    with (
        connections.connect(server, timeout, api_key_file, ca_file) as music,
        console.people.status("searching"),
    ):
        found = music.find_tracks(query, by=by, limit=n, offset=offset, model=model)
    if as_json:
        console.print_json(found.to_dict())
    else:
        _print_page(found)


def search(
    query: Annotated[str, typer.Argument(help="A description, such as 'calm piano for reading'.", show_default=False)],
    *,
    n: options.TrackCount = 10,
    model: options.Model = "recommender",
    server: options.Server = "localhost:8001",
    timeout: options.Timeout = 60.0,
    api_key_file: options.ApiKeyFile = None,
    ca_file: options.CaFile = None,
    as_json: options.Json = False,
) -> None:
    """Search for tracks by a description: words of titles, artists and tags, and the meaning of tags."""
    with (
        connections.connect(server, timeout, api_key_file, ca_file) as music,
        console.people.status("searching"),
    ):
        found = music.search(query, n, model=model)
    recommendations.print_recommendations(found, as_json=as_json)


def _print_page(found: TrackPage) -> None:
    if not found.total:
        console.say("no track matches")
        return
    if not found:
        console.say(f"no tracks at --offset {found.offset}: {found.total} tracks match")
        return
    if found[0].match == "near":
        console.say("no track matches; did you mean:")
    rows = [(track.track_id, track.title or "", track.artist or "", f"{track.field}, {track.match}") for track in found]
    console.people.print(plain_table(("track", "title", "artist", "match"), rows))
    end = found.offset + len(found)
    if end < found.total:
        console.say(f"{found.offset + 1} to {end} of {found.total}; for the next, add --offset {end}")
