"""AWS event-stream frames, which Bedrock's streams are made of.

A frame, all numbers big-endian: total length and length of the headers (4 bytes each), CRC-32 of those eight,
the headers, the payload, CRC-32 of everything before it. A header: length of its name (1 byte), name, type
(7, a text; others are not used here), length (2 bytes), value.
Source: https://smithy.io/2.0/aws/amazon-eventstream.html.
"""

from __future__ import annotations

import base64
import secrets
import string
import struct
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from publius.serve.http import compact

__all__ = ["MEDIA_TYPE", "Frame", "chunk", "decode", "encode", "event", "exception"]

MEDIA_TYPE = "application/vnd.amazon.eventstream"
_PRELUDE = struct.Struct(">II")
_CRC = struct.Struct(">I")
_TEXT = 7
_OVERHEAD = _PRELUDE.size + 2 * _CRC.size
_PADDING = string.ascii_letters + string.digits


class Frame(NamedTuple):
    """One message of an event stream; headers are texts."""

    headers: dict[str, str]
    payload: bytes


def encode(headers: Mapping[str, str], payload: bytes) -> bytes:
    """The bytes of one frame.

    Args:
        headers: names of 1 to 255 bytes, values of at most 32,767 (UTF-8).
        payload: the body.

    Raises:
        ValueError: for a header that is longer than its length can say.
    """
    parts: list[bytes] = []
    for name, value in headers.items():
        key, text = name.encode(), value.encode()
        if not 1 <= len(key) <= 255 or len(text) > 32_767:
            raise ValueError(f"header {name[:40]!r} of {len(key)} + {len(text)} bytes cannot be framed")
        parts.append(struct.pack(">B", len(key)) + key + struct.pack(">BH", _TEXT, len(text)) + text)
    head = b"".join(parts)
    prelude = _PRELUDE.pack(_OVERHEAD + len(head) + len(payload), len(head))
    begun = prelude + _CRC.pack(zlib.crc32(prelude)) + head + payload
    return begun + _CRC.pack(zlib.crc32(begun))


def decode(data: bytes) -> tuple[list[Frame], bytes]:
    """Frames from the beginning of `data`, and the bytes of a frame that has not come whole.

    Raises:
        ValueError: when a checksum or a length is wrong, or a header is not a text.
    """
    frames: list[Frame] = []
    while len(data) >= _PRELUDE.size + _CRC.size:
        total, head = _PRELUDE.unpack_from(data)
        if _CRC.unpack_from(data, _PRELUDE.size)[0] != zlib.crc32(data[: _PRELUDE.size]):
            raise ValueError("the checksum of a frame's lengths is wrong")
        if total < _OVERHEAD + head:
            raise ValueError(f"a frame of {total} bytes with {head} of headers")
        if len(data) < total:
            break
        if _CRC.unpack_from(data, total - _CRC.size)[0] != zlib.crc32(data[: total - _CRC.size]):
            raise ValueError("the checksum of a frame is wrong")
        begin = _PRELUDE.size + _CRC.size
        frames.append(Frame(_headers(data[begin : begin + head]), data[begin + head : total - _CRC.size]))
        data = data[total:]
    return frames, data


def _headers(data: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    at = 0
    while at < len(data):
        size = data[at]
        name = data[at + 1 : at + 1 + size].decode()
        kind, length = struct.unpack_from(">BH", data, at + 1 + size)
        if kind != _TEXT:
            raise ValueError(f"header {name!r} has type {kind}")
        at += 1 + size + 3
        headers[name] = data[at : at + length].decode()
        at += length
    return headers


def event(kind: str, body: Mapping[str, Any]) -> bytes:
    """A frame of an event whose payload is JSON, padded so that its size tells less of the text in it."""
    padded = {**body, "p": _PADDING[: secrets.randbelow(len(_PADDING) + 1)]}
    return _framed("event", kind, padded)


def chunk(body: Mapping[str, Any]) -> bytes:
    """A `chunk` event, which holds one event of the model's own protocol."""
    return event("chunk", {"bytes": base64.b64encode(compact(body)).decode()})


def exception(kind: str, message: str) -> bytes:
    """A frame that ends a stream with an error, such as "throttlingException"."""
    return _framed("exception", kind, {"message": message})


def _framed(message: str, kind: str, body: Mapping[str, Any]) -> bytes:
    headers = {
        f":{message}-type": kind,
        ":content-type": "application/json",
        ":message-type": message,
    }
    return encode(headers, compact(body))
