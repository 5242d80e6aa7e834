"""The branch of image statistics: standardised, saved, trained alone, refused without columns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from leakcache.errors import CacheIncomplete, ConfigError
from leakcache.images.preprocess import PARTS
from leakcache.statistics.activation_features import LENGTH as SEEN
from leakcache.statistics.pixel_features import LENGTH, LENGTHS
from leakcache.store.columns import COPY_COUNT as COPIES
from leaknet.config import HeadConfig, StatisticsConfig
from leaknet.data.columns import ImageColumns, TrainingData
from leaknet.model.inference import embed, run_split
from leaknet.model.protoleaknet import ProtoLeakNet
from leaknet.model.ridge import CLIP, family_weights
from leaknet.model.statistics_branch import StatisticsBranch, class_means
from leaknet.model.statistics_fit import fit_embedding
from tests.leaknet.tiny import (
    CLASSES,
    fit_tiny,
    tiny_config,
    tiny_data,
    tiny_model,
    tiny_split,
)

VIEWS, SIGHTS = PARTS + 1, 2 * PARTS
PIXELS = ("statistics.enabled=true", "statistics.activations=false")
ORIGINALS = (*PIXELS, "statistics.degraded=false")
ALONE = (*ORIGINALS, "latents.enabled=false")
COPIED = (*PIXELS, "latents.enabled=false")
SEEING = (
    "statistics.enabled=true",
    "statistics.activations=true",
    "statistics.degraded=false",
    "latents.enabled=false",
)


def with_statistics(split: ImageColumns, seed: int = 0) -> ImageColumns:
    """Noise with a pattern of the class in it."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(len(split), VIEWS, LENGTH, generator=generator)
    patterns = torch.randn(len(CLASSES), LENGTH, generator=torch.Generator().manual_seed(99))
    values += 0.2 * patterns[split.targets(CLASSES), None]
    return split.with_column("pixel_statistics", (3 + values).half())


def data() -> TrainingData:
    plain = tiny_data()
    return replace(plain, train=with_statistics(plain.train, 1), val=with_statistics(plain.val, 2))


def new_branch(
    *, dimension: int = 8, activations: bool = False, degraded: bool = False
) -> StatisticsBranch:
    config = StatisticsConfig(enabled=True, activations=activations, degraded=degraded)
    return StatisticsBranch(config, HeadConfig(dimension=dimension), len(CLASSES))


def embedded(branch: StatisticsBranch, split: ImageColumns) -> torch.Tensor:
    with torch.no_grad():
        return branch.class_part(branch.embed(split)[0])


def training_alone(split: ImageColumns) -> TrainingData:
    return replace(data(), train=split, val=split.take(np.arange(0)))


def fitted(
    split: ImageColumns, *, activations: bool = False, degraded: bool = False
) -> tuple[StatisticsBranch, torch.Tensor]:
    branch = new_branch(activations=activations, degraded=degraded)
    return branch, fit_embedding(branch, training_alone(split), CLASSES)[0]


def copies_of(split: ImageColumns, seed: int) -> torch.Tensor:
    """Copies whose classes leave other patterns than images do, and a mark of their own."""
    generator = torch.Generator().manual_seed(seed)
    fixed = torch.Generator().manual_seed(98)
    patterns, mark = (
        torch.randn(len(CLASSES), LENGTH, generator=fixed),
        torch.randn(LENGTH, generator=fixed),
    )
    values = torch.randn(len(split), COPIES, 2, LENGTH, generator=generator)
    return (3 + values + 0.2 * patterns[split.targets(CLASSES), None, None] + 0.3 * mark).half()


def views_of_copies(split: ImageColumns, seed: int) -> torch.Tensor:
    """Such copies as one image: as its parts, and one reduced."""
    copies = copies_of(split, seed)
    parts = copies[:, torch.arange(PARTS) % COPIES, 0]
    return torch.cat([parts, copies[:, :1, 1]], dim=1)


def with_copies(split: ImageColumns, seed: int = 7) -> ImageColumns:
    return split.with_column("degraded_pixel_statistics", copies_of(split, seed))


