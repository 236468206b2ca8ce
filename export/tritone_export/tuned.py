"""Settings that `tritone optimize` found for this machine: `serving.json` in a model's folder.

They override the declared settings for a CPU: instances, threads, preferred batch sizes and queue delay. Exports and
publications apply them to each config that they write, so they hold for all versions of the model.
`tritone optimize MODEL --reset` removes the file.

```json
{"setting": {"instances": 3, "threads": 1, "preferred_batch_sizes": [4, 8], "max_queue_delay_microseconds": 500}}
```

Further entries are `model`, `declared` (the declared settings, updated by every export), `undo` (the command that
removes the file) and `measured` (load, number of cores and the measurements of all settings).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tritonclient.grpc import model_config_pb2

from tritone_export._exceptions import ConfigFileError, TunedError
from tritone_export.config import CONFIG_FILES, HEADER, ModelConfig, config_text, parse_config
from tritone_export.repository import update

TUNED_FILENAME: Final = "serving.json"
MAX_INSTANCES: Final = 256
MAX_THREADS: Final = 1024
MAX_DELAY_US: Final = 1_000_000
_THREADS: Final = "intra_op_thread_count"
_FIELDS: Final = ("instances", "threads", "preferred_batch_sizes", "max_queue_delay_microseconds")
PARTS: Final = ("model", "setting", "declared", "undo", "measured")
_KIND_CPU: Final = model_config_pb2.ModelInstanceGroup.KIND_CPU


@dataclass(frozen=True, kw_only=True)
class TunedSetting:
    """Settings of a model on a CPU.

    Attributes:
        threads: threads of each instance; 0 for all cores; None if the model's backend has no such setting.
    """

    instances: int
    threads: int | None
    preferred_batch_sizes: tuple[int, ...]
    max_queue_delay_microseconds: int

    def __str__(self) -> str:
        threads = {None: "", 0: ", all cores shared"}.get(self.threads, f", threads {self.threads}")
        sizes = " ".join(map(str, self.preferred_batch_sizes)) or "none"
        return f"instances {self.instances}{threads}, batches {sizes}, delay {self.max_queue_delay_microseconds} us"

    def as_json(self) -> dict[str, Any]:
        """Return the setting as in `serving.json`."""
        entries = {name: getattr(self, name) for name in _FIELDS if getattr(self, name) is not None}
        return {**entries, "preferred_batch_sizes": list(self.preferred_batch_sizes)}


def setting_of(config: ModelConfig) -> TunedSetting:
    """Return the current settings of a config."""
    threads = config.parameters[_THREADS].string_value if _THREADS in config.parameters else None
    return TunedSetting(
        instances=sum(max(group.count, 1) for group in config.instance_group) or 1,
        threads=int(threads) if threads is not None and threads.isdecimal() else None,
        preferred_batch_sizes=tuple(config.dynamic_batching.preferred_batch_size),
        max_queue_delay_microseconds=config.dynamic_batching.max_queue_delay_microseconds,
    )


def reason_not_tunable(config: ModelConfig) -> str | None:
    """Return the reason why a model has no settings to optimize; None if it has some."""
    if config.HasField("ensemble_scheduling") or config.platform == "ensemble":
        return "it is an ensemble, which computes nothing itself; optimize the models of its steps"
    if config.model_transaction_policy.decoupled:
        return "its backend streams responses and forms its own batches, independent of the config"
    if config.max_batch_size < 1 or not config.HasField("dynamic_batching"):
        return "it has no dynamic batching"
    if any(group.kind != _KIND_CPU for group in config.instance_group):
        return "its instance_group is not KIND_CPU, and only settings for a CPU are optimized"
    return None


def reason_unfit(setting: TunedSetting, config: ModelConfig) -> str | None:
    """Return the reason why a setting does not fit a model; None if it does."""
    if reason := reason_not_tunable(config):
        return reason
    if setting.threads is not None and _THREADS not in config.parameters:
        return f"its backend {config.backend!r} has no setting for threads: expected none, got {setting.threads}"
    wrong = [size for size in setting.preferred_batch_sizes if size > config.max_batch_size]
    if wrong:
        return (
            f"invalid preferred_batch_sizes: expected at most its max_batch_size {config.max_batch_size}, got {wrong}"
        )
    policy = config.dynamic_batching.default_queue_policy
    if setting.instances == 1 and (policy.max_queue_size or policy.default_timeout_microseconds):
        return (
            "invalid instances: expected at least 2, got 1, because with a queue limit and a single instance Triton "
            "delays requests by 0.5 s"
        )
    return None


def apply(setting: TunedSetting, config: ModelConfig) -> ModelConfig:
    """Return a copy of a config with a setting that fits it; an unchanged copy if the config is for a GPU."""
    changed = model_config_pb2.ModelConfig()
    changed.CopyFrom(config)
    if any(group.kind != _KIND_CPU for group in config.instance_group):
        return changed
    del changed.instance_group[:]
    changed.instance_group.add(kind=_KIND_CPU, count=setting.instances)
    changed.dynamic_batching.preferred_batch_size[:] = setting.preferred_batch_sizes
    changed.dynamic_batching.max_queue_delay_microseconds = setting.max_queue_delay_microseconds
    if setting.threads is not None:
        changed.parameters[_THREADS].string_value = str(setting.threads)
    return changed


def read_tuned(folder: Path) -> dict[str, Any] | None:
    """Return the checked content of `serving.json`, with `setting` and `declared` as `TunedSetting`; None if missing.

    Raises:
        TunedError: the file is invalid.
    """
    path = folder / TUNED_FILENAME
    try:
        return parse_tuned(path.read_bytes(), path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TunedError(f"{path}: cannot be read ({error.strerror})") from error


def parse_tuned(text: bytes, path: Path) -> dict[str, Any]:
    """Return the checked content of a `serving.json`, as `read_tuned` does.

    Args:
        path: its path, for error messages.

    Raises:
        TunedError: as `read_tuned`.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise TunedError(f"{path}: invalid JSON: {error}; correct or remove the file") from error
    if not isinstance(content, dict) or "setting" not in content or set(content) - set(PARTS):
        found = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise TunedError(
            f"{path}: invalid entries: expected an object with setting and optionally "
            f"{', '.join(part for part in PARTS if part != 'setting')}, got {found or 'nothing'}"
        )
    for part in ("setting", "declared"):
        if part in content:
            content[part] = _checked(content[part], f"{path}: {part}")
    return content


