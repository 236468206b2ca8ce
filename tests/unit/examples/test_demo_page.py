"""The requests of the demo in their three forms, and its page."""

from __future__ import annotations

import ast
import html
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

from examples.demo import comparison
from examples.demo.classification import ClassifiedRecording, Medley
from examples.demo.generation import GeneratedPieces, GenerationRequest, Section, sections
from examples.demo.listeners import SimulatedListener
from examples.demo.models import GENERATORS
from examples.demo.page import PageContent, write_page
from examples.demo.pieces import SavedPiece, ScoreExcerpts, save
from examples.demo.recommendations import ListenerRecommendations, RecommendedPiece
from tritone import Classification, Grid, MusicClient, Piece, Recommendations, TimelineWindow
from tritone_training.corpus import CorpusTrack

STYLES = ("bach", "essen", "palestrina", "ryans")


class Recorder:
    """Takes any call of `MusicClient` and keeps it."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, verb: str) -> Callable[..., Piece]:
        assert hasattr(MusicClient, verb)

        def call(*scores: Any, **options: Any) -> Piece:
            self.calls.append((verb, scores, options))
            return Piece(Grid(np.full((16, 88), 2)))

        return call


def all_asks(styles: tuple[str, ...] = STYLES) -> list[GenerationRequest]:
    book = sections(ScoreExcerpts(Path("demo/a folder"), {}), styles=styles)
    return [request for section in book for request in section.requests]


def compared() -> list[GenerationRequest]:
    """Return the requests to the starter weights and those to the small models."""
    excerpts = ScoreExcerpts(Path("demo/a folder"), {})
    asked = comparison.requests(GENERATORS, excerpts, styles=STYLES)
    return [each for kind, own in asked.items() for one in own for each in (one, comparison.to_small(one, kind))]


@pytest.mark.parametrize("asked", [*all_asks(), *compared()], ids=lambda asked: asked.name)
def test_the_python_line_equals_the_call(asked: GenerationRequest) -> None:
    sent, said = Recorder(), Recorder()
    if not asked.is_streamed:
        asked.send(sent)  # type: ignore[arg-type]
    else:
        sent.stream_compose(**asked.options)
    call = ast.parse(asked.python(), mode="eval").body
    assert isinstance(call, ast.Call)
    assert isinstance(call.func, ast.Attribute)
    options = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    getattr(said, call.func.attr)(*map(ast.literal_eval, call.args), **options)
    ((verb, scores, given),) = sent.calls
    assert said.calls == [
        (verb, tuple(map(str, scores)), {k: str(v) if isinstance(v, Path) else v for k, v in given.items()})
    ]


@pytest.mark.parametrize("asked", [*all_asks(), *compared()], ids=lambda asked: asked.name)
def test_the_shell_line_equals_the_call(
    asked: GenerationRequest, run_tritone: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`tritone` runs the line, with a client that records the call."""
    recorder = Recorder()
    monkeypatch.chdir(tmp_path)

    class Connected(Recorder):
        def __enter__(self) -> Connected:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def __getattr__(self, verb: str) -> Callable[..., Any]:
            def call(*scores: Any, **options: Any) -> Any:
                piece = getattr(recorder, verb)(*scores, **options)
                return (piece, piece) if verb in ("sample", "interpolate") else piece

            return call

    monkeypatch.setattr("tritone_cli.connections.connect", lambda *_: Connected())
    monkeypatch.setattr(
        "tritone_cli.commands.compose._stream", lambda music, asked, _, shown: music.stream_compose(**asked)
    )
    ended = run_tritone(*shlex.split(asked.shell(Path("new.mid")))[1:])
    assert ended.status == 0, ended.stderr
    assert len(list(tmp_path.glob("new*.mid"))) == (2 if asked.verb in ("sample", "interpolate") else 1)
    ((verb, scores, options),) = recorder.calls
    assert verb == asked.verb
    names = ("model", "n", "seed") if verb == "sample" else ("prompt",) if asked.is_prompted else ()
    took = {**dict(zip(names, scores, strict=False)), **options}
    wanted = {**asked.options, **({"prompt": asked.scores[0]} if asked.is_prompted else {})}
    if "sample" not in verb and not asked.is_prompted:
        assert scores == asked.scores
    assert {name: took[name] for name in wanted} == wanted
    # All other arguments have the SDK's defaults.
    others = {name: value for name, value in took.items() if name not in wanted and value is not None}
    assert set(others) <= {"temperature", "top_k", "model", "highest", "prompt", "ending", "n_candidates"}
    assert others.get("temperature", 1.0) == 1.0


def test_requests_use_only_styles_of_the_model() -> None:
    assert {request.options["style"] for request in all_asks() if "style" in request.options} == {"bach", "ryans"}
    assert not any("style" in request.options for request in all_asks(styles=("chorale",)))


def test_file_names_are_unique() -> None:
    names = [request.name for request in (*all_asks(), *compared())]
    assert len(set(names)) == len(names)
    verbs = {request.verb for request in all_asks()}
    assert verbs == {"compose", "stream_compose", "harmonize", "infill", "interpolate", "reconstruct", "vary", "sample"}


