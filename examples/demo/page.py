"""The page of the demo: plots, audio players and links in one file, without scripts or outside resources."""

from __future__ import annotations

import html
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from examples.demo.classification import ClassifiedRecording, Medley
from examples.demo.comparison import Comparison
from examples.demo.generation import GeneratedPieces, Section
from examples.demo.pieces import SavedPiece
from examples.demo.recommendations import ListenerRecommendations, RecommendedPiece

PAGE: Final = "index.html"
_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1d2733; --soft: #5b6875; --paper: #fbfaf7; --card: #fff; --line: #e3e0d8;
  --accent: #31688e }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e6e1; --soft: #a3adb8; --paper: #14181d; --card: #1d232a; --line: #333c46; --accent: #7fb8dc }
}
* { box-sizing: border-box }
html { scroll-behavior: smooth }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem;
  color: var(--ink); background: var(--paper) }
h1 { font-size: 2.1rem; line-height: 1.2; margin: 0 0 .5rem }
h2 { font-size: 1.45rem; margin: 3rem 0 .25rem }
h3 { font-size: 1.05rem; margin: 0 }
h4 { font-size: .95rem; margin: .9rem 0 0 }
p { margin: .35rem 0 }
a { color: var(--accent) }
.soft, figcaption { color: var(--soft); font-size: .9rem }
.skip { position: absolute; left: -100rem }
.skip:focus { left: 1rem; top: 1rem; padding: .4rem .8rem; background: var(--card) }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: 0; margin: 1rem 0; list-style: none }
.facts { display: grid; grid-template-columns: repeat(3, 1fr); gap: .75rem; padding: 0; margin: 1.5rem 0;
  list-style: none }
.facts li, article { background: var(--card); border: 1px solid var(--line); border-radius: .6rem }
.facts li { padding: .75rem 1rem }
.facts b { display: block; font-size: 1.4rem }
article { padding: 1rem 1.25rem; margin: 1rem 0 }
.rows { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: 1rem; margin: 1rem 0 }
.rows article { margin: 0 }
.rows h3 { font-size: 1rem }
figure { margin: .75rem 0 0; min-width: 0 }
figure.given { border-left: 4px solid var(--line); padding-left: .9rem }
.roll { overflow-x: auto; width: fit-content; max-width: 100%; background: #fff; border: 1px solid var(--line);
  border-radius: .4rem; padding: .25rem; margin-top: .3rem }
.roll img { display: block; height: 15rem; max-width: none }
.recommended { padding: 0; margin: .9rem 0 0; list-style: none; counter-reset: rank }
.recommended li { display: grid; grid-template-columns: minmax(0, 1fr) 17rem; gap: .1rem 1rem; align-items: center;
  padding: .6rem 0; border-top: 1px solid var(--line); counter-increment: rank }
.recommended b::before { content: counter(rank) ". " }
.recommended .soft { grid-column: 1 }
.recommended audio { grid-column: 2; grid-row: 1 / span 2; margin: 0 }
.several { display: grid; grid-template-columns: repeat(auto-fit, minmax(16rem, 1fr)); gap: 0 1rem }
.several img { height: 11rem }
audio { width: 100%; margin-top: .4rem }
pre { margin: .6rem 0 0; padding: .6rem .8rem; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .82rem;
  border: 1px solid var(--line); border-radius: .4rem; background: var(--paper) }
