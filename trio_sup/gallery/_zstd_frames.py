"""Where zstd frames end, so that one that was cut off is told from one that is complete."""

from __future__ import annotations

from collections.abc import Callable

_MAGIC = 0xFD2FB528
_SKIPPED = 0x184D2A50
_DICTIONARY_BYTES = (0, 1, 2, 4)
_SIZE_BYTES = (0, 2, 4, 8)
_RLE, _RESERVED = 1, 3


class FrameEnds:
    """Follows frames one after the other, without decompressing anything. Source: RFC 8878, section 3.1."""

    def __init__(self) -> None:
        self._skip = 0  # bytes whose value does not matter
        self._needed = 4  # bytes of the next field
        self._field = bytearray()
        self._take: Callable[[int], None] = self._take_magic
        self._checksum = False

    @property
    def between_frames(self) -> bool:
        """Whether the last frame is complete, and nothing of another one has come."""
        return not self._skip and not self._field and self._take == self._take_magic

    def feed(self, data: bytes) -> None:
        """Go on over *data*.

        Raises:
            ValueError: This is no frame.
        """
        at, end = 0, len(data)
        while at < end:
            if self._skip:
                step = min(self._skip, end - at)
                self._skip -= step
                at += step
                continue
            step = min(self._needed - len(self._field), end - at)
            self._field += data[at : at + step]
            at += step
            if len(self._field) == self._needed:
                value = int.from_bytes(self._field, "little")
                self._field.clear()
                self._take(value)

    def _expect(self, take: Callable[[int], None], needed: int, skip: int = 0) -> None:
        self._take, self._needed, self._skip = take, needed, skip

    def _take_magic(self, value: int) -> None:
        if value == _MAGIC:
            self._expect(self._take_descriptor, 1)
        elif value & 0xFFFFFFF0 == _SKIPPED:
            self._expect(self._take_skipped_size, 4)
        else:
            raise ValueError("something else follows what is compressed in it")

    def _take_skipped_size(self, value: int) -> None:
        self._expect(self._take_magic, 4, skip=value)

    def _take_descriptor(self, value: int) -> None:
        single = value & 0x20
        self._checksum = bool(value & 0x04)
        size = _SIZE_BYTES[value >> 6] or (1 if single else 0)
        rest = (0 if single else 1) + _DICTIONARY_BYTES[value & 3] + size
        self._expect(self._take_block, 3, skip=rest)

    def _take_block(self, value: int) -> None:
        kind, size = value >> 1 & 3, value >> 3
        if kind == _RESERVED:
            raise ValueError("a block of a kind that does not exist")
        length = 1 if kind == _RLE else size
        if value & 1:
            self._expect(self._take_magic, 4, skip=length + (4 if self._checksum else 0))
        else:
            self._expect(self._take_block, 3, skip=length)
