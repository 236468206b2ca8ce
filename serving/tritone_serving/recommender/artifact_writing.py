"""Writing of artifacts, with the arrays that are derived from the others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tritone.atomic import PRIVATE_FILE, make_private_folder, replacing, write_atomically
from tritone_serving.recommender.artifact import FORMAT, MANIFEST, Array
from tritone_serving.recommender.derived import derived_arrays
from tritone_serving.recommender.derived_validation import DERIVED, DERIVED_VERSION


def write_artifact(folder: Path, manifest: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Write an artifact, and replace an earlier one in the folder, which processes that have it open keep.

    The manifest of the earlier artifact is removed first and the new one is written last, so that an incomplete
    artifact, or arrays of two, are not mistaken for a valid one. Folder and files are readable by their owner only.
    """
    make_private_folder(folder)
    derived = derived_arrays(manifest, arrays)
    (folder / MANIFEST).unlink(missing_ok=True)
    for name, array in {**arrays, **derived}.items():
        with replacing(folder / f"{name}.npy", mode=PRIVATE_FILE) as staged, staged.open("wb") as file:
            _write_array(file, np.ascontiguousarray(array))
    whole = {
        "format": FORMAT,
        **manifest,
        "arrays": _described(arrays),
        DERIVED: {"version": DERIVED_VERSION, "arrays": _described(derived)},
    }
    text = json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    for path in folder.glob("*.npy"):  # of the earlier artifact, or temporary files of a killed process
        if (name := path.name.removesuffix(".npy")) not in arrays and name not in derived:
            path.unlink()
    write_atomically(folder / MANIFEST, text, mode=PRIVATE_FILE)


def _described(arrays: Mapping[str, Array]) -> dict[str, Any]:
    return {name: {"shape": list(a.shape), "dtype": a.dtype.str} for name, a in sorted(arrays.items())}


def _write_array(file: BinaryIO, array: Array) -> None:
    """Write a .npy file as `np.save` does, but raise the original OSError if the disk is full."""
    npy: Any = np.lib.format  # has no type hints
    npy.write_array_header_1_0(file, npy.header_data_from_array_1_0(array))
    file.write(array.data)
