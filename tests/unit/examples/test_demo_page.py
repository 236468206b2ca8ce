"""What the demonstration asks and shows: the same request in every form, and a page whose links all lead somewhere."""

from __future__ import annotations

import ast
import html
import re
import shlex
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

from tritone import Classification, Grid, MusicClient, Piece, Recommendations, TimelineWindow
from tritone_cli.demonstration.asking import Ask
from tritone_cli.demonstration.givens import Givens
from tritone_cli.demonstration.listeners import Listener
from tritone_cli.demonstration.listening import Heard, Medley
from tritone_cli.demonstration.page import Story, write_page
from tritone_cli.demonstration.recommending import Suggested, Suggestion
from tritone_cli.demonstration.saving import Saved, save
from tritone_cli.demonstration.writing import Chapter, Written, chapters
from tritone_training.catalogue import Track

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


def all_asks(styles: tuple[str, ...] = STYLES) -> list[Ask]:
    book = chapters(Givens(Path("demo/a folder"), {}), styles=styles)
    return [ask for chapter in book for ask in chapter.asks]


@pytest.mark.parametrize("ask", all_asks(), ids=lambda ask: ask.name)
def test_python_says_what_is_sent(ask: Ask) -> None:
    sent, said = Recorder(), Recorder()
    if not ask.is_streamed:
        ask.send(sent)  # type: ignore[arg-type]
    else:
        sent.stream_compose(**ask.options)
    call = ast.parse(ask.python(), mode="eval").body
    assert isinstance(call, ast.Call)
    assert isinstance(call.func, ast.Attribute)
    options = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    getattr(said, call.func.attr)(*map(ast.literal_eval, call.args), **options)
    ((verb, scores, given),) = sent.calls
    assert said.calls == [
        (verb, tuple(map(str, scores)), {k: str(v) if isinstance(v, Path) else v for k, v in given.items()})
    ]


