"""A recommender and the `genre_cnn` that its items were heard by: lint and the verbs tell when they are parted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.support import recommender_artifacts as models

from tritone_export import check_hearing, check_repository, forget_user
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
    """A repository with a recommender that was heard by a network with the weights HEARD; and its key."""
    path = tmp_path_factory.mktemp("heard")
    artifact = models.make_artifact(path / "artifact", path / "recommender.key", n_users=8, n_items=30)
    models.spoil_manifest(artifact, embedding_model={"kind": "genre_cnn", "weights_sha256": HEARD})
    models.publish(artifact, None, path / "repository", ensembles=False)
    return path


@pytest.fixture
def repository(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported / "repository", tmp_path / "repository"))


def add_listener(repository: Path, card: dict[str, Any] | None, version: int = 1) -> None:
    """A version of `genre_cnn`, as far as this goes."""
    folder = repository / "genre_cnn" / str(version)
    folder.mkdir(parents=True)
    if card is not None:
        (folder / "model_card.json").write_text(json.dumps({"kind": "genre_cnn", "version": version, **card}))


def found(repository: Path, *changed: str) -> tuple[list[str], list[str]]:
    """Findings and notes; of the whole lint, the same, for which others of its findings are left out."""
    report = check_hearing(repository, changed or ("genre_cnn",))
    whole = check_repository(repository)
    if not changed:
        assert set(report.findings) <= set(whole.findings)
        assert set(report.notes) <= set(whole.notes)
        assert bool(report.findings) == any("answers to recordings" in str(each) for each in whole.findings)
    return [f"{each.severity}: {each.message} ({each.remedy})" for each in report.findings], list(report.notes)


def test_the_network_that_heard_the_items_belongs(repository: Path) -> None:
    add_listener(repository, {"weights_sha256": OTHER})
    add_listener(repository, {"weights_sha256": HEARD, "files": {"model.fp16.onnx": {}}}, version=2)
    assert found(repository) == ([], [])


def test_the_card_says_who_heard_the_items(repository: Path) -> None:
    card = json.loads((repository / "recommender" / "1" / "model_card.json").read_text())
    assert card["embedding_model"] == {"kind": "genre_cnn", "weights_sha256": HEARD}


def test_another_network_is_an_error_with_both_ways_out(repository: Path) -> None:
    add_listener(repository, {"weights_sha256": HEARD})
    add_listener(repository, {"weights_sha256": OTHER, "pretrained": "musicnn"}, version=2)
    (finding,), notes = found(repository)
    assert notes == []
    assert finding == (
        f"error: recommender does not belong to {repository}/genre_cnn/2 (weights-cdcdcdcdcdcd.pt): its items were "
        f"heard by another genre_cnn (weights-abababababab.pt), so its answers to recordings have no sense (train "
        f"recommender again, its --genre-checkpoint the one with weights-cdcdcdcdcdcd.pt, or serve the one with "
        f"weights-abababababab.pt: tritone export genre_cnn --checkpoint ...)"
    )
    assert found(repository, "recommender", "taste_vae") == ([finding], [])
    assert found(repository, "polyphony_rnn") == ([], [])


def test_a_backbone_as_it_is_heard_nobodys_items(repository: Path) -> None:
    add_listener(repository, {"pretrained": "musicnn"})
    (finding,), _ = found(repository)
    assert "the backbone musicnn, untrained" in finding
    assert "again" not in finding  # there is no checkpoint to hear with
    assert "serve the one with weights-abababababab.pt" in finding


@pytest.mark.parametrize("card", [None, {}, {"weights_sha256": 3}, {"weights_sha256": "\x1b[2J"}])
def test_a_listener_that_does_not_say_its_weights_is_a_note(repository: Path, card: dict[str, Any] | None) -> None:
    add_listener(repository, card)
    findings, (note,) = found(repository)
    assert findings == []
    assert "genre_cnn/1/model_card.json does not say of which weights it was made (an older export)" in note


@pytest.mark.parametrize("embedding_model", [None, "genre_cnn", {"kind": "genre_cnn"}])
def test_a_recommender_that_does_not_say_who_heard_is_a_note(repository: Path, embedding_model: Any) -> None:
    add_listener(repository, {"weights_sha256": OTHER})
    models.spoil_manifest(repository / "recommender" / "1", embedding_model=embedding_model)
    findings, (note,) = found(repository)
    assert findings == []
    assert "recommender.json does not say which genre_cnn heard its items (an older export)" in note


def test_no_listener_is_a_note(repository: Path) -> None:
    findings, (note,) = found(repository)
    assert findings == []
    assert "needs genre_cnn beside it, that of weights-abababababab.pt" in note


def test_who_listens_alone_needs_nobody(repository: Path) -> None:
    path = repository / "recommender" / "1" / "recommender.json"
    manifest = json.loads(path.read_text())
    del manifest["arrays"]["items.embeddings"]
    path.write_text(json.dumps(manifest))
    add_listener(repository, {"weights_sha256": OTHER})
    assert found(repository) == ([], [])


def test_a_version_without_a_user_still_says_it(exported: Path, repository: Path) -> None:
    forget_user(models.user_id(3), repository, key=exported / "recommender.key")
    version = repository / "recommender" / "2"
    assert open_artifact(version).manifest["embedding_model"]["weights_sha256"] == HEARD
    assert json.loads((version / "model_card.json").read_text())["embedding_model"]["weights_sha256"] == HEARD


def test_versions_that_are_about_to_go_live_are_checked_together(
    exported: Path, repository: Path, tmp_path: Path
) -> None:
    add_listener(repository, {"weights_sha256": HEARD})
    add_listener(tmp_path / "next", {"weights_sha256": OTHER})
    listener = tmp_path / "next" / "genre_cnn" / "1"
    other = Path(shutil.copytree(repository / "recommender" / "1", tmp_path / "next" / "recommender" / "1"))
    models.spoil_manifest(other, embedding_model={"kind": "genre_cnn", "weights_sha256": OTHER})

    def n_findings(planned: dict[str, Path]) -> int:
        return len(check_hearing(repository, planned, planned).findings)

    assert n_findings({"genre_cnn": listener}) == 1
    assert n_findings({"recommender": other}) == 1
    assert n_findings({"genre_cnn": listener, "recommender": other}) == 0
    assert n_findings({"genre_cnn": repository / "genre_cnn" / "1"}) == 0


def test_going_back_to_a_network_that_embedded_other_items_is_refused(repository: Path) -> None:
    add_listener(repository, {"weights_sha256": OTHER})
    add_listener(repository, {"weights_sha256": HEARD}, version=2)
    nothing: Any = None  # refused before the server is asked
    with pytest.raises(
        RefusedVersionError, match=r"what was live stays live: recommender does not .*or add --force"
    ) as e:
        rollback("genre_cnn", Live(repository, nothing, nothing), version=1)
    assert e.value.model == "genre_cnn"
    assert sorted(path.name for path in (repository / "genre_cnn").iterdir() if path.name.isdigit()) == ["1", "2"]
