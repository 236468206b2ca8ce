"""Puts settings to the test one after the other, each on a real server."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from google.protobuf.json_format import MessageToDict

from tritone_cli.benching.inputs import questions_for
from tritone_cli.optimizing.search import Turn
from tritone_export.candidates import files_in, newest
from tritone_export.config import CONFIG_FILES, config_text
from tritone_export.tuned import TUNED_FILENAME, Setting, apply
from tritone_serving import ServerOptions, TritonServer
from tritone_serving.perf_analyzer import Load, PerfAnalyzer, Protocol, Reading, write_data

N_WINDOWS: Final = 3  # perf_analyzer gives no figure of fewer
_ANY: Final = 100.0  # a factor: the windows need not agree, since the rounds have to


def taking_turns(
    tool: PerfAnalyzer,
    source: Path,
    config: Any,
    *,
    folder: Path,
    load: Load,
    protocol: Protocol,
    seconds: float,
    data: Path | None = None,
) -> Turn:
    """What measures a setting once, on a server that is started for it and serves nothing else; no response cache.

    Not one server that loads and unloads: Triton 2.51 may abort when a busy machine does both at once.

    Args:
        source: the repository with the model, which is read and left as it is.
        config: the model's `inference.ModelConfig`.
        folder: an empty one, for the copies.
        seconds: of one measurement.
        data: questions as perf_analyzer's JSON; None draws them.

    Raises:
        RepositoryError: the model has no version.
        NoInputsError: no kind draws questions for it.
    """
    version = newest(source, config.name)
    if data is None:
        questions = questions_for(MessageToDict(config, preserving_proto_field_name=True), source)
        data = folder / "questions.json"
        write_data(data, questions.requests)
    repository = folder / "repository"
    asked = _lay_out_asked(source, config, repository)
    options = ServerOptions(
        repository=repository,
        http_port=0,
        grpc_port=0,
        metrics_port=0,
        response_cache_bytes=0,
        log_path=folder / "server.log",
    )
    names: dict[Setting, str] = {}

    def turn(setting: Setting) -> Reading:
        if setting not in names:
            names[setting] = _lay_out(version, config, setting, repository, len(names))
        name = names[setting]
        with TritonServer.start(replace(options, models=(*asked, name))) as server:
            try:
                return tool.measure(
                    name,
                    server.grpc_url if protocol == "grpc" else server.http_url.partition("://")[2],
                    protocol=protocol,
                    data=data,
                    load=load,
                    window_s=seconds / N_WINDOWS,
                    stability=_ANY,
                    n_trials=N_WINDOWS,
                )
            finally:
                server.kill()  # an orderly end takes seconds, and nobody else is being answered

    return turn


def _lay_out(version: Path, config: Any, setting: Setting, repository: Path, number: int) -> str:
    """One model's folder, under a name of its own."""
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


def _lay_out_asked(source: Path, config: Any, repository: Path) -> list[str]:
    """The models that this one asks, by what its parameters name."""
    repository.mkdir()
    named = {parameter.string_value for parameter in config.parameters.values()}
    asked = sorted(
        name for name in named if name and name != config.name and (source / name / "config.pbtxt").is_file()
    )
    for name in asked:
        (repository / name).symlink_to((source / name).resolve())
    return asked
