"""Tensors as bytes on the wire, text included: KServe's BYTES, each value after its length (4 bytes, little-endian)."""

from __future__ import annotations

import struct
from typing import Final

import numpy as np

from tritone.messages import Array

_LENGTH: Final = struct.Struct("<I")


def tensor_bytes(array: Array) -> memoryview:
    """A tensor's values as they are sent; a view of the array where it is one of contiguous numbers.

    Args:
        array: of numbers, or of `bytes` (type object).
    """
    if array.dtype == np.object_:
        return memoryview(b"".join(part for value in array.flat for part in (_LENGTH.pack(len(value)), value)))
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def read_texts(data: memoryview) -> Array:
    """The texts that some bytes hold, as `str` (type object).

    Raises:
        ValueError: the bytes do not end with a text, or are no UTF-8.
    """
    texts = []
    place = 0
    while place < len(data):
        if place + _LENGTH.size > len(data):
            raise ValueError("a text's length is cut off")
        start = place + _LENGTH.size
        place = start + _LENGTH.unpack_from(data, place)[0]
        if place > len(data):
            raise ValueError("a text is cut off")
        texts.append(str(data[start:place], "utf-8"))
    array = np.empty(len(texts), np.object_)
    array[:] = texts
    return array
