# SPDX-License-Identifier: Apache-2.0
"""
Decodes bytes by their declared encoding; nothing is guessed, as most single-byte encodings decode any bytes.

=================================  ============================================================================
a byte order mark                  its encoding
the option ``encoding``            that one; rejected if it contradicts the mark, or if the bytes are UTF-8
neither, and the bytes are UTF-8   UTF-8
a page's ``<meta charset>`` or     that one, by the labels of the WHATWG
XML declaration
otherwise                          rejected
=================================  ============================================================================
"""

from __future__ import annotations

import codecs
import re
from functools import cache

from lucidworks_provider.documents.document import Reason, Rejection, binary_rejection
from lucidworks_provider.errors import InputError

# Longer ones first: the mark of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Control characters that no text has, except the line break U+0085: the result of decoding with a wrong encoding,
# e.g. Windows-1252 as ISO-8859-1.
_C1 = re.compile("[\x80-\x84\x86-\x9f]")
# The declaration of a page, searched for where browsers do.
_META = re.compile(
    rb"<meta[^>]{0,200}?charset\s{0,9}=\s{0,9}[\"']?\s{0,9}([\w.:-]{1,40})"
    rb"|<\?xml[^>]{0,200}?encoding\s{0,9}=\s{0,9}[\"']([\w.:-]{1,40})",
    re.IGNORECASE,
)
_META_WITHIN = 2048
# https://encoding.spec.whatwg.org/#names-and-labels
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
# Of ISO-2022-JP, which is valid ASCII.
ESCAPED = b"\x1b$"
# Fewer non-ASCII bytes of East Asian text may be valid UTF-8 by chance.
_CHANCE = 8


@cache
def check_encoding(name: str) -> str:
    """
    Python's name of a codec; that of UTF-8 also for ``utf-8-sig``, since all marks are removed.

    :raises InputError: there is none, or it is not a text encoding.
    """
    try:
        "x".encode(name)
        return codecs.lookup(name).name.removesuffix("-sig")
    except (LookupError, ValueError, TypeError):
        raise InputError(
            f"encoding is {name!r}, which Python does not know; use e.g. utf-8, cp1252, utf-16."
        ) from None


def wide_codec(data: bytes, declared: str | None) -> str | None:
    """
    The codec of a file whose line breaks have several bytes; None for others.

    :param data: the beginning of the file.
    """
    mark = _mark(data)
    codec = mark[1] if mark else check_encoding(declared) if declared else ""
    return codec if codec.startswith(("utf-16", "utf-32")) else None


def codec_without_ascii(data: bytes, declared: str | None) -> str | None:
    """
    The codec of a file in which bytes below 128 may not be ASCII; None for others.

    :param data: the beginning of the file.
    """
    codec = wide_codec(data, declared) or (check_encoding(declared) if declared else "utf-8")
    if codec == "utf-8":
        return None
    try:
        every = bytes(range(256)).decode(codec, "replace")
        # Encodings with escape sequences have no bytes above 127.
        one_byte_each = len(every) == 256 and every.count("\ufffd") < 128
        return None if one_byte_each and every.startswith(_ASCII) else codec
    except UnicodeError:
        return codec


def check_mark(data: bytes, declared: str | None) -> None:
    """
    Compare the byte order mark of a file with its declared encoding.

    :param data: the beginning of the file.
    :raises UnicodeDecodeError: they contradict each other.
    """
    mark = _mark(data)
    if mark and declared and _differs(mark[1], declared):
        reason = f"it begins with the byte order mark of {mark[1][:6].upper()}"
        raise UnicodeDecodeError(declared, b"", 0, 0, reason)


