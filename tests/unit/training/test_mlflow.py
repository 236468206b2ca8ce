"""Logging to MLflow: with the package where it is installed, and with a stand-in that records the calls."""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.unit.training.small_data import write_scores

from tritone import MissingExtraError
from tritone_training import TrainingError, train


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    return write_scores(tmp_path)


def run(scores: Path, out: Path, **options: Any) -> Any:
    return train("polyphony_rnn", data=scores, out=out, preset="tiny", max_epochs=2, progress=False, **options)


@dataclass
class Recorded:
    """What one MLflow run was told."""

    tags: dict[str, str]
    params: dict[str, str] = field(default_factory=dict)
    metrics: list[tuple[str, float, int]] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    status: str = "RUNNING"


class MlflowException(Exception):  # noqa: N818 - MLflow's name
    pass


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> dict[str, Recorded]:
    """A stand-in for mlflow-skinny with the calls that are used, which keeps what it is told by run."""
    runs: dict[str, Recorded] = {}

    class Client:
        def __init__(self, tracking_uri: str) -> None:
            if tracking_uri == "http://nowhere":
                raise MlflowException("no server answers")

        def get_experiment_by_name(self, name: str) -> None:
            assert name == "tritone"

        def create_experiment(self, name: str) -> str:
            return "1"

        def create_run(self, experiment_id: str, tags: dict[str, str]) -> Any:
            runs[str(len(runs))] = Recorded(tags)
            return types.SimpleNamespace(info=types.SimpleNamespace(run_id=str(len(runs) - 1)))

        def update_run(self, run_id: str, status: str) -> None:
            runs[run_id].status = status

        def log_batch(self, run_id: str, metrics: Any = (), params: Any = ()) -> None:
            runs[run_id].metrics += [(m.key, m.value, m.step) for m in metrics]
            runs[run_id].params.update((p.key, p.value) for p in params)

        def log_artifact(self, run_id: str, path: str) -> None:
            runs[run_id].files[Path(path).name] = path

        def log_text(self, run_id: str, text: str, name: str) -> None:
            runs[run_id].files[name] = text

        def set_terminated(self, run_id: str, status: str = "FINISHED") -> None:
            runs[run_id].status = status

    class Metric:
        def __init__(self, key: str, value: float, timestamp: int, step: int) -> None:
            self.key, self.value, self.step = key, value, step

    class Param:
        def __init__(self, key: str, value: str) -> None:
            self.key, self.value = key, value

    modules = {
        "mlflow": {},
        "mlflow.tracking": {"MlflowClient": Client},
        "mlflow.entities": {"Metric": Metric, "Param": Param},
        "mlflow.exceptions": {"MlflowException": MlflowException},
    }
    for name, content in modules.items():
        module = types.ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    return runs


def test_parameters_epochs_results_and_files_are_logged(
    recorded: dict[str, Recorded], scores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking")
    trained = run(scores, tmp_path / "run")
    (logged,) = recorded.values()
    assert logged.status == "FINISHED"
    assert logged.tags["tritone.kind"] == "polyphony_rnn"
    assert logged.params["max_epochs"] == "2"
    assert len(logged.params["data_fingerprint"]) == 64
    assert [step for name, _, step in logged.metrics if name == "valid_nll_per_frame"] == [0, 1]
    final = {name: value for name, value, _ in logged.metrics}
    assert final["valid.nll_per_frame"] == trained.metrics["valid"]["nll_per_frame"]
    assert {"checkpoint.json", "metrics.csv", "model_card.md"} < set(logged.files)
    assert "| learning_rate |" in logged.files["model_card.md"]


def test_a_resumed_training_continues_its_run(
    recorded: dict[str, Recorded], scores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tritone_training.kinds.polyphony_rnn import train as train_module

    class Killed(BaseException):
        pass

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "evaluate_network", killed)
        with pytest.raises(Killed):
            run(scores, tmp_path / "run", mlflow="http://tracking")
    assert [each.status for each in recorded.values()] == ["KILLED"]
    run(scores, tmp_path / "run", mlflow="http://tracking", resume=True)
    assert [each.status for each in recorded.values()] == ["FINISHED"]


def test_a_server_that_cannot_be_used_is_an_error_before_training(
    recorded: dict[str, Recorded], scores: Path, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=r"http://nowhere: expected an MLflow tracking server .*no server answers"):
        run(scores, tmp_path / "run", mlflow="http://nowhere")
    assert not (tmp_path / "run").exists()


def test_without_the_package_the_error_has_the_install_command(
    scores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tritone\[mlflow\]'"):
        run(scores, tmp_path / "run", mlflow="sqlite:///x.db")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")  # of MLflow's own queries
def test_a_store_of_the_real_package(scores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import tracking

    monkeypatch.chdir(tmp_path)  # MLflow writes artifacts to ./mlruns
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    run(scores, tmp_path / "run", mlflow=uri)
    client = tracking.MlflowClient(tracking_uri=uri)
    (found,) = client.search_runs([client.get_experiment_by_name("tritone").experiment_id])
    assert found.info.status == "FINISHED"
    assert [each.step for each in client.get_metric_history(found.info.run_id, "valid_nll_per_frame")] == [0, 1]
    assert "model_card.md" in {each.path for each in client.list_artifacts(found.info.run_id)}
