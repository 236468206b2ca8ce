"""`serving.json`: its content, its use by exports and publications, and refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.export import fixture_kind

from tritone_export import TunedError, export_model, lint_repository, write_configs
from tritone_export.config import build_config, config_files, parse_config
from tritone_export.tuned import (
    TUNED_FILENAME,
    TunedSetting,
    apply,
    overridden,
    read_tuned,
    reason_unfit,
    reset,
    setting_of,
    tune,
    untuned,
)
from tritone_training.declaration import Declaration, Instances
from tritone_training.kinds.genre_cnn.declaration import DECLARATION

DECLARED = setting_of(build_config(DECLARATION))
OTHER = TunedSetting(instances=3, threads=1, preferred_batch_sizes=(4, 8), max_queue_delay_microseconds=500)
FORM: dict[str, Any] = OTHER.as_json()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.pbtxt")}


def served(folder: Path, file: str = "config.pbtxt") -> TunedSetting:
    return setting_of(parse_config((folder / file).read_bytes()))


def tuned_folder(repository: Path, declaration: Declaration = DECLARATION) -> Path:
    write_configs(declaration, repository)
    tune(repository / declaration.name, OTHER, measured={"cores": 2})
    return repository / declaration.name


def test_settings_are_written_and_reset(tmp_path: Path) -> None:
    write_configs(DECLARATION, tmp_path)
    folder = tmp_path / "genre_cnn"
    before = contents(folder)
    written = tune(folder, OTHER, measured={"cores": 2})
    assert [path.name for path in written] == [TUNED_FILENAME, "config.pbtxt"]
    assert served(folder) == OTHER
    assert "serving.json" in (folder / "config.pbtxt").read_text().splitlines()[1]
    assert contents(folder)["configs/gpu.pbtxt"] == before["configs/gpu.pbtxt"], "a GPU's settings are others"
    said = json.loads((folder / TUNED_FILENAME).read_text())
    assert said["measured"] == {"cores": 2}
    assert said["undo"].endswith("--reset")
    again = replace(OTHER, instances=2)
    tune(folder, again, measured={})
    assert (read_tuned(folder) or {})["declared"] == DECLARED, "not what was tuned before"
    assert [path.name for path in reset(folder)] == ["config.pbtxt"]
    assert contents(folder) == before
    assert not (folder / TUNED_FILENAME).exists()
    with pytest.raises(TunedError):
        reset(folder)


def test_settings_apply_to_a_model_on_the_cpu_in_the_gpu_profile(tmp_path: Path) -> None:
    instances = Instances(n_cpu=2, n_gpu=0, n_intra_op_threads=0)
    declaration = replace(DECLARATION, serving=replace(DECLARATION.serving, instances=instances))
    folder = tuned_folder(tmp_path, declaration)
    assert served(folder) == served(folder, "configs/gpu.pbtxt") == OTHER


def test_exports_apply_the_settings(repository: Path) -> None:
    folder = repository / "genre_cnn"
    tune(folder, OTHER, measured={})
    export_model(fixture_kind.exportable(), fixture_kind.kind(), repository=repository)
    assert (folder / "2").is_dir()
    assert served(folder) == OTHER
    assert write_configs(DECLARATION, repository) == []
    assert lint_repository(repository) == []


def test_a_reset_restores_the_newest_declaration(tmp_path: Path) -> None:
    folder = tuned_folder(tmp_path)
    instances = Instances(n_cpu=5, n_gpu=2, n_intra_op_threads=0)
    changed = replace(DECLARATION, serving=replace(DECLARATION.serving, instances=instances))
    write_configs(changed, tmp_path)
    assert served(folder) == OTHER
    reset(folder)
    assert served(folder).instances == 5
    assert write_configs(changed, tmp_path) == []


def test_settings_belong_to_the_folder_and_not_to_published_versions(tmp_path: Path) -> None:
    folder = tuned_folder(tmp_path / "here")
    other = replace(OTHER, instances=7)
    elsewhere = tmp_path / "there" / "genre_cnn"
    write_configs(DECLARATION, elsewhere.parent)
    tune(elsewhere, other, measured={})
    files = {TUNED_FILENAME: (elsewhere / TUNED_FILENAME).read_bytes(), **contents(elsewhere)}
    placed = overridden(files, folder)
    assert setting_of(parse_config(placed["config.pbtxt"])) == OTHER
    assert json.loads(placed[TUNED_FILENAME])["declared"] == DECLARED.as_json()
    assert overridden(files, tmp_path / "new") == files, "where there is none, it comes along"
    assert untuned(files) == {path: text.encode() for path, text in config_files(DECLARATION).items()}


INVALID_FILES = {
    "no JSON": ("{", "invalid JSON"),
    "a list": ("[1]", "got list"),
    "nothing": ("{}", "got nothing"),
    "a typo": ({"settings": FORM}, "got settings"),
    "an unknown entry": ({"setting": FORM, "speed": 9}, "got setting, speed"),
    "an unknown field": ({"setting": {**FORM, "gpus": 1}}, "expected an object with instances"),
    "a missing field": ({"setting": {"instances": 2}}, "expected an object with instances"),
    "no instance": (
        {"setting": {**FORM, "instances": 0}},
        "invalid instances: expected an integer from 1 to 256, got 0",
    ),
    "a boolean": ({"setting": {**FORM, "instances": True}}, "invalid instances"),
    "a string": ({"setting": {**FORM, "threads": "1"}}, "invalid threads"),
    "a fraction": ({"setting": {**FORM, "max_queue_delay_microseconds": 0.5}}, "invalid max_queue_delay_microseconds"),
    "sizes that are not a list": ({"setting": {**FORM, "preferred_batch_sizes": 8}}, "invalid preferred_batch_sizes"),
    "sizes out of order": ({"setting": {**FORM, "preferred_batch_sizes": [8, 4]}}, "invalid preferred_batch_sizes"),
    "lists of sizes": ({"setting": {**FORM, "preferred_batch_sizes": [[4]]}}, "invalid preferred_batch_sizes"),
    "a batch too large": (
        {"setting": {**FORM, "preferred_batch_sizes": [65]}},
        "at most its max_batch_size 64, got [65]",
    ),
    "a single instance": ({"setting": {**FORM, "instances": 1}}, "invalid instances: expected at least 2"),
    "an invalid declared": ({"setting": FORM, "declared": 1}, "declared: invalid entries"),
}


@pytest.mark.parametrize("name", INVALID_FILES)
def test_invalid_files_are_refused_by_exports_and_reported_by_lint(tmp_path: Path, name: str) -> None:
    said, message = INVALID_FILES[name]
    write_configs(DECLARATION, tmp_path)
    folder = tmp_path / "genre_cnn"
    path = folder / TUNED_FILENAME
    path.write_text(said if isinstance(said, str) else json.dumps(said))
    before = contents(folder)
    with pytest.raises(TunedError) as caught:
        write_configs(DECLARATION, tmp_path)
    assert message in str(caught.value)
    assert contents(folder) == before
    (finding,) = lint_repository(tmp_path)
    assert (finding.path, finding.severity) == (path, "error")
    assert message in finding.message
    assert "--reset" in finding.remedy
    reset(folder)
    assert not path.exists()
    assert lint_repository(tmp_path) == []


def test_a_file_written_by_hand_needs_only_a_setting(tmp_path: Path) -> None:
    write_configs(DECLARATION, tmp_path)
    folder = tmp_path / "genre_cnn"
    # JSON can express half a surrogate pair, which UTF-8 cannot.
    (folder / TUNED_FILENAME).write_text(json.dumps({"setting": FORM, "measured": "\ud800"}))
    (finding,) = lint_repository(tmp_path)
    assert "has instances 3, threads 1, batches 4 8, delay 500 us, but config.pbtxt has instances 2" in str(finding)
    write_configs(DECLARATION, tmp_path)
    assert lint_repository(tmp_path) == []
    assert (read_tuned(folder) or {})["declared"] == DECLARED


def test_models_without_settings_to_optimize() -> None:
    config = build_config(DECLARATION)
    assert reason_unfit(OTHER, config) is None
    assert apply(OTHER, config).name == "genre_cnn"
    assert apply(DECLARED, apply(OTHER, config)) == config
    decoupled = parse_config(b'name: "c" max_batch_size: 4 model_transaction_policy { decoupled: true }')
    assert "streams" in (reason_unfit(OTHER, decoupled) or "")
    ensemble = parse_config(b'name: "e" platform: "ensemble" ensemble_scheduling { step { model_name: "m" } }')
    assert "ensemble" in (reason_unfit(OTHER, ensemble) or "")
    assert "no dynamic batching" in (reason_unfit(OTHER, parse_config(b'name: "p" max_batch_size: 0')) or "")
    threadless = parse_config(b'name: "r" backend: "cf" max_batch_size: 64 dynamic_batching { }')
    assert "has no setting for threads" in (reason_unfit(OTHER, threadless) or "")
    assert reason_unfit(replace(OTHER, threads=None), threadless) is None
