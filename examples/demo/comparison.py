"""The same requests to starter weights and to the small models that the demo trained, to listen to one after the other.

All requests use the defaults of the SDK, so that each pair differs in nothing but the weights.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from examples.demo.generation import GeneratedPieces, GenerationRequest, generate
from examples.demo.models import SMALL
from examples.demo.pieces import CHORALE_TEMPO_QPM, CHORALES, DANCE_TEMPO_QPM, DANCES, ScoreExcerpts

if TYPE_CHECKING:
    from tritone import MusicClient

_SEED: Final = 7


@dataclass(frozen=True)
class Comparison:
    """One request to both models of a kind.

    Attributes:
        kind: the model kind.
        starter: what the starter weights returned.
        small: what the small model returned.
    """

    kind: str
    title: str
    text: str
    starter: GeneratedPieces
    small: GeneratedPieces

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison for `--json`."""
        return {"kind": self.kind, "starter": self.starter.to_dict(), "small": self.small.to_dict()}


def requests(
    kinds: Collection[str], excerpts: ScoreExcerpts, *, styles: Sequence[str] = ()
) -> dict[str, tuple[GenerationRequest, ...]]:
    """Return the requests to the starter weights of each kind.

    Args:
        kinds: kinds with starter weights.
        excerpts: scores to continue and to reconstruct.
        styles: those that both composing models know; the requests use no others.
    """
    begun, chorale = excerpts.path("begun"), excerpts.path("chorale")
    composed = [
        GenerationRequest(
            f"starter-{style}", f"Sixteen bars, style {style}", "Without a prompt.",
            "compose", (), {"bars": 16, "style": style, "tempo_qpm": tempo_qpm, "seed": _SEED},
        )
        for style, tempo_qpm in ((CHORALES, CHORALE_TEMPO_QPM), (DANCES, DANCE_TEMPO_QPM))
        if style in styles
    ] or [
        GenerationRequest(
            "starter-composed", "Sixteen bars", "Without a prompt.", "compose", (), {"bars": 16, "seed": _SEED}
        )
    ]  # fmt: skip
    known = {
        "music_transformer": tuple(composed),
        "polyphony_rnn": (
            GenerationRequest(
                "starter-continued", "Two bars of a chorale, continued by six", "Neither model was trained on it.",
                "compose", (begun,), {"bars": 6, "model": "polyphony_rnn", "seed": _SEED},
            ),
        ),
        "music_vae": (
            GenerationRequest(
                "starter-reconstructed", "A chorale, encoded and decoded", "The closer to the given score, the better.",
                "reconstruct", (chorale,), {"seed": _SEED},
            ),
            GenerationRequest(
                "starter-varied", "The same chorale, over a smaller range", "Two standard deviations less.",
                "vary", (chorale,), {"attribute": "pitch_range", "amount": -2.0, "seed": _SEED},
            ),
            GenerationRequest(
                "starter-sampled", "Two bars from nothing", "A sample of the latent space.",
                "sample", (), {"model": "music_vae", "n": 1, "seed": _SEED},
            ),
        ),
    }  # fmt: skip
    return {kind: asked for kind, asked in known.items() if kind in kinds}


def generate_starters(
    music: MusicClient, kinds: Collection[str], excerpts: ScoreExcerpts, out: Path, *, styles: Sequence[str]
) -> dict[str, tuple[GeneratedPieces, ...]]:
    """Send the requests to the starter weights and save the pieces, by kind."""
    asked = requests(kinds, excerpts, styles=styles)
    return {kind: tuple(generate(music, each, excerpts, out) for each in own) for kind, own in asked.items()}


def compare(
    music: MusicClient, generated: Mapping[str, Sequence[GeneratedPieces]], excerpts: ScoreExcerpts, out: Path
) -> tuple[Comparison, ...]:
    """Send the same requests to the small models.

    Args:
        music: client of a server with both models of each kind.
        generated: from `generate_starters`.
        excerpts: the scores of the requests.
        out: folder of the demo.
    """
    return tuple(
        Comparison(
            kind,
            each.request.title,
            each.request.text,
            each,
            generate(music, to_small(each.request, kind), excerpts, out),
        )
        for kind, own in generated.items()
        for each in own
    )


def to_small(request: GenerationRequest, kind: str) -> GenerationRequest:
    """Return a request to starter weights of a kind as one to its small model."""
    options = {**request.options, "model": SMALL + kind}
    return replace(request, name=request.name.replace("starter-", SMALL.replace("_", "-")), options=options)
