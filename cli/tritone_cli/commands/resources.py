"""`tritone catalogue`: builds the embedded world, shows what is in it, and plays one piece of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tritone_cli import console

if TYPE_CHECKING:
    from tritone_training.catalogue import Catalogue


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("catalogue")(catalogue)


def catalogue(
    *,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Build it again even if it is whole.")] = False,
    render: Annotated[
        tuple[str, Path] | None,
        typer.Option("--render", metavar="ID FILE", help="Render a piece to .wav, .flac or .ogg."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="With --render: vary instruments, tempo and key by this number.", min=0),
    ] = None,
    whole: Annotated[bool, typer.Option("--whole", help="With --render: the whole piece, not 20 seconds.")] = False,
    pieces: Annotated[
        int | None, typer.Option(help="Pieces of each collection; fewer make a small catalogue.", min=1)
    ] = None,
) -> None:
    """Build the catalogue of real pieces of music that demos and tests run on, and list it.

    It is made from the corpus of the installed music21, and kept in the user's cache folder
    (or in `$TRITONE_CACHE`). What was left out is listed with the reason.
    """
    from tritone_training.catalogue import PIECES_PER_COLLECTION, load_catalogue, write_audio

    if render is None and (seed is not None or whole):
        raise typer.BadParameter("--seed and --whole go with --render ID FILE")
    n_per_collection = PIECES_PER_COLLECTION if pieces is None else pieces
    loaded = load_catalogue(progress=not json, rebuild=rebuild, n_per_collection=n_per_collection)
    if render is not None:
        track_id, path = render
        write_audio(loaded[track_id], path, seed=seed, duration_s=None if whole else 20.0)
        if not json:
            console.say(f"wrote {loaded[track_id].title} ({track_id}) to {path}")
            return
    if json:
        console.print_json(_summary(loaded) | ({"rendered": str(render[1])} if render is not None else {}))
    else:
        _show(loaded)


def _summary(loaded: Catalogue) -> dict[str, Any]:
    collections = []
    for collection, report in zip(loaded.collections, loaded.report, strict=True):
        tracks = [track for track in loaded if track.collection == collection.name]
        collections.append(
            {
                "name": collection.name,
                "title": collection.title,
                "years": collection.years,
                "terms": collection.terms,
                "n_pieces": len(tracks),
                "n_works": len({track.group for track in tracks}),
                "hours": sum(track.duration_s for track in tracks) / 3600,
                "n_candidates": report.n_candidates,
                "n_read": report.n_read,
                "n_repeated_ids": report.n_repeated_ids,
                "n_grace_notes_left_out": report.n_grace_notes_left_out,
                "dropped": [vars(dropped) for dropped in report.dropped],
            }
        )
    return {
        "path": str(loaded.path),
        "fingerprint": loaded.fingerprint,
        "made_with": loaded.made_with,
        "n_pieces": len(loaded),
        "hours": sum(track.duration_s for track in loaded) / 3600,
        "collections": collections,
    }


def _show(loaded: Catalogue) -> None:
    summary = _summary(loaded)
    rows = []
    for entry in summary["collections"]:
        reasons = Counter(dropped["reason"] for dropped in entry["dropped"])
        rows.append(
            {
                "collection": f"{entry['title']} ({entry['years']})",
                "pieces": entry["n_pieces"],
                "works": entry["n_works"],
                "hours": f"{entry['hours']:.1f}",
                "read": f"{entry['n_read']} of {entry['n_candidates']}",
                "left out": ", ".join(f"{count} {reason}" for reason, count in reasons.items()) or "none",
            }
        )
    console.print_rows("catalogue", rows)
    for entry in summary["collections"]:
        console.say(f"{entry['title']}: {entry['terms']}")
    console.say(
        f"{summary['n_pieces']} pieces, {summary['hours']:.1f} hours, in {summary['path']}\n"
        f"hear one: tritone catalogue --render {loaded.tracks[0].id} piece.wav --seed 1"
    )