def test_features_are_standardised_and_families_weigh_alike():
    split = data().train
    branch, _ = fitted(split)
    features = branch.ridge.features(branch.statistics_of(split)[..., :LENGTH]).flatten(0, 1)
    standard = features / family_weights(LENGTHS)
    assert standard.abs().max() <= CLIP + 1e-6
    assert standard.mean(0).abs().max() < 0.1
    assert standard.std(0).sub(1).abs().max() < 0.1
    total = features.square().mean(0)
    parts = [part.sum().item() for part in torch.split(total, list(LENGTHS.values()))]
    np.testing.assert_allclose(parts, 1 / len(LENGTHS), rtol=0.05)


def test_constant_values_are_left_out():
    split = data().train
    split["pixel_statistics"][..., 7] = 2.5
    branch, _ = fitted(split)
    other = split["pixel_statistics"].clone()
    other[..., 7] = -60
    changed = split.with_column("pixel_statistics", other)
    assert torch.equal(embedded(branch, split), embedded(branch, changed))


def test_embeddings_of_new_images_lie_where_those_of_held_out_ones_do():
    both = data()
    branch, held_out = fitted(both.train)
    centres = class_means(held_out, both.train.targets(CLASSES))
    distances = torch.cdist(embedded(branch, both.val), centres)
    assert (distances.argmin(1) == both.val.targets(CLASSES)).float().mean() > 0.9


def scores_of(branch: StatisticsBranch, values: torch.Tensor) -> torch.Tensor:
    """Coordinates along the directions, read back from the embedding of these statistics."""
    with torch.no_grad():
        known = branch.class_part(branch.embed_statistics(values))
    return known @ branch.directions.T / branch.directions[0].square().sum()


