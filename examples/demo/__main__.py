"""`python -m examples.demo`: train, export, serve and call models, and write a page with the results.

Starter weights, where there are any, are served at once, and small models are trained beside them.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from examples.demo import classification, comparison, generation, recommendations, serving
from examples.demo.listeners import listeners, simulated_listening, stored_users
from examples.demo.models import CLASSIFIER, COMPOSER, GENERATORS, DemoModel, ModelBuilder, check_preset
from examples.demo.page import PAGE, PageContent, write_page
from examples.demo.pieces import write_excerpts
from examples.demo.reuse import RECOMMENDER
from tritone import TritoneError
from tritone_cli import console, options
from tritone_cli.main import new_app, run

if TYPE_CHECKING:
    from examples.demo.classification import ClassifiedRecording, Medley
    from examples.demo.generation import GeneratedPieces, Section, StreamTiming
    from examples.demo.pieces import ScoreExcerpts
    from examples.demo.recommendations import ListenerRecommendations
    from tritone import MusicClient
    from tritone_serving import TritonServer
    from tritone_training.corpus import Corpus

_N_STEPS: Final = 7
_TRAINING: Final = (
    f"training and exporting {CLASSIFIER}, {', '.join(GENERATORS)} and {RECOMMENDER} (on simulated listening)"
)


def demo(
    *,
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, recordings, generated music and the page.")] = Path(
        "demo"
    ),
    repository: Annotated[Path, typer.Option(help="Model repository to fill and serve.")] = Path("model_repository"),
    keep: Annotated[bool, typer.Option("--keep", help="Leave the server running until Ctrl-C.")] = False,
    retrain: Annotated[bool, typer.Option("--retrain", help="Train again even if nothing has changed.")] = False,
    seed: options.Seed = 0,
    preset: Annotated[
        str, typer.Option(help="Hyper-parameter preset: demo (minutes), default (hours) or tiny (for tests).")
    ] = "demo",
    as_json: options.Json = False,
) -> None:
    """Serve starter weights; train, export and serve small models; then classify, compose and recommend with them.

    Writes a page, demo/index.html, with all results. A repeated run reuses models whose inputs have not changed.
    """
    from tritone import MusicClient
    from tritone_training.corpus import load_corpus
    from tritone_training.data.scores import load_scores

    check_preset(preset)
    started, progress = time.monotonic(), not as_json
    with _step(1, "corpus: real pieces that music21 ships, in the public domain"):
        corpus = load_corpus(progress=progress)
        scores = load_scores(None, progress=progress)
        console.say(f"      {len(corpus.tracks)} pieces of {', '.join(sorted({each.collection for each in corpus}))}")
    builder = ModelBuilder(
        out=out,
        repository=repository,
        corpus=corpus,
        seed=seed,
        preset=preset,
        retrain=retrain,
        progress=progress,
    )
    with ExitStack() as stack:
        served: _ServedStarters | None = None
        with _step(2, f"exporting and serving starter weights: {', '.join(builder.starters) or 'there are none'}"):
            excerpts = write_excerpts(scores, corpus, out)
            if builder.starters:
                served = _serve_starters(builder, stack, excerpts, keep=keep, out=out)
            else:
                console.say("      the small models are served under the names of their kinds")
        with _step(3, _TRAINING):
            models = builder.build()
        with _step(4, "starting Triton" if served is None else "loading the other models"):
            if served is None:
                served = _ServedStarters(stack.enter_context(serving.start(repository, keep=keep)))
            else:
                serving.load_others(served.server, repository)
        server, starters = served.server, served.models
        (out / PAGE).unlink(missing_ok=True)  # from an earlier run; its links may now lead to other files
        with MusicClient(server.grpc_url) as music:
            with _step(5, "classifying held-out recordings"):
                recordings, medley = classification.classify_recordings(music, corpus, models[CLASSIFIER].info, out)
            with _step(6, "generating pieces"):
                sections = [
                    (section, [generation.generate(music, request, excerpts, out) for request in section.requests])
                    for section in generation.sections(excerpts, styles={**models, **starters}[COMPOSER].info["styles"])
                ]
                comparisons = comparison.compare(music, served.pieces, excerpts, out)
                timing = _time_stream(music, sections)
            with _step(7, "recommending to simulated listeners and to cold-start users"):
                everyone = listeners(simulated_listening(seed), corpus, recordings)
                recommended = [recommendations.recommend(music, each, corpus, out) for each in everyone]
        seconds = time.monotonic() - started
        content = PageContent(
            facts=_facts(recordings, models, timing, sections, seconds=seconds),
            recordings=recordings,
            medley=medley,
            sections=sections,
            comparisons=comparisons,
            recommended=recommended,
            collections={collection.name: collection.title for collection in corpus.collections},
            models={each.name: each.headline for each in (*starters.values(), *models.values())},
            serve=f"tritone serve --repository {shlex.quote(str(repository))}",
        )
        page = write_page(out, content)
        if as_json:
            head = {
                "seconds": seconds,
                "server": server.grpc_url,
                "repository": str(repository),
                "page": str(page),
                "corpus_fingerprint": corpus.fingerprint,
            }
            results = _as_json(
                models=models,
                starters=starters,
                comparisons=comparisons,
                recordings=recordings,
                medley=medley,
                sections=sections,
                timing=timing,
                recommended=recommended,
            )
            console.print_json({**head, **results})
        else:
            _print_summary(
                out,
                repository,
                _studio_command(repository, corpus, stored_users(everyone)),
                recordings,
                page,
                seconds=seconds,
            )
        if keep:
            serving.wait(server)
    _check_classifications(recordings, models[CLASSIFIER])


def _check_classifications(recordings: Sequence[ClassifiedRecording], classifier: DemoModel) -> None:
    if not any(each.is_correct for each in recordings) and classifier.info["metrics"]["test"]["accuracy"] > 0.5:
        raise TritoneError(
            "the served model classified every recording wrongly, but the trained model did not; this is a bug, please "
            "report it"
        )


@dataclass(frozen=True)
class _ServedStarters:
    """A server with starter weights.

    Attributes:
        models: the exported starter weights, by kind; empty if there are none.
        pieces: what they wrote, by kind.
    """

    server: TritonServer
    models: Mapping[str, DemoModel] = field(default_factory=dict)
    pieces: Mapping[str, Sequence[GeneratedPieces]] = field(default_factory=dict)


def _serve_starters(
    builder: ModelBuilder, stack: ExitStack, excerpts: ScoreExcerpts, *, keep: bool, out: Path
) -> _ServedStarters:
    """Export and serve the starter weights, let them write pieces, and say where these can be heard."""
    from tritone import MusicClient

    models = builder.export_starters()
    names = [version.model for each in models.values() for version in each.versions]
    server = stack.enter_context(serving.start(builder.repository, keep=keep, models=names))
    console.say(f"      these models are served at {server.grpc_url} (gRPC) and {server.http_url} (HTTP) from now on")
    learned = {collection.name for collection in builder.corpus.collections}  # the styles of the small model
    known = models[COMPOSER].info["styles"] if COMPOSER in models else ()
    styles = [style for style in known if style in learned]
    with MusicClient(server.grpc_url) as music:
        pieces = comparison.generate_starters(music, models, excerpts, out, styles=styles)
    for sound in [piece.sound for own in pieces.values() for each in own for piece in each.pieces if piece.sound]:
        console.say(f"      listen: {sound}")
    return _ServedStarters(server, models, pieces)


@contextmanager
def _step(number: int, what: str) -> Iterator[None]:
    console.say(f"[{number}/{_N_STEPS}] {what}")
    started = time.monotonic()
    yield
    console.say(f"      {time.monotonic() - started:.1f} s")


def _time_stream(music: MusicClient, sections: Sequence[tuple[Section, Sequence[GeneratedPieces]]]) -> StreamTiming:
    (request,) = (each.request for _, generated in sections for each in generated if each.request.is_streamed)
    timing = generation.measure_stream(music, request)
    console.say(
        f"      streaming {timing.n_bars} bars: the first notes after {timing.first_notes_ms:.0f} ms, the last "
        f"after {timing.whole_ms:.0f} ms, {'the same' if timing.same else 'NOT the same'} as without streaming"
    )
    if not timing.same:
        raise TritoneError("a streamed piece differs from the piece without streaming; this is a bug, please report it")
    return timing


def _facts(
    recordings: Sequence[ClassifiedRecording],
    models: Mapping[str, DemoModel],
    timing: StreamTiming,
    sections: Sequence[tuple[Section, Sequence[GeneratedPieces]]],
    *,
    seconds: float,
) -> tuple[tuple[str, str], ...]:
    test = models[CLASSIFIER].info["metrics"]["test"]
    valid = models[RECOMMENDER].info["metrics"]["valid"]
    popular = valid["base_models"]["popularity"]["ndcg@10"]
    n_pieces = sum(len(each.pieces) for _, generated in sections for each in generated)
    return (
        (f"{test['accuracy']:.3f}", f"accuracy on {test['n']} recordings of held-out pieces"),
        (f"{sum(each.is_correct for each in recordings)} of {len(recordings)}", "correct among the recordings below"),
        (str(n_pieces), "pieces generated for this page"),
        (f"{timing.first_notes_ms:.0f} ms", "from the request for a streamed piece to its first notes"),
        (
            f"{valid['cross_fitted']['ndcg@10']:.3f}",
            f"NDCG@10 for simulated listeners (popularity alone: {popular:.3f})",
        ),
        (f"{seconds / 60:.1f} min", "for the whole demo, including any training"),
    )


def _as_json(
    *,
    models: Mapping[str, DemoModel],
    starters: Mapping[str, DemoModel],
    comparisons: Sequence[comparison.Comparison],
    recordings: Sequence[ClassifiedRecording],
    medley: Medley,
    sections: Sequence[tuple[Section, Sequence[GeneratedPieces]]],
    timing: StreamTiming,
    recommended: Sequence[ListenerRecommendations],
) -> dict[str, Any]:
    return {
        "models": {kind: each.to_dict() for kind, each in models.items()},
        "starters": {kind: each.to_dict() for kind, each in starters.items()},
        "comparisons": [each.to_dict() for each in comparisons],
        "recordings": [
            {"path": str(each.path), "truth": each.track.collection, **each.answer.to_dict()} for each in recordings
        ],
        "medley": {"path": str(medley.path), "picture": str(medley.picture), **medley.answer.to_dict()},
        "music": [each.to_dict() for _, generated in sections for each in generated],
        "stream": {
            "n_bars": timing.n_bars,
            "first_notes_ms": timing.first_notes_ms,
            "whole_ms": timing.whole_ms,
            "same_as_unstreamed": timing.same,
        },
        "recommended": [each.to_dict() for each in recommended],
    }


def _print_summary(
    out: Path,
    repository: Path,
    studio: str,
    recordings: Sequence[ClassifiedRecording],
    page: Path,
    *,
    seconds: float,
) -> None:
    n_correct = sum(each.is_correct for each in recordings)
    console.say(
        f"\n{n_correct} of {len(recordings)} recordings classified correctly, {seconds:.0f} s in all. "
        f"All results are on this page:\n"
        f"  {page}\n"
        f"Files:\n"
        f"  recordings, music   {out / 'recordings'}, {out / 'music'}\n"
        f"  recommended         {out / 'recommended'}\n"
        f"  checkpoints         {out / 'checkpoints'}\n"
        f"  repository          {repository}\n"
        f"Next steps:\n"
        f"  make serve                                         serve this repository\n"
        f"  .venv/bin/tritone classify {recordings[0].path}\n"
        f"  .venv/bin/tritone compose --bars 8 --out tune.wav  compose a piece\n"
        f"  .venv/bin/tritone recommend --n 10 --explain       recommend tracks and explain why\n"
        f"  .venv/bin/tritone train genre_cnn --data FOLDER    train on your labels (a folder per label)\n"
        f"  .venv/bin/tritone train recommender --interactions LOG   train on your listening log\n"
        f"Listen, write and get recommendations in the browser:\n"
        f"  {studio}"
    )


def _studio_command(repository: Path, corpus: Corpus, users: Sequence[str]) -> str:
    """Return the command for the page of the studio.

    It plays the MIDI files of the corpus by their tracks' ids, and offers users whose listening is simulated.
    """
    options = [] if repository == Path("model_repository") else ["--repository", str(repository)]
    options += ["--recordings", str(corpus.path / "midi")]
    options += [word for user in users for word in ("--example-user", user)]
    return shlex.join([".venv/bin/tritone", "studio", *options])


if __name__ == "__main__":
    app = new_app()
    app.command("demo")(demo)
    run(app)