.wrong { color: #b3261e }
table { border-collapse: collapse; font-size: .9rem }
td, th { text-align: left; vertical-align: top; padding: .3rem 1rem .3rem 0; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere }
th { white-space: nowrap }
@media (prefers-color-scheme: dark) {
  .roll { background: #1f1f1f }
  .roll img { filter: invert(.88) hue-rotate(180deg) }  /* dark charts of the same hues */
  .wrong { color: #f2b8b5 }
}
@media (max-width: 44rem) {
  body { padding: 1.25rem .9rem }
  .facts { grid-template-columns: repeat(2, 1fr) }
  article { padding: .9rem }
  .recommended li { grid-template-columns: minmax(0, 1fr) }
  .recommended audio { grid-column: 1; grid-row: auto }
}
"""


@dataclass(frozen=True)
class PageContent:
    """The content of the page.

    Attributes:
        facts: numbers and what they measure.
        sections: sections with their generated pieces.
        comparisons: pieces of starter weights and of small models; empty if there are no starter weights.
        recommended: the recommendations of each listener.
        collections: titles of the labels.
        models: evaluation result of each model, as text.
        serve: the command that starts the server again.
    """

    facts: Sequence[tuple[str, str]]
    recordings: Sequence[ClassifiedRecording]
    medley: Medley
    sections: Sequence[tuple[Section, Sequence[GeneratedPieces]]]
    recommended: Sequence[ListenerRecommendations]
    collections: Mapping[str, str]
    models: Mapping[str, str]
    serve: str
    comparisons: Sequence[Comparison] = ()


def write_page(out: Path, content: PageContent) -> Path:
    """Write `index.html`, whose links are relative, so the folder can be moved or put on any web server.

    Args:
        out: the folder that holds all that is linked to.

    Returns:
        The page's path.
    """
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        "<title>Tritone demo: classification, composition and recommendation of music</title>",
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{_STYLE}</style>\n</head>\n<body>",
        '<a class="skip" href="#content">Skip to the content</a>',
        "<header><h1>Tritone: classification, composition and recommendation of music</h1>",
        f"<p>{_text(_introduction(content))} Nothing here was selected by hand: every seed was fixed beforehand.</p>",
        "</header>",
        *_contents(content),
        '<main id="content"><ul class="facts">',
        *(f"<li><b>{_text(figure)}</b>{_text(what)}</li>" for figure, what in content.facts),
        "</ul>",
        "<p>Each line of code below returns the same result again, as long as the same versions are served. "
        "Start the server in the folder in which the demo ran:</p>",
        f"<pre>{_text(content.serve)}</pre>",
        '<pre>from tritone import MusicClient\n\nmusic = MusicClient("localhost:8001")</pre>',
        *_classification(content, out),
        *_comparisons(content, out),
        *(part for section, generated in content.sections for part in _section(section, generated, out)),
        *_recommendations(content, out),
        '<h2 id="models">Models</h2>',
        '<p class="soft">Each model was evaluated on data that it was not trained on.</p>',
        '<table aria-label="Evaluation of the models">',
        *(
            f'<tr><th scope="row">{_text(model)}</th><td>{_text(words)}</td></tr>'
            for model, words in content.models.items()
        ),
        "</table>\n</main>\n</body>\n</html>",
    ]
    page = out / PAGE
    staged = page.with_suffix(".tmp")
    staged.write_text("\n".join(parts) + "\n", encoding="utf-8")
    staged.replace(page)
    return page


def _introduction(content: PageContent) -> str:
    trained = "trained in minutes on this machine with old and traditional music from music21's corpus"
    if not content.comparisons:
        return f"Small models, {trained}, and served by NVIDIA Triton. No starter weights were found."
    kinds = ", ".join(dict.fromkeys(each.kind for each in content.comparisons))
    return (
        f"{kinds}: starter weights, which come with Tritone. All others are small models, {trained}. NVIDIA Triton "
        f"serves all of them."
    )


def _contents(content: PageContent) -> Iterable[str]:
    """Yield the table of contents, in the order of the page."""
    sections = [(_anchor(section), section.title) for section, _ in content.sections]
    sections = [
        ("classification", "Classification"),
        *([("comparison", "Starter weights and small models")] if content.comparisons else []),
        *sections,
        ("recommendation", "Recommendation"),
        ("models", "Models"),
    ]
    yield '<nav aria-label="Contents"><ul>'
    yield from (f'<li><a href="#{anchor}">{_text(title)}</a></li>' for anchor, title in sections)
    yield "</ul></nav>"


def _anchor(section: Section) -> str:
    return "section-" + "-".join("".join(c if c.isalnum() else " " for c in section.title.lower()).split())


def _classification(content: PageContent, out: Path) -> Iterable[str]:
    yield '<h2 id="classification">Classification</h2>'
    yield (
        "<p>genre_cnn classifies each recording by collection: "
        f"{_text('; '.join(f'{name} ({title})' for name, title in content.collections.items()))}. "
        "It was trained on none of these pieces.</p>"
    )
    yield '<div class="rows">'
    yield from (_recording(each, out) for each in content.recordings)
    yield "</div>"
    yield (
        f"<article><h3>A medley, window by window</h3><p>Twelve seconds of each piece in succession.</p>"
        f"<figure>{_image(content.medley.picture, out, 'Line chart: probability of each collection in each window')}"
        f"{_player(content.medley.path, out, 'the medley')}</figure>"
        f"<pre>tritone classify {_text(str(content.medley.path))}</pre></article>"
    )


def _recording(recording: ClassifiedRecording, out: Path) -> str:
    label, share = recording.answer.label, recording.answer.probabilities[recording.answer.label]
    shown = "" if recording.is_correct else ' class="wrong"'
    return (
        f'<article><h3>{_text(recording.track.title)}</h3><p class="soft">{_text(recording.track.composer)}, '
        f"from {_text(recording.track.collection)}</p><p{shown}>Classified as <b>{_text(label)}</b> ({share:.0%}).</p>"
        f"{_player(recording.path, out, recording.track.title)}</article>"
    )


def _section(section: Section, generated: Sequence[GeneratedPieces], out: Path) -> Iterable[str]:
    yield f'<h2 id="{_anchor(section)}">{_text(section.title)}</h2>\n<p>{_text(section.text)}</p>'
    shown: set[Path] = set()
    for each in generated:
        request = each.request
        several = ' class="several"' if len(each.pieces) > 1 else ""
        yield (
            f'<article id="{_text(request.name)}"><h3>{_text(request.title)}</h3><p>{_text(request.text)}</p>'
            + "".join(_given(piece, out, again=piece.midi in shown) for piece in each.given)
            + f"<div{several}>{''.join(_figure(piece, out) for piece in each.pieces)}</div>"
            + f"<pre>{_text(request.python())}\n\n{_text(each.shell())}</pre></article>"
        )
        shown.update(piece.midi for piece in each.given)


def _comparisons(content: PageContent, out: Path) -> Iterable[str]:
    """Yield the pieces of each pair, to listen to one after the other."""
    if not content.comparisons:
        return
    yield '<h2 id="comparison">Starter weights and small models</h2>'
    yield (
        "<p>The same request, with the same seed and the defaults of the SDK, to the starter weights and to the small "
        "model of the same kind that was trained here. Only the weights differ.</p>"
    )
    for each in content.comparisons:
        sides = (("Starter weights", each.starter), ("Small model, trained here", each.small))
        shown = "".join(
            f"<div><h4>{title}</h4>{''.join(_figure(piece, out) for piece in side.pieces)}"
            f"<pre>{_text(side.request.python())}\n\n{_text(side.shell())}</pre></div>"
            for title, side in sides
        )
        yield (
            f'<article id="{_text(each.starter.request.name)}"><h3>{_text(each.kind)}: {_text(each.title)}</h3>'
            f"<p>{_text(each.text)}</p>{''.join(_given(piece, out, again=False) for piece in each.starter.given)}"
            f'<div class="several">{shown}</div></article>'
        )


def _recommendations(content: PageContent, out: Path) -> Iterable[str]:
    yield '<h2 id="recommendation">Recommendation</h2>'
    yield (
        "<p>The listening log is simulated: no listener below is a real person, and the metrics do not show how well "
        "this works for real listeners. An ensemble of models uses whatever is known about a user and explains its "
        "answer: each bar is a score, divided among the base models, and each reason has its share of the score.</p>"
    )
    yield from (_listener(each, out) for each in content.recommended)


def _listener(recommended: ListenerRecommendations, out: Path) -> str:
    listener = recommended.listener
    rows = "".join(
        f"<li><b>{_text(each.track.title)}</b>"
        f'<span class="soft">{_text(_source(each))}<br>{_text("; ".join(each.because))}</span>'
        f"{_player(each.sound, out, each.track.title)}</li>"
        for each in recommended.pieces
    )
    counts = ", ".join(f"{n} from {collection}" for collection, n in recommended.collections.items())
    return (
        f'<article id="recommended-{_text(listener.name)}"><h3>{_text(listener.title)}</h3>'
        f"<p>{_text(listener.text)}</p><p>Recommended: <b>{_text(counts)}</b>.</p>"
        f"<figure>{_image(recommended.picture, out, 'Bar chart: how much each base model adds to each score')}</figure>"
        f'<ol class="recommended" aria-label="Recommended pieces, best first">{rows}</ol>'
        f"<pre>{_text(listener.python())}\n\n{_text(listener.shell())}</pre></article>"
    )


def _source(piece: RecommendedPiece) -> str:
    return ", ".join(filter(None, (piece.track.composer, f"from {piece.track.collection}")))


def _given(saved: SavedPiece, out: Path, *, again: bool) -> str:
    words = f"Given: {_text(saved.title)}"
    if again:
        return f'<p class="soft">{words}, as above.</p>'
    return f'<figure class="given"><figcaption>{words}, {_notes(saved, out)}</figcaption>{_shown(saved, out)}</figure>'


def _figure(saved: SavedPiece, out: Path) -> str:
    piece = saved.piece
    made = f"{piece.model} version {piece.model_version}, seed {piece.seed}"
    return f"<figure><figcaption>{_text(made)}, {_notes(saved, out)}</figcaption>{_shown(saved, out)}</figure>"


def _notes(saved: SavedPiece, out: Path) -> str:
    grid = saved.piece.grid
    return f'{grid.n_notes} notes, {grid.duration_s:.0f} s, <a href="{_link(saved.midi, out)}">MIDI</a>'


def _shown(saved: SavedPiece, out: Path) -> str:
    name = saved.title if saved.piece.seed is None else f"{saved.title}, by {saved.piece.model}"
    silence = '<p class="soft">Silence: the piece has no notes.</p>'
    sound = _player(saved.sound, out, name) if saved.sound else silence
    return _image(saved.picture, out, f"Piano roll of {name}: {saved.piece.grid.n_notes} notes") + sound


def _image(path: Path, out: Path, words: str) -> str:
    """Return an image in a scrollable box, which can have the keyboard's focus so that arrow keys scroll it."""
    image = f'<img src="{_link(path, out)}" alt="{_text(words)}" loading="lazy">'
    return f'<div class="roll" tabindex="0" role="group" aria-label="{_text(words)}">{image}</div>'


def _player(path: Path, out: Path, name: str) -> str:
    return f'<audio controls preload="metadata" aria-label="Play {_text(name)}" src="{_link(path, out)}"></audio>'


def _link(path: Path, out: Path) -> str:
    return urllib.parse.quote(path.relative_to(out).as_posix())


def _text(words: str) -> str:
    return html.escape(words)
