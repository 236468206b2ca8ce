"""Writing of artifacts, with the arrays that are derived from the others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tritone_serving.recommender.artifact import (
    FORMAT,
    MANIFEST,
    Array,
    make_private_folder,
    replacing_private,
)
from tritone_serving.recommender.derived import derived_arrays
from tritone_serving.recommender.derived_validation import DERIVED, DERIVED_VERSION


def write_artifact(folder: Path, manifest: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Write an artifact; the manifest is written last, so that an incomplete artifact is not mistaken for a valid one.

    Arrays of an earlier artifact in the folder are removed. Folder and files are readable by their owner only.
    """
    make_private_folder(folder)
    derived = derived_arrays(manifest, arrays)
    for name, array in {**arrays, **derived}.items():
        with replacing_private(folder / f"{name}.npy") as file:
            _write_array(file, np.ascontiguousarray(array))
    whole = {
        "format": FORMAT,
        **manifest,
        "arrays": _described(arrays),
        DERIVED: {"version": DERIVED_VERSION, "arrays": _described(derived)},
    }
    text = json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with replacing_private(folder / MANIFEST) as file:
        file.write(text.encode())
    for path in folder.glob("*.npy"):
        if (name := path.name.removesuffix(".npy")) not in arrays and name not in derived:
            path.unlink()


def _described(arrays: Mapping[str, Array]) -> dict[str, Any]:
    return {name: {"shape": list(a.shape), "dtype": a.dtype.str} for name, a in sorted(arrays.items())}


def _write_array(file: BinaryIO, array: Array) -> None:
    """Write a .npy file as `np.save` does, but raise the original OSError if the disk is full."""
    npy: Any = np.lib.format  # has no type hints
    npy.write_array_header_1_0(file, npy.header_data_from_array_1_0(array))
    file.write(array.data)
