# SPDX-License-Identifier: Apache-2.0
"""
Bytes to text, by what says the encoding; nothing is guessed.

=================================  ============================================================================
a byte order mark                  its encoding
the argument ``encoding``          that one; a contradiction of the mark, or of bytes that are UTF-8, is a fault
neither, and the bytes are UTF-8   UTF-8
a page's ``<meta charset>`` or     that one, by the names that browsers use
XML declaration
else                               a fault, which says what to give
=================================  ============================================================================

Most encodings of one byte a character decode anything, so wrong characters would go unnoticed.
"""

from __future__ import annotations

import codecs
import re
from functools import cache
from typing import NamedTuple

from lucidworks_provider.documents.document import Reason
from lucidworks_provider.errors import InputError

# The longer ones first: that of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Without the white space and without escape, which colours the output of terminals and switches ISO-2022-JP.
_CONTROLS = bytes(code for code in (*range(32), 127) if code not in b"\t\n\v\f\r\x1b")
# One stray control character happens to texts; more than one in a hundred does not.
_CONTROLS_IN = 100
# Control characters that no text has: where they come out, a byte was decoded that the encoding only seems
# to know (that of Windows is often called ISO-8859-1). U+0085 is a line break.
_C1 = re.compile("[\x80-\x84\x86-\x9f]")
# How a page says what it is written in; looked for where browsers look.
_META = re.compile(
    rb"<meta[^>]{0,200}?charset\s{0,9}=\s{0,9}[\"']?\s{0,9}([\w.:-]{1,40})"
    rb"|<\?xml[^>]{0,200}?encoding\s{0,9}=\s{0,9}[\"']([\w.:-]{1,40})",
    re.IGNORECASE,
)
_META_WITHIN = 2048
# What browsers take these names for, https://encoding.spec.whatwg.org/#names-and-labels
_LABELS = {
    **dict.fromkeys(("ascii", "us-ascii", "iso-8859-1", "iso8859-1", "latin1", "l1"), "cp1252"),
    **dict.fromkeys(("x-cp1252", "x-ansi"), "cp1252"),
    **dict.fromkeys(("iso-8859-9", "iso8859-9", "latin5"), "cp1254"),
    **dict.fromkeys(("iso-8859-11", "tis-620"), "cp874"),
    **dict.fromkeys(("gb2312", "gb_2312-80", "gbk", "x-gbk"), "gb18030"),
    **dict.fromkeys(("shift_jis", "shift-jis", "sjis", "x-sjis", "windows-31j"), "cp932"),
    **dict.fromkeys(("euc-kr", "ks_c_5601-1987", "korean"), "cp949"),
    **dict.fromkeys(("big5", "big5-hkscs", "x-x-big5"), "big5hkscs"),
    "macintosh": "mac_roman",
}
_ASCII = bytes(range(128)).decode()
_ESCAPED = b"\x1b$"
# Below so many bytes that are not ASCII, text of East Asia may look like UTF-8 by chance.
_CHANCE = 8


class Fault(NamedTuple):
    """
    What is wrong with a text.

    :param detail: for people.
    """

    reason: Reason
    detail: str


@cache
def check_encoding(name: str) -> str:
    """
    The codec of that name, in Python's words.

    :raises InputError: there is none, or it makes no text.
    """
    try:
        "x".encode(name)
        return codecs.lookup(name).name
    except (LookupError, ValueError, TypeError):
        raise InputError(
            f"encoding is {name!r}, which is none that Python knows; e.g. utf-8, cp1252, utf-16."
        ) from None


def wide(data: bytes, declared: str | None) -> str | None:
    """
    The codec of a file whose line breaks are more than one byte, judged by how it begins; None for others.
    """
    mark = _mark(data)
    codec = mark[1] if mark else check_encoding(declared) if declared else ""
    return codec if codec.startswith(("utf-16", "utf-32")) else None


def without_ascii(data: bytes, declared: str | None) -> str | None:
    """
    The codec of a file in which a byte below 128 may be another character than in ASCII, or a part of one; judged
    as by :func:`wide`. None for others.
    """
    codec = wide(data, declared) or (check_encoding(declared) if declared else "utf-8")
    if codec == "utf-8":
        return None
    try:
        every = bytes(range(256)).decode(codec, "replace")
        # Those that switch by escape sequences know no byte above 127.
        one_byte_each = len(every) == 256 and every.count("\ufffd") < 128
        return None if one_byte_each and every.startswith(_ASCII) else codec
    except UnicodeError:
        return codec


