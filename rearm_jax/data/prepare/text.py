"""Text files as one plain thing: unpacked, UTF-8, lines that end in a newline, mapped into memory.

A file that is so already is mapped where it lies. Of any other a copy is made in the folder for temporary files
(TMPDIR), which goes with the last reference to it.
"""

import bz2
import codecs
import contextlib
import errno
import gzip
import mmap
import os
import re
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from typing import IO

import numpy as np

from rearm_jax.data.prepare.reading import TextError
from rearm_jax.errors import DataError

BLOCK = 1 << 18  # bytes at a time
_SHOWN = 100  # characters of a line in a message
BLANKS = b" \t\r\n"
_BOMS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_BINARY = {  # first bytes -> what the file is; a table may begin with those that are letters
    b"\xfd7zXZ\0": "packed by xz: unpack it",
    b"\x28\xb5\x2f\xfd": "packed by zstd: unpack it",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive: unpack it",
    b"Rar!": "a RAR archive: unpack it",
    b"\x1f\x8b": "packed by gzip, inside another packing: unpack it",
    b"BZh": "packed by bzip2, inside another packing: unpack it",
    b"PK\x03\x04": "a zip archive, inside another packing: unpack it",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook: save it as CSV",
    b"SQLite format 3\0": "an SQLite database: export its tables as CSV",
    b"\x89HDF": "HDF5: export its tables as CSV or Parquet",
    b"\x93NUMPY": "a numpy array: give it with features and feature_ids",
    b"ARROW1": "Arrow (Feather): save it as Parquet",
    b"PAR1": "Parquet, inside a packing: unpack it",
    b"\x04\x22\x4d\x18": "packed by lz4: unpack it",
    b"\x1f\x9d": "packed by compress: unpack it",
    b"LZIP": "packed by lzip: unpack it",
    b"\x5d\0\0": "packed by lzma: unpack it",
    b"Obj\x01": "Avro: save it as Parquet",
    b"ORC": "ORC: save it as Parquet",
    **dict.fromkeys((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"), "a pickle: save it as Parquet or CSV"),
    **dict.fromkeys((b"\x89PNG", b"\xff\xd8\xff", b"GIF8"), "a picture"),
}
_NO_TABLE = {
    b"%PDF": "a PDF document",
    b"<?xml": "XML: write it as CSV or JSON lines",
    b"version https://git-lfs": "a pointer of Git LFS, in the place of the file: fetch that with git lfs pull",
    b"<!doctype": "a page of HTML: was the download refused?",
    b"<!DOCTYPE": "a page of HTML: was the download refused?",
    b"<html": "a page of HTML: was the download refused?",
}


_CONTROL = re.compile(rb"[\0-\x08\x0e-\x1f]")  # no characters of text


class Text:
    """A text file.

    Attributes:
        path: as the user named it, for messages.
        file: where it lies as UTF-8: `path` itself, or a copy.
        data: its bytes, as a map.
        start: offset of the text, behind a byte order mark.
        bad_utf8: offsets of the lines that are not UTF-8, in ascending order; only where they are tolerated.
        replaced: what stands in the copy for what the user's file has: pairs (copy's, user's).
    """

    def __init__(self, path: str, file: str):
        self.path, self.file = path, file
        self.bad_utf8: list[int] = []
        self.replaced: tuple[tuple[bytes, bytes], ...] = ()
        with open(file, "rb") as opened:
            # An empty file cannot be mapped.
            size = os.fstat(opened.fileno()).st_size
            self.data: mmap.mmap | bytes = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        self.start = len(codecs.BOM_UTF8) if self.data[:3] == codecs.BOM_UTF8 else 0

    def line(self, offset: int) -> bytes:
        """The line that starts at an offset."""
        return self.data[offset : self.line_end(offset)]

    def line_end(self, offset: int) -> int:
        """The offset behind the newline that ends the line at an offset, or the end of the file."""
        return self.data.find(b"\n", offset) + 1 or len(self.data)

    def line_number(self, offset: int) -> int:
        """The number, from 1, of the line at an offset."""
        blocks = range(self.start, offset, BLOCK)
        return 1 + sum(self.data[block : min(block + BLOCK, offset)].count(b"\n") for block in blocks)

    def num_lines(self) -> int:
        """How many lines the file has; the last need not end in a newline."""
        blocks = (np.frombuffer(self.data[start:end], np.uint8) for start, end in self.blocks(self.start))
        return sum(int(np.count_nonzero(block == ord("\n"))) for block in blocks) + (self.data[-1:] != b"\n")

    def line_at(self, number: int) -> bytes:
        """The line of a number, from 1."""
        start = self.start
        for _ in range(number - 1):
            start = self.line_end(start)
        return self.line(start)

    def blocks(self, start: int, size: int = BLOCK) -> Iterator[tuple[int, int]]:
        """Offsets of blocks of whole lines, of about `size` bytes, from an offset on."""
        while start < len(self.data):
            end = self.data.rfind(b"\n", start, start + size) + 1 or self.line_end(start)
            yield start, end
            start = end

    def held(self, signs: bytes) -> set[int]:
        """Which of some bytes the file holds. All are looked for in one block, which is then in the cache."""
        found: set[int] = set()
        for start in range(0, len(self.data), BLOCK):
            for sign in set(signs) - found:
                if self.data.find(bytes([sign]), start, start + BLOCK) >= 0:
                    found.add(sign)
            if len(found) == len(signs):
                break
        return found

    def shown(self, line: bytes) -> str:
        """A line as it stands in a message."""
        for here, there in self.replaced:
            line = line.replace(here, there)
        text = line.decode("utf-8", "backslashreplace").rstrip("\r\n")
        return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")

    def copy(self, pieces: Iterable[bytes]) -> "Text":
        """The same file with another content."""
        return _copy(self.path, pieces)


def open_text(path: str, encoding: str | None = None, tolerate: bool = False) -> Text:
    """Opens a text file, unpacks it (gzip, bzip2, a zip of one file), and makes it UTF-8.

    Args:
        path: the file.
        encoding: of a file that is not UTF-8, and has no byte order mark, which says more.
        tolerate: whether lines that are not UTF-8 are noted, not refused.

    Raises:
        DataError: the file is empty, no text, or neither UTF-8 nor of the encoding; the message says what to set.
        OSError, EOFError, zlib.error: it cannot be read.
    """
    unpacked = _unpacked(path)
    text = Text(path, path) if unpacked is None else _copy(path, unpacked)
    start = text.data[:BLOCK]
    for magic, kind in (_NO_TABLE | _BINARY).items():
        is_word = magic in _BINARY and re.fullmatch(rb"[ -~]+", magic)
        if start.lstrip().startswith(magic) and not (is_word and is_line(start)):
            raise DataError(f"{path} is {kind}")
    if start[257:262] == b"ustar":
        raise DataError(f"{path} is a tar archive: unpack it")
    bom = next((name for mark, name in _BOMS.items() if start.startswith(mark)), None)
    if bom is not None and encoding is None:
        raise TextError(f"{path} starts with the byte order mark of {bom}: read it with encoding={bom}")
    zeros = start[:1000].count(b"\0") > len(start[:1000]) / 4  # half of the bytes, in UTF-16 of Latin letters
    if zeros and encoding is None:
        raise TextError(f"{path}: is full of NUL characters. If it is UTF-16, give encoding=utf-16-le (or -be)")
    if not (zeros or bom):
        text = _with_newlines(text)
    broken = zeros or bom is not None or next(not_utf8(text), None) is not None
    if broken and encoding is not None and not text.start:
        text = _with_newlines(text.copy(_decoded(text, bom or encoding)))
    elif broken:
        text.bad_utf8 = list(not_utf8(text) if tolerate else ())
        if not tolerate:
            raise encoding_error(text, next(not_utf8(text)))
    if not any(text.data[first:last].strip(BLANKS) for first, last in text.blocks(text.start)):
        raise DataError(f"{path}: the file is empty")
    return text


def is_line(start: bytes) -> bool:
    """Whether the first bytes of a file are those of text, of one line at least, whatever letters it begins with."""
    return not _CONTROL.search(start[:1000]) and b"\n" in start


def _with_newlines(text: Text) -> Text:
    """The text; an old Macintosh's, whose lines end in carriage returns, with newlines."""
    if text.data.find(b"\n") >= 0 or text.data.find(b"\r") < 0:
        return text
    return text.copy([text.data[text.start :].replace(b"\r", b"\n")])


def _copy(path: str, pieces: Iterable[bytes]) -> Text:
    number, file = tempfile.mkstemp(prefix="rearm_jax-")
    try:
        with os.fdopen(number, "wb") as opened:
            for piece in pieces:
                opened.write(piece)
        text = Text(path, file)
    except BaseException as error:
        os.unlink(file)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise DataError(
                f"{path}: {os.path.dirname(file)} has no room for a copy (unpacked, or mended); set TMPDIR to a folder "
                "that has"
            ) from error
        raise
    weakref.finalize(text, _remove, file)
    return text


def _remove(file: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(file)


def _unpacked(path: str) -> Iterator[bytes] | None:
    """The content of a packed file; None if it is not packed."""
    with open(path, "rb") as file:
        start = file.read(10)
    if start.startswith(b"\x1f\x8b"):
        return _read(gzip.open(path))
    if re.match(
        rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90|.{0,5}\Z)", start, re.DOTALL
    ):  # the second is empty, the third cut off
        return _unpacked_bzip2(path)
    if start[:4] in (b"PK\x03\x04", b"PK\x05\x06"):  # the latter is empty
        return _read(_only_member(path))
    return None


def _read(file: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    with file:
        while block := file.read(BLOCK):
            yield block


def _unpacked_bzip2(path: str) -> Iterator[bytes]:
    """All streams of the file. bz2.open ends in silence where a stream behind the first is broken."""
    stream = bz2.BZ2Decompressor()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            while block:
                if stream.eof:
                    stream = bz2.BZ2Decompressor()
                yield stream.decompress(block)
                block = stream.unused_data
    if not stream.eof:
        raise EOFError("the file ends within a stream of bzip2")


def _only_member(path: str) -> IO[bytes]:
    try:
        archive = zipfile.ZipFile(path)
        members = [member for member in archive.infolist() if not member.is_dir()]
        members = [member for member in members if not member.filename.startswith("__MACOSX/")]
        if len(members) != 1:
            names = ", ".join(member.filename for member in members[:5])
            raise DataError(f"{path} is a zip archive of {len(members)} files ({names}): unpack the one that is meant")
        return archive.open(members[0])
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error) as error:  # RuntimeError: a password
        raise DataError(f"{path} is a zip archive that cannot be read ({error}): unpack it") from error


def not_utf8(text: Text) -> Iterator[int]:
    """Offsets of the lines that are not UTF-8."""
    data = np.frombuffer(text.data, np.int8)
    for start, end in text.blocks(text.start):
        if data[start:end].min() >= 0 or _is_utf8(text.data[start:end]):  # the former is ASCII
            continue
        for line in text.data[start:end].split(b"\n"):
            if not _is_utf8(line):
                yield start
            start += len(line) + 1


def _is_utf8(block: bytes) -> bool:
    try:
        block.decode()
    except UnicodeDecodeError:
        return False
    return True


def encoding_error(text: Text, offset: int) -> TextError:
    """What to say of the line at an offset, which is not UTF-8."""
    line = text.line(offset)
    if text.start:
        return TextError(
            f"{text.path}, line {text.line_number(offset)}: not UTF-8, which the byte order mark at the start of the "
            f"file promises: {text.shown(line)}. Mend the line; or remove the mark, and choose encoding"
        )
    readings = {name: line.decode(name, "replace").rstrip("\r\n")[:200] for name in ("cp1252", "latin-1")}
    return TextError(
        f"{text.path}, line {text.line_number(offset)}: not UTF-8. As cp1252 it is {readings['cp1252']!r}, as latin-1 "
        f"{readings['latin-1']!r}: choose encoding=cp1252, encoding=latin-1 or another"
    )


def _decoded(text: Text, encoding: str) -> Iterator[bytes]:
    """The text as UTF-8."""
    decoder = codecs.getincrementaldecoder(encoding)()
    first = True
    for start in range(0, len(text.data), BLOCK):
        block = text.data[start : start + BLOCK]
        pending = len(decoder.getstate()[0])
        try:
            decoded = decoder.decode(block, start + BLOCK >= len(text.data))
            yield (decoded.removeprefix("\ufeff") if first else decoded).encode()
        except UnicodeError as error:
            at = start - pending + getattr(error, "start", 0)
            raise TextError(
                f"{text.path}, line {text.line_number(at)}: neither UTF-8 nor encoding={encoding} ({error})"
            ) from error
        first = False
