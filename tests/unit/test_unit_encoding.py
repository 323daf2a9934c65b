# SPDX-License-Identifier: Apache-2.0
"""``documents/encoding.py``: a text, or the reason why not; never a wrong text."""

import codecs
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lucidworks_provider.documents.document import Reason, Rejection, content_hash, text_rejection
from lucidworks_provider.documents.encoding import check_encoding, decode
from lucidworks_provider.errors import InputError

RUSSIAN = (
    "Съешь ещё этих мягких французских булок, да выпей чаю. Москва - столица, и здесь живут миллионы людей. "
)
JAPANESE = "日本語の文章です。東京は日本の首都で、多くの人々が住んでいます。明日は雨が降るかもしれません。"
CHINESE = "北京是中华人民共和国的首都，也是全国的政治、文化中心。今天的天气很好，我们一起去公园散步吧。"
SPANISH = (
    "El niño comió una piña en España mañana por la mañana. ¿Cuándo vendrá la señora? La canción es bonita. "
)
POLISH = "Zażółć gęślą jaźń. Łódź jest piękną częścią Polski, gdzie żyją ludzie mówiący po polsku. Śnieg. "


def reason(data: bytes, declared: str | None = None, *, html: bool = False) -> Reason | None:
    found = decode(data, declared, html=html)
    return found.reason if isinstance(found, Rejection) else None


@given(
    text=st.text(st.characters(min_codepoint=32, exclude_categories=("Cs",), exclude_characters="\x7f\ufeff"))
)
@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_what_says_what_it_is_is_read(codec: str, text: str) -> None:
    assert decode(text.encode(codec)) == text


def test_a_text_stays_as_it_is() -> None:
    text = "  a\r\n\tb\rc\x0c\x0bd \x85\u2028\n\n"
    assert decode(text.encode()) == text
    assert decode(text.encode(), "utf-16") != text
    assert decode(text.encode("utf-16-be"), "utf-16-be") == text


@pytest.mark.parametrize(
    "data",
    [
        b"a\0b",
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        b"%PDF-1.7\n\x01\x02\x03\x04\x05\x06",
        "no mark".encode("utf-16-le"),
        bytes(range(1, 32)) * 20,
    ],
)
@pytest.mark.parametrize("declared", [None, "utf-8"])
def test_binary(data: bytes, declared: str | None) -> None:
    assert reason(data, declared) is Reason.BINARY


@pytest.mark.parametrize(
    "data", [b"one\x08 stray", b"an end as in DOS\x1a", b"\x1b[31mred\x1b[0m", b"\x0cpage"]
)
def test_a_stray_control_character_is_none(data: bytes) -> None:
    assert decode(data) == data.decode()


@pytest.mark.parametrize(
    ("data", "declared", "text"),
    [
        ("déjà".encode("cp1252"), "cp1252", "déjà"),
        ("déjà".encode("cp1252"), "latin-1", "déjà"),
        ("déjà".encode(), "utf8", "déjà"),
        (codecs.BOM_UTF8 + "déjà".encode(), "UTF-8", "déjà"),
        (codecs.BOM_UTF8 + "déjà".encode(), "utf_8_sig", "déjà"),
        ("déjà".encode(), "utf-8-sig", "déjà"),
        ("déjà".encode("utf-16"), "utf-16", "déjà"),
        ("déjà".encode("utf-16-le"), "utf-16-le", "déjà"),
        (codecs.BOM_UTF16_BE + "déjà".encode("utf-16-be"), "utf-16", "déjà"),
        (RUSSIAN.encode("koi8-r"), "koi8-r", RUSSIAN),
        (CHINESE.encode("gb18030"), "gb2312", CHINESE),
        (b"plain", "cp1252", "plain"),
    ],
)
def test_a_declared_encoding_wins(data: bytes, declared: str, text: str) -> None:
    assert decode(data, declared) == text


@pytest.mark.parametrize(
    ("data", "declared", "message"),
    [
        ("déjà".encode("cp1252"), "utf-8", "cannot be decoded as utf-8: byte 1"),
        ("日本".encode(), "ascii", "cannot be decoded as ascii"),
        # Every one of these would decode without an error, to other characters.
        ("déjà".encode(), "cp1252", "It is UTF-8, and cp1252 would make other characters of it"),
        ("déjà".encode("utf-8-sig"), "cp1252", "begins with the byte order mark of UTF-8"),
        ("déjà".encode("utf-16"), "latin-1", "begins with the byte order mark of UTF-16"),
        ("“déjà”".encode("cp1252"), "latin-1", "Character 0 is a control character, so iso8859-1"),
        ("你好你好".encode(), "gbk", "It is UTF-8, and gbk would"),
        (b"a\xff\xfe", "utf-16-le", "cannot be decoded as utf-16"),
        ("日本".encode("utf-16-be"), "UTF16", "cannot be decoded as utf-16: it has no byte order mark"),
        ("日本".encode("utf-32-le"), "utf-32", "it has no byte order mark. Declare utf-32-le or utf-32-be."),
    ],
)
def test_what_contradicts_its_declaration_is_no_text(data: bytes, declared: str, message: str) -> None:
    found = decode(data, declared)
    assert isinstance(found, Rejection)
    assert found.reason is Reason.ENCODING
    assert message in found.detail


