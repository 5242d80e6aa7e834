"""Names that come from outside: what is shown, what is compared, what is written into a cell."""

from __future__ import annotations

import re
import unicodedata

_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_SELECTORS = re.compile("[\ufe00-\ufe0f]")
# A spreadsheet takes a cell that begins with one of these for a formula.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_ESCAPED = re.compile(r"'+[=+\-@\t\r]")


def visible(text: str) -> str:
    """The text on one line: control, invisible and undecodable characters become escapes.

    Applied to all names in messages and tables, so that a file name cannot move the cursor, turn
    the direction of writing or forge a line.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape(c) if unicodedata.category(c) in _INVISIBLE else c for c in text)


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8, as the file system gives it
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def normal_form(text: str) -> str:
    """The form in which two names are compared; names that look alike have the same.

    Unicode NFKC without case, invisible characters and surplus white space. A name of nothing
    else stays as it is.
    """
    shown = "".join(c for c in text if unicodedata.category(c) not in ("Cc", "Cf") or c.isspace())
    folded = unicodedata.normalize("NFKC", _SELECTORS.sub("", shown)).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split()) or text


def without_braces(name: str) -> str:
    """The name without braces, which a shell expands."""
    return name.replace("{", "").replace("}", "")


def cell(text: str) -> str:
    """The text as a CSV cell: a quote in front of what a spreadsheet would run as a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def from_cell(text: str) -> str:
    """The text that `cell` wrote."""
    return text[1:] if _ESCAPED.match(text) else text
