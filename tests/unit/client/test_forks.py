"""Tests of clients in forked children: calls work or raise in time, whatever the parent was doing at the fork."""

from __future__ import annotations

import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

TINY = Path(__file__).parent / "tiny_server.py"
TIMEOUT_S = 2  # of each call in a child
LIMIT_S = 30  # of a child, on a busy machine
# Each script runs in a process of its own: forking pytest, in which other tests used gRPC, would prove nothing.
BEGIN = f"""
import asyncio, multiprocessing, os, signal, sys, threading, time, warnings
import numpy as np
from tritone import AsyncMusicClient, ClientError, MusicClient, ProcessBoundError
from tritone.messages import StreamRequest

warnings.simplefilter("ignore", DeprecationWarning)  # of forks with threads, which are the subject
URL, TWO = sys.argv[1], sys.argv[1:3]
AUDIO = (np.random.default_rng(0).uniform(-1, 1, 22_050).astype(np.float32), 22_050)
NOISE = StreamRequest("genre_cnn", "s", {{"audio": np.zeros((1, 66_150), np.float32)}}, ("embedding",))

def child(act):
    "What `act` came to in a forked child: `ok`, the name of a ClientError, `died` or `hung`."
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            act()
            said = "ok"
        except ClientError as error:
            said = type(error).__name__ + ": " + str(error)
        except BaseException as error:
            said = f"leaked {{error!r}}"
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    until = time.monotonic() + {LIMIT_S}
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return "hung"
        time.sleep(0.01)
    with os.fdopen(reader) as pipe:
        return pipe.read() or "died"

def under_load(music, n_threads=4):
    "Threads that call until the process ends."
    ready = threading.Barrier(n_threads + 1)
    def call():
        music.embed(AUDIO)
        ready.wait()
        while True:
            music.embed(AUDIO)
    for _ in range(n_threads):
        threading.Thread(target=call, daemon=True).start()
    ready.wait()

def end():
    sys.stdout.flush()
    os._exit(0)  # the threads go on
"""


