"""The code of the README, the tutorials, the guides and the examples runs, against a real server of tiny models."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pytest
import typer
from nbclient import NotebookClient
from sybil import Document, Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser
from tests.support import music_models, recommender_models
from tests.support.cache import copy_cached

from tritone_cli import main
from tritone_export import export_kind
from tritone_serving import ServerOptions, TritonServer
from tritone_training import ListeningFiles, train
from tritone_training.registry import get_kind

# The first test trains and exports a model of every kind, unless they are cached.
pytestmark = [pytest.mark.triton, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
# Their code runs; the commands of all pages are parsed.
RUN = (
    "README.md",
    "docs/getting-started.md",
    *(f"docs/tutorials/{name}.md" for name in ("index", "classify", "compose", "recommend", "train", "deploy")),
    *(
        f"docs/how-to/{name}.md"
        for name in ("batch", "connections", "events", "playlists", "recordings", "scores", "search", "serve", "train")
    ),
)
PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]
# These need a server of their own or take long; their own tests run them.
PARSED_ONLY = {"serve", "probe", "publish", "rollback", "forget", "bench", "optimize", "demo", "crossvalidate", "tune"}


@dataclass(frozen=True)
class Served:
    data: Path
    repository: Path
    server: TritonServer


def build(folder: Path) -> None:
    """Write the example data, and train and export the models that depend on it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))  # export writes the key of users' pseudonyms there
        patch.setattr(sys, "argv", ["example_data.py", str(folder / "data")])
        runpy.run_path(str(EXAMPLES / "example_data.py"), run_name="__main__")
        listening = ListeningFiles(metadata=folder / "data/songs.csv")
        for name, given in {
            "genre_cnn": {"data": folder / "data/music", "max_epochs": 1},
            "recommender": {"interactions": folder / "data/plays.csv", "listening": listening},
        }.items():
            train(name, out=folder / name, preset="tiny", progress=False, **given)  # type: ignore[arg-type]
            kind = get_kind(name)
            export_kind(kind.export(folder / name), kind, repository=folder / "models")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The example data, and a server with a tiny model of every kind."""
    folder = tmp_path_factory.mktemp("documents")
    made_from = (EXAMPLES / "example_data.py").read_text()
    copy_cached("documents", build, folder, sources=music_models.EXPORT, key=made_from)
    repository = folder / "models"
    for name in ("music_gan", "polyphony_rnn", "music_vae", "music_transformer"):  # other tests begin with the last
        shutil.copytree(music_models.served(name).repository, repository, dirs_exist_ok=True)
    options = ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        with TritonServer.start(options) as server:
            yield Served(folder / "data", repository, server)


@pytest.fixture
def workplace(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as a reader has it: with the example data and a server at the default address."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRITONE_SERVER", served.server.grpc_url.removeprefix("grpc://"))
    (tmp_path / "model_repository").symlink_to(served.repository)
    shutil.copytree(served.repository / "genre_cnn", tmp_path / "genre_repository/genre_cnn")
    shutil.copytree(served.data, tmp_path / "data")
    shutil.copy(served.data / "song.wav", tmp_path)
    log = (served.data / "plays.csv").read_text()
    (tmp_path / "plays.csv").write_text(log.replace("user,item,plays", "listener,song,plays"))
    shutil.copytree(served.data / "music", tmp_path / "my_music")
    shutil.copytree(served.data / "midi", tmp_path / "my_midi")
    shutil.copy(recommender_models.sequences(), tmp_path / "sequences.txt")
    (tmp_path / "next.txt").write_text("user-0 piece/60\nuser-1 piece/7\n")
    return tmp_path


def commands(source: str) -> list[list[str]]:
    """Return the `tritone` commands of a shell block as lists of words."""
    lines = source.replace("\\\n", " ").splitlines()
    words = [shlex.split(re.sub(r"^\.venv/bin/", "", line), comments=True) for line in lines]
    return [each for each in words if each and each[0] == "tritone"]


def run_command(words: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        expanded = [path for word in words for path in (sorted(map(str, Path().glob(word))) if "*" in word else [word])]
        patch.setattr(sys, "argv", expanded)
        with pytest.raises(SystemExit) as ended:
            main.main()
    assert not ended.value.code, shlex.join(words)


def parse(page: str, python: Any, shell: Any) -> Document:
    parsers = [CodeBlockParser("python", python), CodeBlockParser("sh", shell)]
    return Sybil(parsers=parsers, path=str(ROOT), pattern="*.md").parse(ROOT / page)


@pytest.mark.parametrize("page", RUN)
def test_code_blocks_run(page: str, served: Served, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    addresses = {
        "http://localhost:8000": served.server.http_url,
        "localhost:8001": served.server.grpc_url.removeprefix("grpc://"),
        "localhost:9001": "127.0.0.1:9",  # a replica that is down
    }

    def at_server(source: str) -> str:
        for documented, real in addresses.items():
            source = source.replace(documented, real)
        return source

    def python(example: Example) -> None:
        text = type(example.parsed)(at_server(example.parsed), example.parsed.offset, example.parsed.line_offset)
        example.region.parsed = text
        example.parsed = text
        PythonEvaluator()(example)

    def shell(example: Example) -> None:
        for words in commands(at_server(example.parsed)):
            if words[1] not in PARSED_ONLY:
                run_command(words)

    examples = list(parse(page, python, shell).examples())
    for example in examples:
        example.evaluate()
    assert examples


@pytest.mark.parametrize("page", PAGES)
def test_commands_parse(page: str) -> None:
    group: Any = typer.main.get_command(main.build_app())

    def shell(example: Example) -> None:
        for _, verb, *arguments in commands(example.parsed):
            command = group.get_command(None, verb)
            assert command, verb
            command.make_context(verb, arguments)

    for example in parse(page, lambda _: None, shell).examples():
        example.evaluate()


ARGUMENTS = {
    "example_data.py": "more_data",
    "batch_to_parquet.py": "data/music results --server SERVER",
    "classify_folder.py": "data/music labels.csv --server SERVER",
    "compose_and_stream.py": "--bars 2 --server SERVER",
    "recommend_from_csv.py": "data/plays.csv --metadata data/songs.csv --history reel-1 --preset tiny",
    "train_export_publish.py": "data/music --repository models --preset tiny",
    "testing_without_a_server.py": "",
    "train_and_predict.py": "",
    "async_client.py": "song.wav --n 4 --server SERVER",
    "deploy/two_replicas.py": "genre_repository song.wav --seconds 0.5",
}
SCRIPTS = sorted(str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*.py"))


@pytest.mark.parametrize("script", [name for name in SCRIPTS if not name.startswith("demo/")])
def test_examples_run(script: str, served: Served, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ARGUMENTS[script].replace("SERVER", served.server.grpc_url).split()
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")


@pytest.mark.parametrize("name", sorted(path.name for path in (EXAMPLES / "notebooks").glob("*.ipynb")))
def test_notebooks_run(name: str, workplace: Path) -> None:
    notebook = nbformat.read(EXAMPLES / "notebooks" / name, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "commit notebooks without outputs"
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(workplace)}}).execute()
