"""The simulated listeners of the demo: a known user, and cold-start users with different kinds of input."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from examples.demo.pieces import DANCES
from tritone import TritoneError

if TYPE_CHECKING:
    from examples.demo.classification import ClassifiedRecording
    from tritone import MusicClient, Recommendations
    from tritone_training.corpus import Corpus
    from tritone_training.data.interactions import ListeningData

N_SUGGESTED: Final = 8
_N_GIVEN: Final = 3  # songs, or friends
_OPTIONS: Final[Mapping[str, str]] = {
    "user_id": "user",
    "friends": "friend",
}  # argument -> option, where the names differ


@dataclass(frozen=True)
class SimulatedListener:
    """A simulated listener and their request; the call, the Python line and the shell line come from the same values.

    Attributes:
        name: stem of the output files.
        title: heading on the page.
        text: what is known about the listener.
        source: expected source of the recommendations.
        options: keyword arguments of `MusicClient.recommend`.
    """

    name: str
    title: str
    text: str
    source: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def send(self, music: MusicClient) -> Recommendations:
        """Send the request."""
        return music.recommend(**self.options, n=N_SUGGESTED, explain=True)

    def python(self) -> str:
        """Return the request as a line of Python."""
        options = {**self.options, "n": N_SUGGESTED, "explain": True}
        shown = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
        return f"music.recommend({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    def shell(self) -> str:
        """Return the request as a shell command."""
        words = ["tritone", "recommend"]
        for name, value in self.options.items():
            for each in value if isinstance(value, list) else [value]:
                words += [f"--{_OPTIONS.get(name, name)}", str(each)]
        return shlex.join([*words, "--n", str(N_SUGGESTED), "--explain"])


def simulated_listening(seed: int) -> ListeningData:
    """Return the listening log that a recommender with this seed was trained on."""
    from tritone_training import TrainRequest
    from tritone_training.data.interactions import load_listening

    return load_listening(TrainRequest(out=Path(), seed=seed, progress=False))


def listeners(
    listening: ListeningData, corpus: Corpus, recordings: Sequence[ClassifiedRecording]
) -> tuple[SimulatedListener, ...]:
    """Return the listeners, in the order of the page.

    Args:
        recordings: classified recordings; one of them is the only input of a cold-start user.
    """
    songs = _favourites(listening, corpus, DANCES)
    friends = _friends(listening)
    recording = _recording(listening, corpus, recordings)
    return (
        _known_user(listening, corpus),
        SimulatedListener(
            "songs",
            f"Cold-start user with {len(songs)} pieces",
            f"Not in the log. Has just listened to {join_words([corpus[song].title for song in songs])}, which are "
            f"popular with listeners of {DANCES}.",
            "history",
            {"history": songs},
        ),
        SimulatedListener(
            "friends",
            f"Cold-start user with {len(friends)} friends",
            f"No listening history; the friends are the simulated listeners {join_words(friends)}.",
            "friends",
            {"friends": friends},
        ),
        SimulatedListener(
            "recording",
            "Cold-start user with a recording",
            f"{recording.track.title} ({recording.track.composer}), which genre_cnn classifies as "
            f"{recording.answer.label}. Similar recordings are recommended.",
            "audio",
            {"audio": recording.path},
        ),
        SimulatedListener(
            "nobody", "Unknown user", "Nothing is known, so the most popular pieces are recommended.", "popularity"
        ),
    )


def stored_users(listeners: Sequence[SimulatedListener]) -> tuple[str, ...]:
    """Return the users of the log that listeners are or name as friends."""
    named = [(each.options.get("user_id"), *each.options.get("friends", ())) for each in listeners]
    return tuple(dict.fromkeys(user for users in named for user in users if user is not None))


def _known_user(listening: ListeningData, corpus: Corpus) -> SimulatedListener:
    log = listening.train
    name = log.users[int(log.user[0])]
    mine = log.user == log.user[0]
    by_plays = sorted(zip(log.plays[mine].tolist(), log.item[mine].tolist(), strict=True), key=lambda row: -row[0])
    tracks = [corpus[log.items[item]] for _, item in by_plays]
    counts = Counter(track.collection for track in tracks).most_common()
    n_friends = sum(name in pair for pair in listening.friends)
    return SimulatedListener(
        "known",
        f"Known user: {name}",
        f"A simulated listener with {len(tracks)} pieces in the log "
        f"({', '.join(f'{n} from {collection}' for collection, n in counts)}) and {n_friends} friends; played most: "
        f"{join_words([track.title for track in tracks[:_N_GIVEN]])}.",
        "user",
        {"user_id": name},
    )


def _favourites(listening: ListeningData, corpus: Corpus, collection: str) -> list[str]:
    """Return pieces whose listeners play mostly this collection: unlike popular pieces, they show a taste."""
    log = listening.train
    pairs = [(user, log.items[item]) for user, item in zip(log.user.tolist(), log.item.tolist(), strict=True)]
    of_kind = Counter(user for user, piece in pairs if corpus[piece].collection == collection)
    n_listens = Counter(user for user, _ in pairs)
    shares: dict[str, list[float]] = {}
    for user, piece in pairs:
        if corpus[piece].collection == collection:
            shares.setdefault(piece, []).append(of_kind[user] / n_listens[user])
    least = max(2, len(n_listens) // 40)
    known = {piece: each for piece, each in shares.items() if len(each) >= least} or shares
    return sorted(known, key=lambda piece: -sum(known[piece]) / len(known[piece]))[:_N_GIVEN]


def _recording(
    listening: ListeningData, corpus: Corpus, recordings: Sequence[ClassifiedRecording]
) -> ClassifiedRecording:
    """Return a correctly classified recording of the least played collection, which popularity would not recommend."""
    log = listening.train
    n_listens = Counter(corpus[log.items[item]].collection for item in log.item.tolist())
    return min(recordings, key=lambda each: (not each.is_correct, n_listens[each.track.collection]))


def _friends(listening: ListeningData) -> list[str]:
    """Return friends of the first listener, apart from the known user, who has enough friends in the log."""
    known = {listening.train.users[user] for user in set(listening.train.user.tolist())}
    for name in listening.train.users[1:]:
        friends = sorted(other for pair in listening.friends if name in pair for other in pair if other != name)
        friends = [each for each in friends if each in known]
        if len(friends) >= _N_GIVEN:
            return friends[:_N_GIVEN]
    raise TritoneError(f"no simulated listener has {_N_GIVEN} friends in the log; try another --seed")


def join_words(words: Sequence[str]) -> str:
    """Return `a, b and c`."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
