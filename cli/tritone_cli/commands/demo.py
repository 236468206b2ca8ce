"""`tritone demo`: the whole path on embedded data, from scores to what served models hear and write."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tritone_cli import console, options
from tritone_client import TritoneError

if TYPE_CHECKING:
    from tritone_cli.demonstration.listening import Heard, Medley
    from tritone_cli.demonstration.writing import Written

_N_STEPS: Final = 7


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
    as_json: options.Json = False,
) -> None:
    """Train small models on the embedded catalogue, export them, serve them on Triton, and have them listen and write.

    Leaves a page, demo/index.html, that shows and plays what came of it.
    """
    from tritone_cli.demonstration import listening, models, writing
    from tritone_cli.demonstration.page import write_page
    from tritone_client import MusicClient
    from tritone_serving import ServerOptions, TritonServer
    from tritone_training.catalogue import load_catalogue
    from tritone_training.data.scores import load_scores

    started = time.monotonic()
    progress = not as_json
    checkpoints = out / "checkpoints"
    with _step(1, "catalogue: real pieces from music21's corpus, in the public domain"):
        catalogue = load_catalogue(progress=progress)
        console.say(
            f"      {len(catalogue.tracks)} pieces of {', '.join(sorted({t.collection for t in catalogue.tracks}))}"
        )
        scores = load_scores(None, progress=progress)
    with _step(2, f"training {listening.KIND}, which listens, on rendered recordings of the pieces"):
        info = models.trained(
            listening.KIND,
            checkpoints / listening.KIND,
            catalogue,
            seed=seed,
            retrain=retrain,
            progress=progress,
        )
        test = info["metrics"]["test"]
        console.say(f"      held-out pieces: accuracy {test['accuracy']:.3f} (n {test['n']})")
    infos = {listening.KIND: info}
    with _step(3, f"training {', '.join(writing.KINDS)}, which write, on the scores"):
        for kind in writing.KINDS:
            infos[kind] = models.trained(
                kind, checkpoints / kind, catalogue, seed=seed, retrain=retrain, progress=progress
            )
    with _step(4, "exporting them to ONNX, checked against PyTorch"):
        for kind, each in infos.items():
            console.say(f"      {models.exported(kind, checkpoints / kind, each, repository)}")
    with _step(5, "starting Triton"):
        # Free ports, so that the demonstration never meets another server; fixed ones if it stays.
        wanted = ServerOptions(repository=repository)
        if not keep:
            wanted = replace(wanted, http_port=0, grpc_port=0, metrics_port=0)
        server = TritonServer.start(wanted)
    with server:
        with MusicClient(server.grpc_url) as music:
            with _step(6, "having it listen to recordings it has never heard"):
                heard, medley = listening.listen(music, catalogue, info, out)
            with _step(7, "having it write"):
                written = writing.write(music, scores, out)
                first_ms = writing.first_notes_ms(music)
        seconds = time.monotonic() - started
        facts = (
            f"Listening: {test['accuracy']:.1%} of {test['n']} recordings of held-out pieces named rightly.",
            f"Streaming: the first notes of a piece came after {first_ms:.0f} ms.",
            f"All of it, training included where it was needed: {seconds:.0f} s.",
        )
        page = write_page(out, heard, medley, written, facts=facts)
        if as_json:
            console.print_json(
                _as_json(
                    heard,
                    medley,
                    written,
                    page,
                    seconds=seconds,
                    first_notes_ms=first_ms,
                    server=server.grpc_url,
                    repository=str(repository),
                )
            )
        else:
            _conclude(out, repository, heard, page, seconds=seconds)
        if keep:
            console.say(f"the server stays at {server.grpc_url} (gRPC) and {server.http_url} (HTTP); Ctrl-C stops it")
            try:
                server.wait()
            except KeyboardInterrupt:
                console.say("stopped")
    if not any(each.right for each in heard):
        raise TritoneError("the model got every recording wrong: something is broken, not just untrained")


@contextmanager
def _step(number: int, what: str) -> Iterator[None]:
    console.say(f"[{number}/{_N_STEPS}] {what}")
    started = time.monotonic()
    yield
    console.say(f"      {time.monotonic() - started:.1f} s")


def _as_json(
    heard: Sequence[Heard], medley: Medley, written: Sequence[Written], page: Path, **facts: Any
) -> dict[str, Any]:
    return {
        **facts,
        "page": str(page),
        "recordings": [
            {"path": str(each.path), "truth": each.track.collection, **each.answer.to_dict()} for each in heard
        ],
        "medley": medley.answer.to_dict(),
        "timeline": str(medley.picture),
        "music": [
            {
                "title": each.title,
                "model": each.piece.model,
                "seed": each.piece.seed,
                "files": [str(path) for path in each.files],
            }
            for each in written
        ],
    }


def _conclude(out: Path, repository: Path, heard: Sequence[Heard], page: Path, *, seconds: float) -> None:
    n_right = sum(each.right for each in heard)
    console.say(
        f"\n{n_right} of {len(heard)} recordings right, in {seconds:.0f} s. Open this page to see and hear all of it:\n"
        f"  {page}\n"
        f"What lies where:\n"
        f"  recordings, music   {out / 'recordings'}, {out / 'music'}\n"
        f"  checkpoints         {out / 'checkpoints'}\n"
        f"  repository          {repository}\n"
        f"How to go on:\n"
        f"  make serve                                         serves this repository\n"
        f"  .venv/bin/tritone classify {heard[0].path}\n"
        f"  .venv/bin/tritone compose --bars 8 --out tune.wav  writes a piece\n"
        f"  .venv/bin/tritone train genre_cnn --data FOLDER    learns your labels (a folder per label)"
    )
