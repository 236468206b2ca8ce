"""Writes configs by `serving.json`, writes that file, and takes it back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from tritone_export._exceptions import TunedError
from tritone_export.config import CONFIG_FILES, HEADER, ModelConfig, config_text
from tritone_export.repository import update
from tritone_export.tuned import PARTS, TUNED_FILENAME, Setting, apply, parse_tuned, read_tuned, setting_of, unfit

_HEADER: Final = f"# ... with what {TUNED_FILENAME} says for this machine (`tritone optimize`)\n"


def overridden(files: Mapping[str, bytes], folder: Path) -> dict[str, bytes]:
    """Files that are about to be written into a model's folder, by what `serving.json` there says of its configs.

    Args:
        files: by path inside the folder, configs among them: as the kind declares them, or from another folder with
            that one's `serving.json`, which counts only where the folder has none itself.

    Raises:
        TunedError: there is such a file, but it is nonsense, or does not fit the model.
    """
    said = read_tuned(folder)
    if said is None:
        return dict(files)
    files = untuned(files)
    return {**files, **_tuned(said, files)}


def untuned(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """A folder's files without `serving.json`, and its configs as they are declared.

    Raises:
        TunedError: that file is nonsense.
    """
    if TUNED_FILENAME not in files:
        return dict(files)
    said = parse_tuned(files[TUNED_FILENAME], Path(TUNED_FILENAME))
    plain = {path: text for path, text in files.items() if path != TUNED_FILENAME}
    if "declared" in said:
        for path in CONFIG_FILES:
            if path in plain:
                plain[path] = config_text(apply(said["declared"], parse_config(plain[path], path))).encode()
    return plain


def tune(folder: Path, setting: Setting, *, measured: Mapping[str, Any]) -> list[Path]:
    """Serve a model so from its next load on, in whatever version.

    Args:
        folder: the model's, with its configs.
        measured: what speaks for it, as JSON has it.

    Returns:
        the files that were written.

    Raises:
        TunedError: the model cannot be served so.
        RepositoryError: the folder cannot be written.
    """
    said = {
        "model": folder.name,
        "setting": setting,
        "undo": f"tritone optimize {folder.name} --repository {folder.parent} --reset",
        "measured": dict(measured),
    }
    there = read_tuned(folder) or {}
    files = _configs(folder)
    if "declared" in there:
        files = untuned({**files, TUNED_FILENAME: (folder / TUNED_FILENAME).read_bytes()})
    return update(folder, _tuned(said, files))


def reset(folder: Path) -> list[Path]:
    """Serve a model as it is declared again.

    Returns:
        the configs that were written; none where `serving.json` did not say what is declared. It is gone then too.

    Raises:
        TunedError: there is no such file.
        RepositoryError: the folder cannot be written.
    """
    path = folder / TUNED_FILENAME
    if not path.is_file():
        raise TunedError(f"{path} is not there: {folder.name} is served as it is declared")
    written = []
    try:
        said = read_tuned(folder) or {}
        if "declared" in said:
            written = update(folder, untuned({**_configs(folder), TUNED_FILENAME: path.read_bytes()}))
    except TunedError:
        pass  # nonsense is what is to go
    path.unlink()
    return written


def parse_config(text: bytes, path: str | Path = "config.pbtxt") -> ModelConfig:
    """Read a model's configuration.

    Raises:
        TunedError: it is none.
    """
    try:
        return text_format.Parse(text.decode("utf-8"), model_config_pb2.ModelConfig())
    except (UnicodeDecodeError, text_format.ParseError) as error:
        raise TunedError(f"{path} cannot be read as a model's configuration: {error}") from error


def tuned_text(config: ModelConfig) -> str:
    """A config's text that says where it comes from."""
    return HEADER + _HEADER + config_text(config).removeprefix(HEADER)


def _configs(folder: Path) -> dict[str, bytes]:
    return {path: (folder / path).read_bytes() for path in CONFIG_FILES if (folder / path).is_file()}


def _tuned(said: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, bytes]:
    """`serving.json`, first, and the configs that it changes; `files` holds them as declared."""
    configs = {path: parse_config(files[path], path) for path in CONFIG_FILES if path in files}
    told = {name: said[name] for name in PARTS if name in said}
    if "config.pbtxt" in configs:
        told["declared"] = setting_of(configs["config.pbtxt"])
        if reason := unfit(said["setting"], configs["config.pbtxt"]):
            name = configs["config.pbtxt"].name
            raise TunedError(f"{name}: {TUNED_FILENAME}: {reason}; `tritone optimize {name} --reset` removes the file")
    plain = {name: told[name] for name in PARTS if name in told}
    plain |= {name: value.as_json() for name, value in plain.items() if isinstance(value, Setting)}
    written = {TUNED_FILENAME: (json.dumps(plain, indent=2) + "\n").encode()}
    for path, config in configs.items():
        changed = apply(said["setting"], config)
        written[path] = files[path] if changed == config else tuned_text(changed).encode()
    return written
