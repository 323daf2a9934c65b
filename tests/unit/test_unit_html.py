# SPDX-License-Identifier: Apache-2.0
"""``documents/html_text.py``: what a page says, and no page that keeps a worker busy."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lucidworks_provider.documents.document import Reason, Rejection
from lucidworks_provider.documents.html_text import html_text


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>One</p><p>Two <b>bold</b>ly.</p>", "One\n\nTwo boldly."),
        ("just text", "just text"),
        ("", ""),
        ("<!-- nothing -->", ""),
        ("<html><head><title>T</title><style>p{}</style></head><body><script>x<p>y</script>z</body>", "z"),
        ("<ul><li>a<ul><li>b</li></ul></li><li>c</li></ul>", "* a\n* b\n* c"),
        ("<ol><li>x</li><li>y</li></ol>", "1. x\n2. y"),
        (
            "<table><tr><th>Name</th><th><b>Price</b></th></tr><tr><td>A</td><td>5</td></tr></table>",
            "Name Price\nA 5",
        ),
        ("<section>one</section><section>two</section><dl><dt>t</dt><dd>d</dd></dl>", "one\ntwo\nt\nd"),
        ("a<br>b<br/>c", "a\nb\nc"),
        ("<pre>  x\n    y</pre>", "  x\n    y"),
        ("<pre>\n\n x</pre>", "\n x"),
        ("<pre><code>\nx\n  y\n</code></pre>", "\nx\n  y\n"),
        ("<pre><!-- c -->\n x</pre>", "\n x"),
        ("<pre>&#10;x</pre><textarea>\n y</textarea>", "x\n\n y"),
        ("<p>a<xmp>\nb  <i>c\n</xmp><listing>\nd  e</listing>f  g", "a\n\n\nb  <i>c\n\nd  e\n\nf g"),
        ("a<plaintext>b  <i>c\n  d", "a\n\nb  <i>c\n  d"),
        # White space is kept in what is within, too; a line break behind the tag is none.
        ("<p>a</p><pre>\n  b\r\n<b>    c\n d</b>\n  <i>e\n</i></pre><p>f", "a\n\n  b\n    c\n d\n  e\n\nf"),
        ("<textarea> a\n  b</textarea>c  d", " a\n  b\nc d"),
        ("<html><body>a</body></html>b<p>c</p>", "a\nb\n\nc"),
        ("<html><body>a</body></html><html><body>b</body></html>", "a\nb"),
        ("<!DOCTYPE html>\n<html><body>\n<p>a</p>\n</body></html>\nb", "a\n\nb"),
        ("<ul><li><p>a</p><p>b</p></li></ul><ol><li hidden>no<li>c", "* a\n\nb\n\n1. c"),
        ("<div hidden>no<pre>no<br>no</pre></div><p>a<br><br>b<br>c", "a\n\nb\nc"),
        ('<p style="color:red; DISPLAY : none">no</p><p hidden>no</p><template>no</template>yes', "yes"),
        ("<p>&ouml; &copy; &#8364; AT&T &lt;b&gt;</p>", "ö © € AT&T <b>"),
        # Of a text about HTML: decoded once, not twice.
        ("<p>write &amp;lt; for &lt;, and &amp;amp;</p>", "write &lt; for <, and &amp;"),
        ("<p>x<!-- c -->y<?php echo 1 ?>z</p>", "xyz"),
        ('<?xml version="1.0" encoding="iso-8859-1"?><html><body><p>日本</p></body></html>', "日本"),
        ('<meta charset="iso-8859-1"><p>日本</p>', "日本"),
        ("<p>un<b>closed <i>tags", "unclosed tags"),
        ("<p>a   \n\t b</p>", "a b"),
    ],
)
def test_what_a_page_says(page: str, text: str) -> None:
    assert html_text(page) == text


PARTS = """<p> </p> <table> <tr> <td> </td> </table> <ul> <ol> </ul> <li/value='²'> <pre> <b> <br> <!-- --> <svg>
    <script> </script> <select> <option> </body> <html> <p/style='margin-top:9em'> </nothing> <!DOCTYPE <?x ]]>
    &lt; &amp;lt; &#55296; &#1; &#0; &nbsp & < =" x ä \x01 \x7f \ufffe"""


@given(st.lists(st.sampled_from([*PARTS.split(), " ", "\n"]), max_size=60).map("".join))
def test_any_page_is_a_text(page: str) -> None:
    text = html_text(page)
    assert isinstance(text, str)
    text.encode()


def test_deep_pages_are_read() -> None:
    # The parser's own limit is 256, and it leaves out what is deeper without a word.
    page = "<div>" * 3_800 + "deep" + "</div>" * 3_800 + "<p>behind</p>"
    assert html_text(page) == "deep\n\nbehind"


BOMBS = {"tags": "<" * 10_000_000, "tags that are closed": "<b>x</b>" * 1_000_001}
HARMLESS = {
    "nested": ("<div>" * 100_000 + "x", 1),
    "nested tables": ("<table><tr><td>" * 5_000 + "x", 1),
    "never closed": ("<p><font>x" * 10_000, 29_998),
    "attributes": ("<p " + " ".join(f"a{n}=1" for n in range(200_000)) + ">x</p>", 1),
    "attributes behind quotes": ("<p " + " ".join(f'a{n}="1"' for n in range(200_000)) + ">x</p>", 1),
    "one line of many": ("<p>" + "<b>x</b>" * 200_000, 200_000),
    "entities": ("&lt;" * 1_000_000, 1_000_000),
    "entities in entities": (
        '<!DOCTYPE html [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]><p>&b;</p>',
        7,
    ),
    "a wide table": ("<table><tr><td>" + "x" * 100_000 + "<tr><td>a<td>b" * 20_000 + "</table>", 180_000),
    "margins": ('<p style="margin-top:99999em;padding-left:99999em">x</p>' * 1_000, 2_998),
    "numbers": ("<ol><li value=" + "9" * 5_000 + ">x</ol>", 4),
    "an attribute of megabytes": ('<p title="' + "x " * 2_000_000 + '">y</p>', 1),
    "white space": ("<p style='display" + " " * 2_000_000 + "'>y</p>", 1),
    "lists in lists": ("<ul>" * 300 + "<li>x" * 20_000, 79_999),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_reported(name: str) -> None:
    begin = time.process_time()
    found = html_text(BOMBS[name])
    assert isinstance(found, Rejection)
    assert found.reason is Reason.INVALID
    assert time.process_time() - begin < 3


@pytest.mark.parametrize("name", HARMLESS)
def test_and_what_looks_like_one_is_read(name: str) -> None:
    page, length = HARMLESS[name]
    begin = time.process_time()
    assert len(html_text(page)) == length
    assert time.process_time() - begin < 3
