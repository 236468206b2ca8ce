from __future__ import annotations

import gzip
import os
import unicodedata
from pathlib import Path

import pytest
from tests.unit.training import sounds

from tritone.constants import EMOTIONS
from tritone_training import DataError
from tritone_training.data.loading import load_recordings
from tritone_training.data.recordings import RecordingSet


def reasons(recordings: RecordingSet) -> dict[str, str]:
    return {problem.name: problem.reason for problem in recordings.problems}


def add_up(recordings: RecordingSet) -> None:
    report = recordings.report()
    assert report["n_in"] == report["n_used"] + len(report["problems"])
    assert report["n_used"] == sum(report["labels"].values()) == len(recordings.recordings)


# --- a folder per label -------------------------------------------------------------------------------------


def test_a_folder_per_label_nested_as_it_likes(tmp_path: Path) -> None:
    for name in ("rock/a.wav", "rock/album/disc 1/b.FLAC", "hip hop/c.ogg", "hip hop/Ünïcode ♪.mp3"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not read yet")
    recordings = load_recordings(tmp_path)
    assert {r.name: r.label for r in recordings.recordings} == {
        "hip hop/c.ogg": "hip hop",
        "hip hop/Ünïcode ♪.mp3": "hip hop",
        "rock/a.wav": "rock",
        "rock/album/disc 1/b.FLAC": "rock",
    }
    assert recordings.labels == ("hip hop", "rock")
    assert not recordings.has_emotions
    add_up(recordings)


def test_nothing_in_the_folder_is_dropped_silently(tmp_path: Path) -> None:
    for name in (
        "rock/a.wav",
        "rock/cover.jpg",
        "rock/noname",
        "lost.wav",
        "README.txt",
        "rock/.DS_Store",
        ".git/x.wav",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    recordings = load_recordings(tmp_path)
    assert [r.name for r in recordings.recordings] == ["rock/a.wav"]
    assert reasons(recordings) == {
        "rock/cover.jpg": "not_audio",
        "rock/noname": "not_audio",
        "lost.wav": "no_label",  # a recording beside the folders has no label
        "README.txt": "not_audio",
    }  # and what systems hide is nobody's recording
    add_up(recordings)


def test_a_link_to_a_folder_above_ends(tmp_path: Path) -> None:
    (tmp_path / "rock").mkdir()
    (tmp_path / "rock" / "a.wav").touch()
    (tmp_path / "rock" / "again").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "pop").symlink_to(tmp_path / "rock", target_is_directory=True)
    assert [r.name for r in load_recordings(tmp_path).recordings] == ["pop/a.wav", "rock/a.wav"]


def test_names_that_are_not_utf8_are_used_and_shown(tmp_path: Path) -> None:
    folder = tmp_path / "rock"
    folder.mkdir()
    try:
        path = os.fsencode(folder) + b"/Bj\xf6rk.wav"
        with open(path, "wb"):  # noqa: PTH123 - a path of bytes
            pass
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (recording,) = load_recordings(tmp_path).recordings
    assert recording.name == r"rock/Bj\xf6rk.wav"
    recording.name.encode()
    assert recording.path is not None
    assert recording.path.exists()


def test_a_label_that_no_label_file_can_hold(tmp_path: Path) -> None:
    for folder in ("two\nlines", "rock"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.wav").touch()
    recordings = load_recordings(tmp_path)
    assert recordings.labels == ("rock",)
    assert set(reasons(recordings).values()) == {"bad_label"}


@pytest.mark.parametrize("content", [[], ["rock/"], ["rock/cover.jpg"], ["song.wav"]])
def test_a_folder_without_recordings_is_an_error_with_the_expected_layout(tmp_path: Path, content: list[str]) -> None:
    for name in content:
        if name.endswith("/"):
            (tmp_path / name).mkdir()
        else:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"holds no recordings; expected .*<label>/<file>\.wav"):
        load_recordings(tmp_path)


def test_a_path_that_is_not_there() -> None:
    with pytest.raises(DataError, match=r"nowhere: no such file or folder; expected a manifest CSV"):
        load_recordings(Path("/nowhere"))


# --- a manifest ---------------------------------------------------------------------------------------------


def emotions(value: object = 0.5) -> dict[str, object]:
    return {f"emotion_{name}": value for name in EMOTIONS}


def test_a_manifest_with_everything(tmp_path: Path) -> None:
    rows = [
        {"path": "a, b.wav", "label": " rock ", "fold": "0", "artist": "AC/DC", "title": "x", **emotions(0.25)},
        {"path": "sub/c.wav", "label": "pop", "fold": "1.0", "artist": "", "title": "", **emotions("")},
        {"path": str(tmp_path / "far.wav"), "label": "pop", "fold": "2", "artist": "P", "title": "", **emotions(1)},
    ]
    # A byte-order mark, as spreadsheets write it, must not become part of the first column's name.
    manifest = sounds.write_manifest(tmp_path / "manifest.csv", rows, encoding="utf-8-sig")
    for path in (manifest, tmp_path):
        recordings = load_recordings(path)
        first, second, third = recordings.recordings
        assert (first.name, first.label, first.fold, first.artist) == ("a, b.wav", "rock", 0, "AC/DC")
        assert first.emotions == (0.25,) * 9
        assert first.path == tmp_path / "a, b.wav"
        assert (second.fold, second.artist, second.emotions) == (1, None, None)
        assert third.path == tmp_path / "far.wav"
        assert recordings.has_emotions
        assert recordings.report()["n_with_emotions"] == 2
        add_up(recordings)


def test_emotions_come_in_our_order_whatever_the_columns_order(tmp_path: Path) -> None:
    values = {f"emotion_{name}": index / 10 for index, name in enumerate(EMOTIONS)}
    shuffled = dict(sorted(values.items(), reverse=True))
    manifest = sounds.write_manifest(tmp_path / "m.csv", [{**shuffled, "label": "x", "path": "a.wav"}])
    assert load_recordings(manifest).recordings[0].emotions == tuple(index / 10 for index in range(9))


def test_rows_that_cannot_be_used_are_reported_with_their_line(tmp_path: Path) -> None:
    header = "path,label,fold," + ",".join(f"emotion_{name}" for name in EMOTIONS)
    nine = ",".join(["0.1"] * 9)
    lines = [
        header,
        f"good.wav,rock,0,{nine}",
        "",
        f",rock,0,{nine}",
        f"nolabel.wav,,0,{nine}",
        f"fold.wav,rock,one,{nine}",
        f"minus.wav,rock,-1,{nine}",
        f"square.wav,rock,²,{nine}",
        f"high.wav,rock,0,{','.join(['1.5'] * 9)}",
        f"nan.wav,rock,0,nan,{','.join(['0.1'] * 8)}",
        f"part.wav,rock,0,{','.join(['0.1'] * 8)}",
        f"./good.wav,rock,0,{nine}",
        f'"two\nlines.wav","ro\nck",0,{nine}',
        "short.wav,rock",
    ]
    (tmp_path / "m.csv").write_text("\n".join(lines), encoding="utf-8")
    recordings = load_recordings(tmp_path / "m.csv")
    assert [r.name for r in recordings.recordings] == ["good.wav", "short.wav"]
    assert recordings.recordings[1].emotions is None
    assert reasons(recordings) == {
        "line 4": "no_path",
        "nolabel.wav": "no_label",
        "fold.wav": "bad_fold",
        "minus.wav": "bad_fold",
        "square.wav": "bad_fold",
        "high.wav": "bad_emotion",
        "nan.wav": "bad_emotion",
        "part.wav": "bad_emotion",
        "./good.wav": "duplicate",
        "two\nlines.wav": "bad_label",
    }
    assert "m.csv line 5: nolabel.wav: the label is empty" in [p.message for p in recordings.problems]
    add_up(recordings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("file,genre\na.wav,rock\n", "has no column path and label; expected path,label"),
        ("path,label,label\na.wav,x,y\n", "has two columns called 'label'"),
        ("path,label\na.wav,rock,1999\n", "line 2: has 3 cells under 2 columns"),
        ("path,label\n", "no row can be used"),
        ("path,label\n,rock\n", "no row can be used; the first: m.csv line 2"),
        ("path,label,emotion_power\na.wav,rock,0.1\n", r"expected all nine or none; missing: emotion_amazement"),
        ('path,label\n"a.wav,rock\n', "is not a CSV table"),
    ],
)
def test_a_table_that_is_no_manifest(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "m.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load_recordings(tmp_path / "m.csv")


def test_an_unknown_emotion_is_named(tmp_path: Path) -> None:
    manifest = sounds.write_manifest(tmp_path / "m.csv", [{"path": "a", "label": "b", "emotion_joy": 1, **emotions()}])
    with pytest.raises(DataError, match="missing: none, unknown: emotion_joy"):
        load_recordings(manifest)


def test_a_manifest_that_is_not_utf8_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes("path,label\nBjörk.wav,rock\n".encode("latin-1"))
    with pytest.raises(DataError, match="not text in UTF-8"):
        load_recordings(tmp_path / "m.csv")


@pytest.mark.parametrize(
    "content",
    [
        "path,label\nrock/a.wav,rock\n".encode("utf-16"),
        b"path;label\r\nrock/a.wav;rock\r\n",
        b"sep=;\r\npath;label\r\nrock/a.wav;rock\r\n",
        b"path\tlabel\nrock/a.wav\trock\n",
        b'[{"path": "rock/a.wav", "label": "rock"}]',
        gzip.compress(b"path,label\nrock/a.wav,rock\n", mtime=0),
    ],
)
def test_a_manifest_may_be_any_table(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.csv").write_bytes(content)
    (recording,) = load_recordings(tmp_path / "m.csv").recordings
    assert (recording.name, recording.label, recording.path) == ("rock/a.wav", "rock", tmp_path / "rock" / "a.wav")


NFC, NFD = "J\u00f3ga", "Jo\u0301ga"


@pytest.mark.parametrize(("on_disk", "in_manifest"), [(NFD, NFC), (NFC, NFD), (NFD, NFD)])
def test_files_are_found_in_either_unicode_form(tmp_path: Path, on_disk: str, in_manifest: str) -> None:
    file = tmp_path / f"{NFC} {NFD}" / f"{on_disk}.wav"
    file.parent.mkdir()
    file.touch()
    rows = [{"path": f"{NFC} {NFC}/{in_manifest}.wav", "label": NFD}, {"path": "b.wav", "label": f"{NFC}\u00a0"}]
    recordings = load_recordings(sounds.write_manifest(tmp_path / "m.csv", rows))
    assert recordings.labels == (NFC,)
    assert recordings.recordings[0].path == file
    assert recordings.recordings[1].path == tmp_path / "b.wav"


def test_folders_in_either_unicode_form_are_one_label(tmp_path: Path) -> None:
    for name in (NFC, NFD):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.wav").touch()
    assert load_recordings(tmp_path).labels == (NFC,)


def test_a_folder_whose_name_is_no_text_is_named_in_text(tmp_path: Path) -> None:
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    (root / "rock").mkdir(parents=True)
    (root / "rock" / "a.wav").touch()
    load_recordings(root).source.encode()
    (root / "manifest.csv").write_text("path,label\nrock/a.wav,rock\n")
    load_recordings(root).source.encode()


# --- labels and paths in other forms ------------------------------------------------------------------------

NFC, NFD = "Bj\u00f6rk", "Bjo\u0308rk"


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_labels_that_are_probably_one_are_reported(tmp_path: Path) -> None:
    alike = ("Jazz", "jazz", "jazz ", "ja\u00adzz", "hip-hop", "Hip Hop", "hip_hop")
    for label in (*alike, "rock", "C", "C#", "R&B", "RnB"):
        touch(tmp_path / label / "a.wav")
    touch(tmp_path / "jazz" / "b.wav")
    report = load_recordings(tmp_path).report()
    assert report["similar_labels"] == [
        {"Hip Hop": 1, "hip-hop": 1, "hip_hop": 1},
        {"Jazz": 1, "jazz": 3, "jazz ": 1},
    ]
    assert (report["n_in"], report["n_used"]) == (13, 13)


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("hip\u00a0hop", "hip hop"),
        ("hip\u200bhop", "hiphop"),
        ("\ufeffhip hop", "hip hop"),
        ("hip hop\u00a0", "hip hop"),
    ],
)
def test_blanks_and_invisible_letters_in_a_manifests_labels(tmp_path: Path, label: str, expected: str) -> None:
    rows = [{"path": "a.wav", "label": "hip hop"}, {"path": "b.wav", "label": label}]
    recordings = load_recordings(sounds.write_manifest(tmp_path / "m.csv", rows))
    assert set(recordings.labels) == {"hip hop", expected}
    assert len(recordings.similar_labels) == (expected != "hip hop")
    add_up(recordings)


