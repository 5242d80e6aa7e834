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


_LIKE = str.maketrans(
    "\u0410\u0412\u0415\u0405\u0406\u0408\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0423"
    "\u0425"
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u04bb\u0501\u051b\u051d"
    "\u04cf\u0261\u0251"
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7"
    "\u03b1\u03b9\u03ba\u03bd\u03bf\u03c1\u03c5I1|0",
    "ABESIJKMHOPCTYXaeopcyxijshdqwlgaABEZHIKMNOPTYXaikvopulllO",
)
"""Characters of other scripts, and digits, that look like Latin letters."""


def outline(text: str) -> str:
    """A form that names share which look alike though they differ in characters or separators."""
    found = unicodedata.normalize("NFKC", text).translate(_LIKE).translate(_LIKE)
    return normal_form(re.sub(r"[-_. ]+", " ", found))


def cell(text: str) -> str:
    """The text as a CSV cell: a quote in front of what a spreadsheet would run as a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def from_cell(text: str) -> str:
    """The text that `cell` wrote."""
    return text[1:] if _ESCAPED.match(text) else text
