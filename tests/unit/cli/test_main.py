from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tritone import TritoneError
from tritone_cli import console, main

COMMANDS = [command.__name__.replace("_", "-") for panel in main.PANELS.values() for command in panel]


@pytest.fixture
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_command_has_help(run_tritone: Callable[..., Any], verb: str) -> None:
    ended = run_tritone(verb, "--help")
    assert ended.status == 0
    assert f"tritone {verb}" in ended.stdout
    assert ended.stderr == ""


@pytest.mark.parametrize("chosen", [None, "active"])
def test_openmp_threads_do_not_spin_unless_the_caller_says_so(chosen: str | None) -> None:
    code = (
        "import os, sys; from tritone_cli import main; sys.argv = ['tritone', '--help']\n"
        "try: main.main()\n"
        "except SystemExit: print(os.environ['OMP_WAIT_POLICY'], file=sys.stderr)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {} if chosen is None else {"OMP_WAIT_POLICY": chosen}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert ended.stderr == f"{chosen or 'passive'}\n"


def test_help_lists_every_verb_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from tritone_cli import main; sys.argv = ['tritone', '--help']\n"
        "try: main.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'lightning', 'onnx', 'onnxruntime', 'pandas', 'sklearn', 'tritonclient'}\n"
        "heavy &= set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    assert all(f" {verb} " in ended.stdout for verb in COMMANDS)
    panels = [line.split()[1] for line in ended.stdout.splitlines() if line.startswith("╭─ ")]
    assert panels[-4:] == ["Use", "Train", "Deploy", "Measure"]


def test_help_names_environment_variables_and_kinds_in_narrow_terminals(
    run_tritone: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tritone_training.registry import kind_names

    monkeypatch.setenv("COLUMNS", "80")
    assert "TRITONE_SERVICE_KEY_FILE" in run_tritone("recommend", "--help").stdout
    assert "TRITONE_SERVER" in run_tritone("compose", "--help").stdout
    shown = run_tritone("train", "--help").stdout
    assert all(kind in shown for kind in kind_names())


@pytest.mark.parametrize(
    "arguments",
    [
        ["sing"],
        ["train"],
        ["train", "genre_cnn", "--seed", "-1"],
        ["train", "genre_cnn", "--seed", "4294967296"],
        ["train", "genre_cnn", "--max-epochs", "0"],
        ["train", "genre_cnn", "--set", "width=4;5"],
        ["train", "genre_cnn", "--set", "width"],
        ["evaluate", "genre_cnn"],
        ["evaluate", "genre_cnn", "--checkpoint", "x", "--fold", "1", "--split", "test"],
        ["tune", "genre_cnn", "--trials", "0"],
    ],
)
def test_usage_errors_exit_2(run_tritone: Callable[..., Any], arguments: list[str]) -> None:
    ended = run_tritone(*arguments)
    assert ended.status == 2
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "music_opera"], "no model kind 'music_opera'; there are: genre_cnn"),
        (["train", "genre_cnn", "--data", "/nowhere"], "/nowhere: no such file or folder"),
        (["train", "genre_cnn", "--preset", "huge"], "no preset 'huge'; there are: default, demo, tiny"),
        (["train", "genre_cnn", "--set", "widht=3"], "no hyper-parameter widht"),
        (["train", "genre_cnn", "--data", "/nowhere", "--pretrained", "vgg"], "/nowhere: no such file"),
        (
            ["evaluate", "genre_cnn", "--checkpoint", "/nowhere"],
            "/nowhere: holds no checkpoint; `tritone train genre_cnn",
        ),
        (["crossvalidate", "genre_cnn", "--data", "/nowhere"], "/nowhere: no such file or folder"),
        (["tune", "genre_cnn", "--data", "/nowhere"], "/nowhere: no such file or folder"),
        (["pretrained", "--fetch", "vgg"], "no pretrained backbone 'vgg'; there are: musicnn, musicnn-mtt"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_errors_are_one_message_and_exit_1(
    run_tritone: Callable[..., Any],
    arguments: list[str],
    message: str,
    as_json: bool,
    in_empty_folder: None,
) -> None:
    ended = run_tritone(*arguments, *(["--json"] if as_json else []))
    assert ended.status == 1
    assert ended.stdout == ""
    assert ended.stderr.startswith("error: ")
    assert message in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


def test_an_operating_system_error_is_one_message(run_tritone: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ended = run_tritone("tune", "genre_cnn", "--data", tmp_path, "--out", tmp_path / "file" / "study")
    assert ended.status == 1
    assert ended.stderr == f"error: {tmp_path / 'file' / 'study'}: Not a directory\n"


@pytest.mark.parametrize(
    "setting",
    [
        "",
        "=",
        "width",
        "=1",
        " =1",
        "width=",
        "width={[]: 1}",
        "width={{}}",
        "width=9**9",
        "width=" + 9_000 * "~" + "1",
    ],
)
def test_a_malformed_setting_is_a_usage_error(run_tritone: Callable[..., Any], setting: str) -> None:
    ended = run_tritone("train", "genre_cnn", "--print-config", "--set", setting)
    assert (ended.status, ended.stdout) == (2, "")
    assert "NAME=VALUE" in ended.stderr


def test_the_configuration_is_printed_as_json_too(run_tritone: Callable[..., Any]) -> None:
    import json

    ended = run_tritone("train", "genre_cnn", "--print-config", "--set", "width=8", "--json")
    assert json.loads(ended.stdout)["width"] == 8


@pytest.mark.parametrize("text", ["[bold]a[/]", "a\\[b]", ":cat: [/nothing]", "x" * 300])
def test_messages_are_printed_as_they_are(capfd: pytest.CaptureFixture[str], text: str) -> None:
    console.say(text)
    console.fail(text)
    console.print_rows(text, [{"a": text[:9]}])
    lines = capfd.readouterr().err.splitlines()
    assert lines[:2] == [text, f"error: {text}"]


def test_control_characters_of_messages_do_not_reach_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    for write in (console.say, console.warn, console.fail):
        write("a\x1b]0;title\x07\x00\x9b2J\rb\nc")
    shown = capfd.readouterr().err
    assert shown.count("a\\x1b]0;title\\x07\\x00\\x9b2J\\x0db\nc\n") == 3


def test_numbers_in_tables_keep_their_meaning(capfd: pytest.CaptureFixture[str]) -> None:
    console.print_rows("trials", [{"learning_rate": 0.00034, "accuracy": 0.91251, "none": None, "zero": 0.0, "n": 3}])
    shown = capfd.readouterr().err
    assert all(cell in shown for cell in ("0.00034", "0.913", "-", "0.000", "3"))


def test_nan_and_infinity_are_null_in_json(capfd: pytest.CaptureFixture[str]) -> None:
    import json

    import numpy as np

    console.print_json({"a": float("nan"), "b": [np.float32(0.5), np.array([1, 2])], "c": (float("inf"),)})
    assert json.loads(capfd.readouterr().out) == {"a": None, "b": [0.5, [1, 2]], "c": [None]}


def test_a_closed_pipe_is_not_an_error() -> None:
    code = "from tritone_cli import main; import sys; sys.argv = ['tritone', 'pretrained', '--json']; main.main()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
        process.wait(timeout=120)
    assert errors == ""


def test_all_errors_are_tritone_errors() -> None:
    from tritone_training import exceptions

    kinds = [e for e in vars(exceptions).values() if isinstance(e, type) and issubclass(e, Exception)]
    assert kinds
    assert all(issubclass(kind, TritoneError) for kind in kinds)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_file_names_that_are_not_utf8_are_escaped(encoding: str) -> None:
    import json
    import os

    code = "from tritone_cli import console; v = 'ü \\udcff ♪'; console.print_json({v: [v]}); console.print_line(v)"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        timeout=60,
        check=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    first, second = ended.stdout.decode(encoding).splitlines()
    assert json.loads(first) == {"ü \\udcff ♪": ["ü \\udcff ♪"]}
    assert "\\udcff" in second
