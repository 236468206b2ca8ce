"""Models that cannot load: lint and the server agree, and `serve` names what their files show before it starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from tests.integration.broken_models import FAULTY, FAULTY_FILES, OF_VOLUMES, SOUND

from tritone_export import check_repository
from tritone_serving import ModelLoadError, ServerOptions, TritonServer
from tritone_serving.repository import find_faults

BACKENDS = {"python", "onnxruntime", "composer", "cf_ensemble"}
ENSEMBLE = """
name: "{name}"
platform: "ensemble"
max_batch_size: {max_batch_size}
input [ {{ name: "x" data_type: {data_type} dims: [ 1 ] }} ]
output [ {{ name: "y" data_type: TYPE_FP32 dims: [ {dim} ] }} ]
{more}
ensemble_scheduling {{ step [ {{
  model_name: "{step}" model_version: {version}
  input_map {{ key: "x" value: "x" }} output_map {{ key: "y" value: "y" }}
}} ] }}
"""


def write_ensemble(folder: Path, step: str, **given: object) -> None:
    usual = {"max_batch_size": 4, "data_type": "TYPE_FP32", "dim": 1, "more": "", "version": -1}
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(ENSEMBLE.format(name=folder.name, step=step, **{**usual, **given}))


FAULTY_ENSEMBLES: dict[str, tuple[str, dict[str, object]]] = {
    "batch_ensemble": ("plain_python", {"max_batch_size": 8}),
    "type_ensemble": ("plain_python", {"data_type": "TYPE_INT64"}),
    "shape_ensemble": ("plain_python", {"dim": 3}),
    "version_ensemble": ("plain_python", {"version": 7}),
    "group_ensemble": ("plain_python", {"more": "instance_group [ { kind: KIND_CPU } ]"}),
    "own_ensemble": ("own_ensemble", {}),
    "circle_1": ("circle_2", {}),
    "circle_2": ("circle_1", {}),
}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """All models, sound and faulty, and what volumes hold beside them."""
    path = tmp_path / "models"
    for name, build in SOUND.items():
        build(path / name)
    for name, build in FAULTY.items():
        build(path / name)
    for name, (build, _) in FAULTY_FILES.items():
        build(path / name)
    write_ensemble(path / "sound_ensemble", "plain_python")
    write_ensemble(path / "faulty_ensemble", "syntax_error")
    for name, (step, given) in FAULTY_ENSEMBLES.items():
        write_ensemble(path / name, step, **given)
    (path / "too_large" / str(2**64)).mkdir(parents=True)  # would end the whole server
    for name in OF_VOLUMES:
        (path / name).mkdir()
    (path / ".DS_Store").write_text("")
    return path


@pytest.mark.parametrize("name", FAULTY_FILES)
def test_faults_in_files_are_found_without_a_server(tmp_path: Path, name: str) -> None:
    build, expected = FAULTY_FILES[name]
    build(tmp_path / name)
    assert expected in find_faults(tmp_path, [name], backends=BACKENDS)[name]


def test_sound_models_have_no_faults(tmp_path: Path) -> None:
    for name, build in SOUND.items():
        build(tmp_path / name)
    write_ensemble(tmp_path / "outer", "plain_python")
    assert find_faults(tmp_path, [*SOUND, "outer"], backends=BACKENDS) == {}


def test_an_ensemble_of_a_faulty_model_is_faulty(tmp_path: Path) -> None:
    FAULTY_FILES["no_model_py"][0](tmp_path / "no_model_py")
    write_ensemble(tmp_path / "inner", "no_model_py")
    write_ensemble(tmp_path / "outer", "inner")
    faults = find_faults(tmp_path, ["inner", "no_model_py", "outer"], backends=BACKENDS)
    assert set(faults) == {"inner", "no_model_py", "outer"}
    assert "no_model_py" in faults["inner"]


@pytest.mark.triton
def test_lint_finds_what_the_server_refuses(repository: Path, options_for: Callable[..., ServerOptions]) -> None:
    report = check_repository(repository)
    wrong = [finding.path for finding in report.findings if finding.severity == "error"]
    errors = {path.relative_to(repository).parts[0] for path in wrong}
    reported: dict[str, str] = {}

    def report_faults(faults: Mapping[str, str]) -> None:
        reported.update(faults)

    options = options_for(repository, require_all=False)
    with TritonServer.start(options, report_faults=report_faults) as server:
        served, failed = set(server.models), dict(server.failed_models)
        with pytest.raises(ModelLoadError, match=r"has no model\.py"):
            server.load_model("no_model_py")
    assert served == {*SOUND, "sound_ensemble"}
    assert set(failed) == {*FAULTY, *FAULTY_FILES, *FAULTY_ENSEMBLES, "faulty_ensemble"}
    # The backend of another server's repository is no error to lint, and the ensemble's own files are sound.
    assert errors == (failed.keys() | {"too_large"}) - {"no_backend", "faulty_ensemble"}
    assert set(reported) == {*FAULTY_FILES, "faulty_ensemble"}
    assert {name: reason for name, reason in failed.items() if name in reported} == reported
    for name in OF_VOLUMES:
        assert not any(name in str(finding) for finding in report.findings), name
        assert not any(name in note for note in report.notes), name


@pytest.mark.triton
def test_with_require_all_or_no_sound_model_the_start_is_refused_at_once(
    tmp_path: Path, options_for: Callable[..., ServerOptions]
) -> None:
    FAULTY_FILES["no_model_py"][0](tmp_path / "no_model_py")
    with pytest.raises(ModelLoadError, match=r"no_model_py does not load: version folder .* has no model\.py"):
        TritonServer.start(options_for(tmp_path, require_all=False))
    SOUND["plain_python"](tmp_path / "plain_python")
    with pytest.raises(ModelLoadError, match=r"no_model_py does not load") as caught:
        TritonServer.start(options_for(tmp_path, require_all=True))
    assert set(caught.value.reasons) == {"no_model_py"}