def coordinates_of(branch: StatisticsBranch, values: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return branch.coordinates(branch.embed_statistics(values))


def test_the_embedding_holds_centred_class_scores_and_nothing_else():
    both = data()
    branch, _ = fitted(both.train)
    scores = scores_of(branch, branch.statistics_of(both.val))
    classes = scores[:, : len(CLASSES)]
    rounding = 1e-5 * float(classes.abs().max())
    assert float(classes.sum(1).abs().max()) < rounding
    assert float(scores[:, len(CLASSES) :].abs().max()) < rounding
    assert (classes.argmax(1) == both.val.targets(CLASSES)).float().mean() > 0.9


def test_class_scores_come_from_the_ridge_and_the_likelihood_ratios():
    split = data()
    branch, _ = fitted(split.train)
    weights = torch.tensor([[0.5, 0.1, 0.0], [0.0, 0.6, -0.2], [0.3, 0.0, 0.7]])
    branch.sources.score_weights.copy_(weights)  # whatever the fit found
    features = branch.ridge.features(branch.statistics_of(split.val)[..., :LENGTH]).mean(dim=1)
    model, coordinates = branch.sources.model, branch.sources.coordinates(features)
    ratios = model.log_likelihood_ratios(coordinates).float()
    centred = ratios - ratios.mean(dim=1, keepdim=True)
    expected = branch.ridge.apply_features(features) + centred @ weights
    expected = expected - expected.mean(dim=1, keepdim=True)
    found = scores_of(branch, branch.statistics_of(split.val))[:, : len(CLASSES)]
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_the_initial_head_gives_the_class_scores():
    """A gate of 1/2 and single prototypes: logits differ from the scores by a constant."""
    both = data()
    branch, held_out = fitted(both.train)
    centres = branch.centres(held_out, both.train.targets(CLASSES))
    found = embedded(branch, both.val)
    logits = -torch.cdist(found, centres).square() / 2
    scores, _ = branch.class_scores(branch.statistics_of(both.val))
    apart = (logits.double().softmax(1) - scores.double().softmax(1)).abs()
    assert float(apart.max()) < 1e-3


def test_prototypes_start_where_they_are_fair_to_pictures_that_say_little():
    both = data()
    branch, held_out = fitted(both.train)
    targets = both.train.targets(CLASSES)
    # One class is less certain than the others, so that its mean lies nearer to the middle.
    middle = branch.directions[: len(CLASSES)].mean(0)
    uneven = torch.where((targets == 0)[:, None], middle + 0.5 * (held_out - middle), held_out)
    centres = branch.centres(uneven, targets)
    distances = (centres - middle).norm(dim=1)
    torch.testing.assert_close(distances, distances[:1].expand(len(CLASSES)))
    flat = middle + 0.05 * (held_out - middle)
    named = torch.cdist(flat, centres).argmin(1)
    largest = (flat @ branch.directions[: len(CLASSES)].T).argmax(1)
    assert torch.equal(named, largest)
    assert not torch.equal(torch.cdist(flat, class_means(uneven, targets)).argmin(1), largest)


def test_all_parts_of_an_image_count_alike_and_their_order_not_at_all():
    split = data().train
    branch, _ = fitted(split)
    parts = branch.statistics_of(split)
    found = scores_of(branch, parts)[:, : len(CLASSES)]
    flipped = scores_of(branch, parts.flip(1))[:, : len(CLASSES)]
    torch.testing.assert_close(flipped, found, atol=1e-3, rtol=0)
    alone = torch.stack([coordinates_of(branch, parts[:, [part]]) for part in range(PARTS)])
    together = alone.mean(0)
    torch.testing.assert_close(together, coordinates_of(branch, parts), atol=1e-3, rtol=1e-3)


def test_more_classes_than_there_is_room_for_are_refused():
    split = data().train
    branch = new_branch(dimension=len(CLASSES) - 1)
    with pytest.raises(ConfigError, match=r"head\.dimension = 2 .* set it to 3 or more"):
        fit_embedding(branch, training_alone(split), CLASSES)


@pytest.mark.parametrize("seed", [1, 4])
def test_parts_help_where_they_differ_in_what_means_nothing(seed: int):
    """A nuisance that varies within images is unlearnt from their parts."""
    generator = torch.Generator().manual_seed(seed)
    nuisance = torch.randn(LENGTH, generator=generator)

    def shaken(split: ImageColumns) -> ImageColumns:
        strength = 4 * torch.randn(len(split), VIEWS, 1, generator=generator)
        pixels = split["pixel_statistics"] + strength * nuisance
        return split.with_column("pixel_statistics", pixels.half())

    train = shaken(data().train)
    pattern = torch.randn(len(CLASSES), LENGTH, generator=torch.Generator().manual_seed(99))

    def distraction(images: ImageColumns) -> float:
        branch, _ = fitted(images)
        moves = torch.stack([nuisance, pattern[0] - pattern[1]]) * branch.ridge.features.scale
        lengths = (moves * family_weights(LENGTHS) @ branch.ridge.weight).norm(dim=1)
        return float(lengths[0] / lengths[1])

    pixels = train["pixel_statistics"]
    wholes = pixels[:, :1].expand_as(pixels)
    assert distraction(train) < 0.5 * distraction(train.with_column("pixel_statistics", wholes))


def test_copies_are_attributed_without_loss_on_pictures():
    both = data()
    train, val = with_copies(both.train), both.val
    targets = val.targets(CLASSES)

    def accuracy(branch: StatisticsBranch, held_out: torch.Tensor, images: ImageColumns) -> float:
        centres = class_means(held_out, train.targets(CLASSES))
        named = (embedded(branch, images) @ centres.T).argmax(1)
        return float(named.eq(targets).float().mean())

    robust, naive = fitted(train, degraded=True), fitted(train)
    degraded = val.with_column("pixel_statistics", views_of_copies(val, 8))
    assert accuracy(*naive, degraded) < 0.6
    assert accuracy(*robust, degraded) > 0.9
    assert accuracy(*robust, val) > 0.9


def test_held_out_embeddings_with_copies_lie_where_those_of_new_images_do():
    both = data()
    branch, held_out = fitted(with_copies(both.train), degraded=True)
    new = embedded(branch, both.val)
    assert 0.5 < float(new.norm(dim=1).mean() / held_out.norm(dim=1).mean()) < 2
    centres = class_means(held_out, both.train.targets(CLASSES))
    assert torch.cdist(new, centres).argmin(1).eq(both.val.targets(CLASSES)).float().mean() > 0.9


def test_copies_make_a_run_that_is_saved_and_read_again(tmp_path: Path):
    both = data()
    copied = replace(both, train=with_copies(both.train))
    settings = (*COPIED, "train.epochs=1")
    result = fit_tiny(tmp_path / "run", *settings, data=copied)
    model = result.run.load_model(torch.device("cpu"))
    branch = model.statistics
    assert branch is not None
    assert branch.copy_ridge is not None
    assert branch.ridge.weight.shape[1] == len(CLASSES)
    assert branch.sources.weight.shape[1] == len(CLASSES) - 1
    assert branch.copy_ridge.weight.shape[1] == len(CLASSES) + 1
    again = new_branch(degraded=True)
    fit_embedding(again, copied, CLASSES)
    torch.testing.assert_close(embedded(branch, both.val), embedded(again, both.val))


def test_copies_that_are_not_there_are_asked_for(tmp_path: Path):
    with pytest.raises(CacheIncomplete, match="lacks the column degraded_pixel_statistics"):
        fit_tiny(tmp_path / "run", *COPIED, data=data())


def test_splits_keep_copies_when_they_are_cut():
    split = with_copies(data().train)
    part = split.take(np.array([3, 1])).to(torch.device("cpu"))
    name = "degraded_pixel_statistics"
    assert torch.equal(part[name], split[name][[3, 1]])
    assert part.labels.tolist() == split.labels[[3, 1]].tolist()


def test_statistics_alone_are_learned_from(tmp_path: Path):
    result = fit_tiny(tmp_path / "run", *ALONE, "train.epochs=2", data=data())
    assert result.best["statistics"].val_top1 > 0.9
    model = result.run.load_model(torch.device("cpu"))
    assert not [name for name in model.state_dict() if name.startswith("latents")]
    fitted_numbers = LENGTH * (2 + len(CLASSES) + len(CLASSES) - 1)
    assert model.size > fitted_numbers > sum(p.numel() for p in model.parameters())
    split = with_statistics(tiny_split(24, "test", seed=5), 5)
    moved = split.with_column("z0", torch.randn_like(split.z0.float()).half())
    assert torch.equal(run_split(model, split).logits, run_split(model, moved).logits)
    assert run_split(model, split).attention.sum(1).numpy() == pytest.approx(np.ones(24))


def test_an_interrupted_run_goes_on_to_the_same_weights(tmp_path: Path):
    class Stopped(Exception):
        pass

    def stop(epoch: object) -> None:
        raise Stopped

    settings = (*ALONE, "train.epochs=2")
    whole = fit_tiny(tmp_path / "whole", *settings, data=data())
    with pytest.raises(Stopped):
        fit_tiny(tmp_path / "parts", *settings, data=data(), on_epoch=stop)
    parts = fit_tiny(tmp_path / "parts", *settings, data=data())
    assert parts.resumed_after == 1
    for run in (whole, parts):
        assert run.run.weights.is_file()
    first, second = (run.run.load_model(torch.device("cpu")).state_dict() for run in (whole, parts))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_images_without_statistics_are_refused_with_the_cure(tmp_path: Path):
    with pytest.raises(CacheIncomplete, match="leak cache build --for best") as caught:
        fit_tiny(tmp_path / "run", *ALONE)
    assert "\n" not in str(caught.value)
    with pytest.raises(CacheIncomplete, match="lacks the column pixel_statistics"):
        embed(tiny_model(*ALONE), tiny_split(6, "test"))


def test_a_model_needs_a_branch():
    with pytest.raises(ConfigError, match="needs a branch"):
        tiny_config("latents.enabled=false")


def test_a_class_can_be_added(tmp_path: Path):
    from leaknet.enroll.new_class import with_class

    result = fit_tiny(tmp_path / "run", *ALONE, "train.epochs=1", data=data())
    model = result.run.load_model(torch.device("cpu"))
    split = with_statistics(tiny_split(12, "test", seed=5), 5)
    vectors = embed(model, split).vectors
    grown = with_class(model, "new", vectors)
    grown.save_pretrained(tmp_path / "grown")
    grown = ProtoLeakNet.from_pretrained(tmp_path / "grown")
    np.testing.assert_allclose(embed(grown, split).vectors, vectors, atol=1e-6)


def with_activations(split: ImageColumns, seed: int) -> ImageColumns:
    """The only trace of the class is in the statistics of activations."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(len(split), VIEWS, LENGTH, generator=generator)
    seen = torch.randn(len(split), SIGHTS, SEEN, generator=generator)
    patterns = torch.randn(len(CLASSES), SEEN, generator=torch.Generator().manual_seed(97))
    seen += patterns[split.targets(CLASSES), None]
    split = split.with_column("pixel_statistics", pixels.half())
    return split.with_column("activation_statistics", seen.half())


def seeing_data() -> TrainingData:
    plain = tiny_data()
    return replace(
        plain, train=with_activations(plain.train, 1), val=with_activations(plain.val, 2)
    )


def test_what_only_activations_show_is_learnt(tmp_path: Path):
    both = seeing_data()
    seeing = fit_tiny(tmp_path / "a", *SEEING, "train.epochs=1", data=both)
    blind = fit_tiny(tmp_path / "b", *ALONE, "train.epochs=1", data=both)
    assert blind.best["statistics"].val_top1 < 0.7
    assert seeing.best["statistics"].val_top1 > 0.9
    model = seeing.run.load_model(torch.device("cpu"))
    split = with_activations(tiny_split(24, "test", seed=5), 5)
    part = split.take(np.arange(3, 9))
    torch.testing.assert_close(run_split(model, part).logits, run_split(model, split).logits[3:9])


def test_what_only_activations_show_of_copies_is_learnt():
    """Copies have the class turned round: one map cannot name both; two can."""
    both = seeing_data()

    def turned(split: ImageColumns, seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        mark = torch.randn(SEEN, generator=torch.Generator().manual_seed(96))
        patterns = torch.randn(len(CLASSES), SEEN, generator=torch.Generator().manual_seed(97))
        wrong = patterns[(split.targets(CLASSES) + 1) % len(CLASSES)]
        values = torch.randn(len(split), COPIES, 2, SEEN, generator=generator)
        return (values + wrong[:, None, None] + mark).half()

    pixels = torch.randn(len(both.train), COPIES, 2, LENGTH).half()
    train = both.train.with_column("degraded_pixel_statistics", pixels)
    train = train.with_column("degraded_activation_statistics", turned(both.train, 8))
    branch, _ = fitted(train, activations=True, degraded=True)
    assert branch.copy_ridge is not None
    assert len(branch.copy_ridge.features.mean) == 2 * (LENGTH + SEEN)
    copies = turned(both.val, 9)[:, 0, :1].expand(-1, SIGHTS, -1)
    for seen in (both.val["activation_statistics"], copies):
        images = both.val.with_column("activation_statistics", seen)
        probabilities = scores_of(branch, branch.statistics_of(images))
        named = probabilities[:, : len(CLASSES)].argmax(1)
        assert (named == both.val.targets(CLASSES)).float().mean() > 0.9


def test_only_pixels_have_novelty():
    both = seeing_data()
    branch, _ = fitted(both.train, activations=True)

    def novelty(split: ImageColumns) -> torch.Tensor:
        with torch.no_grad():
            return branch.embed(split)[0][:, -1]

    def shaken(name: str, strength: float, seed: int) -> ImageColumns:
        values = both.val[name]
        noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(seed))
        return both.val.with_column(name, (values + strength * noise).half())

    foreign, strange = shaken("activation_statistics", 9, 4), shaken("pixel_statistics", 3, 5)
    torch.testing.assert_close(novelty(foreign), novelty(both.val), atol=1e-4, rtol=1e-3)
    assert float(novelty(strange).min()) > float(novelty(both.val).max())


def density_of(branch: StatisticsBranch, split: ImageColumns) -> tuple[torch.Tensor, torch.Tensor]:
    """What density detectors read, and the evidence."""
    with torch.no_grad():
        vectors = branch.embed(split)[0]
        return branch.density_part(vectors), branch.evidence(vectors)


def test_known_images_lie_on_the_sphere_and_images_of_another_pipeline_off_it():
    both = data()
    branch, _ = fitted(both.train)
    shifted = both.val["pixel_statistics"].float() + 3 * branch.sources.weight[:, 0].sign()
    other = both.val.with_column("pixel_statistics", shifted.half())
    known, evidence = density_of(branch, both.val)
    strange, less = density_of(branch, other)
    assert known.shape == (len(both.val), len(CLASSES) + 1)
    for part in (known, strange):
        torch.testing.assert_close(part[:, :-2].norm(dim=1), torch.ones(len(part)))
    trained, _ = density_of(branch, both.train)
    assert float(trained[:, -2].mean()) < 0.02
    assert float(known[:, -2].median()) < 0.1
    assert float(less.max()) < float(evidence.median())
    assert float(strange[:, -2].min()) > float(known[:, -2].median())


def test_evidence_of_held_out_images_is_that_of_new_ones():
    both = data()
    branch, _ = fitted(both.train)
    _, evidence = density_of(branch, both.val)
    median, scale = branch.density.usual.tolist()
    assert abs(float(evidence.median()) - median) < 2 * scale


def test_with_one_prompt_nothing_is_held_out_and_no_evidence_is_lacking():
    both = data()
    train = replace(both.train, groups=np.full(len(both.train), "one"))
    branch, held_out = fitted(train)
    density, evidence = density_of(branch, both.val)
    assert torch.isfinite(held_out).all()
    assert torch.isfinite(evidence).all()
    assert not density[:, -2:].any()


def test_an_enrolled_source_has_evidence():
    both = data()
    branch, _ = fitted(both.train)
    shifted = both.val["pixel_statistics"].float() + 3 * branch.sources.weight[:, 0].sign()
    new = both.val.with_column("pixel_statistics", shifted.half())
    with torch.no_grad():
        vectors = branch.embed(new)[0]
        before, classes = branch.evidence(vectors), branch.class_part(vectors)
        branch.enrol(vectors[::2])
        assert float((branch.evidence(vectors) - before)[1::2].mean()) > 0
        torch.testing.assert_close(branch.class_part(branch.embed(new)[0]), classes)


def test_each_part_is_beside_itself_resized():
    """Pixels of a part, its activations as it is and resized, and the whole's resized pixels."""
    split = with_copies(seeing_data().train)
    seen = torch.randn(len(split), COPIES, 2, SEEN).half()
    split = split.with_column("degraded_activation_statistics", seen)
    branch = new_branch(activations=True, degraded=True)
    found = branch.statistics_of(split)
    pixels, activations = split["pixel_statistics"], split["activation_statistics"]
    for row in (3, 1):
        for part in range(PARTS):
            expected = [
                pixels[row, part],
                activations[row, part],
                activations[row, PARTS + part],
                pixels[row, PARTS],
            ]
            assert torch.equal(found[row, part], torch.cat(expected))
    copies = branch.degraded_statistics_of(split)
    assert copies.shape[:2] == (len(split), COPIES)
    degraded = split["degraded_pixel_statistics"]
    expected = [degraded[2, 0, 0], seen[2, 0, 0], seen[2, 0, 1], degraded[2, 0, 1]]
    assert torch.equal(copies[2, 0], torch.cat(expected))


def test_missing_statistics_of_activations_are_refused(tmp_path: Path):
    with pytest.raises(CacheIncomplete, match="lacks the column activation_statistics"):
        fit_tiny(tmp_path / "run", *SEEING, data=data())
    both = seeing_data()
    unseen = replace(both, train=with_copies(both.train))
    with pytest.raises(CacheIncomplete, match="lacks the column degraded_activation_statistics"):
        fit_tiny(tmp_path / "other", *SEEING, "statistics.degraded=true", data=unseen)
