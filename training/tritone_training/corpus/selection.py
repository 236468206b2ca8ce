"""Collections of the corpus as a data set of scores: `corpus:public-domain`, or by name, `corpus:bach,ryans`.

A selection holds all usable pieces of its collections; the default corpus holds 200 of each of four.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tritone_training.corpus.sources import KNOWN_COLLECTIONS, PUBLIC_DOMAIN
from tritone_training.corpus.store import Corpus, load_corpus
from tritone_training.exceptions import DataError

PREFIX: Final = "corpus:"
_PUBLIC_DOMAIN: Final = "public-domain"


@dataclass(frozen=True)
class CorpusSelection:
    """Collections of the corpus.

    Attributes:
        collections: their names, in the order of `KNOWN_COLLECTIONS`.
    """

    collections: tuple[str, ...]

    def __str__(self) -> str:
        return PREFIX + ",".join(self.collections)

    @property
    def may_share_weights(self) -> bool:
        """Return whether weights trained on these collections may be passed on."""
        return set(self.collections) <= set(PUBLIC_DOMAIN)

    @property
    def terms(self) -> dict[str, str]:
        """Return who encoded each collection, and the terms under which music21 distributes it."""
        return {name: KNOWN_COLLECTIONS[name].terms for name in self.collections}

    def load(self, *, progress: bool = True) -> Corpus:
        """Load the selection; it is built first if it is missing (some minutes).

        Raises:
            DataError: as `load_corpus`.
            MissingExtraError: music21 or symusic is not installed.
        """
        return load_corpus(progress=progress, n_per_collection=None, collections=self.collections)


def parse_selection(data: str | Path) -> CorpusSelection | None:
    """Parse the name of a data set; None if it is a path and no selection of the corpus.

    Raises:
        DataError: there is no such collection.
    """
    text = str(data)
    if not text.startswith(PREFIX):
        return None
    names = text.removeprefix(PREFIX).split(",")
    if names == [_PUBLIC_DOMAIN]:
        return CorpusSelection(PUBLIC_DOMAIN)
    if unknown := [name for name in names if name not in KNOWN_COLLECTIONS]:
        raise DataError(
            f"{text}: expected {PREFIX}{_PUBLIC_DOMAIN} or names of collections separated by commas, got "
            f"{', '.join(map(repr, unknown))}; there are: {', '.join(KNOWN_COLLECTIONS)}"
        )
    return CorpusSelection(tuple(name for name in KNOWN_COLLECTIONS if name in names))
