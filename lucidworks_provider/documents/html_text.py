# SPDX-License-Identifier: Apache-2.0
"""
The text of an HTML page, as somebody would read it, whatever the page is.

lxml reads the page and inscriptis lays it out. Between the two the page is made harmless, for inscriptis

* goes down the tree by recursion, and lxml drops silently what is nested deeper than 256 tags unless told;
* pads the cells of a table to the widest one, so that 20 MB become 100 GB, and follows margins of any size;
* appends to a line by copying it, so that a long paragraph of many short tags takes hours;
* decodes entities that lxml has decoded before (``&amp;lt;`` is ``&lt;`` in a text about HTML).
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

from lucidworks_provider.documents.document import Reason
from lucidworks_provider.documents.encoding import Fault
from lucidworks_provider.errors import InputError

if TYPE_CHECKING:
    from inscriptis.model.config import ParserConfig

# Python allows 1,000 nested calls, and the task has some of its own. Pages have 30 to 50 levels.
_DEEPEST = 400
# Each takes 250 bytes of memory while the page is read, and up to ten microseconds.
_MOST_TAGS = 1_000_000
# Characters that are copied while lines are put together: about a second.
_MOST_COPIED = 3_000_000_000
# Pairs of attributes that lxml compares, since a tag has none twice: five seconds.
_MOST_COMPARED = 7_000_000_000
# A tag as browsers read it: quotes count behind an equals sign only, and one that is not closed goes on to the
# end. Possessive throughout, so that each character is looked at once.
_QUOTED = re.compile(r"""=\s*+(?:"[^"]*+(?:"|\Z)|'[^']*+(?:'|\Z))""")
_TAG = re.compile(rf"<[a-zA-Z](?:[^>=]++|{_QUOTED.pattern}|=)*+")
# Shorter ones have too few attributes to matter.
_LONG_TAG = 1000
_ENTITY = re.compile("&(?=[#a-zA-Z])")
# What lxml gives and does not take back.
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_HIDDEN = re.compile(r"display\s{0,9}:\s{0,9}none", re.IGNORECASE)
# Beside those that inscriptis knows to stand on lines of their own.
_BLOCKS = (
    *("caption", "center", "dd", "details", "dialog", "dl", "dt", "fieldset", "form", "hr", "legend", "menu"),
    *("option", "search", "section", "summary", "table", "tbody", "tfoot", "thead", "tr"),
)
_UNSEEN = ("iframe", "noframes", "template")


def check_installed() -> None:
    """
    Refuse HTML where what reads it is not installed.

    :raises InputError: names the extra.
    """
    try:
        import inscriptis  # noqa: F401
    except ImportError:
        raise InputError(
            "HTML files need inscriptis: pip install 'airflow-provider-lucidworks[documents]', on the workers "
            "too; or leave such files out of the source."
        ) from None


def html_text(html: str) -> str | Fault:
    """
    What a page says, without scripts, styles and what is hidden; lists and tables line by line.

    :return: a fault for what is no page that can be read.
    """
    from inscriptis.html_engine import Inscriptis
    from lxml.etree import ParserError
    from lxml.html import HTMLParser, document_fromstring

    if fault := _too_much(html):
        return fault
    # Bytes, since a text that says that it is ISO-8859-1 is refused; they are UTF-8 whatever they say.
    parser = HTMLParser(encoding="utf-8", huge_tree=True, remove_comments=True, remove_pis=True)
    try:
        tree = document_fromstring(html.encode(errors="replace"), parser=parser)
    except ParserError:
        return ""  # no tag and no text
    if parser.error_log.filter_from_fatals():
        return _invalid(f"It cannot be read to its end: {parser.error_log.filter_from_fatals()[0].message}.")
    if fault := _tame(tree):
        return fault
    try:
        text: str = Inscriptis(tree, _layout()).get_text()
    except RecursionError:
        return _invalid("Its tags are nested too deep.")
    return text.strip()


def _too_much(html: str) -> Fault | None:
    if (tags := html.count("<") - html.count("</")) > _MOST_TAGS:
        return _invalid(f"It has {tags:,} tags; {_MOST_TAGS:,} are read.")
    if _compared(html) > _MOST_COMPARED:
        return _invalid("It has too many attributes within one tag.")
    return None


def _compared(html: str) -> int:
    """How often the attributes of a tag are compared with each other, at most."""
    pairs = 0
    for tag in _TAG.finditer(html):
        if tag.end() - tag.start() > _LONG_TAG:
            outside = _QUOTED.sub("=", tag[0])
            pairs += sum(map(outside.count, " \t\n\r\f/=")) ** 2
    return pairs


def _tame(tree: Any) -> Fault | None:
    """Take out of a page what would keep inscriptis busy, or say that it is too much."""
    from lxml.etree import iterwalk

    blocks = _blocks()
    depth = line = copied = 0
    for event, element in iterwalk(tree, events=("start", "end")):
        if event == "start":
            depth += 1
            if depth > _DEEPEST:
                return _invalid(f"Its tags are nested deeper than {_DEEPEST}.")
            if element.attrib:
                hidden = "hidden" in element.attrib or _HIDDEN.search(element.get("style", ""))
                element.attrib.clear()
                if hidden:
                    element.set("style", "display:none")
            written = element.text
            if written and "&" in written:
                element.text = _escaped(written)
        else:
            depth -= 1
            written = element.tail
            if written and "&" in written:
                element.tail = _escaped(written)
        line = 0 if element.tag in blocks else line
        line += len(written or "")
        copied += line
        if copied > _MOST_COPIED:
            return _invalid("It has too many tags within one paragraph.")
    return None


def _escaped(text: str) -> str:
    return _ENTITY.sub("&amp;", _NOT_XML.sub("", text))


@cache
def _blocks() -> frozenset[str]:
    from inscriptis.html_properties import Display

    return frozenset({"br", *(tag for tag, style in _layout().css.items() if style.display is Display.block)})


@cache
def _layout() -> ParserConfig:
    from inscriptis.css_profiles import STRICT_CSS_PROFILE
    from inscriptis.html_properties import Display
    from inscriptis.model.config import ParserConfig
    from inscriptis.model.html_element import HtmlElement
    from inscriptis.model.tag import CustomHtmlTagHandlerMapping

    css = dict(STRICT_CSS_PROFILE)
    css |= {tag: HtmlElement(display=Display.block) for tag in _BLOCKS}
    css |= {tag: HtmlElement(display=Display.none) for tag in _UNSEEN}
    # White space in front of a line says nothing to a model.
    css |= {tag: HtmlElement(display=Display.block) for tag in ("ol", "ul")}
    cells = ("td", "th")
    return ParserConfig(
        css=css,
        custom_html_tag_handler_mapping=CustomHtmlTagHandlerMapping(
            start_tag_mapping=dict.fromkeys(("table", "tr", *cells), _nothing),
            end_tag_mapping={"table": _nothing, **dict.fromkeys(cells, _end_of_cell)},
        ),
    )


def _nothing(*_: object) -> None:
    """A table is lines, a row a line."""


def _end_of_cell(state: Any) -> None:
    state.tags[-1].write(" ")


def _invalid(detail: str) -> Fault:
    return Fault(Reason.INVALID, detail)
