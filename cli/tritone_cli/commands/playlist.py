"""`tritone playlist`: make a path between two tracks, or a mix from one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tritone_cli import connections, console, options, recommendations
from tritone_cli.tables import plain_table

if TYPE_CHECKING:
    from tritone import Playlist


def playlist(
    start: Annotated[str, typer.Argument(help="Id or title of the first track.", show_default=False)],
    end: Annotated[
        str | None,
        typer.Argument(help="Id or title of the last track of a path. Without it, a mix is made.", show_default=False),
    ] = None,
    *,
    n: Annotated[int, typer.Option("--n", "-n", help="Number of tracks, 1 to 200.")] = 20,
    mood: options.Mood = None,
    diversity: Annotated[
        float, typer.Option(help="Variety: 0 allows tracks like the previous ones, 1 avoids them.")
    ] = 0.3,
    seed: Annotated[
        int | None,
        typer.Option(help="Random seed. If omitted, one is drawn and printed.", show_default=False),
    ] = None,
    after: Annotated[
        list[str] | None,
        typer.Option(
            help="Id of an earlier track of a mix, in order; repeatable. The mix goes on after the last.",
            show_default=False,
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Id of a track to leave out; repeatable.", show_default=False)
    ] = None,
    artist_gap: Annotated[
        int | None,
        typer.Option(
            help="Number of tracks between two of the same artist, 0 to 100. Default: 3, or less with few artists.",
            show_default=False,
        ),
    ] = None,
    user: Annotated[
        str | None, typer.Option(help="User id, as in the listening log, whose taste is followed.", show_default=False)
    ] = None,
    history: Annotated[
        list[str] | None, typer.Option(help="Id of a track that shows a taste; repeatable.", show_default=False)
    ] = None,
    skipped: Annotated[
        list[str] | None,
        typer.Option(help="Id of a track that the user skipped or disliked; repeatable.", show_default=False),
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
    """Make a smooth path between two tracks, or a mix from one."""
    strengths = options.parse_mood(mood)
    credentials = connections.credentials(service_key_file, user_token_file)
    with (
        connections.connect(server, timeout, api_key_file, ca_file, **credentials) as music,
        console.people.status("choosing tracks"),
    ):
        found = recommendations.with_titles(
            music,
            lambda ids: music.playlist(
                ids["START"],
                ids.get("END"),
                n=n,
                mood=strengths,
                diversity=diversity,
                seed=seed,
                after=after,
                exclude=exclude,
                artist_gap=artist_gap,
                user_id=user,
                history=history,
                skipped=skipped,
                model=model,
            ),
            {"START": start} | ({} if end is None else {"END": end}),
            model=model,
        )
    if as_json:
        console.print_json(found.to_dict())
    else:
        _print_playlist(found)


def _print_playlist(found: Playlist) -> None:
    """Print a playlist as a table, with what it is based on."""
    based_on = [*found.compared_by, *["taste"] * found.by_taste]
    based_on += [f"mood ({found.mood.source})"] * (found.mood.source != "none")
    console.say(f"based on {', '.join(based_on)}; seed {found.seed}; {found.model} v{found.model_version}")
    rows = [
        (
            str(position),
            "" if track.similarity is None else f"{track.similarity:.2f}",
            track.track_id,
            recommendations.name_of(track.title, track.artist),
        )
        for position, track in enumerate(found, 1)
    ]
    console.people.print(plain_table(("", "similarity", "track", "title"), rows, n_numbers=2))
    if "artist_gap" in found.relaxed:
        console.say(f"too few artists for a larger gap: tracks between two of the same artist: {found.artist_gap}")
    if "n" in found.relaxed:
        console.say(f"no more tracks: {len(found)} found")
    if found.unknown:
        console.say(f"unknown and ignored: {recommendations.unknown_text(found.unknown)}")
