"""Enrolment: the new version is a complete run, and the old run does not change."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from cli import leak
from leakcache.errors import DataError, RunError
from leakcache.statistics.pixel_features import LENGTH
from leakcache.store.cache import Cache
from leaknet.data.columns import CPU
from leaknet.data.embeddings import Embeddings, concatenate
from leaknet.enroll import enroll, undo
from leaknet.enroll.evaluate import evaluate_enrolment, summary
from leaknet.enroll.new_class import (
    _class_logits,
    class_prototypes,
    fit_offset,
    fold_of_each,
    reclassified,
    with_class,
)
from leaknet.model.inference import embed
from leaknet.model.protoleaknet import ProtoLeakNet
from leaknet.scoring.score_run import score_run
from leaknet.training.run_folder import RunFolder
from tests.leaknet.model.test_statistics_branch import ALONE, data, with_statistics
from tests.leaknet.small_run import small_run
from tests.leaknet.tiny import CLASSES, fit_tiny, tiny_cache, tiny_config, tiny_model, tiny_split
from tests.tiny_data import write_images


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    small_run(root)
    write_images(root / "new", ("eve",), 10, first=500)
    return root


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "run", tmp_path / "run")
    shutil.copytree(made / "new" / "eve", tmp_path / "eve")
    return tmp_path


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def call(project: Path, *words: str) -> Any:
    result = CliRunner().invoke(
        leak, ["--runs", str(project), *words, "--json"], catch_exceptions=False
    )
    return json.loads(result.stdout)


def test_the_version_has_one_more_class_and_the_run_is_unchanged(project: Path) -> None:
    before = digests(project / "run")
    result = enroll(project / "run", "eve", project / "eve")
    assert digests(project / "run") == before
    assert result.run == project / "run@2"
    model = ProtoLeakNet.from_pretrained(result.run)
    old = ProtoLeakNet.from_pretrained(project / "run")
    assert model.classes == ("ada", "bob", "eve")
    for name, tensor in old.state_dict().items():
        grown = model.state_dict()[name]
        added = name in ("latents.head.prototypes", "offsets")
        assert torch.equal(grown[:2] if added else grown, tensor)
    assert result.images == {"train": 7, "val": 3}
    assert result.old.fold == "val"
    assert set(digests(project / "run")) | {"enrolment.json"} >= set(digests(result.run))


def test_the_version_scores_images_and_its_own_cache_like_any_run(
    project: Path, made: Path
) -> None:
    version = enroll(project / "run", "eve", project / "eve").run
    image = str(next((project / "eve").iterdir()))
    (scored,) = call(project, "score", "--run", str(version), image)["images"]
    assert set(scored["probabilities"]) == {"ada", "bob", "eve"}
    scores = score_run(version, Cache.open(made / "cache"))
    assert scores.closed["prototype"].classes == ("ada", "bob", "eve")
    stored = Embeddings.load(RunFolder(version).embeddings)
    assert (stored.labels == "eve").sum() == 10
    assert (stored.folds == "test").any()
    assert score_run(version, Cache.open(made / "cache")).as_dict() == scores.as_dict()


def test_embeddings_of_the_version_match_its_model(project: Path) -> None:
    version = RunFolder(enroll(project / "run", "eve", project / "eve").run)
    stored = Embeddings.load(version.embeddings)
    assert stored.run == version.fingerprint()
    old = Embeddings.load(RunFolder(project / "run").embeddings)
    np.testing.assert_allclose(stored.logits[: len(old), :2], old.logits, atol=1e-4)
    again = reclassified(version.load_model(torch.device("cpu")), stored)
    np.testing.assert_allclose(again.logits, stored.logits, atol=1e-5)


def test_versions_are_numbered_and_undone_one_by_one(project: Path) -> None:
    run = str(project / "run")
    first = call(project, "enroll", "eve", str(project / "eve"), "--run", run, "--shots", "5")
    assert first["run"] == f"{run}@2"
    assert first["images"] == {"train": 3, "val": 2}
    write_images(project / "more", ("fay",), 6, first=900)
    second = call(project, "enroll", "fay", str(project / "more" / "fay"))
    assert (second["run"], second["from"]) == (f"{run}@3", f"{run}@2")
    assert ProtoLeakNet.from_pretrained(second["run"]).classes == ("ada", "bob", "eve", "fay")
    assert call(project, "enroll", "--undo") == {"removed": f"{run}@3", "run": f"{run}@2"}
    assert call(project, "enroll", "--undo", "--run", run)["removed"] == f"{run}@2"
    assert [p.name for p in project.glob("*run*")] == ["run"]
    with pytest.raises(RunError, match="has no enrolled generator"):
        undo(project / "run")


def refuse(project: Path, error: type[Exception], match: str, *, name: str = "eve") -> None:
    with pytest.raises(error, match=match) as caught:
        enroll(project / "run", name, project / "eve")
    assert "\n" not in str(caught.value)
    assert not (project / "run@2").exists()


def test_a_known_name_is_refused(project: Path) -> None:
    refuse(project, RunError, "already has a class bob", name="bob")


def test_one_image_is_too_few_and_refused_ones_do_not_count(project: Path) -> None:
    for path in sorted((project / "eve").iterdir())[1:]:
        path.unlink()
    refuse(project, DataError, r"has 1 usable image\(s\): enrolment needs 3")
    (project / "eve" / "junk.png").write_bytes(b"junk")
    shutil.copy(next((project / "eve").glob("5*.png")), project / "eve" / "copy.png")
    refuse(project, DataError, r"has 1 usable image\(s\) \(.*: enrolment needs 3")


def test_more_shots_than_images_are_refused(project: Path) -> None:
    with pytest.raises(DataError, match=r"has 10 usable .*needs 50"):
        enroll(project / "run", "eve", project / "eve", shots=50)


def test_an_image_of_the_run_is_refused(project: Path, made: Path) -> None:
    known = Embeddings.load(RunFolder(project / "run").embeddings)
    shutil.copy(made / "images" / str(known.paths[0]), project / "eve" / "again.png")
    refuse(project, DataError, r"again.png is in the run already, as ada/.*\(1 such images")


def test_bad_files_are_listed_and_the_rest_is_enrolled(project: Path) -> None:
    (project / "eve" / "junk.png").write_bytes(b"junk")
    shutil.copy(project / "eve" / "500.png", project / "eve" / "500-copy.png")
    result = enroll(project / "run", "eve", project / "eve")
    assert sum(result.images.values()) == 10
    reasons = sorted(reason for _, reason in result.rejects)
    assert [reason.split()[0] for reason in reasons] == ["has", "not"]
    assert json.loads((result.run / "enrolment.json").read_text())["rejects"]


def test_outputs_that_are_not_finite_are_refused(project: Path) -> None:
    run = RunFolder(project / "run")
    model = run.load_model(torch.device("cpu"))
    with torch.no_grad():
        model.latents.projection.bias.fill_(float("nan"))
    model.save_pretrained(run.path)
    known = Embeddings.load(run.embeddings)
    replace(known, run=run.fingerprint()).save(run.embeddings)
    refuse(project, RunError, "not finite")


def test_embeddings_of_other_weights_are_refused(project: Path) -> None:
    run = RunFolder(project / "run")
    known = Embeddings.load(run.embeddings)
    replace(known, run="others").save(run.embeddings)
    refuse(project, RunError, "computed with other weights")


def test_a_linear_head_is_refused() -> None:
    model = tiny_model("head.prototypes=0")
    with pytest.raises(RunError, match="linear head"):
        with_class(model, "eve", np.zeros((3, 8)))


def test_missing_arguments_are_a_usage_error(project: Path) -> None:
    for words in ([], ["eve"], ["eve", "folder", "--shots", "2"]):
        result = CliRunner().invoke(leak, ["enroll", "--run", str(project / "run"), *words])
        assert result.exit_code == 2


@pytest.mark.parametrize("images", [1, 3, 4, 40])
def test_prototypes_are_centres_of_the_images(images: int) -> None:
    vectors = np.random.default_rng(0).standard_normal((images, 5))
    found = class_prototypes(vectors, 4)
    assert found.shape == (4, 5)
    if images <= 4:
        assert {tuple(row) for row in found} == {tuple(row) for row in vectors}
    else:
        nearest = np.square(vectors[:, None] - found).sum(axis=2).argmin(axis=1)
        means = [vectors[nearest == m].mean(axis=0) for m in range(4)]
        np.testing.assert_allclose(found, means, atol=1e-4)


def test_images_at_a_prototype_are_given_the_new_class() -> None:
    model, split = tiny_model(), tiny_split(6, "open")
    e = embed(model, replace(split, labels=np.full(6, "eve")))
    grown = with_class(model, "eve", e.vectors)
    logits = reclassified(grown, e).logits
    np.testing.assert_allclose(logits[:, :3], e.logits, atol=1e-4)
    assert grown.classes == (*CLASSES, "eve")
    assert model.classes == CLASSES


def test_the_offset_balances_new_and_old_classes() -> None:
    """New images between the trained classes: without an offset the new class takes all images."""
    rng = np.random.default_rng(4)
    model = tiny_model("head.gate=false")
    centres = 4 * np.linalg.qr(rng.standard_normal((model.config.head.dimension, 3)))[0].T
    with torch.no_grad():  # far out on the same rays, as training leaves prototypes
        model.latents.head.prototypes.copy_(torch.from_numpy(3 * centres)[:, None])

    def images(centre: np.ndarray, label: str, count: int) -> Embeddings:
        vectors = centre + 0.3 * rng.standard_normal((count, len(centre)))
        split = tiny_split(count, "val")
        e = embed(model, replace(split, labels=np.full(count, label)))
        return reclassified(model, replace(e, vectors=vectors.astype(np.float32)))

    val = concatenate([images(c, n, 20) for c, n in zip(centres, CLASSES, strict=True)])
    test = concatenate([images(c, n, 20) for c, n in zip(centres, CLASSES, strict=True)])
    new = images(np.zeros(centres.shape[1]), CLASSES[0], 20).vectors
    offset = fit_offset(model, new[:10], val)
    grown = with_class(model, "eve", new[:10], offset)
    assert (_logits(grown, new[10:]).argmax(axis=1) == 3).mean() >= 0.9
    assert (_logits(grown, test.vectors).argmax(axis=1) == test.targets).mean() >= 0.9
    greedy = with_class(model, "eve", new[:10])
    assert (_logits(greedy, test.vectors).argmax(axis=1) == 3).mean() > 0.9


def _logits(model: ProtoLeakNet, vectors: np.ndarray) -> np.ndarray:
    return model.classify(torch.from_numpy(vectors)).detach().numpy()


@pytest.mark.parametrize(("images", "held"), [(3, 1), (5, 2), (10, 3), (50, 15)])
def test_about_a_third_is_held_out_by_prompt(images: int, held: int) -> None:
    groups = np.array([f"{row}" for row in range(images)])
    assert (fold_of_each(groups) == "val").sum() == held
    pairs = np.repeat(groups, 2)
    folds = fold_of_each(pairs)
    assert all(len(set(folds[pairs == group])) == 1 for group in groups)


def test_images_of_one_prompt_cannot_be_parted() -> None:
    with pytest.raises(DataError, match="of 1 prompt"):
        fold_of_each(np.full(9, "one"))
    assert fold_of_each(np.array(["a", "b", "b"])).tolist() == ["val", "train", "train"]


def test_leaving_one_out_measures_each_generator_and_resumes(tmp_path: Path) -> None:
    cache = tiny_cache(tmp_path / "cache")
    config = tiny_config("train.epochs=1")
    rows = evaluate_enrolment(config, cache, tmp_path / "out", shots=(1, 8), draws=2)
    assert [(row.generator, row.shots) for row in rows] == [
        (name, shots) for name in CLASSES for shots in (1, 8)
    ]
    assert all(0 <= row.recall <= 1 and row.after <= row.before for row in rows)
    before = {name: digests(tmp_path / "out" / name) for name in CLASSES}
    again = evaluate_enrolment(config, cache, tmp_path / "out", shots=(1, 8), draws=2)
    assert again == rows
    assert {name: digests(tmp_path / "out" / name) for name in CLASSES} == before
    means = summary(rows)
    assert [mean["shots"] for mean in means] == [1, 8]
    assert means[0]["recall"] == pytest.approx(np.mean([r.recall for r in rows if r.shots == 1]))
    assert means[0]["loss"] == pytest.approx(means[0]["before"] - means[0]["after"])
    assert evaluate_enrolment(config, cache, tmp_path / "out", shots=(99,), draws=1) == []


@pytest.mark.parametrize("shots", [1, 6])
def test_statistics_score_a_class_by_its_likelihood_ratio(tmp_path: Path, shots: int) -> None:
    model = fit_tiny(tmp_path / "run", *ALONE, "train.epochs=1", data=data()).run.load_model(CPU)
    test = with_statistics(tiny_split(24, "test", seed=5), 5)
    generator = np.random.default_rng(7)
    noise = generator.normal(size=test["pixel_statistics"].shape)
    values = torch.from_numpy(3 + noise + generator.normal(size=LENGTH))
    eve = test.with_column("pixel_statistics", values.half())
    known, new = embed(model, test), embed(model, eve).vectors
    vectors = np.concatenate([known.vectors, new[shots:]])
    grown = with_class(model, "eve", new[:shots])
    logits = _logits(grown, vectors)
    np.testing.assert_array_equal(logits[:, :3], _logits(model, vectors))
    np.testing.assert_allclose(logits[:, 3], _class_logits(model, vectors, new[:shots]), rtol=1e-4)
    assert (logits[len(known) :].argmax(axis=1) == 3).mean() > 0.8
    assert (logits[: len(known)].argmax(axis=1) == known.targets).mean() > 0.8
    assert np.isfinite(fit_offset(model, new[:shots], known))
