"""Answers for files: whole, in order, with every raw score, and without a cache."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, PngImagePlugin

from cli import leak
from leakcache.dataset.image_files import find_images
from leakcache.errors import DataError, RunError, ScoringError, WeightsError
from leaknet.data.embeddings import Embeddings
from leaknet.scoring.answers import VARIANTS, Answer, variants_of
from leaknet.scoring.predict import Predictor
from leaknet.training.run_folder import RunFolder
from tests.leaknet.small_run import LABELS, small_run
from tests.tiny_data import save, tiny_image, tiny_model


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    small_run(root)
    shutil.rmtree(root / "cache")
    return root


@pytest.fixture(scope="module")
def predictor(project: Path) -> Predictor:
    return Predictor(project / "run", device="cpu")


def score(project: Path, *words: str) -> Any:
    arguments = ["score", "--run", str(project / "run"), *words]
    return CliRunner().invoke(leak, arguments, catch_exceptions=False)


def images_of(project: Path, *words: str) -> list[dict[str, Any]]:
    result = score(project, *words, "--json")
    found: list[dict[str, Any]] = json.loads(result.stdout)["images"]
    return found


def test_a_file_gets_the_answer_of_its_embedding(project: Path, predictor: Predictor) -> None:
    detectors, calibration = predictor.detectors, predictor.calibration
    known = Embeddings.load(RunFolder(project / "run").embeddings)
    paths = [project / "images" / path for path in known.paths[:6].tolist()]
    rows = known.take(np.arange(6))
    found = predictor.score(paths, alpha=0.2)
    p_values = calibration.p_values(rows, detectors[0])
    sets = calibration.prediction_sets(rows, detectors[0], 0.2)
    ratios = calibration.log10_ratios(rows)
    for row, result in enumerate(found):
        assert result.p_value == pytest.approx(p_values[row])
        assert result.known == (p_values[row] > 0.2)
        probabilities = result.probabilities or {}
        members = np.array(LABELS)[sets[row]].tolist()
        assert result.prediction_set == tuple(sorted(members, key=lambda n: -probabilities[n]))
        assert list((result.log10_lr or {}).values()) == pytest.approx(
            ratios[row].tolist(), abs=1e-3
        )
        assert sum((result.probabilities or {}).values()) == pytest.approx(1)
        assert result.generator == LABELS[int(rows.logits[row].argmax())]
        assert (result.verdict == "unknown") == (not result.known)


def test_blank_images_are_outside_the_calibrated_range(project: Path, tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 255, 512).astype(np.uint8), (512, 1))
    Image.new("RGB", (96, 80), (120, 130, 140)).save(tmp_path / "flat.png")
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    tiny_image(5).save(tmp_path / "image.png")
    found = {Path(one["path"]).stem: one for one in images_of(project, str(tmp_path))}
    for name in ("flat", "ramp"):
        assert found[name]["verdict"] == "outside"
        assert found[name]["answer"] == "outside the calibrated range"
        assert "nearly blank" in found[name]["explanation"]
    assert found["image"]["verdict"] != "outside"


def test_stability_asks_the_same_of_every_variant(predictor: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "one.png"
    tiny_image(77).save(path)
    for alpha in (0.05, 0.5, 0.9):
        (plain,) = predictor.score([path], alpha=alpha)
        (result,) = predictor.score([path], alpha=alpha, stability=True)
        assert result.stability is not None
        assert result.stability.answer == plain.answer
        assert list(result.stability.variants) == list(VARIANTS)
        expected = "unsure" if result.stability.changed else plain.answer
        assert result.answer == expected
        assert result.p_value == plain.p_value
        assert result.scores == pytest.approx(plain.scores, rel=1e-5)


def test_a_variant_is_scored_as_a_file_of_its_pixels_under_the_noise_of_the_original(
    project: Path, predictor: Predictor
) -> None:
    from leaknet.model.inference import embed
    from leaknet.scoring.encode_files import as_split, encode_files

    model, encoder, encoding = predictor.model, predictor.encoder, predictor.encoding
    path = next((project / "images" / "ada").iterdir())
    (file,) = encode_files(encoder, encoding, [path], variants_of, columns=["z0"])
    split = as_split([file], "open", "?")
    assert len(split) == 9
    assert len(set(split.hashes.tolist())) == 1
    table = embed(model, split)
    (alone,) = encode_files(encoder, encoding, [path], columns=["z0"])
    np.testing.assert_allclose(
        table.vectors[0], embed(model, as_split([alone], "open", "?")).vectors[0], atol=1e-5
    )
    assert np.abs(table.vectors[1:] - table.vectors[0]).max(axis=1).min() > 0


def test_what_cannot_be_scored_is_listed_and_the_rest_is_scored(
    project: Path, tmp_path: Path
) -> None:
    (tmp_path / "junk.png").write_bytes(b"junk")
    Image.new("RGB", (1, 1)).save(tmp_path / "one.png")
    (tmp_path / "empty").mkdir()
    good = str(next((project / "images" / "bob").iterdir()))
    names = [str(tmp_path / name) for name in ("junk.png", "one.png", "absent.png", "empty")]
    images = images_of(project, names[0], good, *names[1:])
    reasons = {Path(image["path"]).name: image["reason"] for image in images}
    assert [Path(image["path"]).name for image in images][1] == Path(good).name
    assert reasons.pop(Path(good).name) == ""
    assert "not an image" in reasons["junk.png"]
    assert reasons["one.png"] == "1x1 is too small: the shorter side needs 8 pixels"
    assert reasons["absent.png"] == "no such file or folder"
    assert reasons["empty"] == "no images in this folder"
    assert images[0]["verdict"] is None


def test_nothing_to_score_is_an_error_of_one_line(project: Path, tmp_path: Path) -> None:
    for name in ("absent.png", ""):
        with pytest.raises(DataError, match="name image files, or folders") as caught:
            find_images([str(tmp_path / name)])
        assert "\n" not in str(caught.value)
    (tmp_path / "junk.png").write_bytes(b"junk")
    assert score(project, str(tmp_path / "junk.png")).exit_code == 1


@pytest.mark.parametrize("alpha", ["0", "1", "-0.1", "nan", "1.5"])
def test_a_rate_that_is_none_is_a_usage_error(project: Path, alpha: str) -> None:
    result = score(project, "--alpha", alpha, "image.png")
    assert result.exit_code == 2
    assert "between 0 and 1" in result.stderr


def test_an_autoencoder_that_moved_is_found_again_or_asked_for(
    project: Path, tmp_path: Path
) -> None:
    image = str(next((project / "images" / "bob").iterdir()))
    moved = project / "vae"
    moved.rename(tmp_path / "vae")
    try:
        with pytest.raises(WeightsError, match="say where it is with --vae") as caught:
            images_of(project, image)
        assert "\n" not in str(caught.value)
        (found,) = images_of(project, image, "--vae", str(tmp_path / "vae"))
        assert found["reason"] == ""
        save(tiny_model(seed=5), tmp_path / "other")
        with pytest.raises(RunError, match="other weights than when the run was trained"):
            images_of(project, image, "--vae", str(tmp_path / "other"))
    finally:
        (tmp_path / "vae").rename(moved)


def test_json_and_csv_say_the_same(project: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    folder = str(project / "images" / "ada")
    result = json.loads(score(project, folder, "--stability", "--csv", str(out), "--json").stdout)
    assert set(result) == {"run", "alpha", "detector", "calibration", "images"}
    assert result["calibration"]["false_alarms"]["exchangeable_images"] == 0.05
    assert set(result["images"][0]) == set(vars(Answer("")))
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(result["images"]) == 16
    for row, image in zip(rows, result["images"], strict=True):
        assert row["answer"] == image["answer"]
        assert float(row["p_value"]) == image["p_value"]
        assert row["prediction_set"] == "|".join(image["prediction_set"])
        assert float(row["kde"]) == image["scores"]["kde"]
        assert float(row["probability:bob"]) == image["probabilities"]["bob"]
        assert row["stable"] == f"{image['stability']['same']}/8"


def test_an_image_is_one_line_and_the_run_is_named_first(project: Path, tmp_path: Path) -> None:
    folder = project / "images" / "bob"
    (tmp_path / "junk.png").write_bytes(b"junk")
    said = score(project, str(folder), str(tmp_path / "junk.png"), "--alpha", "0.3")
    lines = said.stdout.splitlines()
    assert lines[0].startswith(f"run {project / 'run'} (preset paper, seed 0; known: ada, bob)")
    found = images_of(project, str(folder), "--alpha", "0.3")
    for image, line in zip(found, lines[2:], strict=False):
        assert line.startswith(image["answer"])
        assert line.endswith(image["path"])
        assert f"{image['generator']} {100 * image['probability']:.0f} %" in line
        assert (", ".join(image["prediction_set"]) or "none") in line
        assert "kde" not in line
    assert lines[2 + len(found)].startswith("not scored")
    assert "junk.png: " in lines[2 + len(found)]
    assert [line.split()[-1] for line in lines[-2:]] == ["-v", "--stability"]
    verbose = score(project, str(folder), "--alpha", "0.3", "-v").stdout.splitlines()
    for image, line in zip(found, verbose[2:], strict=False):
        assert f" {image['p_value']:.2g} " in line
        assert f"kde {image['scores']['kde']:.4g}" in line
        assert line.endswith(image["path"])


def test_the_footnote_states_the_guarantee(project: Path) -> None:
    image = str(next((project / "images" / "bob").iterdir()))
    text = " ".join(score(project, image, "--alpha", "0.3").stdout.split())
    assert "unknown: p ≤ 0.3. p is a conformal p-value: the rank of the image's score" in text
    assert "Expected false alarms: 30.0% on average over such calibration sets" in text
    few = " ".join(score(project, image, "--alpha", "0.01").stdout.split())
    assert "no image can be called unknown at 0.01" in few
    assert "Expected false alarms" not in few


def test_a_p_value_at_its_floor_is_an_upper_bound(project: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(12):  # the noise of latents decides how unlike the known an image is
        pixels = 255 * (rng.random((96, 96)) > 0.5).astype(np.uint8)
        Image.fromarray(pixels).convert("RGB").save(tmp_path / f"{number}.png")
    said = json.loads(score(project, str(tmp_path), "--json").stdout)
    smallest = said["calibration"]["smallest_p"]
    lowest = min(said["images"], key=lambda image: image["p_value"])
    assert lowest["p_value"] == smallest
    line = score(project, lowest["path"], "--alpha", "0.3", "-v").stdout.splitlines()[2]
    assert line.startswith("unknown generator")
    assert f" ≤ {smallest:.2g} " in line
    assert "lower than that of every calibration image" in line


def test_every_kind_of_source_is_scored_and_named(
    project: Path, predictor: Predictor, tmp_path: Path
) -> None:
    path = tmp_path / "one.png"
    tiny_image(11, (96, 80)).save(path)
    with Image.open(path) as image:
        pixels = np.asarray(image)
        found = predictor.score([path, str(path), path.read_bytes(), image, pixels])
    names = [str(path), str(path), "image 3", str(path), "image 5"]
    assert [one.path for one in found] == names
    file, again, data, pillow, array = found
    for one, other in ((file, again), (file, data), (pillow, array)):
        assert one.scores == pytest.approx(other.scores, rel=1e-5)
        assert one.probabilities == pytest.approx(other.probabilities, rel=1e-4)
        assert (one.generator, one.p_value) == (other.generator, other.p_value)
    assert [one.path for one in predictor.score([tmp_path])] == [str(path)]
    refused = predictor.score([np.zeros((4, 4, 7), np.uint8), b"junk", tmp_path / "none.png"])
    assert [one.verdict for one in refused] == [None] * 3
    assert "is no image" in refused[0].reason
    with pytest.raises(ScoringError, match="put the one image into a list"):
        predictor.score(str(path))  # type: ignore[arg-type]
    with pytest.raises(ScoringError, match="between 0 and 1"):
        predictor.score([path], alpha=0.0)


def test_the_autoencoder_is_loaded_once_and_only_for_an_image(project: Path) -> None:
    fresh = Predictor(project / "run", device="cpu")
    fresh.score([project / "none.png"])
    assert "encoder" not in vars(fresh)
    image = next((project / "images" / "bob").iterdir())
    fresh.score([image])
    encoder = fresh.encoder
    given = Predictor(project / "run", vae=encoder, device="cpu")
    assert given.score([image])[0] == fresh.score([image])[0]
    assert given.encoder is fresh.encoder is encoder


def test_answers_are_a_sequence_and_a_frame(project: Path, predictor: Predictor) -> None:
    pytest.importorskip("pandas", reason="to_frame needs pandas")
    answers = predictor.score([project / "images" / "ada", project / "none.png"])
    frame = answers.to_frame()
    assert len(frame) == len(answers) == 17
    assert frame["p_value"].tolist()[:16] == [one.p_value for one in answers[:16]]
    assert frame["reason"].tolist()[16] == "no such file or folder"
    assert answers.detector == "kde"


def test_what_a_file_says_stands_beside_the_answer_and_changes_nothing(
    project: Path, predictor: Predictor, tmp_path: Path
) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "Steps: 20, Sampler: Euler, Model: bob-xl\x1b[2J")
    tiny_image(12).save(tmp_path / "with.png", pnginfo=info)
    with Image.open(tmp_path / "with.png") as image:
        told, array = predictor.score([tmp_path / "with.png", np.asarray(image)])
    assert told.origin is not None
    assert array.origin is None
    said = score(project, str(tmp_path), "--csv", str(tmp_path / "out.csv")).stdout
    assert "PNG text parameters: Stable Diffusion web UI, model bob-xl" in said
    assert "\x1b[2J" not in said
    assert "Stable Diffusion web UI" in (tmp_path / "out.csv").read_text()
    (found,) = images_of(project, str(tmp_path / "with.png"))
    assert found["origin"]["generated"] is True
    assert found["origin"]["claims"][0]["field"] == "PNG text parameters"
    assert found["conflict"] == ""
