"""The listening test with models in memory; tests/integration uses a real server."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.client.writers import FakeWriters

from tritone import InvalidInputError, ModelNotFoundError, MusicClient, Piece
from tritone.music.grid import Grid
from tritone_training.data.scores.score_set import ScorePiece, ScoreSet
from tritone_training.exceptions import DataError
from tritone_training.listening_test import listening_test_of_files, listening_test_of_model, plot
from tritone_training.listening_test.estimates import estimate_mean
from tritone_training.listening_test.pieces import ListeningPiece, piece_of, requested_key
from tritone_training.listening_test.reference import Reference
from tritone_training.listening_test.result import Target, compare
from tritone_training.plots import saved_figure

SCALE = (60, 62, 64, 65, 67, 69, 71, 72)


def tune(n_bars: int, *, transposition: int = 0, first: int = 0) -> Grid:
    """Quarters up the scale of C, a long C at the end; bars of 4/4."""
    frames = np.zeros((16 * n_bars, 88), np.uint8)
    for step in range(0, 16 * (n_bars - 1), 4):
        column = SCALE[(first + step // 4) % 8] + transposition - 21
        frames[step + 1 : step + 4, column] = 1
        frames[step, column] = 2
    frames[-16, 60 + transposition - 21] = 2
    frames[-15:, 60 + transposition - 21] = 1
    return Grid(frames, meter=(16, 0))


def silent(n_bars: int) -> Grid:
    return Grid(np.zeros((16 * n_bars, 88), np.uint8), meter=(16, 0))


def save(grid: Grid, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return Piece(grid).save(path)


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """Twenty pieces of each of two styles."""
    folder = tmp_path / "real"
    for style, n_bars in (("folk", 8), ("bach", 16)):
        for number in range(20):
            save(tune(n_bars, transposition=number % 12, first=number), folder / style / f"{number:02d}.mid")
    return folder


@pytest.fixture
def server() -> FakeWriters:
    return FakeWriters()


@pytest.fixture
def music(server: FakeWriters) -> Iterator[MusicClient]:
    with MusicClient("x:1", transport=server, retries=0) as client:
        yield client


def run(music: MusicClient, model: str, real: Path, **options: Any) -> Any:
    return listening_test_of_model(music, model, data=real, progress=False, **{"n_seeds": 3, **options})


def test_one_piece_per_seed_and_length_compared_with_real_pieces(
    music: MusicClient, server: FakeWriters, real: Path
) -> None:
    seen = []
    result = run(
        music, "music_transformer", real, bars=(2, 4), on_piece=lambda n_bars, piece: seen.append((n_bars, piece.seed))
    )
    assert result.source == "music_transformer v3"
    assert [(each.n_bars, each.n_pieces) for each in result.lengths] == [(2, 3), (4, 3)]
    assert seen == [(2, 0), (2, 1), (2, 2), (4, 0), (4, 1), (4, 2)]
    short = result.lengths[0]
    assert short.measures["n_bars"].generated.mean == 2
    assert short.measures["note_density"].generated.mean == 4  # the model strikes a note at each step
    assert short.measures["scale_consistency"].real.mean == 1.0
    assert set(short.measures["key_clarity"].real_by_style) == {"bach", "folk"}
    assert short.measures["cadence"].real.mean == 1.0  # of the complete pieces, not of their first two bars
    assert len(short.self_similarity) == 1


def test_only_given_arguments_are_sent(music: MusicClient, server: FakeWriters, real: Path) -> None:
    run(music, "music_transformer", real, bars=(1,), n_seeds=1)
    assert server.asked("music_transformer")[-1].inputs["temperature"][0, 0] == 1.0  # the client's own default
    run(music, "music_transformer", real, bars=(1,), n_seeds=1, arguments={"temperature": 0.5, "style": "folk"})
    inputs = server.asked("music_transformer")[-1].inputs
    assert (inputs["temperature"][0, 0], inputs["style"][0, 0]) == (0.5, 2)


def test_a_style_is_compared_with_real_pieces_of_that_style(music: MusicClient, real: Path) -> None:
    result = run(music, "music_transformer", real, bars=(4,), arguments={"style": "folk"})
    each = result.lengths[0].measures["pitch_range"]
    assert set(each.real_by_style) == set(each.generated_by_style) == {"folk"}
    assert each.real_by_style["folk"] == each.real


def test_a_style_of_shorter_pieces_is_represented_by_complete_pieces(music: MusicClient, real: Path) -> None:
    result = run(music, "music_transformer", real, bars=(32,), n_seeds=1)
    n_bars = {style: each.mean for style, each in result.lengths[0].measures["n_bars"].real_by_style.items()}
    assert n_bars == {"folk": 8, "bach": 16}


@pytest.mark.parametrize("model", ["composer", "polyphony_rnn"])
def test_models_that_stream_or_sample_frames(music: MusicClient, real: Path, model: str) -> None:
    assert run(music, model, real, bars=(2,)).lengths[0].measures["n_bars"].generated.mean == 2


@pytest.mark.parametrize("model", ["music_gan", "music_vae"])
def test_models_of_two_bars(music: MusicClient, real: Path, model: str) -> None:
    result = run(music, model, real)
    assert [each.n_bars for each in result.lengths] == [2]
    assert result.lengths[0].measures["n_bars"].generated.mean == 2
    assert run(music, model, real, bars=(2,)).lengths[0].n_pieces == 3
    with pytest.raises(InvalidInputError) as caught:
        run(music, model, real, bars=(2, 8))
    assert caught.value.argument == "bars"


def test_each_key_is_requested_in_turn(music: MusicClient, server: FakeWriters, real: Path) -> None:
    result = run(music, "music_gan", real, all_keys=True, n_seeds=26)
    keys = [(request.inputs["key"].item(), request.inputs["mode"].item()) for request in server.asked("music_gan")]
    assert len(set(keys)) == 24
    kept = result.lengths[0].measures["requested_key_kept"]
    assert kept.generated.n == 26
    assert kept.real.n == 0
    with pytest.raises(InvalidInputError) as caught:
        run(music, "music_vae", real, all_keys=True)
    assert caught.value.argument == "condition"  # it has none


def test_invalid_arguments(music: MusicClient, server: FakeWriters, real: Path) -> None:
    for options, argument in (
        ({"n_seeds": 0}, "n_seeds"),
        ({"bars": ()}, "bars"),
        ({"bars": (0,)}, "bars"),
        ({"bars": (257,)}, "bars"),
    ):
        with pytest.raises(InvalidInputError) as caught:
            run(music, "music_transformer", real, **options)
        assert caught.value.argument == argument
    assert not server.requests


def test_bars_beyond_the_model_are_refused_before_anything_is_written(
    music: MusicClient, server: FakeWriters, real: Path
) -> None:
    server.parameters = {**server.parameters, "max_frames": "64"}
    with pytest.raises(InvalidInputError) as caught:
        run(music, "music_transformer", real, bars=(2, 8))
    assert caught.value.argument == "bars"
    assert not server.asked("music_transformer")


def test_models_that_cannot_write(music: MusicClient, server: FakeWriters, real: Path) -> None:
    server.models["genre_cnn"] = ({"audio": (-1, -1)}, {"embedding": (-1, 256)}, None)
    with pytest.raises(InvalidInputError) as caught:
        run(music, "genre_cnn", real)
    assert (caught.value.argument, caught.value.reason) == ("model", "unsuitable_model")
    with pytest.raises(ModelNotFoundError):
        run(music, "missing", real)


def test_empty_pieces_are_counted_and_measured(music: MusicClient, server: FakeWriters, real: Path) -> None:
    def hush(model: str, outputs: dict[str, Any]) -> None:
        outputs["frames"][:] = 0

    server.spoil = hush
    measures = run(music, "music_transformer", real, bars=(4,)).lengths[0].measures
    assert (measures["empty"].generated.mean, measures["empty"].is_met) == (1.0, False)
    assert measures["silent_bars"].generated.mean == 1.0
    assert measures["cadence"].generated.mean == 0.0
    assert measures["note_length_distance"].generated.n == measures["key_clarity"].generated.n == 0
    assert measures["key_clarity"].is_met is None


def test_the_result_is_plain_json(music: MusicClient, real: Path) -> None:
    result = run(music, "music_transformer", real, bars=(2,), n_seeds=2)
    values = json.loads(json.dumps(result.to_dict()))
    assert values["n_missed"] == result.n_missed > 0
    clarity = values["lengths"][0]["measures"]["key_clarity"]
    assert clarity["generated"]["n"] == 2
    assert clarity["target"]["is_met"] in (True, False)


# --- files --------------------------------------------------------------------------------------


def test_files_count_for_the_lengths_that_they_have(tmp_path: Path, real: Path) -> None:
    folder = tmp_path / "mine"
    save(tune(8), folder / "folk" / "a.mid")
    save(tune(15, transposition=2), folder / "folk" / "b.mid")  # one bar less than 16 counts
    save(silent(4), folder / "empty.mid")
    result = listening_test_of_files(folder, data=real, progress=False)
    assert {each.n_bars: each.n_pieces for each in result.lengths} == {8: 3, 16: 2}
    measures = result.lengths[0].measures
    assert measures["empty"].generated.mean == pytest.approx(1 / 3)
    assert measures["cadence"].generated_by_style["folk"].mean == 1.0
    assert result.lengths[1].measures["n_bars"].generated_by_style["folk"].mean == 15


def test_a_folder_of_nothing_but_silence(tmp_path: Path, real: Path) -> None:
    save(silent(4), tmp_path / "mine" / "empty.mid")
    result = listening_test_of_files(tmp_path / "mine", bars=(8,), data=real, progress=False)
    assert result.lengths[0].measures["empty"].generated.mean == 1.0


def test_real_files_meet_the_targets(real: Path) -> None:
    result = listening_test_of_files(real, bars=(8,), data=real, progress=False)
    assert result.n_missed == 0


def test_unreadable_files_are_reported(tmp_path: Path, real: Path) -> None:
    folder = tmp_path / "mine"
    save(tune(8), folder / "a.mid")
    (folder / "b.mid").write_bytes(b"MThd damaged")
    (folder / "c.mid").write_bytes(b"")
    (folder / "notes.txt").write_text("not music")
    result = listening_test_of_files(folder, bars=(8,), data=real, progress=False)
    assert result.details["n_files"] == 1
    assert [problem["path"] for problem in result.details["problems"]] == ["b.mid", "c.mid"]


def test_folders_that_cannot_be_measured(tmp_path: Path, real: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    short = tmp_path / "short"
    save(tune(2), short / "a.mid")
    for folder, bars in ((tmp_path / "none", (8,)), (empty, (8,)), (short, (8,)), (short, None)):
        with pytest.raises(DataError):
            listening_test_of_files(folder, bars=bars, data=real, progress=False)


# --- plots --------------------------------------------------------------------------------------


def points(axis: Any) -> list[list[float]]:
    """The y values of the drawn lines that are data, not caps of intervals."""
    return [list(map(float, line.get_ydata())) for line in axis.lines if line.get_marker() in ("o", ".")]


@pytest.fixture
def panels(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The drawn axes by title."""
    drawn: dict[str, Any] = {}

    @contextmanager
    def spy(*args: Any, **kwargs: Any) -> Iterator[Any]:
        with saved_figure(*args, **kwargs) as axes:
            yield axes
            drawn.update({axis.get_title(): axis for row in axes for axis in row})

    monkeypatch.setattr(plot, "saved_figure", spy)
    return drawn