def decode(data: bytes, declared: str | None = None, *, html: bool = False) -> str | Rejection:
    """
    Decode a text, and remove its byte order mark.

    :param declared: the encoding; None if unknown.
    :param html: the text is a page, which may declare its encoding.
    :return: a rejection for bytes that are binary or do not have the declared encoding, and for UTF-16 and UTF-32 in
        an unknown byte order.
    """
    mark = _mark(data)
    if mark is not None:
        if declared and _differs(mark[1], declared):
            name = mark[1][:6].upper()
            return _undecodable(f"It begins with the byte order mark of {name}, but {declared} was declared.")
        data = data[len(mark[0]) :]
    codec = mark[1] if mark else check_encoding(declared) if declared else None
    if mark is None and data and codec in {"utf-16", "utf-32"}:
        return _undecodable(
            f"It cannot be decoded as {codec}: it has no byte order mark. Declare {codec}-le or {codec}-be."
        )
    if codec is None or codec == "utf-8":
        return binary_rejection(data) or _utf8(data, known=codec is not None, html=html)
    try:
        text = data.decode(codec)
    except UnicodeDecodeError as err:
        return _wrong(err)
    return binary_rejection(text.encode(errors="surrogatepass")) or _contradicted(data, text, codec) or text


def _mark(data: bytes) -> tuple[bytes, str] | None:
    if data[:1] not in {b"\xef", b"\xff", b"\xfe", b"\0"}:
        return None
    return next((mark for mark in _MARKS if data.startswith(mark[0])), None)


def _differs(codec: str, declared: str) -> bool:
    """Whether the codec of a byte order mark is not that of the declared encoding, in any byte order."""
    return check_encoding(declared)[:6] != codec[:6]


def _utf8(data: bytes, *, known: bool, html: bool) -> str | Rejection:
    if not known and ESCAPED in data:
        return _as_page_says(data, "It has the escape sequences of ISO-2022-JP", html=html)
    try:
        return data.decode()
    except UnicodeDecodeError as err:
        if known:
            return _wrong(err)
        start = err.start
    replaced = data.decode(errors="replace")
    broken = replaced.count("\ufffd")
    if len(replaced) - len(replaced.encode("ascii", "ignore")) > 3 * broken:
        return _undecodable(f"It is UTF-8 except for {broken:,} places, the first at byte {start:,}.")
    return _as_page_says(data, f"It is not UTF-8 (byte {start:,})", html=html)


def _as_page_says(data: bytes, found: str, *, html: bool) -> str | Rejection:
    """
    Decode a page by its declaration.

    :param found: why it is not decoded as UTF-8.
    """
    said = _META.search(data, 0, _META_WITHIN) if html else None
    if said is None:
        return _undecodable(f"{found} and declares no encoding; set it, e.g. encoding='windows-1252'.")
    label = (said[1] or said[2]).decode().lower()
    try:
        codec = check_encoding(_LABELS.get(label, label))
        # A readable declaration proves that the page is not UTF-16.
        text = data.decode("utf-8" if codec.startswith("utf") else codec)
    except InputError:
        return _undecodable(f"It declares the encoding {label}, which is unknown.")
    except UnicodeDecodeError as err:
        return _undecodable(
            f"It declares the encoding {label}, but cannot be decoded with it (byte {err.start:,})."
        )
    if _C1.search(text):
        return _undecodable(f"It declares the encoding {label}, but has bytes without a meaning there.")
    return text


def _contradicted(data: bytes, text: str, codec: str) -> Rejection | None:
    """Reject a declared encoding that decodes the bytes, but not to text."""
    if data.isascii() or codec.startswith("utf"):
        return None
    one_byte_each = len(text) == len(data)
    if one_byte_each and (found := _C1.search(text)):
        return _undecodable(
            f"Character {found.start():,} is a control character, so {codec} is probably not its encoding."
        )
    try:
        data.decode()
    except UnicodeDecodeError:
        return None
    if one_byte_each or len(data) - len(data.decode("ascii", "ignore")) >= _CHANCE:
        return _undecodable(f"It is UTF-8, and {codec} would make other characters of it.")
    return None


def _wrong(err: UnicodeDecodeError) -> Rejection:
    return _undecodable(f"It cannot be decoded as {err.encoding}: byte {err.start:,}, {err.reason}.")


def _undecodable(detail: str) -> Rejection:
    return Rejection(Reason.ENCODING, detail)
