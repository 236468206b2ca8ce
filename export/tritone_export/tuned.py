"""Settings that `tritone optimize` found for this machine: `serving.json` in a model's folder.

They override what the model's kind declares for a CPU: instances, threads, preferred batch sizes and the time to wait
for them. Exports and publications apply them to each config that they write, so they hold for all versions of the
model. `tritone optimize MODEL --reset` removes the file.

```json
{"setting": {"instances": 3, "threads": 1, "preferred_batch_sizes": [4, 8], "max_queue_delay_microseconds": 500}}
```

Beside `setting` it may hold `model`, `declared` (what stands without it; every export brings that up to date),
`undo`, and `measured`: under which load, on how many cores, and all that was tried.
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
        said = {name: getattr(self, name) for name in _FIELDS if getattr(self, name) is not None}
        return {**said, "preferred_batch_sizes": list(self.preferred_batch_sizes)}


def setting_of(config: ModelConfig) -> TunedSetting:
    """Return the setting in a config."""
    threads = config.parameters[_THREADS].string_value if _THREADS in config.parameters else None
    return TunedSetting(
        instances=sum(max(group.count, 1) for group in config.instance_group) or 1,
        threads=int(threads) if threads is not None and threads.isdecimal() else None,
        preferred_batch_sizes=tuple(config.dynamic_batching.preferred_batch_size),
        max_queue_delay_microseconds=config.dynamic_batching.max_queue_delay_microseconds,
    )


def nothing_to_choose(config: ModelConfig) -> str | None:
    """Return the reason why settings have no effect on a model; None if they have."""
    if config.HasField("ensemble_scheduling") or config.platform == "ensemble":
        return "it is an ensemble, which computes nothing itself: optimize the models that it joins"
    if config.model_transaction_policy.decoupled:
        return "its backend streams answers and joins requests by itself, whatever a config says of batches"
    if config.max_batch_size < 1 or not config.HasField("dynamic_batching"):
        return "it has no dynamic batching, so there is nothing to choose"
    if any(group.kind != _KIND_CPU for group in config.instance_group):
        return "its instance_group is not KIND_CPU, and only what runs on a CPU is chosen here"
    return None


def unfit(setting: TunedSetting, config: ModelConfig) -> str | None:
    """Return the reason why a model cannot have a setting; None if it can."""
    if reason := nothing_to_choose(config):
        return reason
    if setting.threads is not None and _THREADS not in config.parameters:
        return f"threads is {setting.threads}, and its backend {config.backend!r} takes no number of threads"
    wrong = [size for size in setting.preferred_batch_sizes if size > config.max_batch_size]
    if wrong:
        return f"preferred_batch_sizes holds {wrong}, above its max_batch_size of {config.max_batch_size}"
    policy = config.dynamic_batching.default_queue_policy
    if setting.instances == 1 and (policy.max_queue_size or policy.default_timeout_microseconds):
        return "instances is 1, and beside a queue limit Triton stalls a lone instance for 0.5 s; use 2 at least"
    return None


def apply(setting: TunedSetting, config: ModelConfig) -> ModelConfig:
    """Return a copy of a config with a setting that fits it; without the setting if the config places it on a GPU."""
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
    """Return the checked content of `serving.json`, with `setting` and `declared` as `TunedSetting`; None without file.

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
        said = json.loads(text)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise TunedError(f"{path}: cannot be read as JSON ({error}); correct it, or remove it") from error
    if not isinstance(said, dict) or "setting" not in said or set(said) - set(PARTS):
        found = ", ".join(map(str, said)) if isinstance(said, dict) else type(said).__name__
        raise TunedError(f"{path}: holds {found or 'nothing'}; expected an object with setting, and of {PARTS} alone")
    for part in ("setting", "declared"):
        if part in said:
            said[part] = _checked(said[part], f"{path}: {part}")
    return said


def _checked(said: Any, where: str) -> TunedSetting:
    if not isinstance(said, dict) or set(said) - set(_FIELDS) or set(_FIELDS) - set(said) - {"threads"}:
        raise TunedError(f"{where} is {said!r}; expected an object with {', '.join(_FIELDS)}")
    sizes = said["preferred_batch_sizes"]
    if not isinstance(sizes, list) or sizes != sorted({size for size in sizes if _is_count(size, 1, 1 << 20)}):
        raise TunedError(f"{where}: preferred_batch_sizes is {sizes!r}; expected whole numbers from 1 on, ascending")
    ranges = {"instances": (1, MAX_INSTANCES), "threads": (0, MAX_THREADS)}
    ranges["max_queue_delay_microseconds"] = (0, MAX_DELAY_US)
    for name, (least, most) in ranges.items():
        if name in said and not _is_count(said[name], least, most):
            raise TunedError(f"{where}: {name} is {said[name]!r}; expected a whole number from {least} to {most}")
    return TunedSetting(**{**said, "preferred_batch_sizes": tuple(sizes), "threads": said.get("threads")})


def _is_count(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


_HEADER: Final = f"# ... with what {TUNED_FILENAME} says for this machine (`tritone optimize`)\n"


def overridden(files: Mapping[str, bytes], folder: Path) -> dict[str, bytes]:
    """Return files for a model's folder, with the settings of its `serving.json` in the configs.

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
    """Return a folder's files without `serving.json` and with the declared settings in the configs.

    Raises:
        TunedError: the file is invalid.
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


def tune(folder: Path, setting: TunedSetting, *, measured: Mapping[str, Any]) -> list[Path]:
    """Write a setting to `serving.json` and the configs; it applies to all versions from the next load on.

    Args:
        folder: the model's folder, with its configs.
        measured: measurements behind the setting, as JSON values.

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
    """Remove `serving.json` and restore the declared settings in the configs.

    Returns:
        the configs that were written; none if `serving.json` did not hold the declared settings.

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
    except (TunedError, ConfigFileError):
        pass  # an unreadable file is removed, too
    path.unlink()
    return written


def tuned_text(config: ModelConfig) -> str:
    """Return the text of a config, with a comment on its origin."""
    return HEADER + _HEADER + config_text(config).removeprefix(HEADER)


def _configs(folder: Path) -> dict[str, bytes]:
    return {path: (folder / path).read_bytes() for path in CONFIG_FILES if (folder / path).is_file()}


def _tuned(said: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return `serving.json`, first, and the configs that it changes; `files` holds the declared ones."""
    configs = {path: parse_config(files[path], path) for path in CONFIG_FILES if path in files}
    told = {name: said[name] for name in PARTS if name in said}
    if "config.pbtxt" in configs:
        told["declared"] = setting_of(configs["config.pbtxt"])
        if reason := unfit(said["setting"], configs["config.pbtxt"]):
            name = configs["config.pbtxt"].name
            raise TunedError(f"{name}: {TUNED_FILENAME}: {reason}; `tritone optimize {name} --reset` removes the file")
    plain = {name: told[name] for name in PARTS if name in told}
    plain |= {name: value.as_json() for name, value in plain.items() if isinstance(value, TunedSetting)}
    written = {TUNED_FILENAME: (json.dumps(plain, indent=2) + "\n").encode()}
    for path, config in configs.items():
        changed = apply(said["setting"], config)
        written[path] = files[path] if changed == config else tuned_text(changed).encode()
    return written
