"""The shipped images: complete, alike in all that is not content, and cut by prompt group."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from PIL import Image

DATA = Path(__file__).resolve().parents[2] / "data"
FOLDERS = sorted(path for name in ("Closed_Set", "Open_Set") for path in (DATA / name).iterdir())
COUNT = 48


@pytest.fixture(scope="module")
def split() -> dict[str, dict[str, list[str]]]:
    cut: dict[str, dict[str, list[str]]] = json.loads((DATA / "Split.json").read_text())
    return cut


def test_six_closed_and_two_open_generators_of_48_images() -> None:
    assert [folder.parent.name for folder in FOLDERS] == ["Closed_Set"] * 6 + ["Open_Set"] * 2
    expected = [f"{index:03d}.jpg" for index in range(COUNT)]
    for folder in FOLDERS:
        assert sorted(path.name for path in folder.iterdir()) == expected


def test_all_images_together_stay_under_ten_megabytes() -> None:
    assert sum(path.stat().st_size for folder in FOLDERS for path in folder.iterdir()) <= 10e6


def test_nothing_but_content_tells_the_generators_apart() -> None:
    settings = set()
    for path in (path for folder in FOLDERS for path in folder.iterdir()):
        with Image.open(path) as image:
            tables = tuple(tuple(table) for table in image.quantization.values())
            settings.add((image.format, image.mode, image.size, tables, tuple(image.layer)))
            assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
            assert not image.getexif()
    assert len(settings) == 1
    assert next(iter(settings))[:3] == ("JPEG", "RGB", (256, 256))


def test_no_image_appears_twice() -> None:
    contents = [path.read_bytes() for folder in FOLDERS for path in folder.iterdir()]
    assert len(set(contents)) == len(contents)


def test_split_cuts_every_class_by_the_same_disjoint_groups(
    split: dict[str, dict[str, list[str]]],
) -> None:
    closed = [folder.name for folder in FOLDERS if folder.parent.name == "Closed_Set"]
    groups = {fold: set(split[fold][closed[0]]) for fold in ("train", "val", "test")}
    assert [len(groups[fold]) for fold in ("train", "val", "test")] == [24, 10, 14]
    assert len(set.union(*groups.values())) == COUNT
    for fold, classes in split.items():
        assert sorted(classes) == closed
        assert all(set(files) == groups[fold] for files in classes.values())


def test_manifest_describes_every_folder_and_its_autoencoder() -> None:
    manifest = json.loads((DATA / "manifest.json").read_text())
    described = {
        ("Open_Set" if generator["open_set"] else "Closed_Set", generator["name"])
        for generator in manifest["generators"]
    }
    assert described == {(folder.parent.name, folder.name) for folder in FOLDERS}
    weights = DATA.parent / manifest["autoencoder"]["path"] / "diffusion_pytorch_model.safetensors"
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == manifest["autoencoder"]["sha256"]


def test_generators_were_trained_apart() -> None:
    generators = json.loads((DATA / "manifest.json").read_text())["generators"]
    for key in ("seed", "weights_sha256"):
        assert len({generator[key] for generator in generators}) == len(generators)
    assert {"schedule", "prediction", "zero_terminal_snr", "sampler", "steps"} <= set(generators[0])
