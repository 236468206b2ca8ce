"""A server of its own on which settings take their turns, each as a model with a name of its own."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from google.protobuf.json_format import MessageToDict

from tritone_cli.benching.inputs import questions_for
from tritone_cli.optimizing.search import Turn
from tritone_export.candidates import files_in, newest
from tritone_export.config import CONFIG_FILES, config_text
from tritone_export.tuned import TUNED_FILENAME, Setting, apply
from tritone_serving import AdminApiError, ServerOptions, TritonServer
from tritone_serving.perf_analyzer import Load, PerfAnalyzer, Protocol, Reading, write_data

_LOAD_TIMEOUT_S: Final = 60.0


@contextmanager
def taking_turns(
    tool: PerfAnalyzer,
    source: Path,
    config: Any,
    in_force: Setting,
    *,
    folder: Path,
    load: Load,
    protocol: Protocol,
    window_s: float,
    data: Path | None = None,
) -> Iterator[Turn]:
    """Serve copies of a model, and measure each when it is its turn; the response cache is off.

    Only the one whose turn it is, is loaded: others would take memory, and their processes a core at their start.

    Args:
        source: the repository with the model, which is read and left as it is.
        config: the model's `inference.ModelConfig`.
        folder: an empty one, for the copies.
        data: questions as perf_analyzer's JSON; None draws them.

    Raises:
        RepositoryError: the model has no version.
        NoInputsError: no kind draws questions for it.
        ServingError: the server does not start.
    """
    version = newest(source, config.name)
    if data is None:
        questions = questions_for(MessageToDict(config, preserving_proto_field_name=True), source)
        data = folder / "questions.json"
        write_data(data, questions.requests)
    repository = folder / "repository"
    asked = _lay_out_asked(source, config, repository)
    names = {in_force: _lay_out(version, config, in_force, repository, 0)}
    options = ServerOptions(
        repository=repository,
        models=(*asked, names[in_force]),
        http_port=0,
        grpc_port=0,
        metrics_port=0,
        response_cache_bytes=0,
    )
    with TritonServer.start(options) as server:
        server.unload_model(names[in_force])
        url = server.grpc_url if protocol == "grpc" else server.http_url.partition("://")[2]

        def turn(setting: Setting) -> Reading:
            if setting not in names:
                names[setting] = _lay_out(version, config, setting, repository, len(names))
            name = names[setting]
            server.load_model(name, timeout_s=_LOAD_TIMEOUT_S)
            try:
                # One window: the rounds are what has to agree.
                return tool.measure(name, url, protocol=protocol, data=data, load=load, window_s=window_s, n_trials=1)
            finally:
                with contextlib.suppress(AdminApiError):
                    server.unload_model(name)

        yield turn


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
