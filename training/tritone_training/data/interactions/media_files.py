"""Lyrics and cover images that a metadata table names by their paths, as words.

Lyrics become text. A cover becomes words for its brightness, colours and texture, which are used like tags.
Files are untrusted: they have to be inside the table's folder, their size is limited, and images are opened by a few
decoders only, after their number of pixels was checked.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

MOST_TEXT_BYTES: Final = 1 << 20
MOST_IMAGE_BYTES: Final = 20 << 20
MOST_PIXELS: Final = 40_000_000
_FORMATS: Final = ("JPEG", "PNG", "GIF", "WEBP", "BMP")
_TEXT_FILE: Final = re.compile(r"(?i)[^\n]{1,1000}\.(?:txt|text|lrc)")
_TIME_TAG: Final = re.compile(r"\[[^\]\n]{0,40}\]")  # of LRC files, such as [01:23.45]
_SIZE: Final = 64  # pixels of each side to which covers are reduced
_CONTROL: Final = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
_MOST_CONTROL_SHARE: Final = 0.01

# Hues in degrees up to which a colour has the name.
_HUES: Final = ((15, "red"), (45, "orange"), (70, "yellow"), (165, "green"), (200, "cyan"), (255, "blue"),
                (290, "purple"), (345, "pink"), (360, "red"))  # fmt: skip
_LEAST_SATURATION: Final = 0.25  # of a pixel with a colour
_LEAST_VALUE: Final = 0.2
_LEAST_SHARE: Final = 0.25  # of the pixels that have a colour
_DARK: Final = 0.3  # mean brightness
_BRIGHT: Final = 0.7
_COLOURFUL: Final = 0.5  # share of pixels with a colour
_GREY: Final = 0.05
_DETAILED: Final = 0.08  # mean difference between adjacent pixels
_PLAIN: Final = 0.02

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FilesRead:
    """What the files of a column hold.

    Attributes:
        contents: item -> text of its file, or words of its image separated by line breaks.
        problems: reason -> number of files that could not be used.
    """

    contents: Mapping[str, str]
    problems: Mapping[str, int]

    @property
    def note(self) -> str:
        """The problems as one text; empty if there are none."""
        return ", ".join(f"{count} {reason}" for reason, count in self.problems.items())


class _UnusableFileError(Exception):
    """Raised when a file cannot be used; the message is the reason."""


def names_text_file(value: str) -> bool:
    """Return whether a value looks like the path of a text file."""
    return _TEXT_FILE.fullmatch(value) is not None


def read_lyrics(paths: Mapping[str, str], folder: Path) -> FilesRead:
    """Return the texts of files.

    Args:
        paths: item -> path relative to `folder`.
        folder: of the table.
    """
    return _read(paths, folder, _lyrics)


def read_covers(paths: Mapping[str, str], folder: Path) -> FilesRead:
    """Return words for brightness, colours and texture of images.

    Args:
        paths: item -> path relative to `folder`.
        folder: of the table.
    """
    return _read(paths, folder, lambda path: "\n".join(_cover_words(_pixels(path))))


def _read(paths: Mapping[str, str], folder: Path, read: Callable[[Path], str]) -> FilesRead:
    contents: dict[str, str] = {}
    problems: dict[str, int] = {}
    for item, name in paths.items():
        try:
            contents[item] = read(_inside(name, folder))
        except _UnusableFileError as error:
            problems[str(error)] = problems.get(str(error), 0) + 1
    return FilesRead(contents, problems)


def _inside(name: str, folder: Path) -> Path:
    """Return the path of a regular file inside a folder."""
    try:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise _UnusableFileError("outside the table's folder")
        if not path.is_file():
            raise _UnusableFileError("missing")
    except (OSError, ValueError, RuntimeError) as error:  # names that are too long, hold NUL, or links in a circle
        raise _UnusableFileError("missing") from error
    return path


def _content(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise _UnusableFileError("unreadable") from error
    if len(content) > most:
        raise _UnusableFileError(f"larger than {most >> 20} MB")
    return content


def _lyrics(path: Path) -> str:
    content = _content(path, MOST_TEXT_BYTES)
    try:
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise _UnusableFileError("not UTF-8 text") from error
    if len(_CONTROL.findall(text)) > _MOST_CONTROL_SHARE * len(text):
        raise _UnusableFileError("not UTF-8 text")
    return _TIME_TAG.sub(" ", text)


def _pixels(path: Path) -> Floats:
    """Return an image as (64, 64, 3) of 0 to 1."""
    from PIL import Image  # only where there are images: it is slow to import

    content = _content(path, MOST_IMAGE_BYTES)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unusual metadata and large sizes, which are checked here
            with Image.open(BytesIO(content), formats=_FORMATS) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise _UnusableFileError(f"larger than {MOST_PIXELS // 1_000_000} megapixels")
                image.draft("RGB", (4 * _SIZE, 4 * _SIZE))  # JPEG files are decoded at a lower resolution
                small = image.convert("RGB").resize((_SIZE, _SIZE), Image.Resampling.BOX)
    except _UnusableFileError:
        raise
    except Image.DecompressionBombError as error:
        raise _UnusableFileError(f"larger than {MOST_PIXELS // 1_000_000} megapixels") from error
    except Exception as error:  # Pillow's decoders raise many types for damaged files
        raise _UnusableFileError("not a readable image") from error
    return np.asarray(small, np.float32) / 255


def _cover_words(pixels: Floats) -> list[str]:
    """Return words for an image (H, W, 3)."""
    value, low = pixels.max(2), pixels.min(2)
    brightness = float(pixels.mean())
    saturation = (value - low) / np.maximum(value, 1e-6)
    is_coloured = (saturation >= _LEAST_SATURATION) & (value >= _LEAST_VALUE)
    words = ["dark"] * (brightness < _DARK) + ["bright"] * (brightness > _BRIGHT)
    share = float(is_coloured.mean())
    words += ["colourful"] * (share > _COLOURFUL) + ["grey"] * (share < _GREY)
    hues = _hues(pixels)[is_coloured]
    for name in dict.fromkeys(name for _, name in _HUES):
        inside = np.zeros(len(hues), np.bool_)
        start = 0
        for end, each in _HUES:
            if each == name:
                inside |= (hues >= start) & (hues < end)
            start = end
        if inside.sum() >= _LEAST_SHARE * is_coloured.size:
            words.append(name)
    grey = pixels.mean(2)
    change = float(np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean()) / 2
    words += ["detailed"] * (change > _DETAILED) + ["plain"] * (change < _PLAIN)
    return [f"{word} cover" for word in words]


def _hues(pixels: Floats) -> Floats:
    """Return the hue of each pixel (H, W) in degrees; 0 for grey."""
    red, green, blue = np.moveaxis(pixels, 2, 0)
    value = pixels.max(2)
    spread = np.maximum(value - pixels.min(2), 1e-6)
    hue = np.where(
        value == red,
        ((green - blue) / spread) % 6,
        np.where(value == green, (blue - red) / spread + 2, (red - green) / spread + 4),
    )
    return np.asarray((60 * hue) % 360, np.float32)
