"""Fixes of known faults in one exact server binary, applied to a private copy of it.

Five faults of Triton 2.51 let a single request end the server or fill its memory, and nothing in front of a gRPC port
can recognise such a request with certainty: its fields may come in any order after megabytes of data. If the binary is
the one of the `nvidia-pytriton` wheel, which this package pins, the launcher therefore runs a copy in which a few bytes
differ. The copy is written to the server's private folder; the installed file is not changed. Any other binary
(NVIDIA's images, custom builds, other versions) runs unmodified, and the load balancer has to refuse such requests; see
docs/explanation/threats.md. A sixth fault shows requests to every user of the machine, and a seventh delays requests.

The fixes are applied only to a file with the expected SHA-256; otherwise none is applied.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tritone_serving.server.installation import Installation


@dataclass(frozen=True)
class BinaryFix:
    """A replacement of bytes by the same number of other bytes.

    Attributes:
        name: short name of the fault.
        fault: what a request can do, or what can happen to it, without the fix.
        answer: what happens instead with the fix.
        offset: position in the file.
        before: the expected bytes, in hexadecimal.
        after: the replacement, in hexadecimal, of the same length.
    """

    name: str
    fault: str
    answer: str
    offset: int
    before: str
    after: str


_COUNT_BEFORE: Final = (
    "f30f1efa 488b07 488b7708 4839c6 7441 31c9 ba01000000 eb16 0f1f8000000000 4883c008 490fafc8 31d2 4839c6 741b 4c8b00"
    "4983f8ff 7415 84d2 74e4 4883c008 4c89c1 31d2 4839c6 75e5 4989c8 4c89c0 c3 4531c0 ebf7"
)
# nvidia-pytriton 0.7.0, x86-64: pytriton/tritonserver/bin/tritonserver, Triton 2.51.0.
BINARY_SHA256: Final = "01f1d4a777fea48f8e62a3df0403bcbd858c7a0be203e032a795032555f3e3f4"
BINARY_FIXES: Final = (
    BinaryFix(
        name="classification",
        fault="the classification extension on an output of type BYTES divides by zero (SIGFPE)",
        answer="INVALID_ARGUMENT: the type is not supported by the extension",
        # triton::server::TopkClassifications divides by the size of the data type before it looks at the type:
        #   xor edx, edx; mov ecx, eax; mov rax, r13; div rcx; cmp ebp, 12; ja unsupported
        # The comparison moves in front of the division (12 is FP64; BYTES is 13 and has size 0).
        offset=0x14FBA1,
        before="31d2 89c1 4c89e8 48f7f1 83fd0c 0f87fc230000",
        after="31d2 89c1 4c89e8 83fd0c 0f87ff230000 48f7f1",
    ),
    BinaryFix(
        name="content-encoding",
        fault="a compressed HTTP body is unpacked without a bound, and the memory is kept",
        answer="HTTP 501: the encoding is not supported",
        # triton::server::HTTPAPIServer::DecompressBuffer, after it has read the encoding (1 is identity):
        #   test ebp, ebp; je unsupported; lea eax, [rbp - 2]; cmp eax, 1; ja as_it_is
        # becomes: cmp ebp, 1; je as_it_is; jmp unsupported
        offset=0x2E286C,
        before="85ed 7448 8d45fe 83f801 77c8",
        after="83fd01 74cf eb45 9090909090",
    ),
    BinaryFix(
        name="grpc-compression",
        fault="a compressed gRPC message is unpacked without a bound",
        answer="INTERNAL: the message cannot be decompressed",
        # grpc_core's zlib_decompress(slices, slices, is_gzip): returns 0, which means failure.
        #   push r15; mov ecx, 14 becomes: xor eax, eax; ret
        offset=0x6DEF30,
        before="4157b90e",
        after="31c0c390",
    ),
    BinaryFix(
        name="json-shape",
        fault="numbers as JSON under a shape that overflows, or that memory cannot hold, end or fill the server",
        answer="HTTP 400: the shape does not fit the data",
        # triton::server::GetElementCount(std::vector<int64_t> const&), rewritten: the product of the sizes, or -1 if
        # one of them is -1, as before; 0 if the product overflows or exceeds 2**24, which are 32 MB of JSON at least.
        offset=0x180BE0,
        before=_COUNT_BEFORE,
        after=(
            "f30f1efa 488b17 488b7708 31c0 4839d6 7422 b001 488b0a 4883f9ff 7418 480fafc1 7016 483d00000001 770e"
            "4883c208 4839d6 75e0 c3 4889c8 c3 31c0 c3" + "90" * 26
        ),
    ),
)
# nvidia_pytriton.libs/libtritonserver-717102f0.so of the same wheel.
LIBRARY_SHA256: Final = "ea04aab43d3ee859e73a4414d387c2b6317ef9d20ef32683211a84e9b54a19f9"
LIBRARY_FIXES: Final = (
    BinaryFix(
        name="tensor-shape",
        fault="a tensor without data under a shape whose size overflows 64 bits ends the process of a model",
        answer="INVALID_ARGUMENT: the size of the data does not fit the shape",
        # triton::common::GetElementCount(std::vector<int64_t> const&), as above; 2**31 + 1 if the product overflows or
        # exceeds 2**31, which no message can hold. The number is odd, so no data type and batch size make it overflow
        # to 0 in turn.
        offset=0x3FBDB0,
        before=_COUNT_BEFORE,
        after=(
            "f30f1efa 488b17 488b7708 31c0 4839d6 7423 b001 488b0a 4883f9ff 7419 480fafc1 7017 4989c0 49c1e81f 750e"
            "4883c208 4839d6 75df c3 4889c8 c3 b801000080 c3" + "90" * 22
        ),
    ),
    BinaryFix(
        name="lost-wake-up",
        fault="requests that arrive while all instances of a model run can wait for half a second for one that is free",
        answer="every request wakes the thread that forms batches",
        # triton::core::DynamicBatchScheduler::Enqueue wakes it only if an instance waits for requests, but an instance
        # that begins to wait does not wake it: call RateLimiter::PayloadSlotAvailable becomes mov eax, 1.
        offset=0x1CC4F3,
        before="e838b31000",
        after="b801000000",
    ),
    BinaryFix(
        name="lost-wake-up",
        fault="nothing wakes the thread that forms batches when an instance for which it waits becomes free",
        answer="the thread looks again after 0.3 ms instead of 500 ms; without requests, it still sleeps for 500 ms",
        # triton::core::DynamicBatchScheduler::BatcherThread, time limit of WaitForPayloadSlotAvailable in microseconds:
        # mov edx, 500000 becomes mov edx, 300. Models with priorities or limits of their queue wait there for an idle
        # instance, the others for a place in its queue: core/pull/237 and server/issues/8870 in
        # github.com/triton-inference-server.
        offset=0x1CD43D,
        before="ba20a10700",
        after="ba2c010000",
    ),
)
LIBRARY: Final = "libtritonserver-717102f0.so"
# pytriton/tritonserver/backends/python/libtriton_python.so of the same wheel.
BACKEND_SHA256: Final = "08a47eb9cb120475442abebf283a910cf06053bc1322711aeb34f4d42f038cba"
BACKEND_FIXES: Final = (
    BinaryFix(
        name="shared-memory-mode",
        fault="the shared memory through which requests go to the models is readable for every user of the machine",
        answer="its mode is 600",
        # boost::interprocess::shared_memory_object: mov edx, 0644 before shm_open with O_CREAT
        offset=0x9E1D0,
        before="baa4010000",
        after="ba80010000",
    ),
    BinaryFix(
        name="shared-memory-mode",
        fault="the same, set once more after the umask was applied",
        answer="its mode is 600",
        # mov esi, 0644 before fchmod(file, mode)
        offset=0x9E480,
        before="bea4010000",
        after="be80010000",
    ),
)
BACKEND: Final = "libtriton_python.so"


def fixed_copy(installation: Installation, folder: Path) -> tuple[Path, frozenset[str]]:
    """Copy the server into a folder, as the wheel lays it out, and apply the fixes that are known for it.

    The binary loads its libraries from paths relative to its own path first. The copy must therefore be in a folder to
    which no other user can write, with the libraries at the expected paths.

    Args:
        installation: where the server is installed.
        folder: the server's private folder, on a file system that allows execution, with a copy of the Python backend
            in `backends/python`.

    Returns:
        the binary to run, which is the installed one if no fixes are known for it, and the names of the applied fixes.

    Raises:
        OSError: the copy cannot be written.
    """
    libraries = next((each for each in installation.libraries if (each / LIBRARY).is_file()), None)
    if libraries is None:
        return installation.binary, frozenset()
    binary, library = installation.binary.read_bytes(), (libraries / LIBRARY).read_bytes()
    if (_sha256(binary), _sha256(library)) != (BINARY_SHA256, LIBRARY_SHA256):
        return installation.binary, frozenset()
    copy = folder / "pytriton" / "tritonserver" / "bin" / installation.binary.name
    copy.parent.mkdir(parents=True)
    copy.write_bytes(_fixed(binary, BINARY_FIXES))
    shutil.copymode(installation.binary, copy)
    links = folder / "nvidia_pytriton.libs"
    links.mkdir()
    for each in libraries.iterdir():
        if each.name != LIBRARY:
            (links / each.name).symlink_to(each)
    (links / LIBRARY).write_bytes(_fixed(library, LIBRARY_FIXES))
    backend = folder / "backends" / "python" / BACKEND
    content = backend.read_bytes()
    if _sha256(content) != BACKEND_SHA256:
        return copy, frozenset(fix.name for fix in (*BINARY_FIXES, *LIBRARY_FIXES))
    backend.write_bytes(_fixed(content, BACKEND_FIXES))
    return copy, frozenset(fix.name for fix in (*BINARY_FIXES, *LIBRARY_FIXES, *BACKEND_FIXES))


def _fixed(content: bytes, fixes: Sequence[BinaryFix]) -> bytearray:
    fixed = bytearray(content)
    for fix in fixes:
        after = bytes.fromhex(fix.after)
        fixed[fix.offset : fix.offset + len(after)] = after
    return fixed


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
