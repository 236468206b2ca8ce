"""Reading of artifacts: folders of memory-mapped arrays, and a JSON manifest that describes them.

```
recommender.json         format, base_models, ensembles, weighting, privacy, data, metrics, embedding_model
items.ids.npy            item ids, concatenated as UTF-8; items.ends.npy holds the end of each
users.npy                (U, 2) uint64 pseudonyms, ascending
history.*.npy            (U, I) sparse: plays as logged
sequence.*.npy           (U, I) sparse: latest listens (0) and skips (1) in order, oldest first; optional
sequence.times.npy       time of each, seconds since 1970, 0 where unknown; optional
friends.*.npy            (U, U) sparse
<base_model>.<array>.npy parameters of each base model
derived.<array>.npy      computed from the others, so that all processes map one copy, see `derived`; optional
```
Items are in descending order of their number of listeners; items without listeners, known from metadata only, come
last. Nothing is pickled, and the content is validated against the manifest when the folder is opened.
"""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender.array_validation import check_arrays
from tritone_serving.recommender.derived_validation import DERIVED, check_derived, described_derived
from tritone_serving.recommender.exceptions import ArtifactError
from tritone_serving.recommender.manifest_validation import check_manifest
from tritone_serving.recommender.rows import Rows
from tritone_serving.recommender.texts import Texts

FORMAT: Final = 2
MANIFEST: Final = "recommender.json"
SEQUENCE: Final = "sequence"
SEQUENCE_TIMES: Final = "sequence.times"
EMBEDDINGS: Final = "items.embeddings"  # present if the recommender was trained with recordings
# Manifest entry {"kind", "weights_sha256"} of the network that computed the embeddings, as in its model card.
EMBEDDING_MODEL: Final = "embedding_model"
N_FITTED: Final = "n_fitted_items"  # manifest entry: number of items at the last fit, if items were added since then
INFERRED_MOOD: Final = "inferred_mood"  # manifest entry of `moods.MoodInference`; absent if no moods are inferred
_ARRAY_NAME: Final = re.compile(r"(?!\.)[\w.@+-]{1,128}", re.ASCII)
_BY_ROWS: Final = (".columns", ".values", ".times", ".ids", ".slots", ".keys")  # arrays of which few entries are read
Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Artifact:
    """An opened artifact.

    Attributes:
        manifest: content of recommender.json.
        arrays: name -> read-only memory-mapped array.
        derived: arrays that were computed from `arrays` at writing; empty for artifacts of earlier versions.
        spans: sparse matrix -> smallest and largest column index, see `Rows.span`.
    """

    folder: Path
    manifest: Mapping[str, Any]
    arrays: Mapping[str, Array]
    derived: Mapping[str, Array] = field(default_factory=dict)
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def n_items(self) -> int:
        return int(self.manifest["n_items"])

    @property
    def n_users(self) -> int:
        return int(self.manifest["n_users"])

    def rows(self, name: str) -> Rows:
        """Return a sparse matrix that was written with `rows_arrays`.

        Raises:
            ArtifactError: one of its arrays is missing.
        """
        try:
            starts, columns, values = (self.arrays[f"{name}.{part}"] for part in ("starts", "columns", "values"))
        except KeyError as error:
            raise ArtifactError(f"{self.folder}: lacks {error.args[0]}.npy; export the recommender again") from None
        return Rows(starts, columns, values, self.spans.get(name))

    def derive(self, part: str, build: Callable[[Artifact], dict[str, Array]]) -> dict[str, Array]:
        """Return the derived arrays of one part, such as `words`: those that are mapped, or else computed ones.

        Args:
            part: name of the part.
            build: computes its arrays, by their names without the part.
        """
        prefix = f"{DERIVED}.{part}."
        found = {name.removeprefix(prefix): each for name, each in self.derived.items() if name.startswith(prefix)}
        return found or build(self)

    def texts(self, name: str) -> Texts:
        """Return the strings that were written with `text_arrays`, decoded when they are read."""
        return Texts(self.arrays[f"{name}.ids"], self.arrays[f"{name}.ends"])


def rows_arrays(name: str, rows: Rows) -> dict[str, Array]:
    """Return the arrays that `Artifact.rows` reads a sparse matrix from."""
    return {f"{name}.starts": rows.starts, f"{name}.columns": rows.columns, f"{name}.values": rows.values}


