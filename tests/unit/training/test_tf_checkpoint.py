"""A checkpoint written here byte by byte, as LevelDB and TensorFlow's tensor bundle lay it out."""

from __future__ import annotations

import contextlib
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.training import sounds

from tritone_training.exceptions import PretrainedWeightsError
from tritone_training.pretrained.weights import read_float_tensors

DT_FLOAT, DT_INT64 = 1, 9


def varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def message(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def entry(array: sounds.Array, dtype: int, offset: int) -> bytes:
    shape = b"".join(message(2, number(1, size)) for size in array.shape)
    checksum = varint(6 << 3 | 5) + struct.pack("<I", 0xDEADBEEF)  # fixed32, which the reader passes over
    return number(1, dtype) + message(2, shape) + number(4, offset) + number(5, array.nbytes) + checksum


def block(entries: list[tuple[bytes, bytes]]) -> bytes:
    content, before = b"", b""
    for key, value in entries:
        n_shared = next(
            (i for i, (a, b) in enumerate(zip(before, key, strict=False)) if a != b), min(len(before), len(key))
        )
        content += varint(n_shared) + varint(len(key) - n_shared) + varint(len(value)) + key[n_shared:] + value
        before = key
    return content + struct.pack("<II", 0, 1)  # one restart point, at 0


def write(
    tensors: dict[str, sounds.Array], *, n_blocks: int = 2, magic: int = 0xDB4775248B80FB57
) -> tuple[bytes, bytes]:
    """(index, data) of a checkpoint; keys are sorted, as the table wants them."""
    data = b""
    entries = [(b"", number(1, 1))]  # the bundle's header: one shard
    for name, array in sorted(tensors.items()):
        entries.append((name.encode(), entry(array, DT_FLOAT if array.dtype == "<f4" else DT_INT64, len(data))))
        data += array.tobytes()
    index, handles = b"", []
    for part in range(n_blocks):
        some = (
            entries[part::n_blocks]
            if n_blocks == 1
            else entries[part * len(entries) // n_blocks : (part + 1) * len(entries) // n_blocks]
        )
        content = block(some)
        handles.append((some[-1][0] + b"~", varint(len(index)) + varint(len(content))))
        index += content + b"\0" + b"\0\0\0\0"  # not compressed; a checksum
    meta = varint(len(index)) + varint(len(block([])))
    index += block([]) + b"\0\0\0\0\0"
    root = block(handles)
    footer = meta + varint(len(index)) + varint(len(root))
    index += root + b"\0\0\0\0\0"
    return index + footer.ljust(40, b"\0") + struct.pack("<Q", magic), data


TENSORS = {
    "conv2d/kernel": np.arange(24, dtype="<f4").reshape(2, 3, 4),
    "conv2d/bias": np.array([1.5, -2.5], "<f4"),
    "conv2d_1/kernel": np.full((1, 1), 7, "<f4"),
    "scalar": np.array(3.25, "<f4"),
    "global_step": np.array(12_345, "<i8"),
}


@pytest.mark.parametrize("n_blocks", [1, 2, 3])
def test_all_float_tensors_come_back(n_blocks: int) -> None:
    found = read_float_tensors(*write(TENSORS, n_blocks=n_blocks))
    assert set(found) == set(TENSORS) - {"global_step"}
    for name, array in found.items():
        np.testing.assert_array_equal(array, TENSORS[name])
        assert array.shape == TENSORS[name].shape


def test_a_long_name_and_a_large_offset_need_several_bytes() -> None:
    tensors = {"a" * 300: np.arange(1000, dtype="<f4"), "b": np.array([1, 2], "<f4")}
    found = read_float_tensors(*write(tensors))
    np.testing.assert_array_equal(found["b"], [1, 2])
    np.testing.assert_array_equal(found["a" * 300], np.arange(1000))


def test_an_index_that_breaks_off_anywhere_is_an_error() -> None:
    index, data = write(TENSORS)
    for end in range(len(index)):
        with pytest.raises(PretrainedWeightsError):
            read_float_tensors(index[:end], data)


def test_data_that_break_off_anywhere_are_an_error() -> None:
    index, data = write({name: array for name, array in TENSORS.items() if name != "global_step"})
    for end in range(len(data)):
        with pytest.raises(PretrainedWeightsError):
            read_float_tensors(index, data[:end])


def test_other_bytes_are_an_error() -> None:
    index, data = write(TENSORS, magic=1)
    for wrong in (index, b"", b"PK\x03\x04" + bytes(100), np.random.default_rng(0).bytes(4096)):
        with pytest.raises(PretrainedWeightsError):
            read_float_tensors(wrong, data)


def test_a_compressed_index_is_an_error() -> None:
    index, data = write(TENSORS, n_blocks=1)
    root_trailer = len(index) - 48 - 5
    with pytest.raises(PretrainedWeightsError):
        read_float_tensors(index[:root_trailer] + b"\1" + index[root_trailer + 1 :], data)


@settings(max_examples=300, deadline=None)
@given(position=st.integers(0, 10_000), value=st.integers(0, 255))
def test_a_changed_byte_never_leaks_a_foreign_error(position: int, value: int) -> None:
    index, data = write(TENSORS)
    damaged = bytearray(index)
    damaged[position % len(index)] = value
    with contextlib.suppress(PretrainedWeightsError):
        read_float_tensors(bytes(damaged), data)