def test_the_plots_show_the_values_of_the_result(tmp_path: Path, real: Path, panels: dict[str, Any]) -> None:
    result = listening_test_of_files(real, bars=(2, 4), data=real, progress=False)
    for draw in (plot.draw_measures, plot.draw_self_similarity):
        path = Path(draw(tmp_path / f"{draw.__name__}.png", result))
        assert path.read_bytes().startswith(b"\x89PNG")
    clarity = [each.measures["key_clarity"] for each in result.lengths]
    assert points(panels["key clarity (correlation)"]) == [
        pytest.approx([each.real.mean for each in clarity]),
        pytest.approx([each.generated.mean for each in clarity]),
    ]
    assert points(panels["4 bars"])[1] == pytest.approx(result.lengths[1].self_similarity)


def test_measures_that_no_piece_has_are_left_out_of_the_plots(
    tmp_path: Path, real: Path, panels: dict[str, Any]
) -> None:
    save(silent(2), tmp_path / "mine" / "a.mid")
    result = listening_test_of_files(tmp_path / "mine", bars=(2,), data=real, progress=False)
    plot.draw_measures(tmp_path / "a.png", result)
    plot.draw_self_similarity(tmp_path / "b.png", result)
    assert points(panels["key clarity (correlation)"])[1] == []
    assert points(panels["bars without an onset"])[1] == [1.0]


