"""Who asks what to play: somebody known, newcomers who bring one thing or another, nobody at all.

All listeners are simulated, which is said wherever they appear.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tritone import TritoneError
from tritone_cli.demonstration.givens import DANCES

if TYPE_CHECKING:
    from tritone import MusicClient, Recommendations
    from tritone_cli.demonstration.listening import Heard
    from tritone_training.catalogue import Catalogue
    from tritone_training.data.interactions import ListeningData

N_SUGGESTED: Final = 8
_N_GIVEN: Final = 3  # songs, or friends
_OPTIONS: Final[Mapping[str, str]] = {"user_id": "user", "friends": "friend"}  # whose name is not the argument's


@dataclass(frozen=True)
class Listener:
    """Somebody who asks what to play, in the three forms of the request; all come from the same values.

    Attributes:
        name: of the files that come of it.
        title: who it is, in words.
        text: what is known of them.
        source: what the answer must rest on.
        options: keyword arguments of `MusicClient.recommend`.
    """

    name: str
    title: str
    text: str
    source: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def send(self, music: MusicClient) -> Recommendations:
        """Ask a server."""
        return music.recommend(**self.options, n=N_SUGGESTED, explain=True)

    def python(self) -> str:
        """As a program says it."""
        options = {**self.options, "n": N_SUGGESTED, "explain": True}
        shown = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
        return f"music.recommend({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    def shell(self) -> str:
        """As people type it."""
        words = ["tritone", "recommend"]
        for name, value in self.options.items():
            for each in value if isinstance(value, list) else [value]:
                words += [f"--{_OPTIONS.get(name, name)}", str(each)]
        return shlex.join([*words, "--n", str(N_SUGGESTED), "--explain"])


def simulated_listening(seed: int) -> ListeningData:
    """The listening that a recommender of this seed was trained on."""
    from tritone_training.api import TrainRequest
    from tritone_training.data.interactions import load_listening

    return load_listening(TrainRequest(out=Path(), seed=seed, progress=False))


def listeners(listening: ListeningData, catalogue: Catalogue, heard: Sequence[Heard]) -> tuple[Listener, ...]:
    """Everybody who asks, in the order of the page.

    Args:
        heard: recordings that `genre_cnn` was asked about; one of them is all that a newcomer brings.
    """
    songs = _favourites(listening, catalogue, DANCES)
    friends = _friends(listening)
    recording = _recording(listening, catalogue, heard)
    return (
        _somebody_known(listening, catalogue),
        Listener(
            "songs",
            f"A newcomer with {len(songs)} pieces",
            f"Not in the log. Has just heard {join_words([catalogue[song].title for song in songs])}, played by "
            f"those who play most from {DANCES}.",
            "history",
            {"history": songs},
        ),
        Listener(
            "friends",
            f"A newcomer with {len(friends)} friends",
            f"Has heard nothing; names {join_words(friends)}, simulated listeners.",
            "friends",
            {"friends": friends},
        ),
        Listener(
            "recording",
            "A newcomer with nothing but a recording",
            f"{recording.track.title} ({recording.track.composer}), which genre_cnn takes for "
            f"{recording.answer.label}. What sounds like it is recommended.",
            "recording",
            {"audio": recording.path},
        ),
        Listener("nobody", "Nobody at all", "Nothing is known, so it is what most listeners know.", "popularity"),
    )


def _somebody_known(listening: ListeningData, catalogue: Catalogue) -> Listener:
    log = listening.train
    name = log.users[int(log.user[0])]
    mine = log.user == log.user[0]
    by_plays = sorted(zip(log.plays[mine].tolist(), log.item[mine].tolist(), strict=True), key=lambda row: -row[0])
    tracks = [catalogue[log.items[item]] for _, item in by_plays]
    counts = Counter(track.collection for track in tracks).most_common()
    n_friends = sum(name in pair for pair in listening.friends)
    return Listener(
        "known",
        f"Somebody known: {name}",
        f"A simulated listener with {len(tracks)} pieces in the log "
        f"({', '.join(f'{n} from {collection}' for collection, n in counts)}) and {n_friends} friends; played most: "
        f"{join_words([track.title for track in tracks[:_N_GIVEN]])}.",
        "user",
        {"user_id": name},
    )


def _favourites(listening: ListeningData, catalogue: Catalogue, collection: str) -> list[str]:
    """Pieces that are played by those who play most of a collection: what everybody knows says little about taste."""
    log = listening.train
    pairs = [(user, log.items[item]) for user, item in zip(log.user.tolist(), log.item.tolist(), strict=True)]
    of_kind = Counter(user for user, piece in pairs if catalogue[piece].collection == collection)
    n_heard = Counter(user for user, _ in pairs)
    shares: dict[str, list[float]] = {}
    for user, piece in pairs:
        if catalogue[piece].collection == collection:
            shares.setdefault(piece, []).append(of_kind[user] / n_heard[user])
    least = max(2, len(n_heard) // 40)
    known = {piece: each for piece, each in shares.items() if len(each) >= least} or shares
    return sorted(known, key=lambda piece: -sum(known[piece]) / len(known[piece]))[:_N_GIVEN]


def _recording(listening: ListeningData, catalogue: Catalogue, heard: Sequence[Heard]) -> Heard:
    """Of the recordings that `genre_cnn` hears rightly, that of the least known collection: fame would not bring it."""
    log = listening.train
    n_listens = Counter(catalogue[log.items[item]].collection for item in log.item.tolist())
    return min(heard, key=lambda each: (not each.right, n_listens[each.track.collection]))


def _friends(listening: ListeningData) -> list[str]:
    """Of the first listener behind the known one who has enough of them; all are in the log."""
    known = {listening.train.users[user] for user in set(listening.train.user.tolist())}
    for name in listening.train.users[1:]:
        friends = sorted(other for pair in listening.friends if name in pair for other in pair if other != name)
        friends = [each for each in friends if each in known]
        if len(friends) >= _N_GIVEN:
            return friends[:_N_GIVEN]
    raise TritoneError("no simulated listener has friends enough to show; try another --seed")


def join_words(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
