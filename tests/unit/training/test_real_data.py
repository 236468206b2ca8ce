from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.unit.training import sounds

from tritone.constants import EMOTIONS
from tritone_training.data.loading import load_recordings
from tritone_training.data.recordings import assign_folds
from tritone_training.kind import ModelKind, TrainRequest

EMOTIFY = Path(__file__).parents[4] / "shared" / "data" / "emotify"

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not (EMOTIFY / "manifest.csv").is_file(), reason="../shared/data/emotify is not here"),
]


def test_emotify_is_read_as_published() -> None:
    recordings = load_recordings(EMOTIFY)
    assert (len(recordings.recordings), recordings.problems) == (321, ())
    assert recordings.labels == ("classical", "electronic", "pop", "rock")
    assert recordings.report()["n_with_emotions"] == 321
    assigned = assign_folds(recordings)
    assert {r.fold for r in assigned.recordings} == {0, 1, 2, 3}
    assert assigned.notes["folds"] == "the data set's own"  # and no artist stands in two of them
    folds_of: dict[str, set[int | None]] = {}
    for recording in assigned.recordings:
        assert recording.path is not None
        assert recording.path.is_file()
        assert recording.artist
        folds_of.setdefault(recording.artist.casefold(), set()).add(recording.fold)
    assert all(len(folds) == 1 for folds in folds_of.values())


def test_a_tiny_training_on_a_few_of_its_recordings(kind: ModelKind, tmp_path: Path) -> None:
    recordings = load_recordings(EMOTIFY).recordings
    rows: list[dict[str, object]] = []
    for label in ("classical", "electronic"):
        for fold in (0, 1, 2):
            some = [r for r in recordings if (r.label, r.fold) == (label, fold)][:3]
            for r in some:
                assert r.path is not None
                felt = dict(zip(EMOTIONS, r.emotions or (), strict=True))
                rows.append(
                    {
                        "path": shutil.copy(r.path, tmp_path / f"{label}{len(rows)}{r.path.suffix}"),
                        "label": label,
                        "fold": fold,
                        "artist": r.artist,
                        **{f"emotion_{name}": value for name, value in felt.items()},
                    }
                )
    manifest = sounds.write_manifest(tmp_path / "m.csv", rows)
    request = TrainRequest(out=tmp_path / "run", data=manifest, preset="tiny", max_epochs=1, progress=False)
    summary = kind.train(request).to_dict()
    assert summary["data"]["n_used"] == len(rows) == 18
    assert summary["emotions_trained"]
    assert summary["metrics"]["test"]["n"] == 6
