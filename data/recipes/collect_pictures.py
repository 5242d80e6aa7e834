r"""Pick the freely licensed pictures of two Debian packages for the bundled autoencoder.

    apt-get download lomiri-wallpapers-16.04 endless-sky-data
    for file in *.deb; do dpkg-deb -x "$file" unpacked; done
    python data/recipes/collect_pictures.py --root unpacked --out pictures

Writes `pictures/wallpapers` and `pictures/landscapes`. A photograph is taken where the package's
own list of licences (its machine-readable copyright file) puts it under one of `FREE`.
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
    """Photographs of a package: their folder, and what its list of licences calls that folder."""

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
    """Read the flags, write two folders, say how many pictures each has."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--root", type=Path, required=True, help="the packages, unpacked")
    parser.add_argument("--out", type=Path, default=Path("pictures"))
    options = parser.parse_args()
    for kind, places in PHOTOGRAPHS.items():
        paths = [path for place in places for path in free_photographs(options.root, place)]
        (options.out / kind).mkdir(parents=True, exist_ok=True)
        for path in paths:
            shutil.copy(path, options.out / kind)
        print(f"{len(paths)} pictures in {options.out / kind}", flush=True)


def free_photographs(root: Path, place: Listed) -> Iterator[Path]:
    """Those of a package whose last entry in its list of licences is one of `FREE`."""
    entries = list(licences(root / "usr/share/doc" / place.package / "copyright"))
    for path in sorted((root / place.folder).glob("*.jpg")):
        name = f"{place.listed_as}/{path.name}"
        found = [licence for pattern, licence in entries if fnmatchcase(name, pattern)]
        if found and found[-1] in FREE:
            yield path


def licences(path: Path) -> Iterator[tuple[str, str]]:
    """(pattern of files, short name of their licence), in the order of a copyright file."""
    for stanza in re.split(r"\n\s*\n", path.read_text()):
        files = re.search(r"^Files:(.*?)^\S", stanza, re.DOTALL | re.MULTILINE)
        licence = re.search(r"^License:\s*(\S+)", stanza, re.MULTILINE)
        if files and licence:
            yield from ((pattern, licence[1]) for pattern in files[1].split())


if __name__ == "__main__":
    main()