def decode(data: bytes, declared: str | None = None, *, html: bool = False) -> str | Fault:
    """
    The text, as it is: line breaks and white space are kept, a byte order mark is not.

    :param declared: the encoding, where it is known.
    :param html: whether it may have a declaration of its own.
    :return: a fault for what is binary, cannot be decoded or would be decoded wrongly.
    """
    mark = _mark(data)
    if mark is not None:
        if declared and check_encoding(declared)[:6] != mark[1][:6]:
            name = mark[1][:6].upper()
            return _undecodable(f"It begins with the byte order mark of {name}, but {declared} was declared.")
        data = data[len(mark[0]) :]
    codec = mark[1] if mark else check_encoding(declared) if declared else None
    if codec is None or codec == "utf-8":
        return _binary(data) or _utf8(data, known=codec is not None, html=html)
    try:
        text = data.decode(codec)
    except UnicodeDecodeError as err:
        return _wrong(err)
    return _binary(text.encode(errors="surrogatepass")) or _contradicted(data, text, codec) or text


def check_text(text: str, most: int) -> Fault | None:
    """
    What is wrong with a text that comes as such.

    :param most: bytes of UTF-8 that it may have.
    """
    try:
        data = text.encode()
    except UnicodeEncodeError as err:
        return Fault(Reason.INVALID, f"It has half a surrogate pair at character {err.start:,}.")
    if len(data) > most:
        return too_large(len(data), most)
    return _binary(data) or check_empty(text)


def check_empty(text: str) -> Fault | None:
    """A text of nothing but white space is none."""
    return Fault(Reason.EMPTY, "It has no text.") if not text or text.isspace() else None


def too_large(size: int, most: int) -> Fault:
    """:param most: what was allowed, in bytes."""
    return Fault(Reason.TOO_LARGE, f"It has {size:,} bytes, over max_document_bytes={most:,}.")


def _mark(data: bytes) -> tuple[bytes, str] | None:
    if data[:1] not in {b"\xef", b"\xff", b"\xfe", b"\0"}:
        return None
    return next((mark for mark in _MARKS if data.startswith(mark[0])), None)


def _binary(data: bytes) -> Fault | None:
    """:param data: in an encoding that has ASCII as it is."""
    if (at := data.find(0)) >= 0:
        return Fault(
            Reason.BINARY, f"It is no text: a NUL at byte {at:,}. UTF-16 without a mark must be declared."
        )
    controls = len(data) - len(data.translate(None, _CONTROLS))
    if controls > 1 and controls * _CONTROLS_IN > len(data):
        return Fault(
            Reason.BINARY, f"It is no text: {controls:,} of {len(data):,} bytes are control characters."
        )
    return None


def _utf8(data: bytes, *, known: bool, html: bool) -> str | Fault:
    if not known and _ESCAPED in data:
        # Valid as ASCII, and none.
        return _as_page_says(data, "It has the escape sequences of ISO-2022-JP", html=html)
    try:
        return data.decode()
    except UnicodeDecodeError as err:
        if known:
            return _wrong(err)
        start = err.start
    replaced = data.decode(errors="replace")
    broken = replaced.count("\ufffd")
    if _beyond_ascii(replaced) > 3 * broken:
        return _undecodable(f"It is UTF-8 but for {broken:,} places, the first at byte {start:,}.")
    return _as_page_says(data, f"It is not UTF-8 (byte {start:,})", html=html)


def _beyond_ascii(text: str) -> int:
    return len(text) - len(text.encode("ascii", "ignore"))


def _as_page_says(data: bytes, found: str, *, html: bool) -> str | Fault:
    """
    Decode a page as its own declaration asks for.

    :param found: why it is not decoded as UTF-8.
    """
    said = _META.search(data, 0, _META_WITHIN) if html else None
    if said is None:
        return _undecodable(
            f"{found} and nothing says what it is; give its encoding, e.g. encoding='windows-1252'."
        )
    label = (said[1] or said[2]).decode().lower()
    try:
        codec = check_encoding(_LABELS.get(label, label))
        # Nothing could be read of a page in UTF-16 without knowing it before.
        text = data.decode("utf-8" if codec.startswith("utf") else codec)
    except InputError:
        return _undecodable(f"It says that it is written in {label}, which is unknown.")
    except UnicodeDecodeError as err:
        return _undecodable(f"It says that it is written in {label}, and is not (byte {err.start:,}).")
    if _C1.search(text):
        return _undecodable(
            f"It says that it is written in {label}, but has bytes that have no meaning there."
        )
    return text


def _contradicted(data: bytes, text: str, codec: str) -> Fault | None:
    """Whether the bytes speak against an encoding that decodes them all the same."""
    if data.isascii() or codec.startswith("utf"):
        return None
    one_byte_each = len(text) == len(data)
    if one_byte_each and (found := _C1.search(text)):
        return _undecodable(f"Character {found.start():,} is none that {codec} has for texts.")
    try:
        data.decode()
    except UnicodeDecodeError:
        return None
    if one_byte_each or len(data) - len(data.decode("ascii", "ignore")) >= _CHANCE:
        return _undecodable(f"It is UTF-8, and {codec} would make other characters of it.")
    return None


def _wrong(err: UnicodeDecodeError) -> Fault:
    return _undecodable(f"It cannot be decoded as {err.encoding}: byte {err.start:,}, {err.reason}.")


def _undecodable(detail: str) -> Fault:
    return Fault(Reason.ENCODING, detail)
