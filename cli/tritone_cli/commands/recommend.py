"""`tritone recommend`: what to play next, for somebody known, somebody new, or nobody at all."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tritone_cli import console, options, pieces, titles, tracks


def register(app: typer.Typer) -> None:
    """Add `recommend` to the app."""
    app.command()(recommend)


def recommend(
    *,
    user: Annotated[str | None, typer.Option(help="User id, as in the listening log.", show_default=False)] = None,
    history: Annotated[
        list[str] | None, typer.Option(help="Id or title of a track listened to; repeatable.", show_default=False)
    ] = None,
    weight: Annotated[
        list[float] | None,
        typer.Option(help="How much it was listened to: one for each --history, in order.", show_default=False),
    ] = None,
    skipped: Annotated[
        list[str] | None, typer.Option(help="Id or title of a rejected track; repeatable.", show_default=False)
    ] = None,
    friend: Annotated[
        list[str] | None, typer.Option(help="User id of a friend; repeatable.", show_default=False)
    ] = None,
    audio: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A recording to go by, in any format.", show_default=False)
    ] = None,
    mood: Annotated[
        str | None, typer.Option(help="One of the nine emotions, such as calmness.", show_default=False)
    ] = None,
    n: options.TrackCount = 10,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Id or title of a track to leave out; repeatable.", show_default=False)
    ] = None,
    filter_listened: Annotated[
        bool, typer.Option("--filter-listened/--with-listened", help="Leave out what the user has heard.")
    ] = True,
    diversity: Annotated[float, typer.Option(help="0 to 1: how unlike one another.")] = 0.0,
    novelty: Annotated[float, typer.Option(help="0 to 1: how much little-known tracks are preferred.")] = 0.0,
    explain: Annotated[bool, typer.Option("--explain", help="Say why: summands of each score.")] = False,
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
    """Say what to play next, with a running server. Everything may be left out, and what is given is used together.

    Stored data of a user is used only for callers with the service key or with that user's token; see
    `tritone user-token`. Without a credential every user is unknown.
    """
    credentials = options.credentials(service_key_file, user_token_file)
    with (
        pieces.connect(server, timeout, api_key_file, ca_file, **credentials) as music,
        console.people.status("choosing"),
    ):
        found = titles.recommend(
            music,
            lambda ids: music.recommend(
                user,
                history=ids["history"] or None,
                skipped=ids["skipped"] or None,
                exclude=ids["exclude"] or None,
                weights=weight,
                friends=friend,
                audio=audio,
                mood=mood,
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
    tracks.hand_over(found, as_json=as_json)
