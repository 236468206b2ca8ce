"""The server option of all commands, and errors about ports without Triton."""

from __future__ import annotations

import contextlib
import itertools
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer
from tests.support.certificates import make_certificates
from tests.unit.client.test_forks import serving

from tritone_cli.connections import both_addresses, grpc_address, model_address
from tritone_cli.main import build_app
from tritone_serving.security import admin_token


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TRITONE_SERVER", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.mark.parametrize(
    ("server", "grpc", "http"),
    [
        ("localhost:8001", "localhost:8001", "http://localhost:8000"),
        ("localhost", "localhost:8001", "http://localhost:8000"),
        ("grpc://h:9001", "h:9001", "http://h:9000"),
        ("grpcs://h:9001", "grpcs://h:9001", "http://h:9000"),
        ("http://h:9000", "h:9001", "http://h:9000"),
        ("http://h", "h:8001", "http://h:8000"),
        ("http://h:9000,h:7777", "h:7777", "http://h:9000"),
        ("h:7777, http://h:9000", "h:7777", "http://h:9000"),
        ("[::1]:8001", "[::1]:8001", "http://[::1]:8000"),
    ],
)
def test_one_address_is_enough(server: str, grpc: str, http: str) -> None:
    found = both_addresses(server)
    assert (found.grpc, found.http) == (grpc, http)
    assert grpc_address(server).removeprefix("grpc://") in (grpc, server)


def test_a_derived_grpc_address_keeps_tls() -> None:
    assert both_addresses("http://h:9000", tls=True).grpc == "grpcs://h:9001"


@pytest.mark.parametrize(
    "server", ["a:1,b:2", "http://a:1,http://b:2", "https://h:1", "http://h:1/path", "h:1", "http://h:65535", "grpcs://h",
               "ftp://h", "", "a b"]
)  # fmt: skip
def test_several_servers_are_refused_by_commands_for_one(server: str) -> None:
    with pytest.raises(typer.BadParameter) as caught:
        both_addresses(server)
    assert "expected" in str(caught.value)


def test_all_commands_use_the_same_server_option() -> None:
    group = typer.main.get_command(build_app())
    found = {}
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        options = {option: each for each in command.params for option in each.opts}
        stray = {"--http-url", "--grpc-url", "--grpc-server", "--url"} & set(options)
        assert not stray, name
        if "--server" in options:
            found[name] = options["--server"].envvar
    assert set(found) >= {"bench", "probe", "publish", "rollback", "forget", "classify", "compose", "recommend"}
    assert set(found.values()) == {"TRITONE_SERVER"}


@contextlib.contextmanager
def web_page(port: int = 0) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"<html>\x1b[31mSECRET PAGE\x00\xff</html>" * 30
            self.send_response(404)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@contextlib.contextmanager