class Links(HTMLParser):
    """Collects links, element ids, and tags with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []

    @property
    def ids(self) -> list[str]:
        return [str(attributes["id"]) for _, attributes in self.elements if "id" in attributes]

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.elements.append((tag, dict(attrs)))
        self.links += [unquote(value or "") for name, value in attrs if name in ("src", "href")]


@pytest.fixture
def content(tmp_path: Path) -> PageContent:
    probabilities = {"bach": 0.75, "essen": 0.25}
    answer = Classification(
        label="bach",
        probabilities=probabilities,
        emotions=None,
        tags=None,
        timeline=(TimelineWindow(start_s=0.0, probabilities=probabilities),),
        embedding=np.zeros(4, np.float32),
        model="genre_cnn",
        model_version="3",
        duration_s=3.0,
        request_ids=(),
        decode_s=0.0,
        request_s=0.0,
    )
    facts: dict[str, Any] = dict.fromkeys(CorpusTrack.__dataclass_fields__)
    track = CorpusTrack(**{**facts, "title": "<b>Jesu & Co</b>", "composer": "J. S. B.", "collection": "bach"})
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    for name in ("a piece.ogg", "medley.ogg"):
        (recordings / name).touch()
    picture = tmp_path / "timeline.png"
    picture.touch()
    sound = tmp_path / "recommended" / "a.ogg"
    sound.parent.mkdir()
    sound.touch()
    frames = np.zeros((32, 88), np.uint8)
    given = save(
        Piece(Grid(frames + (np.arange(88) == 40) * np.uint8(1))), tmp_path / "music" / "given.mid", title="Its <i>"
    )
    silent = save(
        Piece(Grid(frames), seed=7, model="music_gan", model_version="2"), tmp_path / "music" / "s.mid", title="S"
    )
    sounding = save(
        Piece(given.piece.grid, seed=8, model="music_vae", model_version="2"), tmp_path / "music" / "#1.mid", title="#"
    )
    one = GenerationRequest(
        "one", "One <script>", "Text & more", "vary", (given.midi,), {"attribute": "note_density", "amount": 2.0}
    )
    two = GenerationRequest("two", "Two", "Again", "infill", (given.midi,), {"bars": (2, 4), "seed": 7})
    return PageContent(
        facts=(("93.1%", "of <all>"),),
        recordings=(
            ClassifiedRecording(track, recordings / "a piece.ogg", answer),
            ClassifiedRecording(
                CorpusTrack(**{**facts, "title": "Song", "composer": "", "collection": "essen"}),
                recordings / "a piece.ogg",
                answer,
            ),
        ),
        medley=Medley(recordings / "medley.ogg", answer, picture),
        sections=(
            (
                Section("C", "c", (one, two)),
                (
                    GeneratedPieces(one, (given,), (silent, sounding), 0.5),
                    GeneratedPieces(two, (given,), (sounding,), 0.5),
                ),
            ),
        ),
        recommended=(
            ListenerRecommendations(
                SimulatedListener("known", "Known <user>", "What is & was played", "user", {"user_id": "listener-1"}),
                Recommendations(source="user"),
                (
                    RecommendedPiece(
                        track, 2.0, ("listened to <u> (90%)", "popular (10%)"), {"ease": 1.8, "popularity": 0.2}, sound
                    ),
                ),
                3.0,
                picture,
            ),
        ),
        collections={"bach": "Chorales"},
        models={"music_vae": "0.9 of & right"},
        serve="tritone serve --repository models",
    )


def test_all_links_of_the_page_lead_to_files_or_sections(content: PageContent, tmp_path: Path) -> None:
    page = write_page(tmp_path, content)
    assert page == tmp_path / "index.html"
    text = page.read_text(encoding="utf-8")
    parser = Links()
    parser.feed(text)
    assert parser.links
    for link in parser.links:
        if link.startswith("#"):
            assert link[1:] in parser.ids, link
        else:
            assert (tmp_path / link).is_file(), link
    assert len(set(parser.ids)) == len(parser.ids)
    assert "script" not in parser.tags
    assert "http://" not in text
    assert "https://" not in text
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".tmp"]


def test_the_page_shows_each_piece_and_its_commands(content: PageContent, tmp_path: Path) -> None:
    text = html.unescape(write_page(tmp_path, content).read_text(encoding="utf-8"))
    for _, written in content.sections:
        for each in written:
            assert each.request.title in text
            assert each.request.python() in text
            assert each.request.shell(Path(f"{each.request.name}.mid")) in text
    assert "music_vae version 2, seed 8, 1 notes" in text
    assert "tritone serve --repository models" in text
    assert "93.1%" in text
    assert "0.9 of & right" in text
    assert text.count("Silence: the piece has no notes.") == 1


def test_the_page_shows_listeners_and_reasons(content: PageContent, tmp_path: Path) -> None:
    text = write_page(tmp_path, content).read_text(encoding="utf-8")
    assert "Known &lt;user&gt;" in text
    assert "What is &amp; was played" in text
    assert "listened to &lt;u&gt; (90%); popular (10%)" in text
    plain = html.unescape(text)
    assert "music.recommend(user_id='listener-1', n=8, explain=True)" in plain
    assert "tritone recommend --user listener-1 --n 8 --explain" in plain
    assert "The listening log is simulated: no listener below is a real person" in plain


def test_the_contents_list_every_section(content: PageContent, tmp_path: Path) -> None:
    parser = Links()
    parser.feed(write_page(tmp_path, content).read_text(encoding="utf-8"))
    assert [link for link in parser.links if link.startswith("#")] == [
        "#content", "#classification", "#section-c", "#recommendation", "#models",
    ]  # fmt: skip


def test_small_models_get_the_requests_of_the_starter_weights() -> None:
    pairs = list(zip(compared()[::2], compared()[1::2], strict=True))
    assert len(pairs) == 6
    for starter, small in pairs:
        latent = starter.verb in {"reconstruct", "vary"}
        kind = starter.options.get("model", "music_vae" if latent else "music_transformer")
        assert small.options == {**starter.options, "model": f"small_{kind}"}
        assert (small.verb, small.scores, small.title) == (starter.verb, starter.scores, starter.title)
        assert not {"temperature", "top_k", "top_p"} & starter.options.keys()  # at the defaults of the SDK
    excerpts = ScoreExcerpts(Path("demo"), {})
    assert set(comparison.requests(["music_vae"], excerpts)) == {"music_vae"}
    ((asked,),) = comparison.requests(["music_transformer"], excerpts, styles=["oneills"]).values()
    assert "style" not in asked.options


def test_the_page_compares_starter_weights_with_small_models(content: PageContent, tmp_path: Path) -> None:
    ((_, (first, second)),) = content.sections
    starter = replace(first, request=replace(first.request, name="starter-a"))
    pair = comparison.Comparison("music_vae", "A & B", "Listen.", starter, second)
    text = write_page(tmp_path, replace(content, comparisons=(pair,))).read_text(encoding="utf-8")
    (article,) = re.findall(r'<article id="starter-a">.*?</article>', text, re.S)
    assert "music_vae: A &amp; B" in article
    assert article.index("Starter weights") < article.index("Small model, trained here")
    assert article.count("<audio") == 1 + 1 + 1  # given, one of the starter's two is silent, the small model's
    assert first.request.python() in html.unescape(article)
    assert second.request.python() in html.unescape(article)
    assert "music_vae: starter weights, which come with Tritone" in text
    assert '<a href="#comparison">' in text


def test_a_page_without_starter_weights_says_so(content: PageContent, tmp_path: Path) -> None:
    text = write_page(tmp_path, content).read_text(encoding="utf-8")
    assert "No starter weights were found." in text
    assert "comparison" not in text


def test_charts_and_players_have_labels_for_screen_readers(content: PageContent, tmp_path: Path) -> None:
    parser = Links()
    parser.feed(write_page(tmp_path, content).read_text(encoding="utf-8"))
    players = parser.all("audio")
    assert len(players) == 2 + 1 + 3 + 1  # recordings, medley, pieces with notes, recommended
    assert all(player["preload"] == "metadata" for player in players)
    assert all(str(player["aria-label"]).startswith("Play ") for player in players)
    assert all(image["alt"] for image in parser.all("img"))
    assert all(box["aria-label"] and box["tabindex"] == "0" for box in parser.all("div") if box.get("class") == "roll")


def test_recommended_pieces_have_players(content: PageContent, tmp_path: Path) -> None:
    text = write_page(tmp_path, content).read_text(encoding="utf-8")
    assert 'aria-label="Play &lt;b&gt;Jesu &amp; Co&lt;/b&gt;" src="recommended/a.ogg"' in text


def test_titles_are_escaped(content: PageContent, tmp_path: Path) -> None:
    text = write_page(tmp_path, content).read_text(encoding="utf-8")
    assert "&lt;b&gt;Jesu &amp; Co&lt;/b&gt;" in text
    assert "One &lt;script&gt;" in text
    assert "<i>" not in text


def test_what_is_given_is_shown_once_in_a_chapter(content: PageContent, tmp_path: Path) -> None:
    text = write_page(tmp_path, content).read_text(encoding="utf-8")
    assert text.count('class="given"') == 1
    assert text.count("as above") == 1


def test_a_wrong_answer_is_marked(content: PageContent, tmp_path: Path) -> None:
    text = write_page(tmp_path, content).read_text(encoding="utf-8")
    assert len(re.findall(r'<p class="wrong">Classified as <b>bach</b> \(75%\)', text)) == 1


def test_a_silent_piece_leaves_no_sound_of_an_earlier_one(tmp_path: Path) -> None:
    loud = save(Piece(Grid(np.full((16, 88), 2))), tmp_path / "a.mid", title="a")
    assert loud.sound is not None
    assert loud.sound.is_file()
    silent = save(Piece(Grid(np.zeros((16, 88)))), tmp_path / "a.mid", title="a")
    assert silent == SavedPiece("a", silent.piece, tmp_path / "a.mid", None, tmp_path / "a.png")
    assert not (tmp_path / "a.wav").exists()
    assert silent.to_dict()["wav"] is None
