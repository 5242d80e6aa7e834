r"""Collect the freely licensed photographs of two Debian packages for the bundled autoencoder.

    apt-get download lomiri-wallpapers-16.04 endless-sky-data
    for file in *.deb; do dpkg-deb -x "$file" unpacked; done
    python data/recipes/collect_photographs.py --root unpacked --out photographs

Writes `photographs/wallpapers` and `photographs/landscapes`: those that the package's
machine-readable copyright file lists under a licence of `FREE`.
"""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

FREE = {"CC0-1.0", "CC-BY-4.0", "public-domain"}


@dataclass(frozen=True)
class Listed:
    """Photographs of a package: their folder, and its name in the copyright file."""

    package: str
    folder: str
    listed_as: str


PHOTOGRAPHS = {
    "wallpapers": (Listed("lomiri-wallpapers-16.04", "usr/share/backgrounds", "16.04"),),
    "landscapes": tuple(
        Listed("endless-sky-data", f"usr/share/games/endless-sky/{folder}", folder)
        for folder in ("images/land", "images/scene")
    ),
}


def main() -> None:
    """Write two folders and print the number of photographs in each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--root", type=Path, required=True, help="folder of the unpacked packages")
    parser.add_argument("--out", type=Path, default=Path("photographs"))
    options = parser.parse_args()
    for kind, sources in PHOTOGRAPHS.items():
        paths = [path for source in sources for path in free_photographs(options.root, source)]
        (options.out / kind).mkdir(parents=True, exist_ok=True)
        for path in paths:
            shutil.copy(path, options.out / kind)
        print(f"{len(paths)} photographs in {options.out / kind}", flush=True)


def free_photographs(root: Path, source: Listed) -> Iterator[Path]:
    """Photographs whose last matching entry in the copyright file has a licence of `FREE`."""
    entries = list(licences(root / "usr/share/doc" / source.package / "copyright"))
    for path in sorted((root / source.folder).glob("*.jpg")):
        name = f"{source.listed_as}/{path.name}"
        found = [licence for pattern, licence in entries if fnmatchcase(name, pattern)]
        if found and found[-1] in FREE:
            yield path


def licences(path: Path) -> Iterator[tuple[str, str]]:
    """(file pattern, short name of the licence), in the order of the copyright file."""
    for stanza in re.split(r"\n\s*\n", path.read_text()):
        files = re.search(r"^Files:(.*?)^\S", stanza, re.DOTALL | re.MULTILINE)
        licence = re.search(r"^License:\s*(\S+)", stanza, re.MULTILINE)
        if files and licence:
            yield from ((pattern, licence[1]) for pattern in files[1].split())


if __name__ == "__main__":
    main()
