"""Starter weights: where they are found, what may become one, and what the repository holds."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.small_corpus import copy_small_corpus
from tests.support.starter_stand_in import write_stand_ins

from tritone_training import checkpoint, starter_packing, starter_weights
from tritone_training.corpus import KNOWN_COLLECTIONS, parse_selection, store
from tritone_training.exceptions import CheckpointError
from tritone_training.kind import TrainRequest
from tritone_training.registry import get_kind
from tritone_training.starter_packing import PackedWeights, main, pack, require_shareable
from tritone_training.starter_weights import (
    MAX_TOTAL_BYTES,
    VARIABLE,
    starter_checkpoint,
    starter_kinds,
    weights_folder,
)

KIND = "music_vae"
WEIGHTS = Path(__file__).resolve().parents[3] / "weights"
COMMITTED = sorted(path.parent.name for path in WEIGHTS.glob("*/checkpoint.json"))
ALLOWED = {"source": "corpus:bach,ryans,oneills", "styles": {"bach": 1, "ryans": 2}}


def test_starter_weights_are_found_in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert weights_folder() == WEIGHTS
    assert list(starter_kinds()) == COMMITTED


def test_a_variable_names_another_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert starter_kinds() == ()
    with pytest.raises(CheckpointError, match=r"no starter weights of music_vae in .*expected one of none; train"):
        starter_checkpoint(KIND)
    for name in ("music_vae", "composer"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "checkpoint.json").write_text("{}")
    assert starter_kinds() == ("composer", "music_vae")
    assert starter_checkpoint(KIND) == tmp_path / KIND
    with pytest.raises(CheckpointError, match="expected one of composer, music_vae"):
        starter_checkpoint("music_gan")


def test_half_precision_is_read_as_single(tmp_path: Path) -> None:
    weights = {"a": torch.tensor([0.1, -3.0]), "n": torch.tensor([7])}
    halved = {"a": weights["a"].half(), "n": weights["n"]}
    checkpoint.save(tmp_path, kind=KIND, info={"weights_dtype": "float16"}, weights=halved)
    loaded = checkpoint.load(tmp_path, kind=KIND).weights
    assert loaded["a"].dtype == torch.float32
    assert torch.equal(loaded["n"], weights["n"])
    torch.testing.assert_close(loaded["a"], weights["a"], rtol=1e-3, atol=0)
    checkpoint.save(tmp_path, kind=KIND, info={}, weights=halved)
    assert checkpoint.load(tmp_path, kind=KIND).weights["a"].dtype == torch.float16


@pytest.mark.parametrize(
    "data",
    [
        None,
        {},
        {"source": "embedded corpus (800 pieces)", "styles": {"bach": 1}},
        {"source": "/home/me/scores", "styles": {"bach": 1}},
        {"source": "corpus:bach,palestrina", "styles": {"bach": 1}},
        {"source": "corpus:bach", "styles": {"bach": 1, "essen": 1}},
    ],
)
def test_weights_of_other_data_are_refused(data: dict[str, Any] | None) -> None:
    with pytest.raises(CheckpointError, match="--data corpus:public-domain"):
        require_shareable(Path("run"), {"data": data})


def test_weights_that_started_from_other_data_are_refused(tmp_path: Path) -> None:
    require_shareable(Path("run"), {"data": ALLOWED})
    info = {"data": ALLOWED, "warm_start": {"checkpoint": str(tmp_path)}}
    with pytest.raises(CheckpointError, match="expected a checkpoint folder"):  # its data are unknown
        require_shareable(Path("run"), info)
    (tmp_path / "checkpoint.json").write_text(json.dumps({"data": ALLOWED}))
    require_shareable(Path("run"), info)
    (tmp_path / "checkpoint.json").write_text(json.dumps({"data": {**ALLOWED, "source": "corpus:essen"}}))
    with pytest.raises(CheckpointError, match="got corpus:essen"):
        require_shareable(Path("run"), info)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tiny checkpoint that was trained on what starter weights are trained on, as far as it goes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITONE_CACHE", str(tmp_path_factory.mktemp("cache")))
        folder = copy_small_corpus(tmp_path_factory.mktemp("music21"), n_files=24)
        patch.setattr(store, "find_music21_corpus", lambda: folder)
        out = tmp_path_factory.mktemp("runs") / "starter"
        data = Path("corpus:public-domain")
        get_kind(KIND).train(TrainRequest(out=out, data=data, preset="tiny", progress=False, command="tritone train x"))
        yield out


@pytest.fixture
def packed(trained: Path, tmp_path: Path) -> PackedWeights:
    return pack(trained, tmp_path / "weights" / KIND, progress=False)


@pytest.mark.slow
def test_a_checkpoint_is_stored_in_half_precision_with_its_card(trained: Path, packed: PackedWeights) -> None:
    before, after = (checkpoint.load(folder, kind=KIND) for folder in (trained, packed.folder))
    for name, tensor in before.weights.items():
        assert after.weights[name].dtype == tensor.dtype
        torch.testing.assert_close(after.weights[name], tensor, rtol=1e-3, atol=1e-6)
    sizes = [next(folder.glob("weights-*.pt")).stat().st_size for folder in (trained, packed.folder)]
    assert sizes[1] < 0.75 * sizes[0]  # of a tiny network, the names of its tensors are a good part
    info = after.info
    for name in ("command", "seed", "preset", "config", "data", "metrics", "created_utc", "versions"):
        assert info[name] == before.info[name]
    assert "asked" not in info
    assert info["licence"].startswith("Apache-2.0")
    assert info["half_precision"]["metric"] == "reconstruction_accuracy"
    assert info["half_precision"]["loss"] == pytest.approx(packed.float32 - packed.float16)
    card = (packed.folder / "README.md").read_text(encoding="utf-8")
    for text in (info["data"]["fingerprint"], "Apache-2.0", "tritone train x", "corpus:bach,ryans,oneills", "float16"):
        assert text in card
    assert {path.name for path in packed.folder.parent.iterdir()} == {KIND}


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("tritone train x --out /home/me/runs", "tritone train x"),
        ("tritone train x --out='/home/my runs' --resume --set a=1", "tritone train x --set a=1"),
        ("tritone train x --warm-start /home/me/runs --seed 1", "tritone train x --warm-start DIR --seed 1"),
        ("tritone train x --out", "tritone train x"),
        ("", ""),
    ],
)
def test_cards_have_no_folders_of_a_machine(command: str, expected: str) -> None:
    assert starter_packing.training_history({"command": command}) == {"command": expected}


def test_the_card_names_all_trainings(tmp_path: Path) -> None:
    infos = [{"command": f"tritone train x --set n={n} --out {tmp_path}/{n}", "n_epochs": 2 + n} for n in range(3)]
    for n, info in enumerate(infos):
        if n:
            info["warm_start"] = {"checkpoint": str(tmp_path / str(n - 1)), "n_loaded": 7}
        (tmp_path / str(n)).mkdir()
        (tmp_path / str(n) / checkpoint.INFO).write_text(json.dumps(info))
    history = starter_packing.training_history(infos[2])
    assert str(tmp_path) not in json.dumps(history)
    assert starter_packing.earlier_commands(history) == (
        "\n## Trained before as\n\n1. `tritone train x --set n=0` (2 epochs)\n"
        "1. `tritone train x --set n=1` (3 epochs)\n"
    )


@pytest.mark.slow
def test_packing_again_gives_the_same_files(trained: Path, packed: PackedWeights) -> None:
    before = {path.name: path.read_bytes() for path in packed.folder.iterdir()}
    pack(trained, packed.folder, progress=False)
    assert {path.name: path.read_bytes() for path in packed.folder.iterdir()} == before


@pytest.mark.slow
def test_a_loss_beyond_the_limit_is_refused_and_changes_nothing(
    trained: Path, packed: PackedWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(packed.folder.iterdir())
    measured = iter((0.9, 0.5))
    monkeypatch.setattr(starter_packing, "_measure", lambda *_, **__: next(measured))
    with pytest.raises(CheckpointError, match=r"reduces reconstruction_accuracy by 0\.4: expected at most 0\.002"):
        pack(trained, packed.folder, progress=False)
    assert sorted(packed.folder.iterdir()) == before


@pytest.mark.slow
def test_too_many_bytes_are_refused(trained: Path, packed: PackedWeights, monkeypatch: pytest.MonkeyPatch) -> None:
    other = packed.folder.parent / "other"
    monkeypatch.setattr(starter_packing, "MAX_TOTAL_BYTES", int(1.5 * packed.n_bytes))
    pack(trained, packed.folder, progress=False)  # its own earlier files do not count
    with pytest.raises(CheckpointError, match=r"together would have 0\.\d MB"):
        pack(trained, other, progress=False)
    assert not other.exists()


@pytest.mark.slow
def test_values_beyond_half_precision_are_refused(trained: Path, tmp_path: Path) -> None:
    copied = tmp_path / "run"
    shutil.copytree(trained, copied)
    loaded = checkpoint.load(copied, kind=KIND)
    name = next(name for name, each in loaded.weights.items() if each.is_floating_point())
    weights = {**loaded.weights, name: torch.full_like(loaded.weights[name], 1e5)}
    info = {key: value for key, value in loaded.info.items() if key not in ("weights", "weights_sha256")}
    checkpoint.save(copied, kind=KIND, info=info, weights=weights)
    with pytest.raises(CheckpointError, match=rf"{name} has values beyond"):
        pack(copied, tmp_path / "weights" / KIND, progress=False)


@pytest.mark.slow
def test_the_command_prints_json_or_the_error(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "weights" / KIND
    assert main(["--checkpoint", str(trained), "--out", str(out)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["folder"] == str(out)
    assert answer["loss"] == pytest.approx(answer["float32"] - answer["float16"])
    assert main(["--checkpoint", str(tmp_path / "none"), "--out", str(out)]) == 1
    assert "expected a checkpoint folder" in capsys.readouterr().err


@pytest.mark.slow
def test_damaged_starter_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(write_stand_ins(tmp_path, [KIND])))
    folder = starter_checkpoint(KIND)
    get_kind(KIND).export(folder)
    (weights,) = folder.glob("weights-*.pt")
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"not the file that checkpoint\.json names"):
        get_kind(KIND).export(folder)


# --- what the repository holds ---------------------------------------------------------------------------------


def test_all_starter_weights_together_stay_small() -> None:
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()) <= MAX_TOTAL_BYTES


def test_an_installed_package_has_the_weights_in_its_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wheel = tomllib.loads((WEIGHTS.parent / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert "weights" in wheel["only-include"]
    package, _, folder = wheel["sources"]["weights"].partition("/")
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(starter_weights, "__file__", str(tmp_path / package / "starter_weights.py"))
    (tmp_path / package / folder).mkdir(parents=True)
    assert weights_folder() == tmp_path / package / folder


@pytest.mark.parametrize("name", COMMITTED)
def test_committed_weights_are_whole_and_may_be_shared(name: str) -> None:
    loaded = checkpoint.load(WEIGHTS / name, kind=name)
    require_shareable(WEIGHTS / name, loaded.info)
    selection = parse_selection(loaded.info["data"]["source"])
    assert selection is not None
    for pieces in loaded.info.get("splits", {}).values():
        assert {piece.partition("/")[0] for piece in pieces} <= set(selection.collections)
    assert loaded.info["licence"] == starter_packing.LICENCE
    assert loaded.info["half_precision"]["loss"] <= starter_packing.MAX_LOSS
    assert loaded.info["data"]["fingerprint"] in (WEIGHTS / name / "README.md").read_text(encoding="utf-8")


def test_the_documented_licences_are_those_of_the_code() -> None:
    text = (WEIGHTS / "LICENSES.md").read_text(encoding="utf-8")
    documented = {
        name: shared == "yes" for name, shared in re.findall(r"^\| `(\w+)` \|[^|]*\| (yes|no) \|", text, re.M)
    }
    assert documented == {name: each.may_share_weights for name, each in KNOWN_COLLECTIONS.items()}