def raw(answer: bytes, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """Send bytes to each client that connects."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = listening.accept()[0]
                with contextlib.suppress(OSError), connection:
                    wrapped = context.wrap_socket(connection, server_side=True) if context else connection
                    wrapped.recv(4096)
                    wrapped.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    yield listening.getsockname()[1]
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()


@contextlib.contextmanager
def closed() -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield probe.getsockname()[1]


@contextlib.contextmanager
def tls(folder: Path) -> Iterator[int]:
    files = make_certificates(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.server_cert, files.server_key)
    with raw(b"", context) as port:
        yield port


@contextlib.contextmanager
def grpc_port() -> Iterator[int]:
    with serving("grpc") as url:
        yield int(url.rpartition(":")[2])


KINDS: dict[str, Callable[[Path], contextlib.AbstractContextManager[int]]] = {
    "web page": lambda _folder: web_page(),
    "gRPC": lambda _folder: grpc_port(),
    "bytes": lambda _folder: raw(b"\x00\x01\x1b[2JSECRET\xff\xfe" * 50),
    "closed": lambda _folder: closed(),
    "TLS": tls,
    "supervisor": lambda _folder: raw(
        b'HTTP/1.0 404 Not SearchResult\r\nContent-Length: 41\r\n\r\n{"error": "expected /metrics or /ready"}\r\n'
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", ["bench", "publish", "rollback", "forget", "recommend", "classify"])
def test_errors_explain_ports_without_triton(
    run_tritone: Callable[..., Any], tmp_path: Path, kind: str, command: str
) -> None:
    import numpy as np
    import soundfile

    song = tmp_path / "song.wav"
    soundfile.write(song, np.random.default_rng(0).uniform(-0.5, 0.5, 22_050), 22_050)
    with KINDS[kind](tmp_path) as port:
        (admin_token.make_state_folder(for_log=False, for_token=True) / f"{port}.token").write_text("token\n")
        more = {
            "bench": ["m"],
            "publish": ["m", "--from", tmp_path, "--repository", tmp_path],
            "rollback": ["m", "--repository", tmp_path],
            "forget": ["user", "--repository", tmp_path],
            "recommend": ["--user", "u", "--timeout", 10],
            "classify": [song, "--timeout", 10],
        }[command]
        done = run_tritone(command, *more, "--server", f"http://127.0.0.1:{port}")
    assert done.status == 1, done.stderr
    assert f"127.0.0.1:{port}" in done.stderr or "server answered" in done.stderr
    if command in ("bench", "publish", "rollback", "forget"):
        assert f"no Triton server at http://127.0.0.1:{port}" in done.stderr
    said = done.stdout + done.stderr
    assert "SECRET" not in said
    assert "html" not in said
    assert all(character.isprintable() or character == "\n" for character in said), repr(said)
    assert "\\x" not in said


def test_probe_names_a_port_that_does_not_speak_grpc(run_tritone: Callable[..., Any]) -> None:
    with web_page() as port:
        done = run_tritone("probe", "--server", f"127.0.0.1:{port}", "--timeout", 10)
    assert done.status == 1
    assert "does not speak gRPC" in done.stderr
    assert "SECRET" not in done.stderr


def test_publish_by_http_alone_never_asks_the_default_grpc_port(
    run_tritone: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from tritone_serving import admin, calls

    asked: list[str] = []

    class Stop(Exception):  # noqa: N818
        pass

    def calls_to(endpoint: Any) -> None:
        asked.append(endpoint.authority)
        raise Stop

    (admin_token.make_state_folder(for_log=False, for_token=True) / "9500.token").write_text("token\n")
    monkeypatch.setattr(admin.AdminApi, "index", lambda _self, **_options: [])
    monkeypatch.setattr(calls, "Calls", calls_to)
    for server in ("http://127.0.0.1:9500", "127.0.0.1:9501", "http://127.0.0.1:9500,127.0.0.1:9501"):
        with pytest.raises(Stop):
            run_tritone("rollback", "m", "--repository", tmp_path, "--server", server)
    assert asked == ["127.0.0.1:9501"] * 3


def test_a_derived_grpc_port_where_nothing_listens_is_explained(
    run_tritone: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from tritone_cli.bench import server_statistics
    from tritone_serving import admin

    with closed() as grpc_port:  # nothing listens here
        http_port = grpc_port - 1
        (admin_token.make_state_folder(for_log=False, for_token=True) / f"{http_port}.token").write_text("token\n")
        monkeypatch.setattr(admin.AdminApi, "index", lambda _self, **_options: [])
        monkeypatch.setattr(server_statistics, "statistics", lambda _url, _model: {"model_stats": []})
        for command in (["bench", "m"], ["publish", "m", "--from", tmp_path], ["rollback", "m"], ["probe"]):
            repository = [] if command[0] == "probe" else ["--repository", tmp_path]
            both = f"--server http://127.0.0.1:{http_port},127.0.0.1:PORT"
            derived = run_tritone(*command, *repository, "--server", f"http://127.0.0.1:{http_port}")
            assert (derived.status, both in derived.stderr) == (1, True), derived.stderr
            given = run_tritone(
                *command, *repository, "--server", f"http://127.0.0.1:{http_port},127.0.0.1:{grpc_port}"
            )
            assert (given.status, "PORT" in given.stderr) == (1, False), given.stderr
            for done in (derived, given):
                assert f"the server at 127.0.0.1:{grpc_port}: cannot be reached" in done.stderr
                assert "quieten" not in done.stderr


@pytest.mark.parametrize(
    ("server", "called"),
    [
        ("http://h:9000,h:7777", "h:7777"),
        ("grpcs://h:7777, http://h:9000", "grpcs://h:7777"),
        ("a:1,b:2", "a:1,b:2"),
        ("http://a:1,b:2", "http://a:1,b:2"),  # two servers: the client refuses two protocols
        ("http://h:9000", "http://h:9000"),
        ("a b", "a b"),
    ],
)
def test_with_both_addresses_models_are_called_over_grpc(server: str, called: str) -> None:
    assert model_address(server) == called


# --- tables -----------------------------------------------------------------------------------------------------

INSIDE = {
    "protocol": "grpc", "load": "1 at once", "queue ms": "0.315", "input": "0.0336", "infer": "0.545",
    "output": "0.172", "batch": "1", "cache hits": "0", "server cores": "-", "stubs": "-", "generator": "0.11",
    "MB": "1234",
}  # fmt: skip


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
@pytest.mark.parametrize("n_keys", [1, 2])
def test_words_and_numbers_stay_whole_in_a_narrow_terminal(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int, n_keys: int
) -> None:
    from tritone_cli import console

    monkeypatch.setattr(console.people, "width", width)
    rows = [{**INSIDE, "load": f"{n} at once", "MB": 10_000 + n} for n in (1, 8)]
    console.print_rows("taste_vae: inside the server", rows, n_keys=n_keys)
    said = capfd.readouterr().err
    assert max(map(len, said.splitlines())) <= width
    words = set(said.replace("│", " ").replace("┃", " ").split())
    for row in rows:
        assert set(itertools.chain.from_iterable(f"{name} {value}".split() for name, value in row.items())) <= words


def test_a_long_path_is_folded_and_a_wide_matrix_split(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tritone_cli import console

    monkeypatch.setattr(console.people, "width", 80)
    console.print_rows("paths", [{"path": "/a/long" * 30, "n": 12_345}])
    labels = [f"label{number}" for number in range(20)]
    console.print_rows("matrix", [{"true": "a", **dict.fromkeys(labels, 54_321)}])
    console.print_rows("nothing", [])
    said = capfd.readouterr().err
    assert max(map(len, said.splitlines())) <= 80
    assert "12345" in said
    assert said.count("54321") == 20
    assert all(label in said for label in labels)
    assert said.count("true") >= 2
