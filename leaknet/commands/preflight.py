"""What can be refused before the work, found without importing torch, which takes seconds."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from leakcache.dataset.findings import refuse_small_classes
from leakcache.dataset.index import read_index
from leakcache.errors import CacheCorrupt, DataError, RunError
from leakcache.files import parse_json, parse_toml, read_checked, read_text
from leakcache.names import visible
from leakcache.store.remote import unfinished
from leaknet import checksums
from leaknet.commands.base import run_folder


def check_cache(folder: Path, split: str = "closed") -> dict[str, Any]:
    """The manifest of one split of a cache, as it stands in the file; empty in an older format.

    Raises:
        CacheIncomplete: there is none.
        CacheCorrupt: it was changed since it was written.
    """
    path = folder / split / "manifest.json"
    if not path.is_file():
        raise unfinished(folder / split)
    if (path.parent / "latents.zarr").exists():  # refused, with the cure, once it is opened
        return {}
    try:
        return read_checked(path)
    except (OSError, ValueError) as error:
        raise CacheCorrupt(
            f"{path}: is damaged ({error}); run the same `leak cache build` with --repair, then "
            "this command again"
        ) from error


def check_trainable(folder: Path) -> None:
    """Refuse a cache of which a class is too small, or that has no images to train or validate on.

    Raises:
        CacheIncomplete, CacheCorrupt: as `check_cache`.
        DataError: too few images, or classes.
    """
    table = check_cache(folder).get("table")
    if not isinstance(table, dict):
        return
    rows = list(zip(table.get("label", ()), table.get("fold", ()), strict=False))
    refuse_small_classes(Counter(str(label) for label, fold in rows if fold != "open"))
    folds = Counter(str(fold) for _, fold in rows)
    for fold, use in (("train", "train"), ("val", "select the epoch and calibrate")):
        if not folds[fold]:
            raise DataError(f"{folder}: no image is in the fold {fold}: nothing to {use} on")


def check_run(run: Path) -> dict[str, Any]:
    """The settings and the record of a trained run, as they stand in config.toml.

    Raises:
        RunError: it is no run folder, or its training has not finished an epoch.
    """
    config = run / "config.toml"
    if not config.is_file():
        raise RunError(f"{run} is no run folder, as it has no config.toml: `leak train` makes one")
    if not (run / "model.safetensors").is_file():
        raise RunError(f"{run} has no model.safetensors: run `leak train --run {run}` to the end")
    try:
        return parse_toml(read_text(config))
    except (OSError, ValueError) as error:
        raise RunError(f"{config}: damaged ({error}); train again") from error


def checked_run(given: str | None, runs: Path) -> Path:
    """The run of `--run`, or the one trained last; raises as `run_folder` and `check_run`."""
    run = run_folder(given, runs)
    check_run(run)
    return run


def check_same_classes(run: Path, folder: Path) -> None:
    """Refuse a cache whose generators are not those of the run.

    Raises:
        RunError: they differ.
    """
    table = check_cache(folder).get("table")
    file = run / "classes.json"
    if not isinstance(table, dict) or not file.is_file():
        return
    pairs = zip(table.get("label", ()), table.get("fold", ()), strict=False)
    there = sorted({str(label) for label, fold in pairs if fold != "open"})
    try:
        known = parse_json(checksums.read_text(file))
    except RunError:
        raise
    except (OSError, ValueError) as error:
        raise RunError(f"{file}: damaged ({error}); restore it, or train again") from error
    if isinstance(known, list) and there != sorted(map(str, known)):
        raise RunError(
            f"{folder} is not the cache of {run}: it has the classes {_named(there)}, the run "
            f"{_named(map(str, known))}; give the right --cache or --run"
        )


def _named(labels: Any) -> str:
    return ", ".join(visible(label) for label in sorted(labels))


def check_roots(roots: Iterable[str]) -> None:
    """Refuse folders of unknown generators that hold no classes of images.

    Raises:
        DataError: one cannot be read.
    """
    for root in roots:
        if not (Path(root) / "manifest.json").is_file():
            read_index(Path(root), open_set=True)


def check_output(path: Path | None) -> None:
    """Refuse a file that cannot be written, before anything is computed for it.

    Raises:
        DataError: its folder is missing or read-only, or it is a folder itself.
    """
    if path is None:
        return
    folder = path.absolute().parent
    reason = ""
    if path.is_dir():
        reason = "it is a folder"
    elif not folder.is_dir():
        reason = f"there is no folder {folder}"
    elif not os.access(path if path.exists() else folder, os.W_OK):
        reason = "no permission"
    else:
        reason = _why_unwritable(path)
    if reason:
        raise DataError(f"{path} cannot be written ({reason}): choose another file")


def _why_unwritable(path: Path) -> str:
    """Why a file beside the path cannot be made; empty where it can."""
    trial = path.with_name(f".{path.name[:80]}.{os.getpid()}.trial")
    try:
        trial.touch()
        trial.unlink()
    except OSError as error:
        return error.strerror or str(error)
    return ""