def test_both_unicode_forms_are_one_label(tmp_path: Path) -> None:
    for form in (NFC, NFD):
        touch(tmp_path / "folders" / form / "a.wav")
    assert load_recordings(tmp_path / "folders").labels == (NFC,)
    rows = [{"path": f"{i}.wav", "label": form} for i, form in enumerate((NFC, NFD))]
    assert load_recordings(sounds.write_manifest(tmp_path / "m.csv", rows)).labels == (NFC,)


@pytest.mark.parametrize("on_disk", [NFC, NFD], ids=["NFC", "NFD"])
@pytest.mark.parametrize("in_table", [NFC, NFD], ids=["NFC", "NFD"])
def test_a_manifest_finds_files_in_either_unicode_form(tmp_path: Path, on_disk: str, in_table: str) -> None:
    file = touch(tmp_path / "rock" / on_disk / f"{unicodedata.normalize('NFD', 'Jóga')}.wav")
    rows = [
        {"path": f"rock/{in_table}/{unicodedata.normalize('NFC', 'Jóga')}.wav", "label": "rock"},
        {"path": f"rock/{on_disk}/{file.name}", "label": "rock"},
    ]
    recordings = load_recordings(sounds.write_manifest(tmp_path / "m.csv", rows))
    (recording,) = recordings.recordings
    assert recording.path == file
    assert reasons(recordings) == {f"rock/{on_disk}/{file.name}": "duplicate"}


def test_windows_paths_in_a_manifest(tmp_path: Path) -> None:
    file = touch(tmp_path / "jazz" / NFC / "a.wav")
    odd = touch(tmp_path / "jazz" / "b\\c.wav")  # here a backslash may be part of a name
    rows = [
        {"path": f"jazz\\{NFD}\\a.wav", "label": "jazz"},
        {"path": "jazz/b\\c.wav", "label": "jazz"},
        {"path": "C:\\Music\\jazz\\d.wav", "label": "jazz"},
        {"path": "jazz\\gone.wav", "label": "jazz"},
    ]
    recordings = load_recordings(sounds.write_manifest(tmp_path / "m.csv", rows))
    assert [recording.path for recording in recordings.recordings] == [file, odd]
    assert reasons(recordings) == {"C:\\Music\\jazz\\d.wav": "missing", "jazz\\gone.wav": "missing"}
    assert all("is a Windows path" in problem.message for problem in recordings.problems)
    add_up(recordings)
