"""`tritone demo`: the whole path on embedded data, from scores to what a served model hears in a recording."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tritone_cli import console, options
from tritone_client import TritoneError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from tritone_client import Classification, MusicClient
    from tritone_training.catalogue import Catalogue, Track

KIND: Final = "genre_cnn"
# A third of the default preset's renderings and epochs: enough for 0.9 on held-out pieces, in a few minutes.
PRESET: Final = "demo"
_EXCERPT_S: Final = 12.0


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("demo")(demo)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for checkpoint, recordings and picture.")] = Path("runs/demo"),
    repository: Annotated[Path, typer.Option(help="Model repository that is filled and served.")] = Path(
        "model_repository"
    ),
    keep: Annotated[bool, typer.Option("--keep", help="Leave the server running until Ctrl-C.")] = False,
    retrain: Annotated[bool, typer.Option("--retrain", help="Train again even if nothing has changed.")] = False,
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Train a small model on the embedded catalogue, export it, serve it on Triton and ask it about recordings."""
    from tritone_serving import ServerOptions, TritonServer
    from tritone_training.catalogue import load_catalogue

    started = time.monotonic()
    with _step(1, "catalogue: real pieces from music21's corpus, in the public domain"):
        catalogue = load_catalogue(progress=not as_json)
        console.say(
            f"      {len(catalogue.tracks)} pieces of {', '.join(sorted({t.collection for t in catalogue.tracks}))}"
        )
    checkpoint = out / KIND
    with _step(2, f"training {KIND} on rendered recordings of the pieces"):
        info = _trained(checkpoint, catalogue, seed=seed, retrain=retrain, progress=not as_json)
        test = info["metrics"]["test"]
        console.say(f"      held-out pieces: accuracy {test['accuracy']:.3f} (n {test['n']})")
    with _step(3, "exporting it to ONNX, checked against PyTorch"):
        version = _exported(checkpoint, info, repository)
        console.say(f"      {version}")
    with _step(4, "starting Triton"):
        # Free ports, so that the demonstration never meets another server; fixed ones if it stays.
        wanted = ServerOptions(repository=repository)
        if not keep:
            wanted = replace(wanted, http_port=0, grpc_port=0, metrics_port=0)
        server = TritonServer.start(wanted)
    with server:
        from tritone_client import MusicClient

        with _step(5, "asking it about recordings it has never heard"), MusicClient(server.grpc_url) as music:
            answers = _ask(music, catalogue, info, out / "recordings")
        with _step(6, "a medley of all collections, window by window"), MusicClient(server.grpc_url) as music:
            medley, picture = _timeline(music, catalogue, info, out)
        _conclude(
            out,
            repository,
            server.grpc_url,
            answers,
            medley,
            picture,
            seconds=time.monotonic() - started,
            as_json=as_json,
        )
        if keep:
            console.say(f"the server stays at {server.grpc_url} (gRPC) and {server.http_url} (HTTP); Ctrl-C stops it")
            try:
                server.wait()
            except KeyboardInterrupt:
                console.say("stopped")


@contextmanager
def _step(number: int, what: str) -> Iterator[None]:
    console.say(f"[{number}/6] {what}")
    started = time.monotonic()
    yield
    console.say(f"      {time.monotonic() - started:.1f} s")


def _trained(checkpoint: Path, catalogue: Catalogue, *, seed: int, retrain: bool, progress: bool) -> dict[str, Any]:
    """Train, unless an earlier run's checkpoint is of the same catalogue and seed."""
    from tritone_training import checkpoint as checkpoints
    from tritone_training.api import CheckpointError, TrainRequest, get_kind

    if not retrain:
        try:
            info = dict(checkpoints.load(checkpoint, kind=KIND).info)
        except CheckpointError:
            info = {}
        same = info.get("data", {}).get("catalogue_fingerprint") == catalogue.fingerprint
        if same and info.get("seed") == seed and info.get("preset") == PRESET:
            console.say(f"      already trained on this catalogue: {checkpoint} (--retrain trains again)")
            return info
    request = TrainRequest(
        out=checkpoint, seed=seed, preset=PRESET, progress=progress, command=options.command_line(sys.argv)
    )
    get_kind(KIND).train(request)
    return dict(checkpoints.load(checkpoint, kind=KIND).info)


