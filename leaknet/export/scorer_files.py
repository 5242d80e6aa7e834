"""The files of a scorer: its module, and those modules of leak that it imports, copied.

Imports of jaxtyping, which serve type checks alone, are left out of the copies.
"""

from __future__ import annotations

import ast
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAIN = "leaknet.export.scorer"
OWN = ("leakcache", "leaknet")


def copy_scorer(folder: Path) -> None:
    """Write scorer.py and what it imports into the folder."""
    done: set[str] = set()
    waiting = [MAIN]
    while waiting:
        name = waiting.pop()
        if name in done:
            continue
        done.add(name)
        source = ROOT.joinpath(*name.split(".")).with_suffix(".py")
        target = folder / ("scorer.py" if name == MAIN else source.relative_to(ROOT))
        target.parent.mkdir(parents=True, exist_ok=True)
        imported, text = _without_types(source.read_text("utf-8"))
        origin = (
            f"# Copied by `leak export` {version('leaknet')} from {source.relative_to(ROOT)}.\n"
        )
        target.write_text(origin + text, "utf-8")
        waiting += [one for one in imported if one.startswith(OWN)]
    # Without them an installed package of the same name would come first.
    for path in {parent for one in folder.glob("*/**/*.py") for parent in one.parents}:
        if path != folder and path.is_relative_to(folder):
            (path / "__init__.py").touch()


def _without_types(source: str) -> tuple[list[str], str]:
    """Modules that a source imports at its top, and the source without imports of jaxtyping."""
    lines, imported = source.splitlines(keepends=True), []
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            imported.append(node.module)
            if node.module == "jaxtyping":
                lines[node.lineno - 1 : node.end_lineno] = [""] * (
                    (node.end_lineno or node.lineno) - node.lineno + 1
                )
    return imported, "".join(lines)
