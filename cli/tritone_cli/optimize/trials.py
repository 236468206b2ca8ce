"""Measure a setting on a real server."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from google.protobuf.json_format import MessageToDict

from tritone_cli.bench.inputs import example_requests
from tritone_cli.optimize.search import MeasureSetting
from tritone_export.candidates import files_in, newest
from tritone_export.config import CONFIG_FILES, config_text
from tritone_export.tuned import TUNED_FILENAME, TunedSetting, apply
from tritone_serving import ServerOptions, TritonServer
from tritone_serving.perf_analyzer import Load, PerfAnalyzer, Protocol, Reading, write_data

N_WINDOWS: Final = 3  # the minimum of perf_analyzer
_NO_STABILITY: Final = 100.0  # the windows need not agree, because rounds are compared


def setting_measurer(
    tool: PerfAnalyzer,
    source: Path,
    config: Any,
    *,
    folder: Path,
    load: Load,
    protocol: Protocol,
    seconds: float,
    data: Path | None = None,
) -> MeasureSetting:
    """Return a function that measures a setting once, on a new server without a response cache.

    A single server that loads and unloads models is not used, because Triton 2.51 may abort on a busy machine.

    Args:
        source: the repository with the model; it is not changed.
        config: the model's `inference.ModelConfig`.
        folder: an empty folder for copies of the model.
        seconds: length of a measurement.
        data: requests as perf_analyzer's JSON; None draws them.

    Raises:
        RepositoryError: the model has no version.
        UnknownInputsError: no model kind can draw inputs for the model.
    """
    version = newest(source, config.name)
    if data is None:
        requests = example_requests(MessageToDict(config, preserving_proto_field_name=True), source)
        data = folder / "examples.json"
        write_data(data, requests.requests)
    repository = folder / "repository"
    called = _link_called_models(source, config, repository)
    options = ServerOptions(
        repository=repository,
        http_port=0,
        grpc_port=0,
        metrics_port=0,
        response_cache_bytes=0,
        log_path=folder / "server.log",
    )
    names: dict[TunedSetting, str] = {}

    def measure(setting: TunedSetting) -> Reading:
        if setting not in names:
            names[setting] = _write_model(version, config, setting, repository, len(names))
        name = names[setting]
        with TritonServer.start(replace(options, models=(*called, name))) as server:
            try:
                return tool.measure(
                    name,
                    server.grpc_url if protocol == "grpc" else server.http_url.partition("://")[2],
                    protocol=protocol,
                    data=data,
                    load=load,
                    window_s=seconds / N_WINDOWS,
                    stability=_NO_STABILITY,
                    n_trials=N_WINDOWS,
                )
            finally:
                server.kill()  # a graceful stop takes seconds, and there are no other clients

    return measure


def _write_model(version: Path, config: Any, setting: TunedSetting, repository: Path, number: int) -> str:
    """Write the folder of a model with a setting, under a unique name, and return the name."""
    changed = apply(setting, config)
    changed.name = f"{config.name}-{number}"
    target = repository / changed.name
    target.mkdir(parents=True)
    (target / "1").symlink_to(version.resolve())
    for name, path in files_in(version.parent).items():
        if name not in (*CONFIG_FILES, TUNED_FILENAME):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target / name)
    (target / "config.pbtxt").write_text(config_text(changed), encoding="utf-8")
    return str(changed.name)


def _link_called_models(source: Path, config: Any, repository: Path) -> list[str]:
    """Link the models that this one calls, which are named in its parameters, and return their names."""
    repository.mkdir()
    named = {parameter.string_value for parameter in config.parameters.values()}
    called = sorted(
        name for name in named if name and name != config.name and (source / name / "config.pbtxt").is_file()
    )
    for name in called:
        (repository / name).symlink_to((source / name).resolve())
    return called
