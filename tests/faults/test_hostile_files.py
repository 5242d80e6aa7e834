"""Files made to harm: refused in one line, in little time and memory; nothing in them is run."""

from __future__ import annotations

import csv
import html
import json
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from leakcache.files import read_checked, write_checked
from leaknet.files import read_tensors, save_tensors
from tests.faults.conftest import Tally
from tests.faults.world import (
    BUILD,
    CACHE,
    EVALUATE,
    SCORE,
    SCORE_IMAGE,
    TRAIN,
    Outcome,
    Stages,
    write_images,
)

SECONDS, MEBIBYTES = 4.0, 500.0
"""Most computing and memory of a refusal, on top of loaded libraries."""
DEEP = 200_000
Alter = Callable[[Path], object]

REPORT = ("report", "runs/r")
VERIFY = ("cache", "verify")
INFO = ("cache", "info")
UNDO = ("enroll", "--undo", "--run", "runs/r")


def text(name: str, content: str) -> Alter:
    """Replace a file by a text."""
    return lambda world: fresh(world / name).write_text(content)


def data(name: str, content: bytes) -> Alter:
    """Replace a file by bytes."""
    return lambda world: fresh(world / name).write_bytes(content)


def link(name: str, target: str) -> Alter:
    """Replace a file by a link."""
    return lambda world: fresh(world / name).symlink_to(target)


def fresh(path: Path) -> Path:
    path.unlink(missing_ok=True)
    return path


def tensors(name: str, change: Callable[[str, torch.Tensor], torch.Tensor]) -> Alter:
    """Change all tensors of a file, whose form stays sound."""

    def alter(world: Path) -> None:
        found, metadata = read_tensors(world / name)
        path = fresh(world / name)
        save_tensors(path, {key: change(key, value) for key, value in found.items()}, metadata)
        (path.parent / "checksums.json").unlink()

    return alter


