"""`tritone listen-test` with models in memory; tests/integration uses a real server."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.client.writers import FakeWriters

import tritone
from tritone import Grid, Piece


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeWriters:
    fake = FakeWriters()
    monkeypatch.setattr(tritone, "MusicClient", functools.partial(tritone.MusicClient, transport=fake, retries=0))
    monkeypatch.delenv("TRITONE_SERVER", raising=False)
    monkeypatch.delenv("TRITONE_API_KEY", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return fake


@pytest.fixture
def real(tmp_path: Path) -> Path:
    folder = tmp_path / "real" / "folk"
    folder.mkdir(parents=True)
    for number in range(12):
        frames = np.zeros((64, 88), np.uint8)
        for step in range(0, 64, 4):
            frames[step, 39 + (number + step) % 12] = 2
        Piece(Grid(frames, meter=(16, 0))).save(folder / f"{number}.mid")
    return folder.parent


@pytest.fixture
def run(run_tritone: Callable[..., Any], model: FakeWriters, real: Path) -> Callable[..., Any]:
    return lambda *words: run_tritone("listen-test", *words, "--data", real)


def test_a_table_for_each_length(run: Any) -> None:
    ended = run("music_transformer", "--bars", "4,2", "--seeds", 2)
    assert ended.status == 0, ended.stderr
    assert ended.stdout == ""
    assert "music_transformer v3: mean (real pieces)" in ended.stderr  # all lengths side by side
    assert ended.stderr.index("2 bars: 2 pieces of music_transformer v3") < ended.stderr.index("4 bars: 2 pieces")
    assert "key clarity" in ended.stderr
    assert ">= 0.82 MISSED" in ended.stderr  # the model strikes keys at random
    assert "targets met" in ended.stderr


def test_json_is_one_object_and_nothing_else(run: Any, tmp_path: Path) -> None:
    before = set(tmp_path.iterdir())
    ended = run("music_gan", "--seeds", 2, "--json")
    assert ended.status == 0, ended.stderr
    values = json.loads(ended.stdout)
    assert [each["n_bars"] for each in values["lengths"]] == [2]
    assert values["lengths"][0]["measures"]["pitch_range"]["generated"]["n"] == 2
    assert set(tmp_path.iterdir()) == before


def test_options_reach_the_model(run: Any, model: FakeWriters) -> None:
    given = ("--seed", 7, "--temperature", 0.5, "--top-k", 3, "--top-p", 0.25, "--style", "folk")
    ended = run("music_transformer", "--bars", 1, "--seeds", 1, *given, "--json")
    inputs = model.asked("music_transformer")[0].inputs
    found = [float(inputs[name].ravel()[0]) for name in ("temperature", "top_k", "top_p", "style")]
    assert found == [0.5, 3, 0.25, 2]
    values = json.loads(ended.stdout)
    assert (values["seed"], values["arguments"]["style"]) == (7, "folk")


def test_pieces_are_saved(run: Any, tmp_path: Path) -> None:
    assert run("music_transformer", "--bars", "1,2", "--seeds", 2, "--save", "out").status == 0
    names = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.mid")}
    assert names == {f"{bars}-bars/0000{seed}.mid" for bars in ("001", "002") for seed in (0, 1)}
    assert run("music_transformer", "--bars", 1, "--seeds", 1, "--save", "out").status == 2
    assert run("music_transformer", "--bars", 1, "--seeds", 1, "--save", "out", "--overwrite").status == 0


def test_files_instead_of_a_model(run: Any, real: Path, model: FakeWriters) -> None:
    (real / "damaged.mid").write_bytes(b"MThd")
    ended = run("--files", real, "--bars", 4)
    assert ended.status == 0, ended.stderr
    assert "4 bars: 12 pieces" in ended.stderr
    assert "not used: damaged.mid" in ended.stderr
    assert not model.requests


def test_the_report_has_plots_and_all_values(run: Any, tmp_path: Path) -> None:
    ended = run("music_transformer", "--bars", "1,2", "--seeds", 2, "--report", "new/folder")
    assert ended.status == 0, ended.stderr
    folder = tmp_path / "new/folder"
    assert {path.name for path in folder.iterdir()} == {"listening-test.json", "measures.png", "similarity.png"}
    assert all((folder / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in ("measures", "similarity"))
    assert [each["n_bars"] for each in json.loads((folder / "listening-test.json").read_text())["lengths"]] == [1, 2]
    assert "written: new/folder/measures.png" in ended.stderr
    assert run("music_transformer", "--bars", "1", "--seeds", 1, "--report", "new/folder").status == 2


def test_the_table_of_a_model_is_replaced(run: Any, model: FakeWriters, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    marks = "<!-- listen-test music_transformer: begin -->", "<!-- listen-test music_transformer: end -->"
    page.write_text(f"# é\n{marks[0]}\nold\n{marks[1]}\nrest\n", encoding="utf-8")
    for _ in range(2):
        assert run("music_transformer", "--bars", "1,2", "--seeds", 2, "--table", "page.md").status == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# é\n{marks[0]}\n|  | 1 bars | 2 bars | target |\n|---|---|---|---|\n| pieces without")
    assert text.endswith(f"`.\n{marks[1]}\nrest\n")
    assert ": missed**" in text
    assert "old" not in text
    n_requests = len(model.requests)
    assert run("polyphony_rnn", "--table", "page.md").status == 1  # no marks of this model
    assert len(model.requests) == n_requests


def test_harmonizations_are_compared_with_real_music(run: Any, model: FakeWriters, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("".join(f"<!-- listen-test music_transformer harmonize: {mark} -->\n" for mark in ("begin", "end")))
    words = ("music_transformer", "--task", "harmonize", "--seeds", 2, "--temperature", 0.5)
    ended = run(*words, "--save", "out", "--report", "report", "--table", "page.md")
    assert ended.status == 0, ended.stderr
    assert "harmonizations of held-out melodies" in ended.stderr
    assert "3.5 to 4.5" in ended.stderr
    assert "targets met" in ended.stderr
    assert [path.name for path in sorted((tmp_path / "out/folk").iterdir())] == ["000.mid", "001.mid"]
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["listening-test.json"]
    assert (
        "|  | folk | real folk | target |\n|---|---|---|---|\n| melody onsets with another voice |" in page.read_text()
    )
    assert set(model.asked("music_transformer")[0].inputs["temperature"].ravel()) == {0.5}


def test_candidates_of_harmonizations(run: Any, model: FakeWriters, tmp_path: Path) -> None:
    words = ("music_transformer", "--task", "harmonize", "--seeds", 1, "--candidates", "1,4")
    ended = run(*words, "--json", "--save", "out")
    assert ended.status == 0, ended.stderr
    assert [group["n_candidates"] for group in json.loads(ended.stdout)["groups"]] == [1, 4]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"folk-1-candidates", "folk-4-candidates"}


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ((), 2),
        (("music_transformer", "--files", "real"), 2),
        (("--files", "real", "--temperature", "0.5"), 2),
        (("--files", "real", "--save", "x"), 2),
        (("music_transformer", "--bars", "eight"), 2),
        (("music_transformer", "--bars", ""), 2),
        (("music_transformer", "--seeds", "0"), 2),
        (("music_transformer", "--task", "sing"), 2),
        (("music_transformer", "--candidates", "4"), 2),
        (("music_transformer", "--task", "harmonize", "--bars", "4"), 2),
        (("music_transformer", "--task", "harmonize", "--all-keys"), 2),
        (("--files", "real", "--task", "harmonize"), 2),
        (("music_transformer", "--task", "harmonize", "--candidates", "four"), 2),
        (("music_transformer", "--task", "harmonize", "--candidates", "17"), 1),
        (("music_transformer", "--task", "harmonize", "--seeds", "101"), 1),
        (("music_vae", "--task", "harmonize"), 1),
        (("music_transformer", "--bars", "0"), 1),
        (("music_transformer", "--bars", "257"), 1),
        (("music_vae", "--bars", "8"), 1),
        (("music_vae", "--all-keys"), 1),
        (("missing",), 1),
        (("--files", "nowhere"), 1),
        (("--files", "real", "--bars", "64"), 1),
    ],
)
def test_bad_input_ends_with_a_message(run: Any, words: tuple[str, ...], status: int) -> None:
    ended = run(*words)
    assert ended.status == status
    assert ended.stderr
    assert "Traceback" not in ended.stderr