@pytest.mark.parametrize("ask", all_asks(), ids=lambda ask: ask.name)
def test_the_shell_says_what_is_sent(
    ask: Ask, run_tritone: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The line is run by the command line itself; a client that records takes the call."""
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

    monkeypatch.setattr("tritone_cli.pieces.connect", lambda *_: Connected())
    monkeypatch.setattr("tritone_cli.commands.compose._streamed", lambda music, asked, _: music.stream_compose(**asked))
    ended = run_tritone(*shlex.split(ask.shell(Path("new.mid")))[1:])
    assert ended.status == 0, ended.stderr
    assert len(list(tmp_path.glob("new*.mid"))) == (2 if ask.verb in ("sample", "interpolate") else 1)
    ((verb, scores, options),) = recorder.calls
    assert verb == ask.verb
    names = ("model", "n", "seed") if verb == "sample" else ("prompt",) if ask.is_prompted else ()
    took = {**dict(zip(names, scores, strict=False)), **options}
    wanted = {**ask.options, **({"prompt": ask.scores[0]} if ask.is_prompted else {})}
    if "sample" not in verb and not ask.is_prompted:
        assert scores == ask.scores
    assert {name: took[name] for name in wanted} == wanted
    # Nothing else is said than what the SDK takes for granted.
    others = {name: value for name, value in took.items() if name not in wanted and value is not None}
    assert set(others) <= {"temperature", "top_k", "model", "highest", "prompt"}
    assert others.get("temperature", 1.0) == 1.0


def test_styles_that_a_model_does_not_know_are_not_asked_for() -> None:
    assert {ask.options["style"] for ask in all_asks() if "style" in ask.options} == {"bach", "ryans"}
    assert not any("style" in ask.options for ask in all_asks(styles=("chorale",)))


def test_names_of_files_are_told_apart() -> None:
    names = [ask.name for ask in all_asks()]
    assert len(set(names)) == len(names)
    verbs = {ask.verb for ask in all_asks()}
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
def story(tmp_path: Path) -> Story:
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
    facts: dict[str, Any] = dict.fromkeys(Track.__dataclass_fields__)
    track = Track(**{**facts, "title": "<b>Jesu & Co</b>", "composer": "J. S. B.", "collection": "bach"})
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
    one = Ask("one", "One <script>", "Text & more", "vary", (given.midi,), {"attribute": "note_density", "amount": 2.0})
    two = Ask("two", "Two", "Again", "infill", (given.midi,), {"bars": (2, 4), "seed": 7})
    return Story(
        facts=(("93.1%", "of <all>"),),
        heard=(
            Heard(track, recordings / "a piece.ogg", answer),
            Heard(
                Track(**{**facts, "title": "Song", "composer": "", "collection": "essen"}),
                recordings / "a piece.ogg",
                answer,
            ),
        ),
        medley=Medley(recordings / "medley.ogg", answer, picture),
        chapters=(
            (
                Chapter("C", "c", (one, two)),
                (Written(one, (given,), (silent, sounding), 0.5), Written(two, (given,), (sounding,), 0.5)),
            ),
        ),
        suggested=(
            Suggested(
                Listener("known", "Somebody <known>", "What is & was heard", "user", {"user_id": "listener-1"}),
                Recommendations(source="user"),
                (Suggestion(track, 2.0, ("90% heard <u>", "10% well known"), {"ease": 1.8, "popularity": 0.2}, sound),),
                3.0,
                picture,
            ),
        ),
        collections={"bach": "Chorales"},
        models={"music_vae": "0.9 of & right"},
        serve="tritone serve --repository models",
    )


def test_a_page_whose_links_all_lead_somewhere(story: Story, tmp_path: Path) -> None:
    page = write_page(tmp_path, story)
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


def test_the_page_says_what_each_piece_is_and_how_to_have_it_again(story: Story, tmp_path: Path) -> None:
    text = html.unescape(write_page(tmp_path, story).read_text(encoding="utf-8"))
    for _, written in story.chapters:
        for each in written:
            assert each.ask.title in text
            assert each.ask.python() in text
            assert each.ask.shell(Path(f"{each.ask.name}.mid")) in text
    assert "music_vae version 2, seed 8, 1 notes" in text
    assert "tritone serve --repository models" in text
    assert "93.1%" in text
    assert "0.9 of & right" in text
    assert text.count("Silence: not one note.") == 1


def test_the_page_says_to_whom_what_is_recommended_and_why(story: Story, tmp_path: Path) -> None:
    text = write_page(tmp_path, story).read_text(encoding="utf-8")
    assert "Somebody &lt;known&gt;" in text
    assert "What is &amp; was heard" in text
    assert "90% heard &lt;u&gt;; 10% well known" in text
    plain = html.unescape(text)
    assert "music.recommend(user_id='listener-1', n=8, explain=True)" in plain
    assert "tritone recommend --user listener-1 --n 8 --explain" in plain
    assert "The listening log is simulated: no listener below is a real person" in plain


def test_the_contents_list_every_section(story: Story, tmp_path: Path) -> None:
    parser = Links()
    parser.feed(write_page(tmp_path, story).read_text(encoding="utf-8"))
    assert [link for link in parser.links if link.startswith("#")] == [
        "#content", "#listening", "#chapter-c", "#recommending", "#models",
    ]  # fmt: skip


def test_charts_and_players_have_labels_for_screen_readers(story: Story, tmp_path: Path) -> None:
    parser = Links()
    parser.feed(write_page(tmp_path, story).read_text(encoding="utf-8"))
    players = parser.all("audio")
    assert len(players) == 2 + 1 + 3 + 1  # recordings, medley, pieces with notes, recommended
    assert all(player["preload"] == "metadata" for player in players)
    assert all(str(player["aria-label"]).startswith("Play ") for player in players)
    assert all(image["alt"] for image in parser.all("img"))
    assert all(box["aria-label"] and box["tabindex"] == "0" for box in parser.all("div") if box.get("class") == "roll")


def test_recommended_pieces_have_players(story: Story, tmp_path: Path) -> None:
    text = write_page(tmp_path, story).read_text(encoding="utf-8")
    assert 'aria-label="Play &lt;b&gt;Jesu &amp; Co&lt;/b&gt;" src="recommended/a.ogg"' in text


def test_titles_are_text_and_nothing_else(story: Story, tmp_path: Path) -> None:
    text = write_page(tmp_path, story).read_text(encoding="utf-8")
    assert "&lt;b&gt;Jesu &amp; Co&lt;/b&gt;" in text
    assert "One &lt;script&gt;" in text
    assert "<i>" not in text


def test_what_is_given_is_shown_once_in_a_chapter(story: Story, tmp_path: Path) -> None:
    text = write_page(tmp_path, story).read_text(encoding="utf-8")
    assert text.count('class="given"') == 1
    assert text.count("as above") == 1


def test_a_wrong_answer_is_marked(story: Story, tmp_path: Path) -> None:
    text = write_page(tmp_path, story).read_text(encoding="utf-8")
    assert len(re.findall(r'<p class="wrong">It hears <b>bach</b> \(75%\)', text)) == 1


def test_a_silent_piece_leaves_no_sound_of_an_earlier_one(tmp_path: Path) -> None:
    loud = save(Piece(Grid(np.full((16, 88), 2))), tmp_path / "a.mid", title="a")
    assert loud.sound is not None
    assert loud.sound.is_file()
    silent = save(Piece(Grid(np.zeros((16, 88)))), tmp_path / "a.mid", title="a")
    assert silent == Saved("a", silent.piece, tmp_path / "a.mid", None, tmp_path / "a.png")
    assert not (tmp_path / "a.wav").exists()
    assert silent.to_dict()["wav"] is None