def number(value: float) -> Callable[[str, torch.Tensor], torch.Tensor]:
    """Put a number in front of every tensor of floats."""

    def change(_: str, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_floating_point() and tensor.numel():
            tensor = tensor.clone()
            tensor.view(-1)[0] = value
        return tensor

    return change


def header(name: str, content: object, length: int | None = None) -> Alter:
    """A safetensors file with this header."""
    raw = content.encode() if isinstance(content, str) else json.dumps(content).encode()
    return data(name, struct.pack("<Q", len(raw) if length is None else length) + raw + b"\0" * 16)


def hdf5(change: Callable[[h5py.File], object]) -> Alter:
    """Change the file of embeddings."""

    def alter(world: Path) -> None:
        with h5py.File(world / "runs/r/embeddings.h5", "r+") as file:
            change(file)

    return alter


def replace_vectors(file: h5py.File, **options: object) -> None:
    del file["vectors"]
    file.create_dataset("vectors", **options)


def external_link(file: h5py.File) -> None:
    del file["vectors"]
    file["vectors"] = h5py.ExternalLink("/etc/other.h5", "vectors")


def virtual(file: h5py.File) -> None:
    shape = file["vectors"].shape
    layout = h5py.VirtualLayout(shape, "f4")
    layout[:] = h5py.VirtualSource("/etc/other.h5", "vectors", shape)
    del file["vectors"]
    file.create_virtual_dataset("vectors", layout)


def nan_vectors(file: h5py.File) -> None:
    file["vectors"][0] = np.nan


def checked(pattern: str, change: Callable[[dict], object]) -> Alter:  # type: ignore[type-arg]
    """Change a JSON file of the cache, and its checksum with it."""

    def alter(world: Path) -> None:
        (path,) = (world / CACHE).glob(pattern)
        content = read_checked(path)
        change(content)
        write_checked(path, content)

    return alter


def both(*alterations: Alter) -> Alter:
    return lambda world: [alter(world) for alter in alterations]


def huge_column(content: dict) -> None:  # type: ignore[type-arg]
    content["spec"]["shape"] = [1, 2**40, 16, 8]


def huge_zarr(content: dict) -> None:  # type: ignore[type-arg]
    zarr = json.loads(content["zarr"])
    zarr["shape"][1] = 2**40
    content["zarr"] = json.dumps(zarr)


def write_zarr(world: Path) -> None:
    (path,) = (world / CACHE).glob("store/columns/*/column.json")
    (path.parent / "values.zarr/zarr.json").write_text(read_checked(path)["zarr"])


def shard(value: object) -> Callable[[dict], None]:  # type: ignore[type-arg]
    def change(content: dict) -> None:  # type: ignore[type-arg]
        content["columns"] = dict.fromkeys(content["columns"], value)

    return change


class Touch:
    """What a pickle would run."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("harmed"),))


RUN = "runs/r/"
WEIGHTS = RUN + "model.safetensors"
HUGE = {"x": {"dtype": "F32", "shape": [2**40, 200], "data_offsets": [0, 16]}}
CASES: dict[str, tuple[Alter, tuple[str, ...]]] = {
    "TOML nested deep": (text(RUN + "config.toml", "a = " + "[" * DEEP), SCORE_IMAGE),
    "JSON nested deep: classes": (text(RUN + "classes.json", "[" * DEEP), SCORE_IMAGE),
    "JSON nested deep: metrics": (text(RUN + "metrics.json", '{"a":' * DEEP), REPORT),
    "JSON nested deep: history": (text(RUN + "history.jsonl", "[" * DEEP), REPORT),
    "JSON nested deep: checksums": (text(RUN + "checksums.json", "[" * DEEP), SCORE_IMAGE),
    "JSON nested deep: enrolment": (text(RUN + "enrolment.json", "[" * DEEP), UNDO),
    "JSON nested deep: manifest": (text(CACHE + "/closed/manifest.json", "[" * DEEP), TRAIN),
    "JSON nested deep: commit": (text(CACHE + "/store/commits/000000.json", "[" * DEEP), INFO),
    "TOML nested deep: leak.toml": (text("leak.toml", "a = " + "[" * DEEP), INFO),
    "endless link: classes": (link(RUN + "classes.json", "/dev/zero"), SCORE_IMAGE),
    "endless link: config": (link(RUN + "config.toml", "/dev/zero"), SCORE_IMAGE),
    "endless link: weights": (link(WEIGHTS, "/dev/zero"), SCORE_IMAGE),
    "endless link: scores": (link(RUN + "scores.csv", "/dev/zero"), REPORT),
    "endless link: checksums": (link(RUN + "checksums.json", "/dev/zero"), SCORE_IMAGE),
    "endless link: calibration": (link(RUN + "calibration.safetensors", "/dev/zero"), SCORE_IMAGE),
    "endless link: manifest": (link(CACHE + "/closed/manifest.json", "/dev/zero"), TRAIN),
    "endless link: commit": (link(CACHE + "/store/commits/000000.json", "/dev/zero"), INFO),
    "endless link: leak.toml": (link("leak.toml", "/dev/zero"), INFO),
    "link out of the folder": (link(RUN + "classes.json", "/etc/hostname"), SCORE_IMAGE),
    "no UTF-8: latest": (data("caches/latest", b"\xff\xfe\0"), INFO),
    "no UTF-8: classes": (data(RUN + "classes.json", b"\xff\xfe\0"), SCORE_IMAGE),
    "no UTF-8: leak.toml": (data("leak.toml", b"\xff\xfe\0"), INFO),
    "flipped bit in config.toml": (
        lambda w: text(
            RUN + "config.toml", (w / RUN / "config.toml").read_text().replace("float16", "flnat16")
        )(w),
        SCORE,
    ),
    "huge shape: safetensors": (header(WEIGHTS, HUGE), SCORE_IMAGE),
    "huge header: safetensors": (header(WEIGHTS, {}, length=2**60), SCORE_IMAGE),
    "header nested deep": (header(WEIGHTS, '{"a":' * DEEP), SCORE_IMAGE),
    "calibration nested deep": (
        header(RUN + "calibration.safetensors", '{"a":' * DEEP),
        SCORE_IMAGE,
    ),
    "other weights": (tensors(WEIGHTS, lambda _, t: t[:1] if t.ndim else t), SCORE_IMAGE),
    "NaN weights": (tensors(WEIGHTS, number(np.nan)), SCORE_IMAGE),
    "infinite weights": (tensors(WEIGHTS, number(np.inf)), SCORE_IMAGE),
    "NaN detectors": (tensors(RUN + "scorers.safetensors", number(np.nan)), SCORE_IMAGE),
    "NaN calibration": (tensors(RUN + "calibration.safetensors", number(np.nan)), SCORE_IMAGE),
    "other calibration": (
        tensors(RUN + "calibration.safetensors", lambda _, t: t[:1] if t.ndim else t),
        SCORE_IMAGE,
    ),
    "pickle for weights": (data(WEIGHTS, pickle.dumps(Touch())), SCORE_IMAGE),
    "pickle for embeddings": (data(RUN + "embeddings.h5", pickle.dumps(Touch())), SCORE_IMAGE),
    "huge shape: HDF5": (
        hdf5(lambda f: replace_vectors(f, shape=(72, 2**40), chunks=(1, 2**10), dtype="f4")),
        SCORE_IMAGE,
    ),
    "external link: HDF5": (hdf5(external_link), SCORE_IMAGE),
    "external values: HDF5": (
        hdf5(
            lambda f: replace_vectors(
                f, shape=(72, 8), dtype="f4", external=[("/etc/passwd", 0, 72 * 32)]
            )
        ),
        SCORE_IMAGE,
    ),
    "virtual values: HDF5": (hdf5(virtual), SCORE_IMAGE),
    "NaN embeddings": (hdf5(nan_vectors), SCORE_IMAGE),
    "huge shape: column": (checked("store/columns/*/column.json", huge_column), TRAIN),
    "huge shape: Zarr": (
        both(checked("store/columns/*/column.json", huge_zarr), write_zarr),
        TRAIN,
    ),
    "shard outside": (checked("store/commits/000000.json", shard("../../../x")), INFO),
    "negative shard": (checked("store/commits/000000.json", shard(-7)), TRAIN),
    "huge shard": (checked("store/commits/000000.json", shard(2**70)), TRAIN),
    "../ in an enrolment": (text(RUN + "enrolment.json", '{"from": "../../x"}'), UNDO),
    "seed of 71 bits": (lambda _: None, (*TRAIN, "--seed", str(2**70))),
    "seed of 71 bits: evaluate": (lambda _: None, (*EVALUATE, "--seeds", str(2**70))),
}
"""What is altered, and who reads it; without checksums.json, as whoever alters a run omits it."""
SAMPLE = 12


@pytest.mark.timeout(3600)
def test_a_hostile_file_is_refused_in_one_line(
    stages: Stages, tally: Tally, full: bool, tmp_path: Path
) -> None:
    wrong = []
    names = list(CASES) if full else list(CASES)[:: -(-len(CASES) // SAMPLE)]
    for name in names:
        alter, argv = CASES[name]
        stages.reset("build" if argv[0] in ("train", "evaluate") else "score")
        if (stages.world / "runs/r").is_dir():
            (stages.world / RUN / "checksums.json").unlink()
        alter(stages.world)
        outcome = stages.leak.run(stages.world, *argv)
        said = outcome.code == 2 and outcome.err.count("\nError: ") == 1
        listed = argv == VERIFY and outcome.code == 1 and not outcome.err.count("Traceback")
        how = "refused" if outcome.refused or said or listed else "WRONG"
        if outcome.cpu > SECONDS or outcome.mebibytes > MEBIBYTES:
            how = "TOO MUCH"
        if (stages.world / "harmed").exists():
            how = "RUN"
        tally[name.split(":")[0], "hostile", how] += 1
        if how != "refused":
            wrong.append(f"{name}: {how} {outcome.cpu:.1f} s {outcome.mebibytes:.0f} MiB {outcome}")
    assert not wrong, "\n\n".join(wrong)


NAMES = ("=1+1<b>x", "[bold]b[link=x]", "c\x1b[31md\rerror: \u202egreen", "@d&amp;")
"""Labels that a spreadsheet, a page, a terminal or its markup would read otherwise."""


@pytest.mark.timeout(600)
def test_names_reach_no_terminal_table_or_page_as_code(stages: Stages, tally: Tally) -> None:
    stages.reset("empty")
    world = stages.world
    (world / "images").unlink()
    write_images(world / "images", NAMES, 24)
    run = stages.leak.run
    done = [run(world, "data", "index", "images", "--out", "index.csv")]
    done += [run(world, *argv) for argv in (BUILD, TRAIN, SCORE[:-1])]
    image = next((world / "images").rglob("*.png")).relative_to(world)
    done += [run(world, "score", str(image), "-v", "--run", "runs/r", "--csv", "answers.csv")]
    done += [run(world, *argv) for argv in (REPORT, ("runs",), INFO, VERIFY)]
    assert [one.code for one in done] == [0] * len(done), [one.err[-500:] for one in done]
    assert [line for one in done for line in forged(one)] == []
    for path in (world / "answers.csv", world / RUN / "scores.csv", world / "index.csv"):
        assert formulas(path) == []
    page = (world / RUN / "report.html").read_text()
    assert "<b>x" not in page
    assert html.escape(NAMES[0]) in page
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", page)
    answers = run(world, "score", str(image), "--run", "runs/r", "--json")
    named = set(json.loads(answers.out)["images"][0]["probabilities"])
    assert len(named) > 1
    assert named <= set(NAMES)
    tally["names", "hostile", "escaped"] += len(NAMES)


def forged(outcome: Outcome) -> list[str]:
    """Lines with characters that move the cursor, or that a name made an error of."""
    lines = (outcome.out + outcome.err).split("\n")
    return [x for x in lines if re.search("[\x00-\x08\x0b-\x1f\u202e]|^error: ", x)]


def formulas(path: Path) -> list[str]:
    """Cells that a spreadsheet would run, or that break a row."""
    with path.open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    return [c for c in cells if re.match(r"[=+@\t\r]|-(?![\d.]|inf)", c)]