def _exported(checkpoint: Path, info: dict[str, Any], repository: Path) -> str:
    """Export, unless the newest version already is this checkpoint."""
    import json

    from tritone_export import export_kind
    from tritone_training.api import get_kind

    versions = sorted((int(p.name) for p in (repository / KIND).glob("[0-9]*") if p.name.isdigit()), reverse=True)
    for version in versions[:1]:
        card = repository / KIND / str(version) / "model_card.json"
        if card.is_file() and json.loads(card.read_text()).get("weights_sha256") == info["weights_sha256"]:
            return f"already there: {card.parent}"
    kind = get_kind(KIND)
    result = export_kind(kind.export(checkpoint, None), kind, repository=repository)[0]
    differences = result.parity.max_abs_difference.values() if result.parity else ()
    return f"{result.path}, largest difference from PyTorch {max(differences, default=0.0):.1e}"


def _held_out(catalogue: Catalogue, info: dict[str, Any]) -> dict[str, Track]:
    """One track of each collection that the model was not trained on."""
    chosen: dict[str, Track] = {}
    for name in info["splits"]["test"]:
        track = catalogue[name.rpartition("#")[0]]
        chosen.setdefault(track.collection, track)
    return dict(sorted(chosen.items()))


def _ask(
    music: MusicClient, catalogue: Catalogue, info: dict[str, Any], folder: Path
) -> list[tuple[Track, Path, Classification]]:
    from tritone_training.catalogue import write_audio

    folder.mkdir(parents=True, exist_ok=True)
    answers = []
    for track in _held_out(catalogue, info).values():
        path = folder / f"{track.id.replace('/', '-')}.ogg"
        write_audio(track, path, seed=1_000)  # a rendering that no training run draws
        answer = music.classify(path)
        answers.append((track, path, answer))
        console.say(
            f"      {track.title} ({track.collection}): {answer.label} {answer.probabilities[answer.label]:.2f}"
        )
    return answers


def _timeline(music: MusicClient, catalogue: Catalogue, info: dict[str, Any], out: Path) -> tuple[Classification, Path]:
    """Held-out excerpts one after the other: the timeline shows where the music changes."""
    import numpy as np
    import soundfile

    from tritone_client.constants import SAMPLE_RATE_HZ
    from tritone_training.catalogue import render

    parts: list[npt.NDArray[np.float32]] = [
        render(track, seed=2_000, duration_s=_EXCERPT_S) for track in _held_out(catalogue, info).values()
    ]
    path = out / "recordings" / "medley.ogg"
    soundfile.write(path, np.concatenate(parts), SAMPLE_RATE_HZ)
    answer = music.classify(path)
    return answer, answer.plot(out / "timeline.png")


def _conclude(
    out: Path,
    repository: Path,
    url: str,
    answers: list[tuple[Track, Path, Classification]],
    medley: Classification,
    picture: Path,
    *,
    seconds: float,
    as_json: bool,
) -> None:
    n_right = sum(answer.label == track.collection for track, _, answer in answers)
    if as_json:
        console.print_json(
            {
                "seconds": seconds,
                "server": url,
                "recordings": [
                    {"path": str(path), "truth": track.collection, **answer.to_dict()}
                    for track, path, answer in answers
                ],
                "medley": medley.to_dict(),
                "timeline": str(picture),
                "repository": str(repository),
            }
        )
        return
    example = answers[0][1]
    console.say(
        f"\n{n_right} of {len(answers)} recordings right, in {seconds:.0f} s. What lies where:\n"
        f"  recordings   {out / 'recordings'}\n"
        f"  timeline     {picture}\n"
        f"  checkpoint   {out / KIND}\n"
        f"  repository   {repository}\n"
        f"How to go on:\n"
        f"  make serve                                      serves this repository\n"
        f"  .venv/bin/tritone classify {example}\n"
        f"  .venv/bin/tritone train {KIND} --data FOLDER    learns your labels (a folder per label)"
    )
    if n_right == 0:
        raise TritoneError("the model got every recording wrong: something is broken, not just untrained")
