"""Who requests for recommendations in the demonstration, in which words, and what is said of the answers."""

from __future__ import annotations

import ast
import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from examples.demo import recommendations
from examples.demo.listeners import N_SUGGESTED, SimulatedListener, join_words, listeners, stored_users
from examples.demo.recommendations import plot_contributions
from tritone import Reason, Recommendation, Recommendations, TritoneError
from tritone_training.corpus import CorpusTrack
from tritone_training.data.interactions import ListeningData, Log, TagTable

COLLECTIONS = ("bach", "essen", "palestrina", "ryans")
N_EACH = 4


def track(name: str) -> CorpusTrack:
    facts: dict[str, Any] = dict.fromkeys(CorpusTrack.__dataclass_fields__)
    collection = name.partition("/")[0]
    return CorpusTrack(**{**facts, "id": name, "title": f"Piece $ {name}", "composer": "X", "collection": collection})


@pytest.fixture(autouse=True)
def _no_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tracks have no notes; tests/integration/test_demo.py renders real ones."""
    monkeypatch.setattr("tritone_training.corpus.write_audio", lambda track, path: path.touch())


CORPUS: Any = {f"{kind}/{n}": track(f"{kind}/{n}") for kind in COLLECTIONS for n in range(N_EACH)}
PIECES = list(CORPUS)


def log_of(heard: dict[str, dict[str, float]]) -> Log:
    rows = [(u, PIECES.index(piece), plays) for u, mine in enumerate(heard.values()) for piece, plays in mine.items()]
    user, item, plays = (np.array(column) for column in zip(*rows, strict=True))
    return Log("simulated", list(heard), PIECES, user.astype(np.int64), item.astype(np.int64), plays.astype(np.float32))


@pytest.fixture
def listening() -> ListeningData:
    """`a` plays chorales; `b` has friends; everybody knows ryans/3, and ryans/0 those alone who play much of it."""
    log = log_of(
        {
            "a": {"bach/0": 1, "bach/1": 9, "essen/2": 5, "ryans/3": 2},
            "b": {"palestrina/0": 1, "ryans/3": 1, "ryans/1": 1},
            "c": {"ryans/3": 1, "ryans/1": 1, "ryans/0": 1, "essen/1": 1, "bach/0": 1},
            "d": {"ryans/3": 1, "ryans/1": 1, "ryans/0": 1, "essen/0": 1},
        }
    )
    friends = [("a", "b"), ("a", "nobody"), ("b", "c"), ("b", "d")]
    return ListeningData(log, log, None, friends, TagTable((), (), ()), {})


def classified_as(piece: str, label: str) -> Any:
    mine = CORPUS[piece]
    answer = SimpleNamespace(label=label)
    return SimpleNamespace(
        track=mine, path=Path(f"demo/{mine.collection}.ogg"), answer=answer, is_correct=label == mine.collection
    )


@pytest.fixture
def everybody(listening: ListeningData) -> tuple[SimulatedListener, ...]:
    heard = [
        classified_as("bach/2", "palestrina"),
        classified_as("palestrina/1", "palestrina"),
        classified_as("ryans/2", "ryans"),
    ]
    return listeners(listening, CORPUS, heard)


def test_every_source_has_a_listener(everybody: tuple[SimulatedListener, ...]) -> None:
    assert [each.source for each in everybody] == ["user", "history", "friends", "audio", "popularity"]
    assert len({each.name for each in everybody}) == len(everybody)


def test_texts_about_listeners_match_the_log(everybody: tuple[SimulatedListener, ...]) -> None:
    known, songs, friends, recording, nobody = everybody
    assert dict(known.options) == {"user_id": "a"}
    assert "4 pieces in the log (2 from bach, 1 from essen, 1 from ryans) and 2 friends" in known.text
    assert "played most: Piece $ bach/1, Piece $ essen/2 and Piece $ ryans/3" in known.text
    assert dict(songs.options) == {"history": ["ryans/0", "ryans/1", "ryans/3"]}
    assert dict(friends.options) == {"friends": ["a", "c", "d"]}
    # The chorale is misheard, and fewer know Palestrina than fiddle tunes.
    assert dict(recording.options) == {"audio": Path("demo/palestrina.ogg")}
    assert "classifies as palestrina" in recording.text
    assert dict(nobody.options) == {}
    assert "simulated" in known.text
    assert "simulated" in friends.text


def test_the_users_of_the_log_are_offered_once(everybody: tuple[SimulatedListener, ...]) -> None:
    assert stored_users(everybody) == ("a", "c", "d")


def test_too_few_friends_raise(listening: ListeningData) -> None:
    listening.friends.clear()
    with pytest.raises(TritoneError, match="another --seed"):
        listeners(listening, CORPUS, [classified_as("bach/2", "bach")])


def test_call_python_and_shell_send_the_same_request(
    everybody: tuple[SimulatedListener, ...], run_tritone: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []

    class Connected:
        def __enter__(self) -> Connected:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def recommend(self, user_id: str | None = None, **options: Any) -> Recommendations:
            calls.append({name: value for name, value in {"user_id": user_id, **options}.items() if value is not None})
            return Recommendations(source="user")

    monkeypatch.setattr("tritone_cli.connections.connect", lambda *_: Connected())
    for each in everybody:
        calls.clear()
        each.send(Connected())  # type: ignore[arg-type]
        call = ast.parse(each.python(), mode="eval").body
        assert isinstance(call, ast.Call)
        Connected().recommend(**{str(word.arg): ast.literal_eval(word.value) for word in call.keywords})
        ended = run_tritone(*shlex.split(each.shell())[1:])
        assert ended.status == 0, ended.stderr
        sent, said, typed = ({key: str(value) for key, value in call.items()} for call in calls)
        assert said == sent
        others = {name: value for name, value in typed.items() if name not in sent}
        assert {name: typed[name] for name in sent} == sent
        assert others == {"filter_listened": "True", "diversity": "0.0", "novelty": "0.0", "model": "recommender"}


def answer(reasons: list[Reason], *, score: float | None = None, source: str = "history") -> Recommendations:
    score = sum(reason.amount for reason in reasons) if score is None else score
    return Recommendations(
        [Recommendation(piece, score, reasons=tuple(reasons)) for piece in PIECES[:N_SUGGESTED]], source=source
    )


REASONS = [
    Reason("ease", "history", "ryans/3", 2.0),
    Reason("ease", "history", "ryans/1", 3.0),
    Reason("user_knn", "history", "ryans/0", 0.5),
    Reason("sound", "history", "", 2.0),
    Reason("taste_vae", "history", "", 1.5),
    Reason("popularity", "popularity", "", 0.9),
    Reason("tags", "tag", "minor", 0.1),
]


def request(given: Recommendations, out: Path) -> recommendations.ListenerRecommendations:
    listener = SimulatedListener("songs", "A newcomer", "", "history", {"history": ["ryans/3"]})
    return recommendations.recommend(SimpleNamespace(recommend=lambda **_: given), listener, CORPUS, out)  # type: ignore[arg-type]


def test_reasons_as_text(tmp_path: Path) -> None:
    recommended = request(answer(REASONS), tmp_path)
    first = recommended.pieces[0]
    assert first.because == (
        "listened to Piece $ ryans/1, Piece $ ryans/3 and 1 more (55%)",
        "sounds like the listening history (20%)",
        "fits the listening history as a whole (15%)",
        "popular (9%)",
    )
    assert first.contributions == {
        "ease": 5.0, "user_knn": 0.5, "sound": 2.0, "taste_vae": 1.5, "popularity": 0.9, "tags": 0.1,
    }  # fmt: skip
    assert dict(recommended.collections) == {"bach": 4, "essen": 4}
    assert [each.sound.name for each in recommended.pieces[:2]] == ["bach-0.ogg", "bach-1.ogg"]
    assert all(each.sound.is_file() for each in recommended.pieces)
    with Image.open(recommended.picture) as picture:
        assert np.asarray(picture.convert("L")).std() > 10


@pytest.mark.parametrize(
    ("because", "cause", "words"),
    [
        ("friend", "d", "friends: d (100%)"),
        ("friend", "", "friends listen to it (100%)"),
        ("friends_listening", "bach/0", "friends listened to Piece $ bach/0 (100%)"),
        ("audio", "", "sounds like the recording (100%)"),
        ("tag", "slow", "tagged slow (100%)"),
        ("stars", "", "stars (100%)"),
    ],
)
def test_every_reason_has_a_text(because: str, cause: str, words: str, tmp_path: Path) -> None:
    assert request(answer([Reason("m", because, cause, 1.0)]), tmp_path).pieces[0].because == (words,)


def test_inconsistent_answers_raise(tmp_path: Path) -> None:
    with pytest.raises(TritoneError, match=r"add up to 10.0000, its score is 9.0000"):
        request(answer(REASONS, score=9.0), tmp_path)
    with pytest.raises(TritoneError, match="expected 8 tracks from history, got 8 from popularity"):
        request(answer(REASONS, source="popularity"), tmp_path)


def test_negative_contributions_are_plotted(tmp_path: Path) -> None:
    plain = recommendations.RecommendedPiece(CORPUS["bach/0"], 1.0, (), {"ease": 1.0}, Path("a.ogg"))
    mixed = recommendations.RecommendedPiece(CORPUS["bach/0"], 0.5, (), {"ease": 1.0, "ensemble": -0.5}, Path("a.ogg"))
    pictures = [plot_contributions([each], tmp_path / f"{n}.png").read_bytes() for n, each in enumerate((plain, mixed))]
    assert pictures[0] != pictures[1]


def test_words_are_joined_as_text() -> None:
    assert [join_words(words) for words in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