def _checked(entries: Any, where: str) -> TunedSetting:
    if not isinstance(entries, dict) or set(entries) - set(_FIELDS) or set(_FIELDS) - set(entries) - {"threads"}:
        raise TunedError(f"{where}: invalid entries: expected an object with {', '.join(_FIELDS)}, got {entries!r}")
    sizes = entries["preferred_batch_sizes"]
    if not isinstance(sizes, list) or sizes != sorted({size for size in sizes if _is_count(size, 1, 1 << 20)}):
        raise TunedError(
            f"{where}: invalid preferred_batch_sizes: expected ascending integers of at least 1, got {sizes!r}"
        )
    ranges = {"instances": (1, MAX_INSTANCES), "threads": (0, MAX_THREADS)}
    ranges["max_queue_delay_microseconds"] = (0, MAX_DELAY_US)
    for name, (minimum, maximum) in ranges.items():
        if name in entries and not _is_count(entries[name], minimum, maximum):
            raise TunedError(
                f"{where}: invalid {name}: expected an integer from {minimum} to {maximum}, got {entries[name]!r}"
            )
    return TunedSetting(**{**entries, "preferred_batch_sizes": tuple(sizes), "threads": entries.get("threads")})


def _is_count(value: Any, minimum: int, maximum: int) -> bool:
    return type(value) is int and minimum <= value <= maximum


_HEADER: Final = f"# with the settings of {TUNED_FILENAME} for this machine (`tritone optimize`)\n"