# --- parts --------------------------------------------------------------------------------------


def test_intervals() -> None:
    each = estimate_mean([0.0, 1.0] * 50)
    assert (each.mean, each.n) == (0.5, 100)
    assert (each.low, each.high) == pytest.approx((0.4, 0.6), abs=0.02)  # 1.96 * 0.05
    assert estimate_mean([0.0, 1.0] * 50) == each
    assert estimate_mean([math.nan, 2.0]) == estimate_mean([2.0])
    assert (estimate_mean([2.0]).low, estimate_mean([2.0]).high) == (2.0, 2.0)
    assert math.isnan(estimate_mean([math.nan]).mean)
    assert estimate_mean([]).n == 0


def test_targets() -> None:
    assert Target(least=0.94).is_met(0.94, math.nan)
    assert Target(most=0.03).is_met(0.04, 0.0) is False
    assert Target(least=0.5, most=2.0, of_real=True).is_met(0.2, 0.1)
    assert Target(least=0.5, most=2.0, of_real=True).is_met(0.21, 0.1) is False
    assert Target(least=0.5, most=2.0, of_real=True).is_met(0.2, math.nan) is None
    assert Target(least=0.5).is_met(math.nan, 1.0) is None


def test_note_lengths_are_compared_as_distributions() -> None:
    real = np.zeros(32)
    real[3] = real[7] = 0.5  # half quarters, half half notes
    quarters = Grid(np.repeat([[2], [1], [1], [1]] * 4, 88, axis=1), meter=(16, 0))
    piece = ListeningPiece("a", quarters, quarters)
    each = compare(1, [piece], [piece], {None: real}).measures["note_length_distance"]
    assert each.generated.mean == pytest.approx(0.5)


