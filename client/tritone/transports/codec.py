"""Encode and decode tensors as raw bytes.

Text uses the BYTES type of the KServe protocol: each value follows its length (4 bytes, little-endian).
"""

from __future__ import annotations

import struct
from typing import Final

import numpy as np

from tritone.messages import Array

_LENGTH: Final = struct.Struct("<I")


def tensor_bytes(array: Array) -> memoryview:
    """Return the encoded values of a tensor; a view, without a copy, if the array holds contiguous numbers.

    Args:
        array: numbers, or `bytes` objects (dtype object).
    """
    if array.dtype == np.object_:
        return memoryview(b"".join(part for value in array.flat for part in (_LENGTH.pack(len(value)), value)))
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def read_texts(data: memoryview) -> Array:
    """Return the texts of an encoded BYTES tensor, as an array of `str` (dtype object).

    Raises:
        ValueError: the data is cut off or is not UTF-8.
    """
    texts = []
    position = 0
    while position < len(data):
        if position + _LENGTH.size > len(data):
            raise ValueError("the length of a text is cut off")
        start = position + _LENGTH.size
        position = start + _LENGTH.unpack_from(data, position)[0]
        if position > len(data):
            raise ValueError("a text is cut off")
        texts.append(str(data[start:position], "utf-8"))
    array = np.empty(len(texts), np.object_)
    array[:] = texts
    return array
