"""The artifact: a folder of arrays that are mapped into memory, and a manifest that says what they are.

```
recommender.json         format, base_models, ensembles, weighting, privacy, data, metrics, embedding_model
items.ids.npy            item ids as UTF-8, one after the other; items.ends.npy: where each ends
users.npy                (U, 2) uint64: pseudonyms in ascending order
history.*.npy            (U, I) rows: plays as they were logged
friends.*.npy            (U, U) rows
<base_model>.<array>.npy     what each base_model knows
```
Items are ordered by how many people listen to them, most first; those known from tags alone come last. Nothing
is pickled, and nothing is trusted: sizes are held against the manifest when the folder is opened.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender._exceptions import ArtifactError
from tritone_serving.recommender.private_files import make_private_folder, replacing_private
from tritone_serving.recommender.rows import Rows
from tritone_serving.recommender.validation import check_arrays, check_manifest

FORMAT: Final = 2
MANIFEST: Final = "recommender.json"
EMBEDDINGS: Final = "items.embeddings"  # the array of a recommender that knows how its items sound
# In the manifest: {"kind", "weights_sha256"} of the network whose embeddings these are; see that kind's model card.
EMBEDDING_MODEL: Final = "embedding_model"
_ARRAY_NAME: Final = re.compile(r"(?!\.)[\w.@+-]{1,128}", re.ASCII)
Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Artifact:
    """An opened artifact.

    Attributes:
        manifest: the content of recommender.json.
        arrays: name -> array, mapped into memory and read-only.
    """

    folder: Path
    manifest: Mapping[str, Any]
    arrays: Mapping[str, Array]

    @property
    def n_items(self) -> int:
        return int(self.manifest["n_items"])

    @property
    def n_users(self) -> int:
        return int(self.manifest["n_users"])

    def rows(self, name: str) -> Rows:
        """A sparse matrix that was written with `rows_arrays`.

        Raises:
            ArtifactError: its arrays are missing.
        """
        try:
            return Rows(*(self.arrays[f"{name}.{part}"] for part in ("starts", "columns", "values")))
        except KeyError as error:
            raise ArtifactError(f"{self.folder}: lacks {error.args[0]}.npy; export the recommender again") from None

    def texts(self, name: str) -> list[str]:
        """Strings that were written with `text_arrays`.

        Raises:
            ArtifactError: they are no text.
        """
        ids, ends = self.arrays[f"{name}.ids"].tobytes(), self.arrays[f"{name}.ends"]
        starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
        try:
            return [ids[a:b].decode("utf-8") for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
        except UnicodeDecodeError:
            raise ArtifactError(f"{self.folder}: {name}.ids holds bytes that are not UTF-8; export again") from None


def rows_arrays(name: str, rows: Rows) -> dict[str, Array]:
    """The arrays of a sparse matrix, under the names that `Artifact.rows` reads."""
    return {f"{name}.starts": rows.starts, f"{name}.columns": rows.columns, f"{name}.values": rows.values}


def text_arrays(name: str, texts: Sequence[str]) -> dict[str, Array]:
    """The arrays of a list of strings, under the names that `Artifact.texts` reads."""
    encoded = [text.encode("utf-8") for text in texts]
    ends = np.cumsum([len(text) for text in encoded], dtype=np.int64) if encoded else np.zeros(0, np.int64)
    return {f"{name}.ids": np.frombuffer(b"".join(encoded), np.uint8), f"{name}.ends": ends}


def write_artifact(folder: Path, manifest: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Write an artifact into a folder; the manifest comes last, so that half an artifact is never taken for one.

    Old arrays that the new manifest does not name are removed. Folder and files are closed to other users.
    """
    make_private_folder(folder)
    described = {name: {"shape": list(a.shape), "dtype": a.dtype.str} for name, a in sorted(arrays.items())}
    for name, array in arrays.items():
        with replacing_private(folder / f"{name}.npy") as file:
            _write_array(file, np.ascontiguousarray(array))
    whole = {"format": FORMAT, **manifest, "arrays": described}
    text = json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with replacing_private(folder / MANIFEST) as file:
        file.write(text.encode())
    for path in folder.glob("*.npy"):
        if path.name.removesuffix(".npy") not in described:
            path.unlink()


def _write_array(file: BinaryIO, array: Array) -> None:
    """Write what `np.save` writes, but with the system's error on a full disk, which `np.save` hides."""
    npy: Any = np.lib.format  # without types
    npy.write_array_header_1_0(file, npy.header_data_from_array_1_0(array))
    file.write(array.data)


def files_of(artifact: Artifact) -> Iterator[Path]:
    """Every file that makes up an artifact, the manifest first."""
    yield artifact.folder / MANIFEST
    for name in artifact.arrays:
        yield artifact.folder / f"{name}.npy"


def open_artifact(folder: Path) -> Artifact:
    """Map an artifact into memory.

    Raises:
        ArtifactError: it is missing, damaged, or of another version.
    """
    manifest = read_manifest(folder)
    arrays: dict[str, Array] = {}
    for name, described in manifest["arrays"].items():
        if not _ARRAY_NAME.fullmatch(name):  # it becomes a file's name, here and wherever the artifact is copied to
            raise ArtifactError(
                f"{folder / MANIFEST}: names an array {name!r}; expected letters, digits, '_', '.', '-'"
            )
        path = folder / f"{name}.npy"
        try:
            array = _map(path, described["shape"])
        except FileNotFoundError:
            raise ArtifactError(f"{path}: is missing, though {MANIFEST} names it; export again") from None
        except (OSError, ValueError, EOFError) as error:
            raise ArtifactError(f"{path}: is damaged ({error}); export again") from error
        if list(array.shape) != described["shape"] or array.dtype.str != described["dtype"]:
            raise ArtifactError(
                f"{path}: holds {array.dtype.str} {list(array.shape)}, {MANIFEST} says {described['dtype']} "
                f"{described['shape']}; the files do not belong together, export again"
            )
        arrays[name] = array
    try:
        check_arrays(manifest, arrays)
    except ValueError as error:
        raise ArtifactError(f"{folder}: is damaged ({error}); export again") from error
    return Artifact(folder, manifest, arrays)


def _map(path: Path, shape: Sequence[int]) -> Array:
    if 0 in shape:  # nothing to map
        return np.asarray(np.load(path, allow_pickle=False))
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return np.asarray(array)  # the plain type: every slice of a memmap costs microseconds


def read_manifest(folder: Path) -> dict[str, Any]:
    """What an artifact says of itself, without its arrays.

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
    except (ValueError, KeyError) as error:
        raise ArtifactError(f"{path}: is damaged ({error}); export again") from error
    return dict(manifest)
