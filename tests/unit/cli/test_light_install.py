"""The command line after `pip install tritone` without extras: errors name the missing extra."""

from __future__ import annotations

import subprocess
import sys

import pytest

# An import hook stands in for an environment without the extras: building one takes minutes.
WITHOUT = """
import sys
missing = {"torch", "lightning", "sklearn", "onnx", "onnxruntime", "onnxscript", "music21", "symusic", "matplotlib"}
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
sys.argv = ["tritone", *sys.argv[1:]]
from tritone_cli.main import main
main()
"""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, *words], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (["train", "genre_cnn"], "train"),
        (["evaluate", "genre_cnn", "--checkpoint", "runs/x"], "train"),
        (["crossvalidate", "genre_cnn"], "train"),
        (["tune", "genre_cnn"], "train"),
        (["export", "genre_cnn"], "train"),
        (["pretrained", "--fetch", "musicnn"], "train"),
    ],
)
def test_a_missing_extra_is_named(words: list[str], extra: str) -> None:
    done = run(*words)
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"pip install 'tritone[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_help_and_client_commands_need_no_extra(tmp_path: object) -> None:
    assert run("--help").returncode == 0
    done = run("classify", "nothing.wav", "--server", "localhost:1")
    assert done.returncode == 1
    assert "nothing.wav" in done.stderr
    assert "Traceback" not in done.stderr
    done = run("compose", "nothing.mid", "--server", "localhost:1")
    assert done.returncode == 1
    assert "no connection" in done.stderr
    assert "Traceback" not in done.stderr
    for words in (["recommend", "--user", "42"], ["similar", "a song"]):
        done = run(*words, "--server", "localhost:1")
        assert done.returncode == 1
        assert "no connection" in done.stderr
        assert "Traceback" not in done.stderr
