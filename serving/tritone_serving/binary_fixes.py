"""Fixes of known faults in one exact server binary, applied to a private copy of it.

Three faults of Triton 2.51 let a single request end the server or fill its memory, and nothing in front of a gRPC port
can recognise such a request with certainty: its fields may come in any order after megabytes of data. If the binary is
the one of the `nvidia-pytriton` wheel, which this package pins, the launcher therefore runs a copy in which a few bytes
differ. The copy is written to the server's private folder; the installed file is not changed. Any other binary
(NVIDIA's images, custom builds, other versions) runs unmodified, and the load balancer has to refuse such requests; see
THREATS.md.

The fixes are applied only to a file with the expected SHA-256; otherwise none is applied.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True)
class BinaryFix:
    """A replacement of bytes by the same number of other bytes.

    Attributes:
        name: short name of the fault.
        fault: what a request can do without the fix.
        answer: response to such a request with the fix.
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


# nvidia-pytriton 0.7.0, x86-64: pytriton/tritonserver/bin/tritonserver, Triton 2.51.0.
WHEEL_BINARY_SHA256: Final = "01f1d4a777fea48f8e62a3df0403bcbd858c7a0be203e032a795032555f3e3f4"
WHEEL_FIXES: Final = (
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
        fault="a compressed HTTP body is decompressed without a limit, and the memory is kept",
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
        fault="a compressed gRPC message is decompressed without a limit",
        answer="INTERNAL: the message cannot be decompressed",
        # grpc_core's zlib_decompress(slices, slices, is_gzip): returns 0, which means failure.
        #   push r15; mov ecx, 14 becomes: xor eax, eax; ret
        offset=0x6DEF30,
        before="4157b90e",
        after="31c0c390",
    ),
)


def fixed_copy(binary: Path, folder: Path) -> tuple[Path, frozenset[str]]:
    """Copy the server binary into a folder and apply the fixes that are known for it.

    Args:
        binary: the installed `tritonserver`.
        folder: a private folder on a file system that allows execution.

    Returns:
        The binary to run (the installed one if no fix is known for it) and the names of the applied fixes.

    Raises:
        OSError: the copy cannot be written.
    """
    content = bytearray(binary.read_bytes())
    if hashlib.sha256(content).hexdigest() != WHEEL_BINARY_SHA256:
        return binary, frozenset()
    for fix in WHEEL_FIXES:
        before, after = bytes.fromhex(fix.before), bytes.fromhex(fix.after)
        content[fix.offset : fix.offset + len(before)] = after
    copy = folder / binary.name
    copy.write_bytes(content)
    shutil.copymode(binary, copy)
    return copy, frozenset(fix.name for fix in WHEEL_FIXES)
