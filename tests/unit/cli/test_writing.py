"""The composing commands with models in memory; tests/integration uses a real server."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import symusic
from tests.unit.client.writers import FakeWriters

import tritone
from tritone import to_grid

VERBS: dict[str, tuple[str, ...]] = {
    "compose": (),
    "harmonize": ("{tune}",),
    "infill": ("{tune}", "--bars", "1:2"),
    "reconstruct": ("{tune}",),
    "interpolate": ("{tune}", "{tune}", "--steps", "3"),
    "vary": ("{tune}", "--attribute", "pitch_range", "--amount", "1.5"),
    "sample": ("-n", "3"),
}
SEVERAL = {"interpolate", "sample"}


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeWriters:
    fake = FakeWriters()
    patched = functools.partial(tritone.MusicClient, transport=fake, retries=0)
    monkeypatch.setattr(tritone, "MusicClient", patched)
    monkeypatch.delenv("TRITONE_SERVER", raising=False)
    monkeypatch.delenv("TRITONE_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    return fake


@pytest.fixture
def tune(tmp_path: Path) -> Path:
    score = symusic.Score(480)
    score.tracks.append(symusic.Track("", 0, False))
    for beat in range(16):
        score.tracks[0].notes.append(symusic.Note(480 * beat, 480, 60 + beat % 5, 80))
    path = tmp_path / "tune [1].mid"
    score.dump_midi(path)
    return path


@pytest.fixture
def run(run_tritone: Callable[..., Any], model: FakeWriters, tune: Path) -> Callable[..., Any]:
    def invoke(verb: str, *more: object) -> Any:
        return run_tritone(verb, *(word.format(tune=tune) for word in VERBS.get(verb, ())), *more)

    return invoke


@pytest.mark.parametrize("verb", VERBS)
def test_files_of_every_kind(run: Any, tmp_path: Path, verb: str) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    ended = run(verb, "--out", folder / "a.mid", "-o", folder / "b.wav", "-o", folder / "c.png", "--seed", 7)
    assert ended.status == 0, ended.stderr
    assert ended.stdout == ""
    numbers = ("-1", "-2", "-3") if verb in SEVERAL else ("",)
    names = {
        f"{stem}{number}{suffix}"
        for number in numbers
        for stem, suffix in (("a", ".mid"), ("b", ".wav"), ("c", ".png"))
    }
    assert {path.name for path in folder.iterdir()} == names
    for number in numbers:
        assert to_grid(folder / f"a{number}.mid").n_notes
        assert (folder / f"b{number}.wav").read_bytes()[:4] == b"RIFF"
        assert (folder / f"c{number}.png").read_bytes().startswith(b"\x89PNG")
        assert f"a{number}.mid" in ended.stderr
    assert "seed 7: " in ended.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_default_file_names_have_command_and_seed(run: Any, tmp_path: Path, verb: str) -> None:
    assert run(verb, "--seed", 7).status == 0
    names = {path.name for path in tmp_path.glob(f"{verb}-*")}
    if verb == "sample":
        assert len(names) == 3
        assert "sample-7-1.mid" in names
    else:
        assert names == {f"{verb}-7{number}.mid" for number in (("-1", "-2", "-3") if verb in SEVERAL else ("",))}


@pytest.mark.parametrize("verb", VERBS)
def test_json_is_one_object_and_nothing_else(run: Any, tmp_path: Path, verb: str) -> None:
    before = set(tmp_path.iterdir())
    ended = run(verb, "--json", "--seed", 7)
    assert ended.status == 0, ended.stderr
    answer = json.loads(ended.stdout)
    pieces = answer["pieces"] if verb in SEVERAL else [answer]
    assert pieces[0]["seed"] == 7
    assert all(piece["notes"] and piece["files"] == [] for piece in pieces)
    assert set(tmp_path.iterdir()) == before
    answer = json.loads(run(verb, "--json", "-o", "x.mid").stdout)
    files = [file for piece in answer.get("pieces", [answer]) for file in piece["files"]]
    assert all((tmp_path / file).is_file() for file in files)
    assert len(files) == (3 if verb in SEVERAL else 1)


def test_options_reach_the_model(run: Any, model: FakeWriters, tune: Path) -> None:
    choice = ("--temperature", 0.5, "--top-k", 3, "--top-p", 0.25, "--seed", 1)
    assert run("compose", tune, "--bars", 2, "--style", "folk", "--meter", "3/4", "--tempo", 80, *choice).status == 0
    inputs = model.asked("music_transformer")[0].inputs
    found = [float(inputs[name].ravel()[0]) for name in ("temperature", "top_k", "top_p", "style", "meter")]
    assert found == [0.5, 3, 0.25, 2, 12]
    assert inputs["given"].shape[1] == 64 + 8 + 24
    assert run("sample", "--key", "F#", "--mode", "minor", "--density", 3, "--truncation", 0.5, *choice).status == 0
    inputs = model.asked("music_gan")[0].inputs
    found = [float(inputs[name][0, 0]) for name in ("key", "mode", "density", "truncation", "top_k")]
    assert found == [6, 1, 3, 0.5, 3]
    assert run("sample", "--model", "music_vae", "--pitch-range", -2).status == 0
    assert model.asked("music_vae_decoder")[0].inputs["attributes"].tolist() == 3 * [[0, -2, 0]]
    assert run("compose", "--model", "polyphony_rnn").status == 0
    assert model.asked("polyphony_rnn_sampler")


CONDITIONS = ("--key", "F#", "--mode", "minor", "--density", "high", "--voices", 2, "--structure", "AABA")


@pytest.mark.parametrize("more", [(), ("--stream",)])
def test_conditions_reach_the_model(run: Any, model: FakeWriters, more: tuple[str, ...]) -> None:
    for ending, end in (("--ending", 64), ("--no-ending", 0)):
        ended = run("compose", "--bars", 4, *CONDITIONS, ending, "--json", *more)
        assert ended.status == 0, ended.stderr
        inputs = model.asked("composer" if more else "music_transformer")[-1].inputs
        assert [int(inputs[name][0, 0]) for name in ("key", "density", "n_voices", "end")] == [19, 3, 2, end]
        assert inputs["repeats"][0, ::16].tolist() == [-1, 16, -1, 32]
        assert json.loads(ended.stdout)["conditions"] == {
            "style": None, "key": "F#", "mode": "minor", "density": "high", "voices": 2, "ending": bool(end),
        }  # fmt: skip


def test_conditions_are_printed(run: Any, model: FakeWriters) -> None:
    printed = run("compose", "--bars", 4, "--style", "folk", *CONDITIONS).stderr
    assert "  folk, F# minor, high density, 2 voices, with an ending\n" in printed
    assert "  1 voice\n" in run("compose", "--voices", 1, "--no-ending").stderr
    assert "with an ending" not in run("compose").stderr  # nothing is known of the piece
    assert "voice" not in run("sample").stderr


def test_options_reach_the_constructor_of_the_client(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    client = tritone.MusicClient

    def spy(*args: Any, **kwargs: Any) -> Any:
        seen.append((args, kwargs))
        return client(*args, **kwargs)

    monkeypatch.setattr(tritone, "MusicClient", spy)
    key = tmp_path / "key"
    key.write_text("s3cret\n")
    assert run("compose", "--server", "x:9", "--timeout", 5, "--api-key-file", key).status == 0
    files = dict.fromkeys(("ca_file", "client_cert_file", "client_key_file"))
    assert seen == [(("x:9",), {"timeout_s": 5, "api_key": "s3cret", **files})]
    assert run("compose", "--api-key-file", tmp_path / "none").status == 2


def test_streaming_writes_the_same_piece(run: Any, model: FakeWriters, tmp_path: Path) -> None:
    assert run("compose", "--seed", 3, "-o", "plain.mid").status == 0
    ended = run("compose", "--seed", 3, "-o", "streamed.mid", "--stream")
    assert ended.status == 0, ended.stderr
    assert "composer v3, seed 3: 8 bars" in ended.stderr
    assert (tmp_path / "plain.mid").read_bytes() == (tmp_path / "streamed.mid").read_bytes()
    assert json.loads(run("compose", "--stream", "--json").stdout)["model"] == "composer"


def test_ctrl_c_keeps_the_bars_that_have_arrived(run: Any, model: FakeWriters, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = model.stream

    def interrupted(request: Any, *, timeout_s: float) -> Any:
        for n, response in enumerate(stream(request, timeout_s=timeout_s)):
            if n == 3:
                raise KeyboardInterrupt
            yield response

    monkeypatch.setattr(model, "stream", interrupted)
    ended = run("compose", "--stream", "--seed", 3)
    assert ended.status == 0
    assert "stopped" in ended.stderr
    assert "seed 3: 2 bars" in ended.stderr


def test_left_out_notes_are_reported(run: Any, tune: Path) -> None:
    score = symusic.Score.from_file(tune)
    drums = symusic.Track("", 0, True)
    drums.notes.append(symusic.Note(0, 480, 38, 80))
    score.tracks.append(drums)
    score.dump_midi(tune)
    assert "left out: 1 drums" in run("compose", tune).stderr
    assert json.loads(run("compose", tune, "--json").stdout)["dropped"] == {"drums": 1}


def test_a_silent_piece_has_no_sound(run: Any, model: FakeWriters, tmp_path: Path) -> None:
    def hush(name: str, outputs: Any) -> None:
        if len(model.asked("music_gan")):
            outputs["voices"][0] = 0

    model.spoil = hush
    ended = run("sample", "-o", "x.wav", "-o", "x.mid", "--json")
    assert ended.status == 0
    assert "x-1.wav: not written, the piece has no notes" in ended.stderr
    assert [piece["files"] for piece in json.loads(ended.stdout)["pieces"]] == [
        ["x-1.mid"],
        ["x-2.wav", "x-2.mid"],
        ["x-3.wav", "x-3.mid"],
    ]


# --- predict ------------------------------------------------------------------------------------


def test_predict(run: Any, tune: Path, tmp_path: Path) -> None:
    ended = run("predict", tune, "--out", "x.png")
    assert ended.status == 0, ended.stderr
    assert ended.stdout == ""
    assert "1.000 nats per step over 64 steps; polyphony_rnn v3" in ended.stderr
    assert f"surprise over time  {60 * '█'}" in ended.stderr
    assert "likely next: C4 50%" in ended.stderr
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    answer = json.loads(run("predict", tune, "--json").stdout)
    assert (answer["nll_per_frame"], answer["n_frames"], len(answer["nll"])) == (1, 64, 64)
    assert "likely next" not in run("predict", tune, "--model", "music_transformer").stderr
    assert run("predict", tune, "--out", "x.mid").status == 2


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["compose", "--out", "x.mp3"],
        ["compose", "--out", "none/x.mid"],
        ["compose", "--seed", "-1"],
        ["compose", "--seed", str(2**63)],
        ["compose", "--bars", "many"],
        ["compose", "--meter", "3"],
        ["compose", "--voices", "many"],
        ["harmonize"],
        ["infill", "{tune}"],
        ["infill", "{tune}", "--bars", "2"],
        ["infill", "{tune}", "--bars", "a:b"],
        ["vary", "{tune}"],
        ["interpolate", "{tune}"],
        ["sample", "--api-key-file", "/nowhere"],
    ],
)
def test_usage_errors_exit_2(run_tritone: Any, model: FakeWriters, tune: Path, words: list[str]) -> None:
    ended = run_tritone(*(word.format(tune=tune) for word in words))
    assert ended.status == 2
    assert ended.stdout == ""
    assert not model.requests


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compose", "none.mid"], "none.mid: does not exist"),
        (["compose", "bad.mid"], "bad.mid: "),
        (["compose", "--bars", "0"], "invalid bars: expected a whole number from 1 to 256"),
        (["compose", "--bars", "100000"], "invalid bars: expected a whole number from 1 to 256"),
        (["compose", "--temperature", "nan"], "invalid temperature: expected "),
        (["compose", "--temperature", "-1"], "invalid temperature: expected "),
        (["compose", "--top-p", "0"], "invalid top_p: expected "),
        (["compose", "--top-k", "0"], "invalid top_k: expected "),
        (["compose", "--meter", "3/5"], "invalid meter: expected "),
        (["compose", "--style", "jazz"], "unknown style for model 'music_transformer'"),
        (["compose", "--key", "H"], "unknown key: expected a note such as 'C'"),
        (["compose", "--mode", "dorian"], "unknown mode: expected 'major' or 'minor'"),
        (["compose", "--density", "3"], "unknown density: expected 'low', 'medium', 'high'"),
        (["compose", "--voices", "7"], "invalid voices: expected 1 to 6"),
        (["compose", "--structure", "aaba"], "invalid structure: expected a capital letter for each phrase"),
        (["compose", "--bars", "6", "--structure", "AABA"], "the structure does not fit: expected a number of bars"),
        (["compose", "--stream", "--bars", "257"], "invalid bars: expected a whole number from 1 to 256"),
        (["compose", "--model", "opera"], "no such model"),
        (["harmonize", "chords.mid"], "2 notes at once in bar 0"),
        (["infill", "{tune}", "--bars", "3:9"], "0 <= start < end <= 4"),
        (["interpolate", "{tune}", "none.mid"], "none.mid: does not exist"),
        (
            ["vary", "{tune}", "--attribute", "taste", "--amount", "1"],
            "unknown attribute: expected one of note_density",
        ),
        (["vary", "{tune}", "--attribute", "note_density", "--amount", "inf"], "amount of note_density"),
        (["sample", "--key", "H"], "unknown key: "),
        (["sample", "-n", "0"], "invalid n: expected a whole number from 1 to 1000, got 0"),
        (["sample", "--model", "music_vae", "--key", "C"], "condition"),
        (["predict", "none.mid"], "none.mid: does not exist"),
        (["predict", "{tune}", "--model", "music_vae"], "cannot do this"),
    ],
)
def test_errors_are_one_message_and_exit_1(
    run_tritone: Any, model: FakeWriters, tune: Path, words: list[str], message: str
) -> None:
    tmp_path = tune.parent
    (tmp_path / "bad.mid").write_bytes(tune.read_bytes()[:-30])
    score = symusic.Score.from_file(tune)
    score.tracks[0].notes.append(symusic.Note(0, 480, 72, 80))
    score.dump_midi(tmp_path / "chords.mid")
    for more in ([], ["--json"]):
        ended = run_tritone(*(word.format(tune=tune) for word in words), *more)
        assert ended.status == 1
        assert ended.stdout == ""
        assert ended.stderr.startswith("error: ")
        assert message in ended.stderr
        assert len(ended.stderr.strip().splitlines()) == 1
    assert not any(model.asked(name) for name in model.models)


def test_the_seed_is_printed_even_if_writing_fails(run: Any, tmp_path: Path) -> None:
    (tmp_path / "x.mid").mkdir()
    ended = run("compose", "-o", "x.mid")
    assert ended.status == 1
    assert "seed " in ended.stderr
    assert "x.mid: expected a file name" in ended.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_instruments_are_chosen(run: Any, verb: str, tmp_path: Path) -> None:
    ended = run(verb, "--instruments", "violin, 42", "--json", "-o", "x.mid")
    assert ended.status == 0, ended.stderr
    found = json.loads(ended.stdout)
    first = found["pieces"][0] if verb in SEVERAL else found
    assert first["instruments"] == ["Violin", "Cello"]
    names = {track.name for track in symusic.Score.from_file(next(tmp_path.glob("x*.mid"))).tracks}
    assert names <= {"Violin", "Cello"}
    wrong = run(verb, "--instruments", "kazoo")
    assert (wrong.status, "unknown instrument" in wrong.stderr) == (1, True)


def test_the_highest_voice_on_request(run: Any, model: FakeWriters, tune: Path) -> None:
    score = symusic.Score.from_file(tune)
    score.tracks[0].notes.append(symusic.Note(0, 480, 72, 80))
    score.dump_midi(tune)
    assert run("harmonize", "--highest").status == 0
    assert run("harmonize", "--highest", "--candidates", "4").status == 0
    assert len(model.asked("music_transformer")[-1].inputs["noise"]) == 4
    assert run("harmonize", "--highest", "--candidates", "17").status != 0