@contextmanager
def serving(protocol: str, host: str = "127.0.0.1") -> Iterator[str]:
    """The address of a server in a process of its own."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(TINY), protocol, str(port), host]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            yield f"{protocol}://{host}:{port}"
        finally:
            server.kill()


@pytest.fixture(scope="module", params=["grpc", "http"])
def urls(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    with serving(request.param) as first, serving(request.param) as second:
        yield [first, second]


def run(script: str, urls: list[str]) -> str:
    command = [sys.executable, "-c", BEGIN + textwrap.dedent(script), *urls]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("url", ["URL", "TWO"], ids=["one server", "pool"])
def test_children_work_or_raise_while_the_parent_calls(urls: list[str], url: str) -> None:
    script = f"""
    music = MusicClient({url})
    under_load(music)
    for _ in range(12):
        print(child(lambda: music.embed(AUDIO, timeout_s={TIMEOUT_S})))
        print(child(lambda: MusicClient({url}).embed(AUDIO, timeout_s={TIMEOUT_S})))
    end()
    """
    said = run(script, urls).splitlines()
    assert said == ["ok"] * 24


def test_a_fork_during_a_long_call_is_not_delayed_by_it_and_the_child_raises(urls: list[str]) -> None:
    script = f"""
    from tritone import processes
    processes.LONGEST_WAIT_S = 0.2
    music = MusicClient(URL)
    with processes.inside_grpc():  # as a call that takes longer
        print(child(lambda: music.embed(AUDIO, timeout_s={TIMEOUT_S})))
        print(child(lambda: MusicClient(URL)))
        print(child(lambda: music.close()))
    print(child(lambda: music.embed(AUDIO, timeout_s={TIMEOUT_S})))
    """
    *refused, closed, later = run(script, urls).splitlines()
    assert closed == later == "ok"
    if urls[0].startswith("http"):
        assert refused == ["ok", "ok"]
    else:
        assert all(each.startswith("ProcessBoundError: gRPC cannot be used in this process") for each in refused)
        assert all("use an http:// address" in each for each in refused)


@pytest.mark.parametrize("url", ["URL", "TWO"], ids=["one server", "pool"])
def test_children_of_an_idle_client_work_and_the_parent_stays_connected(urls: list[str], url: str) -> None:
    script = f"""
    music = MusicClient({url})
    before = music.embed(AUDIO)
    def embed():
        with music:  # closes the child's own connection, and not the parent's
            assert np.array_equal(music.embed(AUDIO, timeout_s={TIMEOUT_S}), before)
    for _ in range(8):
        print(child(embed))
    assert np.array_equal(music.embed(AUDIO), before)
    work = multiprocessing.get_context("fork")
    workers = [work.Process(target=embed) for _ in range(2)]
    [worker.start() for worker in workers]
    [worker.join() for worker in workers]
    print([worker.exitcode for worker in workers])
    end()
    """
    assert run(script, urls).splitlines() == ["ok"] * 8 + ["[0, 0]"]


def test_workers_of_a_preloaded_application_work(urls: list[str]) -> None:
    """As gunicorn with --preload: a warm-up call, then forked workers that serve with threads and end normally."""
    script = f"""
    music = MusicClient(URL)
    music.server_ready()
    workers = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            failed = []
            def serve():
                try:
                    for _ in range(4):
                        music.embed(AUDIO, timeout_s={TIMEOUT_S * 5})
                except BaseException as error:
                    failed.append(error)
            threads = [threading.Thread(target=serve) for _ in range(4)]
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]
            sys.exit(len(failed))  # with the interpreter's own end, destructors included
        workers.append(pid)
    print([os.waitpid(pid, 0)[1] for pid in workers])
    """
    assert run(script, urls) == "[0, 0, 0, 0]\n"


def test_an_asynchronous_client_of_the_parent_raises_in_a_child(urls: list[str]) -> None:
    script = f"""
    music = AsyncMusicClient(URL)
    async def main():
        assert await music.server_ready()
        async def in_child():
            try:
                await music.server_ready(timeout_s={TIMEOUT_S})
            finally:
                await music.close()
        async def new_in_child():
            async with AsyncMusicClient(URL) as other:
                await other.server_ready(timeout_s={TIMEOUT_S})
        for _ in range(4):
            print(child(lambda: asyncio.run(in_child())))
            print(child(lambda: asyncio.run(new_in_child())))
        for _ in range(4):  # the parent's event loop and connections are as they were
            assert await music.server_ready()
        await music.close()
    asyncio.run(main())
    print(child(lambda: MusicClient(URL).server_ready(timeout_s={TIMEOUT_S})))
    end()
    """
    *said, last = run(script, urls).splitlines()
    assert last == "ok"
    old, new = said[::2], said[1::2]
    assert all(each.startswith(("ClientError: ", "ProcessBoundError: ")) for each in old), old
    if urls[0].startswith("http"):
        assert new == ["ok"] * 4
    else:
        assert all(each.startswith("ProcessBoundError: gRPC cannot be used") for each in new), new


@pytest.mark.parametrize("urls", ["grpc"], indirect=True)
def test_a_stream_is_not_shared_with_a_child(urls: list[str]) -> None:
    script = f"""
    music = MusicClient(URL)
    stream = music._transport.stream(NOISE, timeout_s={TIMEOUT_S})
    next(stream)
    print(child(lambda: next(stream)))
    def drop_and_call():
        stream.close()
        MusicClient(URL).server_ready(timeout_s={TIMEOUT_S})
    print(child(drop_and_call))
    for _ in range(3):
        next(stream)
    stream.close()
    end()
    """
    first, second = run(script, urls).splitlines()
    assert first.startswith("ProcessBoundError: this stream belongs to the parent process")
    assert second.startswith("ProcessBoundError: gRPC cannot be used in this process")


def test_request_ids_differ_between_processes(urls: list[str]) -> None:
    script = """
    from tritone.messages import next_request_id
    ids = [next_request_id("x")]
    print(ids[0], flush=True)
    child(lambda: os.write(1, (next_request_id("x") + "\\n").encode()))
    child(lambda: os.write(1, (next_request_id("x") + "\\n").encode()))
    print(next_request_id("x"))
    """
    ids = run(script, urls).split()
    assert len(ids) == len(set(ids)) == 4
    assert len({each.split("-")[1] for each in ids}) == 3
