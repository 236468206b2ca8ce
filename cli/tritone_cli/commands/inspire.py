"""`tritone inspire`: compose a piece and recommend similar tracks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tritone_cli import connections, console, options, pieces, recommendations

if TYPE_CHECKING:
    from tritone import Classification


def inspire(
    prompt: Annotated[
        Path | None, typer.Argument(help="MIDI file to continue. Without it, compose from scratch.", show_default=False)
    ] = None,
    *,
    mood: options.Mood = None,
    bars: Annotated[int, typer.Option(help="Number of new bars, 1 to 256.")] = 8,
    n: options.TrackCount = 10,
    out: options.Out = None,
    seed: options.PieceSeed = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    style: options.Style = None,
    tempo: options.Tempo = None,
    instruments: options.Instruments = None,
    model: options.Model = "inspire",
    server: options.Server = "localhost:8001",
    timeout: options.Timeout = 60.0,
    api_key_file: options.ApiKeyFile = None,
    ca_file: options.CaFile = None,
    as_json: options.Json = False,
) -> None:
    """Compose a piece, classify its sound and recommend similar tracks, in one request."""
    pieces.check_outs(out)
    strengths = options.parse_mood(mood)
    with (
        connections.connect(server, timeout, api_key_file, ca_file) as music,
        console.people.status("composing and recommending"),
    ):
        found = music.inspire(
            prompt=prompt,
            mood=strengths,
            bars=bars,
            n=n,
            seed=seed,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            style=style,
            tempo_qpm=tempo,
            instruments=options.parse_instruments(instruments),
            model=model,
        )
    files = pieces.write_piece("inspire", found.piece, out, as_json=as_json)
    if as_json:
        console.print_json({**found.to_dict(), "files": files})
        return
    _print_classification(found.classification)
    recommendations.print_recommendations(found.recommendations, as_json=False)
    console.say(f"request: {1e3 * found.request_s:.0f} ms, of which rendering took {1e3 * found.render_s:.0f} ms")


def _print_classification(found: Classification) -> None:
    text = f"sounds like {found.label} ({found.probabilities[found.label]:.0%})"
    if found.emotions:
        emotion, fraction = next(iter(found.emotions.items()))
        text += f"; strongest emotion: {emotion.replace('_', ' ')} ({fraction:.0%})"
    console.say(f"{text}; {found.model} v{found.model_version}")