def overridden(files: Mapping[str, bytes], folder: Path) -> dict[str, bytes]:
    """Return files for a model's folder, with the settings of its `serving.json` in the configs.

    Args:
        files: files by path inside the folder, including the configs. If they come from another folder, they may
            include its `serving.json`, which applies only if the model's folder has none.

    Raises:
        TunedError: the file is invalid or does not fit the model.
    """
    content = read_tuned(folder)
    if content is None:
        return dict(files)
    files = untuned(files)
    return {**files, **_tuned(content, files)}


def untuned(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return a folder's files without `serving.json` and with the declared settings in the configs.

    Raises:
        TunedError: the file is invalid.
    """
    if TUNED_FILENAME not in files:
        return dict(files)
    content = parse_tuned(files[TUNED_FILENAME], Path(TUNED_FILENAME))
    plain = {path: text for path, text in files.items() if path != TUNED_FILENAME}
    if "declared" in content:
        for path in CONFIG_FILES:
            if path in plain:
                plain[path] = config_text(apply(content["declared"], parse_config(plain[path], path))).encode()
    return plain


def tune(folder: Path, setting: TunedSetting, *, measured: Mapping[str, Any]) -> list[Path]:
    """Write a setting to `serving.json` and the configs; it applies to all versions from the next load on.

    Args:
        folder: the model's folder, with its configs.
        measured: measurements behind the setting, as JSON values.

    Returns:
        the files that were written.

    Raises:
        TunedError: the setting does not fit the model.
        RepositoryError: the folder cannot be written.
    """
    content = {
        "model": folder.name,
        "setting": setting,
        "undo": f"tritone optimize {folder.name} --repository {folder.parent} --reset",
        "measured": dict(measured),
    }
    existing = read_tuned(folder) or {}
    files = _configs(folder)
    if "declared" in existing:
        files = untuned({**files, TUNED_FILENAME: (folder / TUNED_FILENAME).read_bytes()})
    return update(folder, _tuned(content, files))


def reset(folder: Path) -> list[Path]:
    """Remove `serving.json` and restore the declared settings in the configs.

    Returns:
        the configs that were written; none if `serving.json` did not hold the declared settings.

    Raises:
        TunedError: there is no such file.
        RepositoryError: the folder cannot be written.
    """
    path = folder / TUNED_FILENAME
    if not path.is_file():
        raise TunedError(f"{path}: no such file; {folder.name} already has its declared settings")
    written = []
    try:
        content = read_tuned(folder) or {}
        if "declared" in content:
            written = update(folder, untuned({**_configs(folder), TUNED_FILENAME: path.read_bytes()}))
    except (TunedError, ConfigFileError):
        pass  # an unreadable file is removed, too
    path.unlink()
    return written


def tuned_text(config: ModelConfig) -> str:
    """Return the text of a config, with a comment on its origin."""
    return HEADER + _HEADER + config_text(config).removeprefix(HEADER)


def _configs(folder: Path) -> dict[str, bytes]:
    return {path: (folder / path).read_bytes() for path in CONFIG_FILES if (folder / path).is_file()}


def _tuned(content: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return `serving.json`, first, and the configs that it changes; `files` holds the declared ones."""
    configs = {path: parse_config(files[path], path) for path in CONFIG_FILES if path in files}
    entries = dict(content)
    if "config.pbtxt" in configs:
        entries["declared"] = setting_of(configs["config.pbtxt"])
        if reason := reason_unfit(content["setting"], configs["config.pbtxt"]):
            name = configs["config.pbtxt"].name
            raise TunedError(f"{name}: {TUNED_FILENAME}: {reason}; `tritone optimize {name} --reset` removes the file")
    plain = {name: entries[name] for name in PARTS if name in entries}
    plain |= {name: value.as_json() for name, value in plain.items() if isinstance(value, TunedSetting)}
    written = {TUNED_FILENAME: (json.dumps(plain, indent=2) + "\n").encode()}
    for path, config in configs.items():
        changed = apply(content["setting"], config)
        written[path] = files[path] if changed == config else tuned_text(changed).encode()
    return written
