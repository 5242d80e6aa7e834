"""Build, train and load from Python; each does what the command of its name does."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from leakcache.dataset.findings import refuse_errors
from leakcache.dataset.index import read_index
from leakcache.dataset.records import COLUMNS
from leakcache.device import resolve_device
from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import DataError
from leakcache.files import write_text
from leakcache.images.decode import Preprocessing
from leakcache.store.build import build_cache as build
from leakcache.store.cache import open_current
from leakcache.store.remote import cache_home
from leaknet.config import RunConfig
from leaknet.config import preset as preset_named
from leaknet.detectors import Detector
from leaknet.export.hub import local_run
from leaknet.scoring.predict import Predictor
from leaknet.scoring.score_run import prepare_run
from leaknet.training.run_folder import run_name
from leaknet.training.train import train as fit


def load(
    run: str | Path,
    *,
    detectors: Sequence[str | type[Detector]] = ("kde",),
    vae: str | Encoder | None = None,
    device: str = "auto",
) -> Predictor:
    """Load a trained run, from a folder or by its hub id; otherwise as `leaknet.Predictor`.

    Raises:
        RunError: also where the hub does not give the run.
    """
    return Predictor(local_run(run), detectors=detectors, vae=vae, device=device)


def build_cache(
    paths: Sequence[str | Path],
    labels: Sequence[str],
    cache: str | Path,
    *,
    groups: Sequence[str] | None = None,
    folds: Sequence[str] | None = None,
    preset: str | RunConfig = "best",
    vae: str | Encoder = "bundled",
    size: int = 256,
    seed: int = 0,
    device: str = "auto",
) -> Path:
    """Fill a cache with the columns of images; call it again to resume or after adding images.

    The table of images is kept as `images.csv` in the folder of the cache.

    Args:
        paths: image files.
        labels: generator of each.
        cache: folder of the cache, new or of an earlier call.
        groups: prompt group of each; the stem of its file without.
        folds: train, val, test or open of each; cut by group without.
        preset: whose columns are filled.
        vae: names the autoencoder (see `leakcache.encoder.weights.locate`), or is a loaded one.
        size: side in pixels of the view that latents are encoded from.
        seed: of the cut into folds.
        device: "auto", or a torch device's name.

    Returns:
        The folder of the cache.

    Raises:
        DataError: the lists differ in length, or the images are no data set to train on.
        WeightsError: the autoencoder cannot be had.
        CacheStale: the folder holds a cache of another autoencoder or size.
    """
    folder = Path(cache)
    table = _write_table(folder / "images.csv", paths, labels, groups, folds)
    index = read_index(table, seed=seed)
    refuse_errors(index, "closed")
    where = str(resolve_device(device))
    encoder = vae if isinstance(vae, Encoder) else Encoder.load(vae, device=where)
    columns = _config(preset).columns()
    for split in ("closed", "open"):
        if index.select(split).records:
            build(
                index,
                encoder,
                folder / split,
                split=split,
                preprocessing=Preprocessing(size=size),
                columns=columns,
            )
    return folder


def train(
    cache: str | Path,
    preset: str | RunConfig = "best",
    run: str | Path | None = None,
    *,
    seed: int = 0,
    settings: Sequence[str] = (),
    device: str = "auto",
) -> Predictor:
    """Train on a cache, and load the run. A finished run of the same settings is loaded only.

    Args:
        cache: its folder, or URL.
        preset: paper, authors or best, or settings.
        run: the run folder; `runs/` and the name that `leak train` gives without.
        seed: of the training.
        settings: that differ from the preset, as `train.epochs=20`.
        device: "auto", or a torch device's name.

    Raises:
        CacheError: the cache is not finished, or lacks a column.
        TrainingError: the cache cannot be learnt from.
        RunError: the folder holds a run with other settings.
        ConfigError: a setting is unknown or out of range.
    """
    config = _config(preset).with_overrides([f"train.seed={seed}", *settings])
    home = cache_home(cache)
    closed = open_current(home / "closed")
    folder = Path(run) if run else Path("runs") / run_name(home.name, config)
    where = resolve_device(device)
    fit(config, closed, folder, device=str(where))
    prepare_run(folder, closed, where)
    return Predictor(folder, device=device)


def _config(preset: str | RunConfig) -> RunConfig:
    return preset if isinstance(preset, RunConfig) else preset_named(preset)


def _write_table(
    file: Path,
    paths: Sequence[str | Path],
    labels: Sequence[str],
    groups: Sequence[str] | None,
    folds: Sequence[str] | None,
) -> Path:
    """The table that `read_index` reads, with absolute paths."""
    absolute = [str(Path(path).absolute()) for path in paths]
    found = dict(zip(COLUMNS, (absolute, labels, groups, folds), strict=True))
    given = {name: list(values) for name, values in found.items() if values is not None}
    for name, values in given.items():
        if len(values) != len(absolute):
            raise DataError(f"{len(values)} {name}s for {len(absolute)} paths: give one each")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(given)
    writer.writerows(zip(*given.values(), strict=True))
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, text.getvalue())
    return file
