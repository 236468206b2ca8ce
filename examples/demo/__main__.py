"""`tritone demo`: the whole path on embedded data, from scores to what served models hear, write and recommend."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tritone import TritoneError
from tritone_cli import console, options

if TYPE_CHECKING:
    from tritone import MusicClient
    from tritone_cli.demonstration.listening import Heard, Medley
    from tritone_cli.demonstration.models import Trained
    from tritone_cli.demonstration.recommending import Suggested
    from tritone_cli.demonstration.writing import Chapter, Streamed, Written
    from tritone_serving import TritonServer

_N_STEPS: Final = 6


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("demo")(demo)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, recordings, music and the page.")] = Path("demo"),
    repository: Annotated[Path, typer.Option(help="Model repository that is filled and served.")] = Path(
        "model_repository"
    ),
    keep: Annotated[bool, typer.Option("--keep", help="Leave the server running until Ctrl-C.")] = False,
    retrain: Annotated[bool, typer.Option("--retrain", help="Train again even if nothing has changed.")] = False,
    seed: options.Seed = 0,
    preset: Annotated[str, typer.Option(help="What is trained: demo (minutes), default (hours) or tiny.")] = "demo",
    as_json: options.Json = False,
) -> None:
    """Train small models on the embedded catalogue, export them, and have them listen, write and recommend on Triton.

    Leaves a page, demo/index.html, that shows and plays what came of it.
    """
    from tritone import MusicClient
    from tritone_cli.demonstration import listening, recommending, writing
    from tritone_cli.demonstration.freshness import RECOMMENDER
    from tritone_cli.demonstration.givens import write_givens
    from tritone_cli.demonstration.listeners import listeners, simulated_listening
    from tritone_cli.demonstration.models import COMPOSER, LISTENER, WRITERS, Workshop
    from tritone_cli.demonstration.page import PAGE, Story, write_page
    from tritone_training.catalogue import load_catalogue
    from tritone_training.data.scores import load_scores

    started = time.monotonic()
    progress = not as_json
    with _step(1, "catalogue: real pieces from music21's corpus, in the public domain"):
        catalogue = load_catalogue(progress=progress)
        scores = load_scores(None, progress=progress)
        collections = ", ".join(sorted({track.collection for track in catalogue.tracks}))
        console.say(f"      {len(catalogue.tracks)} pieces of {collections}")
    workshop = Workshop(
        out=out,
        repository=repository,
        catalogue=catalogue,
        seed=seed,
        preset=preset,
        retrain=retrain,
        progress=progress,
    )
    with _step(
        2, f"training and exporting {LISTENER}, {', '.join(WRITERS)} and {RECOMMENDER} (on simulated listening)"
    ):
        trained = workshop.make()
        listener = trained[LISTENER]
    with _step(3, "starting Triton"):
        server = _start(repository, keep=keep)
    with server:
        (out / PAGE).unlink(missing_ok=True)  # an earlier run's, which would show half of each
        with MusicClient(server.grpc_url) as music:
            with _step(4, "classifying held-out recordings"):
                heard, medley = listening.listen(music, catalogue, listener.info, out)
            with _step(5, "generating pieces"):
                givens = write_givens(scores, catalogue, out)
                chapters = [
                    (chapter, [writing.write(music, ask, givens, out) for ask in chapter.asks])
                    for chapter in writing.chapters(givens, styles=trained[COMPOSER].info["styles"])
                ]
                streamed = _streamed(music, chapters)
            with _step(6, "recommending to simulated listeners and to cold-start users"):
                suggested = [
                    recommending.recommend(music, each, catalogue, out)
                    for each in listeners(simulated_listening(seed), catalogue, heard)
                ]
        seconds = time.monotonic() - started
        story = Story(
            facts=_facts(heard, trained, streamed, chapters, seconds=seconds),
            heard=heard,
            medley=medley,
            chapters=chapters,
            suggested=suggested,
            collections={collection.name: collection.title for collection in catalogue.collections},
            models={kind: each.headline for kind, each in trained.items()},
            serve=f"tritone serve --repository {shlex.quote(str(repository))}",
        )
        page = write_page(out, story)
        if as_json:
            figures = {
                "seconds": seconds,
                "server": server.grpc_url,
                "repository": str(repository),
                "page": str(page),
                "catalogue_fingerprint": catalogue.fingerprint,
            }
            console.print_json({**figures, **_as_json(trained, heard, medley, chapters, streamed, suggested)})
        else:
            _conclude(out, repository, heard, page, seconds=seconds)
        if keep:
            _stay(server)
    if not any(each.right for each in heard) and listener.info["metrics"]["test"]["accuracy"] > 0.5:
        raise TritoneError("the served model got every recording wrong, the trained one did not: serving is broken")


@contextmanager
def _step(number: int, what: str) -> Iterator[None]:
    console.say(f"[{number}/{_N_STEPS}] {what}")
    started = time.monotonic()
    yield
    console.say(f"      {time.monotonic() - started:.1f} s")


def _start(repository: Path, *, keep: bool) -> TritonServer:
    from tritone_serving import ServerOptions, TritonServer

    wanted = ServerOptions(repository=repository)
    if not keep:  # free ports, so that the demonstration never meets another server; fixed ones if it stays
        wanted = replace(wanted, http_port=0, grpc_port=0, metrics_port=0)
    return TritonServer.start(wanted)


def _stay(server: TritonServer) -> None:
    console.say(f"the server stays at {server.grpc_url} (gRPC) and {server.http_url} (HTTP); Ctrl-C stops it")
    try:
        server.wait()
    except KeyboardInterrupt:
        console.say("stopped")


def _streamed(music: MusicClient, chapters: Sequence[tuple[Chapter, Sequence[Written]]]) -> Streamed:
    from tritone_cli.demonstration.writing import measure_stream

    (ask,) = (each.ask for _, written in chapters for each in written if each.ask.is_streamed)
    streamed = measure_stream(music, ask)
    console.say(
        f"      streaming {streamed.n_bars} bars: the first notes after {streamed.first_notes_ms:.0f} ms, the last "
        f"after {streamed.whole_ms:.0f} ms, {'the same' if streamed.same else 'NOT the same'} as in one answer"
    )
    if not streamed.same:
        raise TritoneError("a streamed piece differs from the one that comes in one answer: something is broken")
    return streamed


def _facts(
    heard: Sequence[Heard],
    trained: Mapping[str, Trained],
    streamed: Streamed,
    chapters: Sequence[tuple[Chapter, Sequence[Written]]],
    *,
    seconds: float,
) -> tuple[tuple[str, str], ...]:
    from tritone_cli.demonstration.freshness import RECOMMENDER
    from tritone_cli.demonstration.models import LISTENER

    test = trained[LISTENER].info["metrics"]["test"]
    valid = trained[RECOMMENDER].info["metrics"]["valid"]
    popular = valid["members"]["popularity"]["ndcg@10"]
    n_pieces = sum(len(each.pieces) for _, written in chapters for each in written)
    return (
        (f"{test['accuracy']:.3f}", f"accuracy on {test['n']} recordings of held-out pieces"),
        (f"{sum(each.right for each in heard)} of {len(heard)}", "of those below"),
        (str(n_pieces), "pieces written for this page"),
        (f"{streamed.first_notes_ms:.0f} ms", "from asking for a streamed piece to its first notes"),
        (
            f"{valid['cross_fitted']['ndcg@10']:.3f}",
            f"NDCG@10 for simulated listeners (popularity alone: {popular:.3f})",
        ),
        (f"{seconds / 60:.1f} min", "for all of it, training included where it was needed"),
    )


def _as_json(
    trained: Mapping[str, Trained],
    heard: Sequence[Heard],
    medley: Medley,
    chapters: Sequence[tuple[Chapter, Sequence[Written]]],
    streamed: Streamed,
    suggested: Sequence[Suggested],
) -> dict[str, Any]:
    return {
        "models": {kind: each.to_dict() for kind, each in trained.items()},
        "recordings": [
            {"path": str(each.path), "truth": each.track.collection, **each.answer.to_dict()} for each in heard
        ],
        "medley": {"path": str(medley.path), "picture": str(medley.picture), **medley.answer.to_dict()},
        "music": [each.to_dict() for _, written in chapters for each in written],
        "stream": {
            "n_bars": streamed.n_bars,
            "first_notes_ms": streamed.first_notes_ms,
            "whole_ms": streamed.whole_ms,
            "same_as_unstreamed": streamed.same,
        },
        "recommended": [each.to_dict() for each in suggested],
    }


def _conclude(out: Path, repository: Path, heard: Sequence[Heard], page: Path, *, seconds: float) -> None:
    n_right = sum(each.right for each in heard)
    console.say(
        f"\n{n_right} of {len(heard)} recordings right, in {seconds:.0f} s. Open this page to see and hear all of it:\n"
        f"  {page}\n"
        f"What lies where:\n"
        f"  recordings, music   {out / 'recordings'}, {out / 'music'}\n"
        f"  recommended         {out / 'recommended'}\n"
        f"  checkpoints         {out / 'checkpoints'}\n"
        f"  repository          {repository}\n"
        f"How to go on:\n"
        f"  make serve                                         serves this repository\n"
        f"  .venv/bin/tritone classify {heard[0].path}\n"
        f"  .venv/bin/tritone compose --bars 8 --out tune.wav  writes a piece\n"
        f"  .venv/bin/tritone recommend --n 10 --explain       says what to play, and why\n"
        f"  .venv/bin/tritone train genre_cnn --data FOLDER    learns your labels (a folder per label)\n"
        f"  .venv/bin/tritone train recommender --interactions LOG   learns your listeners' taste"
    )