def text_arrays(name: str, texts: Sequence[str]) -> dict[str, Array]:
    """Return the arrays that `Artifact.texts` reads a list of strings from."""
    encoded = [text.encode("utf-8") for text in texts]
    ends = np.cumsum([len(text) for text in encoded], dtype=np.int64) if encoded else np.zeros(0, np.int64)
    return {f"{name}.ids": np.frombuffer(b"".join(encoded), np.uint8), f"{name}.ends": ends}


def files_of(artifact: Artifact) -> Iterator[Path]:
    """Yield the paths of an artifact's files, the manifest first."""
    yield artifact.folder / MANIFEST
    for name in (*artifact.arrays, *artifact.derived):
        yield artifact.folder / f"{name}.npy"


def open_artifact(folder: Path) -> Artifact:
    """Open an artifact with its arrays mapped into memory.

    Raises:
        ArtifactError: it is missing, damaged, or of another format version.
    """
    manifest = read_manifest(folder)
    arrays = _map_all(folder, manifest["arrays"])
    derived = _map_all(folder, described_derived(manifest))
    try:
        spans = check_arrays(manifest, arrays)
        check_derived(manifest, arrays, derived)
    except ValueError as error:
        raise ArtifactError(f"{folder}: is damaged ({error}); export again") from error
    for name, array in {**arrays, **derived}.items():
        if name.endswith(_BY_ROWS):
            _advise_random(array)
    return Artifact(folder, manifest, arrays, derived, spans)


def _map_all(folder: Path, described: Mapping[str, Any]) -> dict[str, Array]:
    """Map arrays that a manifest describes."""
    arrays: dict[str, Array] = {}
    for name, each in described.items():
        if not _ARRAY_NAME.fullmatch(name):  # used as a file name
            raise ArtifactError(
                f"{folder / MANIFEST}: names an array {name!r}; expected letters, digits, '_', '.', '-'"
            )
        path = folder / f"{name}.npy"
        try:
            array = _map(path, each["shape"])
        except FileNotFoundError:
            raise ArtifactError(f"{path}: is missing, though {MANIFEST} names it; export again") from None
        except (OSError, ValueError, EOFError) as error:
            raise ArtifactError(f"{path}: is damaged ({error}); export again") from error
        if list(array.shape) != each["shape"] or array.dtype.str != each["dtype"]:
            raise ArtifactError(
                f"{path}: holds {array.dtype.str} {list(array.shape)}, {MANIFEST} says {each['dtype']} "
                f"{each['shape']}; the files do not belong together, export again"
            )
        arrays[name] = array
    return arrays


def _map(path: Path, shape: Sequence[int]) -> Array:
    if 0 in shape:  # nothing to map
        return np.asarray(np.load(path, allow_pickle=False))
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return np.asarray(array)  # a plain ndarray, because slicing an np.memmap is slower by microseconds


def _advise_random(array: Array) -> None:
    """Advise the kernel that a mapped array is read in random order.

    Otherwise it reads up to megabytes around each page that is not in memory, and drops others for them: an artifact
    larger than the memory would be read from the disk again and again.
    """
    mapping: Any = array
    while mapping is not None and not isinstance(mapping, mmap.mmap):
        mapping = getattr(mapping, "base", None)
    if mapping is not None and hasattr(mmap, "MADV_RANDOM"):
        mapping.madvise(mmap.MADV_RANDOM)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the validated manifest of an artifact.

    Raises:
        ArtifactError: as `open_artifact`.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(
            f"{folder}: holds no recommender ({MANIFEST} is missing); `tritone train recommender` makes one"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise ArtifactError(f"{path}: is damaged ({error}); export again") from error
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT:
        raise ArtifactError(f"{path}: is of format {found}, this version reads {FORMAT}; train and export again")
    missing = {"n_items", "n_users", "base_models", "ensembles", "key_check", "arrays", "weighting"} - set(manifest)
    if missing:
        raise ArtifactError(f"{path}: lacks {', '.join(sorted(missing))}; train and export again")
    try:
        check_manifest(manifest)
        described_derived(manifest)
    except (ValueError, KeyError) as error:
        raise ArtifactError(f"{path}: is damaged ({error}); export again") from error
    return dict(manifest)
