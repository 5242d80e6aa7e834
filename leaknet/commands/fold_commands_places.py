"""Where data, caches and runs lie when no flag says so."""

from __future__ import annotations

import sys
from pathlib import Path

from leakcache.errors import CacheError, DataError, RunError

LATEST = "latest"
SAMPLE = Path("share") / "leaknet" / "data"


def data_root(given: str | None) -> Path:
    """The data root: as given, else `data/` here, else the sample that was installed.

    Raises:
        DataError: there is none.
    """
    if given is not None:
        return Path(given)
    here = Path("data")
    if here.is_dir():
        return here
    return sample_root()


def sample_root() -> Path:
    """The bundled sample: in a checkout beside the packages, else where the wheel put it.

    Raises:
        DataError: it was not installed.
    """
    checkout = Path(__file__).resolve().parents[2] / "data"
    for root in (checkout, Path(sys.prefix) / SAMPLE):
        if (root / "Closed_Set").is_dir():
            return root
    raise DataError("no data/ here and no bundled sample installed; name a folder with --data")


def name_cache(root: Path, vae: str, preprocessing: str, precision: str) -> str:
    """Folder name that tells caches of the same data apart."""
    autoencoder = Path(vae).stem if vae.endswith(".safetensors") else vae.rstrip("/").split("/")[-1]
    name = f"{root.resolve().name}-{autoencoder}-{preprocessing}"
    return name if precision == "fp32" else f"{name}-{precision}"


def remember(parent: Path, folder: Path) -> None:
    """Make `folder` the one that later commands take by default."""
    parent.mkdir(parents=True, exist_ok=True)
    (parent / LATEST).write_text(f"{folder.resolve()}\n", encoding="utf-8")


def cache_folder(given: str | None, caches: Path) -> Path:
    """The cache: as given, else the one built last.

    Raises:
        CacheError: none was built yet.
    """
    if given is not None:
        return Path(given)
    found = _latest(caches)
    if found is None:
        raise CacheError(f"{caches}: no cache yet; run `leak cache build` or name one with --cache")
    return found


def run_folder(given: str | None, runs: Path) -> Path:
    """The run: as given, else the one trained last.

    Raises:
        RunError: nothing was trained yet.
    """
    if given is not None:
        return Path(given)
    found = _latest(runs)
    if found is None:
        raise RunError(f"{runs}: no run yet; run `leak train` or name one with --run")
    return found


def _latest(parent: Path) -> Path | None:
    pointer = parent / LATEST
    if not pointer.is_file():
        return None
    folder = Path(pointer.read_text(encoding="utf-8").strip())
    if not folder.is_dir():
        return None
    here = Path.cwd().resolve()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder
