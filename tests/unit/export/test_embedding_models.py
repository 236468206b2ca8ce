"""Lint and rollback detect a recommender whose item embeddings are not from the served `genre_cnn`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.support import recommender_artifacts as models

from tritone_export import check_embedding_models, check_repository, forget_user
from tritone_export.publishing import Live, rollback
from tritone_serving import RefusedVersionError
from tritone_serving.recommender import open_artifact

HEARD, OTHER = "ab" * 32, "cd" * 32


@pytest.fixture(autouse=True)
def state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("TRITONE_RECOMMENDER_KEY", raising=False)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a recommender whose items were embedded by weights HEARD, and its key."""
    path = tmp_path_factory.mktemp("heard")
    artifact = models.make_artifact(path / "artifact", path / "recommender.key", n_users=8, n_items=30)
    models.spoil_manifest(artifact, embedding_model={"kind": "genre_cnn", "weights_sha256": HEARD})
    models.publish(artifact, None, path / "repository", ensembles=False)
    return path


@pytest.fixture
def repository(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported / "repository", tmp_path / "repository"))


def add_genre_cnn(repository: Path, card: dict[str, Any] | None, version: int = 1) -> None:
    """Add a version of `genre_cnn` that has only a model card."""
    folder = repository / "genre_cnn" / str(version)
    folder.mkdir(parents=True)
    if card is not None:
        (folder / "model_card.json").write_text(json.dumps({"kind": "genre_cnn", "version": version, **card}))


def found(repository: Path, *changed: str) -> tuple[list[str], list[str]]:
    """Return findings and notes, after checking that a check of the whole repository reports the same."""
    report = check_embedding_models(repository, changed or ("genre_cnn",))
    whole = check_repository(repository)
    if not changed:
        assert set(report.findings) <= set(whole.findings)
        assert set(report.notes) <= set(whole.notes)
        assert bool(report.findings) == any("embedded by another" in str(each) for each in whole.findings)
    return [f"{each.severity}: {each.message} ({each.remedy})" for each in report.findings], list(report.notes)


def test_the_network_that_embedded_the_items_is_accepted(repository: Path) -> None:
    add_genre_cnn(repository, {"weights_sha256": OTHER})
    add_genre_cnn(repository, {"weights_sha256": HEARD, "files": {"model.fp16.onnx": {}}}, version=2)
    assert found(repository) == ([], [])


def test_the_card_names_the_embedding_model(repository: Path) -> None:
    card = json.loads((repository / "recommender" / "1" / "model_card.json").read_text())
    assert card["embedding_model"] == {"kind": "genre_cnn", "weights_sha256": HEARD}


def test_another_network_is_an_error_with_both_remedies(repository: Path) -> None:
    add_genre_cnn(repository, {"weights_sha256": HEARD})
    add_genre_cnn(repository, {"weights_sha256": OTHER, "pretrained": "musicnn"}, version=2)
    (finding,), notes = found(repository)
    assert notes == []
    assert finding == (
        f"error: recommender does not belong to {repository}/genre_cnn/2 (weights-cdcdcdcdcdcd.pt): its items were "
        f"embedded by another genre_cnn (weights-abababababab.pt), so its recommendations from recordings are "
        f"meaningless (train recommender again with --genre-checkpoint set to that of weights-cdcdcdcdcdcd.pt, or "
        f"serve the one with weights-abababababab.pt: tritone export genre_cnn --checkpoint ...)"
    )
    assert found(repository, "recommender", "taste_vae") == ([finding], [])
    assert found(repository, "polyphony_rnn") == ([], [])


def test_a_pretrained_backbone_did_not_embed_the_items(repository: Path) -> None:
    add_genre_cnn(repository, {"pretrained": "musicnn"})
    (finding,), _ = found(repository)
    assert "the pretrained backbone musicnn" in finding
    assert "again" not in finding  # there is no checkpoint to embed with
    assert "serve the one with weights-abababababab.pt" in finding


@pytest.mark.parametrize("card", [None, {}, {"weights_sha256": 3}, {"weights_sha256": "\x1b[2J"}])
def test_a_genre_cnn_of_unknown_weights_is_a_note(repository: Path, card: dict[str, Any] | None) -> None:
    add_genre_cnn(repository, card)
    findings, (note,) = found(repository)
    assert findings == []
    assert "genre_cnn/1/model_card.json does not name its weights (an older export)" in note


@pytest.mark.parametrize("embedding_model", [None, "genre_cnn", {"kind": "genre_cnn"}])
def test_a_recommender_of_unknown_embedding_model_is_a_note(repository: Path, embedding_model: Any) -> None:
    add_genre_cnn(repository, {"weights_sha256": OTHER})
    models.spoil_manifest(repository / "recommender" / "1", embedding_model=embedding_model)
    findings, (note,) = found(repository)
    assert findings == []
    assert "recommender.json does not name the genre_cnn that embedded its items (an older export)" in note


def test_a_missing_genre_cnn_is_a_note(repository: Path) -> None:
    findings, (note,) = found(repository)
    assert findings == []
    assert "needs a genre_cnn in the same repository, the one with weights-abababababab.pt" in note


def test_a_recommender_without_item_embeddings_needs_no_genre_cnn(repository: Path) -> None:
    path = repository / "recommender" / "1" / "recommender.json"
    manifest = json.loads(path.read_text())
    del manifest["arrays"]["items.embeddings"]
    path.write_text(json.dumps(manifest))
    add_genre_cnn(repository, {"weights_sha256": OTHER})
    assert found(repository) == ([], [])


def test_forgetting_a_user_keeps_the_embedding_model(exported: Path, repository: Path) -> None:
    forget_user(models.user_id(3), repository, key=exported / "recommender.key")
    version = repository / "recommender" / "2"
    assert open_artifact(version).manifest["embedding_model"]["weights_sha256"] == HEARD
    assert json.loads((version / "model_card.json").read_text())["embedding_model"]["weights_sha256"] == HEARD


def test_versions_that_are_about_to_go_live_are_checked_together(
    exported: Path, repository: Path, tmp_path: Path
) -> None:
    add_genre_cnn(repository, {"weights_sha256": HEARD})
    add_genre_cnn(tmp_path / "next", {"weights_sha256": OTHER})
    genre_version = tmp_path / "next" / "genre_cnn" / "1"
    other = Path(shutil.copytree(repository / "recommender" / "1", tmp_path / "next" / "recommender" / "1"))
    models.spoil_manifest(other, embedding_model={"kind": "genre_cnn", "weights_sha256": OTHER})

    def n_findings(planned: dict[str, Path]) -> int:
        return len(check_embedding_models(repository, planned, planned).findings)

    assert n_findings({"genre_cnn": genre_version}) == 1
    assert n_findings({"recommender": other}) == 1
    assert n_findings({"genre_cnn": genre_version, "recommender": other}) == 0
    assert n_findings({"genre_cnn": repository / "genre_cnn" / "1"}) == 0


def test_a_rollback_to_a_network_that_embedded_other_items_is_refused(repository: Path) -> None:
    add_genre_cnn(repository, {"weights_sha256": OTHER})
    add_genre_cnn(repository, {"weights_sha256": HEARD}, version=2)
    nothing: Any = None  # refused before the server is asked
    with pytest.raises(RefusedVersionError) as caught:
        rollback("genre_cnn", Live(repository, nothing, nothing), version=1)
    assert caught.value.model == "genre_cnn"
    assert caught.value.reason.startswith("recommender does not belong to")
    assert sorted(path.name for path in (repository / "genre_cnn").iterdir() if path.name.isdigit()) == ["1", "2"]