def test_the_range_is_relative_to_the_median_of_the_own_style() -> None:
    def piece(grid: Grid, style: str | None) -> ListeningPiece:
        return ListeningPiece("x", grid, grid, style)

    wide, narrow = tune(4), tune(2)  # 12 and 5 semitones
    real = [piece(wide, "wide"), piece(narrow, "narrow")]
    lengths = np.full(32, 1 / 32)
    assert compare(4, [piece(narrow, "wide")], real, {None: lengths}).measures["range_ratio"].generated.mean == 5 / 12
    assert compare(4, [piece(narrow, "narrow")], real, {None: lengths}).measures["range_ratio"].generated.mean == 1.0
    assert compare(4, [piece(narrow, None)], real, {None: lengths}).measures["range_ratio"].generated.mean == 5 / 8.5


def test_requested_values_come_from_the_call_or_else_from_the_piece() -> None:
    piece = Piece(tune(4), seed=7, conditions={"style": "folk", "key": "A", "mode": "minor"})
    assert (piece_of(piece, {}).style, piece_of(piece, {}).requested_key) == ("folk", (9, 1))
    requested = piece_of(piece, {"style": "bach", "key": "C", "mode": "major"})
    assert (requested.style, requested.requested_key) == ("bach", (0, 0))
    assert requested.values["requested_key_kept"] == 1.0
    assert requested.values["requested_key_notes"] == 1.0
    plain = piece_of(Piece(tune(4), seed=7), {})
    assert (plain.style, plain.requested_key) == (None, None)
    assert "requested_key_kept" not in plain.values


def test_forms_of_keys() -> None:
    assert requested_key("Bb", "minor") == requested_key("A#", "minor") == requested_key(10, "minor") == (10, 1)
    assert requested_key(None, "minor") is None
    assert requested_key("C", None) is None


def test_at_most_100_held_out_pieces_of_each_style() -> None:
    def pieces(style: str, split: str, n: int) -> list[ScorePiece]:
        return [ScorePiece(f"{style}/{split}/{number}", tune(4).frames, split, style, (16, 0)) for number in range(n)]

    scores = ScoreSet("x", (*pieces("a", "train", 5), *pieces("a", "valid", 60), *pieces("a", "test", 61),
                            *pieces("b", "test", 3)), has_onsets=True, frames_per_quarter=4)  # fmt: skip
    real = Reference(scores).first_bars(4)
    assert len([piece for piece in real if piece.style == "a"]) == 100
    assert len([piece for piece in real if piece.style == "b"]) == 3
    assert {piece.name.split("/")[1] for piece in real} == {"valid", "test"}


def test_a_data_set_without_held_out_pieces_is_used_as_it_is() -> None:
    scores = ScoreSet(
        "x", (ScorePiece("a", tune(4).frames, "train", "a", (16, 0)),), has_onsets=True, frames_per_quarter=0
    )
    reference = Reference(scores)
    assert [piece.name for piece in reference.first_bars(4)] == ["a"]
    assert reference.note_lengths(4)[None].sum() == pytest.approx(1.0)
