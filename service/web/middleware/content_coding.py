"""Decode bodies that were sent with a Content-Encoding, in pieces of bounded size."""

import zlib

from service.web.errors import InvalidCoding, UnsupportedCoding

# A few compressed bytes may expand a thousandfold: at most this much is decoded at a time.
_PIECE_BYTES = 64 * 1024
_GZIP_START = b"\x1f\x8b"
_GZIP_BITS, _ZLIB_BITS, _RAW_BITS = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
_SUPPORTED = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}


def decoder_for(codings: str) -> "Decoder | None":
    """Return a decoder for the value of Content-Encoding, None if the body is not encoded.

    Raises UnsupportedCoding.
    """
    names = [name for name in (part.strip().lower() for part in codings.split(",")) if name not in ("", "identity")]
    if not names:
        return None
    remedy = "send gzip, deflate or no Content-Encoding"
    if len(names) > 1:
        raise UnsupportedCoding(f"the body is encoded {len(names)} times ({codings!r:.80}); {remedy}")
    if names[0] not in _SUPPORTED:
        raise UnsupportedCoding(f"the Content-Encoding {names[0]!r:.40} is not supported; {remedy}")
    return Decoder(_SUPPORTED[names[0]])


class Decoder:
    """Decodes gzip, also of several members, or deflate, with or without the header of zlib."""

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._input = b""
        self._stream = zlib.decompressobj(_GZIP_BITS) if coding == "gzip" else None
        self._may_hold_output = False

    def feed(self, content: bytes) -> None:
        """Add encoded bytes."""
        self._input += content

    def read(self) -> bytes:
        """Return the next decoded bytes, at most 64 KiB; none if more encoded bytes are needed.

        Raises InvalidCoding.
        """
        while self._prepare_stream() and (self._input or self._may_hold_output):
            assert self._stream is not None
            try:
                piece = self._stream.decompress(self._input, _PIECE_BYTES)
            except zlib.error:
                raise InvalidCoding(f"the body is not {self._coding}, which its Content-Encoding declares") from None
            # zlib may keep decoded bytes back although it has taken the whole input.
            self._may_hold_output = len(piece) == _PIECE_BYTES
            self._input = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
            if piece:
                return piece
        return b""

    def finish(self) -> None:
        """Raise InvalidCoding if the encoded body is truncated."""
        if self._stream is None or not self._stream.eof or self._input:
            raise InvalidCoding(f"the {self._coding} body is truncated")

    def _prepare_stream(self) -> bool:
        """Return whether there is a stream to decode, at the beginning of a member too."""
        if self._stream is None:
            if len(self._input) < 2:
                return False
            self._stream = zlib.decompressobj(_ZLIB_BITS if _has_zlib_header(self._input) else _RAW_BITS)
        elif self._stream.eof:
            self._may_hold_output = False
            if not self._input or self._input == _GZIP_START[:1]:
                return False
            if self._coding != "gzip" or not self._input.startswith(_GZIP_START):
                raise InvalidCoding(f"the body has other bytes after the end of its {self._coding} data")
            self._stream = zlib.decompressobj(_GZIP_BITS)
        return True


def _has_zlib_header(content: bytes) -> bool:
    # RFC 1950: method 8, and a check value. Some clients send deflate without this header.
    return content[0] & 0x0F == 8 and int.from_bytes(content[:2]) % 31 == 0
