# SPDX-License-Identifier: Apache-2.0
"""
Extracts the text of HTML pages from the events of lxml's parser, without a tree: deep nesting takes no memory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from lucidworks_provider.documents.document import Reason, Rejection

# Each takes up to ten microseconds.
_MOST_TAGS = 1_000_000
_SPACE = re.compile("[ \t\n\f]+")
_DISPLAY_NONE = re.compile(r"display\s{0,9}:\s{0,9}none", re.IGNORECASE)
_UNSEEN = {"iframe", "noframes", "script", "style", "template", "title"}
_VERBATIM = {"listing", "plaintext", "pre", "textarea", "xmp"}
# Elements of which HTML ignores a line break right behind the tag.
_DROPPING = {"listing", "pre", "textarea"}
# Elements with a blank line before and after.
_PARAGRAPHS = {
    "blockquote",
    "figure",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "listing",
    "p",
    "plaintext",
    "pre",
    "xmp",
}
# Elements that begin a line.
_LINES = {
    *("address", "article", "aside", "body", "caption", "center", "dd", "details", "dialog", "div", "dl"),
    *("dt", "fieldset", "figcaption", "footer", "form", "header", "hr", "html", "legend", "li", "main"),
    *("menu", "nav", "ol", "option", "search", "section", "summary", "table", "tbody", "textarea", "tfoot"),
    *("thead", "tr", "ul"),
}


def html_text(html: str) -> str | Rejection:
    """
    The text of a page without scripts, styles and hidden elements; list items and table rows are lines.

    White space is kept in ``<pre>``, ``<listing>``, ``<xmp>``, ``<plaintext>`` and ``<textarea>``, and collapsed
    elsewhere. For libxml2, a list, a table or a form ends a ``<pre>``.

    :param html: the page.
    :return: a rejection for what is no page that can be read.
    """
    from lxml.etree import HTMLParser

    if (tags := html.count("<") - html.count("</")) > _MOST_TAGS:
        return Rejection(Reason.INVALID, f"It has {tags:,} tags; {_MOST_TAGS:,} are read.")
    if not html:
        return ""
    html = html.replace("\r\n", "\n").replace("\r", "\n")
    text = _Text()
    # As UTF-8, whatever the page says. lxml's own limit on depth would silently drop what is deeper.
    parser = HTMLParser(target=text, encoding="utf-8", huge_tree=True)
    parser.feed(html.encode(errors="replace"))
    parser.close()
    if fatal := parser.error_log.filter_from_fatals():
        return Rejection(Reason.INVALID, f"It cannot be read to its end: {fatal[0].message}.")
    return "".join(text.parts)


class _Text:
    """A target for lxml's parser, which also closes what the page leaves open."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        # Elements that are open from the outermost hidden one on.
        self._hidden = 0
        self._verbatim = 0
        self._newlines = 0
        self._blank = self._first = False
        # For each open list the number of its items; None where they have none.
        self._lists: list[int | None] = []
        self._bullet = ""

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        self._first = tag in _DROPPING
        hidden = tag in _UNSEEN or "hidden" in attributes or _DISPLAY_NONE.search(attributes.get("style", ""))
        if self._hidden or hidden:
            self._hidden += 1
            return
        self._border(tag)
        if tag in _VERBATIM:
            self._verbatim += 1
        elif tag in {"ol", "ul"}:
            self._lists.append(0 if tag == "ol" else None)
        elif tag == "li":
            self._bullet = "* "
            if self._lists and (count := self._lists[-1]) is not None:
                self._lists[-1] = count + 1
                self._bullet = f"{count + 1}. "

    def end(self, tag: str) -> None:
        self._first = False
        if self._hidden:
            self._hidden -= 1
            return
        self._border(tag)
        if tag in _VERBATIM:
            self._verbatim -= 1
        elif tag in {"ol", "ul"}:
            self._lists.pop()
        elif tag == "br":
            self._newlines = min(self._newlines + 1, 2)
        elif tag in {"td", "th"}:
            self._blank = True

    def data(self, text: str) -> None:
        if self._hidden:
            return
        if self._verbatim:
            self._write(text.removeprefix("\n") if self._first else text)
            self._first = False
            return
        words = _SPACE.sub(" ", text)
        self._blank |= words.startswith(" ")
        if words != " ":
            self._write(words.strip(" "))
            self._blank = words.endswith(" ")

    def comment(self, text: str) -> None:
        self._first = False

    def close(self) -> None:
        """The page ends."""

    def _border(self, tag: str) -> None:
        lines = 2 if tag in _PARAGRAPHS else 1 if tag in _LINES else 0
        self._newlines = max(self._newlines, lines)

    def _write(self, text: str) -> None:
        if not text:
            return
        if self.parts and self._newlines:
            last = self.parts[-1]
            self.parts.append("\n" * (self._newlines - (len(last) - len(last.rstrip("\n")))))
        elif self.parts and self._blank:
            self.parts.append(" ")
        self.parts.append(self._bullet + text)
        self._newlines, self._blank, self._bullet = 0, False, ""