@pytest.mark.parametrize("name", ["utf-9", "base64", "rot13", "", "a\0b", 5, "undefined"])
def test_no_encoding(name: str) -> None:
    with pytest.raises(InputError, match="encoding is"):
        check_encoding(name)


@pytest.mark.parametrize(
    ("head", "codec", "decoded"),
    [
        ('<meta charset="windows-1252">', "cp1252", True),
        ("<META HTTP-EQUIV='Content-Type' CONTENT='text/html; charset=ISO-8859-1'>", "cp1252", True),
        ('<?xml version="1.0" encoding="iso-8859-2"?>', "iso8859_2", True),
        ("<meta charset=shift_jis>", "cp932", True),
        ("<meta charset=gb2312>", "gb18030", True),
        ("<meta charset=iso-2022-jp>", "iso2022_jp", True),
        ("<meta charset=utf-8>", "cp1252", False),
        ("<meta charset=nonsense>", "cp1252", False),
        ("<meta charset=utf-16>", "cp1252", False),
        (f"{' ' * 5000}<meta charset=windows-1252>", "cp1252", False),
    ],
)
def test_a_page_says_what_it_is(head: str, codec: str, decoded: bool) -> None:
    text = {"cp932": JAPANESE, "iso2022_jp": JAPANESE, "gb18030": CHINESE, "iso8859_2": POLISH}.get(
        codec, SPANISH
    )
    data = (head + text).encode(codec)
    assert decode(data, html=True) == head + text if decoded else reason(data, html=True) is Reason.ENCODING


def test_binary_in_a_wide_encoding() -> None:
    assert reason("a\0b".encode("utf-16")) is Reason.BINARY


def test_a_page_of_utf8_is_that_whatever_it_says() -> None:
    page = f"<meta charset=iso-8859-1>{SPANISH}"
    assert decode(page.encode(), html=True) == page
    assert decode(page.encode(), "utf-8", html=True) == page


@pytest.mark.parametrize("html", [True, False])
@pytest.mark.parametrize(
    ("text", "codec"),
    [
        *((RUSSIAN, codec) for codec in ("cp1251", "koi8_r")),
        *((JAPANESE, codec) for codec in ("cp932", "euc_jp", "iso2022_jp")),
        *((SPANISH, codec) for codec in ("cp1252", "mac_roman")),
    ],
)
def test_nothing_is_guessed(text: str, codec: str, html: bool) -> None:
    data = (text * 20).encode(codec)
    found = decode(data, html=html)
    assert isinstance(found, Rejection)
    assert found.reason is Reason.ENCODING
    assert "set it, e.g. encoding='windows-1252'" in found.detail
    assert decode(data, codec, html=html) == text * 20


def test_utf8_with_a_broken_place_is_not_something_else() -> None:
    data = bytearray((SPANISH * 20).encode())
    at = data.index("ñ".encode())
    del data[at]
    found = decode(bytes(data))
    assert isinstance(found, Rejection)
    assert found.reason is Reason.ENCODING
    assert f"UTF-8 except for 1 places, the first at byte {at}" in found.detail


@pytest.mark.parametrize("declared", [None, "cp1252", "gbk", "utf-16"])
def test_junk_takes_no_time(declared: str | None) -> None:
    junk = random.Random(1).randbytes(2_000_000)
    for data in (
        junk,
        bytes(byte | 128 for byte in junk),
        bytes(byte % 127 + 1 for byte in junk),
        b"\xc3 " * 1_000_000,
        "é".encode() * 600_000 + b"\xff" * 500_000,
        b"\x1b$" * 1_000_000,
    ):
        begin = time.process_time()
        decode(data, declared, html=True)
        assert time.process_time() - begin < 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fine", None),
        ("ä" * 5, None),
        ("ä" * 6, Reason.TOO_LARGE),
        ("", Reason.EMPTY),
        (" \n\u3000", Reason.EMPTY),
        ("\ud83d", Reason.INVALID),
        ("a\0", Reason.BINARY),
        ("\x01\x02", Reason.BINARY),
    ],
)
def test_texts_that_come_as_such(text: str, expected: Reason | None) -> None:
    rejection = text_rejection(text, 10)
    assert (rejection and rejection.reason) == expected


def test_the_hash_is_that_of_utf8() -> None:
    assert content_hash("ä") == "33e6d73fee82904c8d7afb78de1154d1e8dc2a0edb08120e63df5b9385c2d9cc"
