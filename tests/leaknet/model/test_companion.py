"""The branch of pixel statistics: standardised, saved, trained beside latents, refused without."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from leakcache.errors import CacheIncomplete, ConfigError
from leakcache.statistics.activation_features import LENGTH as SEEN
from leakcache.statistics.activations import VIEWS as SIGHTS
from leakcache.statistics.degraded import COPIES
from leakcache.statistics.pixel_features import LENGTH, LENGTHS
from leakcache.statistics.pixels import PARTS, VIEWS
from leaknet.config import FeatureConfig, load_config
from leaknet.data.split import SplitLatents
from leaknet.data.training_data import TrainingData
from leaknet.model import statistics_branch as companion_module
from leaknet.model.inference import embed, run_split
from leaknet.model.protoleaknet import ProtoLeakNet
from leaknet.model.ridge import CLIP, family_weights
from leaknet.model.statistics_branch import Companion, class_means
from tests.leaknet.tiny import (
    CLASSES,
    fit_tiny,
    tiny_config,
    tiny_data,
    tiny_model,
    tiny_split,
)

WITH = "features.statistics=true"
ALONE = (WITH, "features.latents=false")


def with_statistics(split: SplitLatents, seed: int = 0) -> SplitLatents:
    """Noise with a pattern of the class in it."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(len(split), VIEWS, LENGTH, generator=generator)
    patterns = torch.randn(len(CLASSES), LENGTH, generator=torch.Generator().manual_seed(99))
    values += 0.2 * patterns[split.targets(CLASSES), None]
    return replace(split, statistics=(3 + values).half())


def data() -> TrainingData:
    plain = tiny_data()
    return replace(plain, train=with_statistics(plain.train, 1), val=with_statistics(plain.val, 2))


def evidence(split: SplitLatents) -> torch.Tensor:
    return split.evidence(slice(None), activations=False)


def fitted(split: SplitLatents, *, degraded: bool = False) -> tuple[Companion, torch.Tensor]:
    companion = Companion(FeatureConfig(statistics=True, degraded=degraded), 8)
    return companion, companion.fit(split, CLASSES)


def copies_of(split: SplitLatents, seed: int) -> torch.Tensor:
    """Copies whose classes leave other patterns than pictures do, and a mark of their own."""
    generator = torch.Generator().manual_seed(seed)
    fixed = torch.Generator().manual_seed(98)
    patterns, mark = (
        torch.randn(len(CLASSES), LENGTH, generator=fixed),
        torch.randn(LENGTH, generator=fixed),
    )
    values = torch.randn(len(split), COPIES, 2, LENGTH, generator=generator)
    return (3 + values + 0.2 * patterns[split.targets(CLASSES), None, None] + 0.3 * mark).half()


def views_of_copies(split: SplitLatents, seed: int) -> torch.Tensor:
    """Such copies as one picture: as its parts, and one reduced."""
    copies = copies_of(split, seed)
    parts = copies[:, torch.arange(PARTS) % COPIES, 0]
    return torch.cat([parts, copies[:, :1, 1]], dim=1)


def with_copies(split: SplitLatents, seed: int = 7) -> SplitLatents:
    return replace(split, degraded=copies_of(split, seed))


def test_features_are_standardised_and_families_weigh_alike():
    split = data().train
    companion, _ = fitted(split)
    features = companion.map.features(evidence(split)[..., :LENGTH]).flatten(0, 1)
    standard = features / family_weights(LENGTHS)
    assert standard.abs().max() <= CLIP + 1e-6
    assert standard.mean(0).abs().max() < 0.1
    assert standard.std(0).sub(1).abs().max() < 0.1
    total = features.square().mean(0)
    parts = [part.sum().item() for part in torch.split(total, list(LENGTHS.values()))]
    np.testing.assert_allclose(parts, 1 / len(LENGTHS), rtol=0.05)


def test_constant_values_are_left_out():
    split = data().train
    assert split.statistics is not None
    split.statistics[..., 7] = 2.5
    companion, _ = fitted(split)
    other = split.statistics.clone()
    other[..., 7] = -60
    changed = replace(split, statistics=other)
    assert torch.equal(companion(evidence(split)), companion(evidence(changed)))


def test_embeddings_of_new_images_lie_where_those_of_held_out_ones_do():
    both = data()
    companion, held_out = fitted(both.train)
    centres = class_means(held_out, both.train.targets(CLASSES))
    distances = torch.cdist(companion(evidence(both.val)), centres)
    assert (distances.argmin(1) == both.val.targets(CLASSES)).float().mean() > 0.9


def shares_of(companion: Companion, values: torch.Tensor) -> torch.Tensor:
    """How the classes share each picture, read back from its embedding."""
    known = companion.without_novelty(companion(values))
    return known @ companion.frame.T / companion.frame[0].square().sum()


def test_the_embedding_holds_shares_of_the_classes_and_of_nothing_else():
    both = data()
    companion, _ = fitted(both.train)
    shares = shares_of(companion, evidence(both.val))
    classes = shares[:, : len(CLASSES)]
    torch.testing.assert_close(classes.sum(1), torch.ones(len(shares)), atol=1e-4, rtol=0)
    assert float(classes.min()) > 0
    assert float(shares[:, len(CLASSES) :].abs().max()) < 1e-4
    assert (classes.argmax(1) == both.val.targets(CLASSES)).float().mean() > 0.9


def test_a_picture_that_two_classes_claim_is_far_from_both():
    """Half of each statistic of two classes: closer to neither than their own pictures are."""
    both = data()
    companion, held_out = fitted(both.train)
    targets, values = both.val.targets(CLASSES), evidence(both.val)
    centres = class_means(held_out, both.train.targets(CLASSES))
    first, second = (values[targets == number] for number in (0, 1))
    count = min(len(first), len(second))
    between = (first[:count] + second[:count]) / 2

    def nearest(pictures: torch.Tensor) -> float:
        known = companion.without_novelty(companion(pictures))
        return float(torch.cdist(known, centres).min(dim=1).values.mean())

    assert nearest(between) > 1.5 * nearest(first)


def test_prototypes_start_where_they_are_fair_to_pictures_that_say_little():
    both = data()
    companion, held_out = fitted(both.train)
    targets = both.train.targets(CLASSES)
    # One class is less certain than the others, so that its mean lies nearer to the middle.
    middle = companion.frame[: len(CLASSES)].mean(0)
    uneven = torch.where((targets == 0)[:, None], middle + 0.5 * (held_out - middle), held_out)
    centres = companion.centres(uneven, targets)
    distances = (centres - middle).norm(dim=1)
    torch.testing.assert_close(distances, distances[:1].expand(len(CLASSES)))
    flat = middle + 0.05 * (held_out - middle)
    named = torch.cdist(flat, centres).argmin(1)
    largest = (flat @ companion.frame[: len(CLASSES)].T).argmax(1)
    assert torch.equal(named, largest)
    assert not torch.equal(torch.cdist(flat, class_means(uneven, targets)).argmin(1), largest)


def test_all_parts_of_an_image_count_alike_and_their_order_not_at_all():
    split = data().train
    companion, _ = fitted(split)
    parts = evidence(split)
    found = shares_of(companion, parts)[:, : len(CLASSES)]
    flipped = shares_of(companion, parts.flip(1))[:, : len(CLASSES)]
    torch.testing.assert_close(flipped, found, atol=1e-3, rtol=0)
    alone = torch.stack([shares_of(companion, parts[:, [part]]) for part in range(PARTS)])
    together = alone[..., : len(CLASSES)].clamp_min(1e-9).log().mean(0).softmax(1)
    torch.testing.assert_close(together, found, atol=1e-3, rtol=0)


def test_more_classes_than_there_is_room_for_are_refused():
    split = data().train
    companion = Companion(FeatureConfig(statistics=True), len(CLASSES))
    with pytest.raises(ConfigError, match=r"model\.dimension = 3 .* set it to 4 or more"):
        companion.fit(split, CLASSES)


def test_parts_help_where_they_differ_in_what_means_nothing(monkeypatch: pytest.MonkeyPatch):
    """A nuisance that varies within pictures is unlearnt from their parts."""
    generator = torch.Generator().manual_seed(3)
    nuisance = torch.randn(LENGTH, generator=generator)

    def shaken(split: SplitLatents) -> SplitLatents:
        assert split.statistics is not None
        strength = 4 * torch.randn(len(split), VIEWS, 1, generator=generator)
        return replace(split, statistics=(split.statistics + strength * nuisance).half())

    train = shaken(data().train)
    pattern = torch.randn(len(CLASSES), LENGTH, generator=torch.Generator().manual_seed(99))

    def distraction(parts: int) -> float:
        monkeypatch.setattr(companion_module, "MOST_VIEWS", parts * len(train))
        companion, _ = fitted(train)
        moves = torch.stack([nuisance, pattern[0] - pattern[1]]) * companion.map.scale
        lengths = (moves * family_weights(LENGTHS) @ companion.map.weight).norm(dim=1)
        return float(lengths[0] / lengths[1])

    assert distraction(PARTS) < 0.5 * distraction(1)


def test_many_images_are_learnt_from_with_fewer_parts(monkeypatch: pytest.MonkeyPatch):
    split = data().train
    assert split.statistics is not None
    _, every = fitted(split)
    monkeypatch.setattr(companion_module, "MOST_VIEWS", 2 * len(split) + 1)
    _, few = fitted(split)
    changed = split.statistics.clone()
    changed[:, 2:PARTS] = 0
    _, expected = fitted(replace(split, statistics=changed))
    torch.testing.assert_close(few, expected)
    assert float((few - every).abs().max()) > 1e-3


def test_copies_are_attributed_without_loss_on_pictures():
    both = data()
    train, val = with_copies(both.train), both.val
    targets = val.targets(CLASSES)

    def accuracy(companion: Companion, held_out: torch.Tensor, pictures: SplitLatents) -> float:
        centres = class_means(held_out, train.targets(CLASSES))
        named = (companion(evidence(pictures)) @ centres.T).argmax(1)
        return float(named.eq(targets).float().mean())

    robust, naive = fitted(train, degraded=True), fitted(train)
    degraded = replace(val, statistics=views_of_copies(val, 8))
    assert accuracy(*naive, degraded) < 0.6
    assert accuracy(*robust, degraded) > 0.9
    assert accuracy(*robust, val) > 0.9


def test_held_out_embeddings_with_copies_lie_where_those_of_new_images_do():
    both = data()
    companion, held_out = fitted(with_copies(both.train), degraded=True)
    new = companion(evidence(both.val))
    assert 0.5 < float(new.norm(dim=1).mean() / held_out.norm(dim=1).mean()) < 2
    centres = class_means(held_out, both.train.targets(CLASSES))
    assert torch.cdist(new, centres).argmin(1).eq(both.val.targets(CLASSES)).float().mean() > 0.9


def test_copies_make_a_run_that_is_saved_and_read_again(tmp_path: Path):
    both = data()
    copied = replace(both, train=with_copies(both.train))
    settings = (*ALONE, "features.degraded=true", "train.epochs=1")
    result = fit_tiny(tmp_path / "run", *settings, data=copied)
    model = result.run.load_model(torch.device("cpu"))
    assert model.companion is not None
    assert model.companion.copies is not None
    assert model.companion.map.weight.shape[1] == len(CLASSES)
    assert model.companion.copies.weight.shape[1] == len(CLASSES) + 1
    wide = Companion(model.config.features, model.config.model.dimension)
    wide.fit(copied.train, CLASSES)
    torch.testing.assert_close(model.companion(evidence(both.val)), wide(evidence(both.val)))


def test_copies_that_are_not_there_are_asked_for(tmp_path: Path):
    with pytest.raises(CacheIncomplete, match=r"degraded copies .* --with statistics"):
        fit_tiny(tmp_path / "run", *ALONE, "features.degraded=true", data=data())
    with pytest.raises(ConfigError, match=r"features\.degraded"):
        tiny_config("features.degraded=true")


def test_splits_keep_copies_when_they_are_cut():
    split = with_copies(data().train)
    assert split.degraded is not None
    part = split.take(np.array([3, 1])).to(torch.device("cpu"))
    assert part.degraded is not None
    assert torch.equal(part.degraded, split.degraded[[3, 1]])
    assert part.labels.tolist() == split.labels[[3, 1]].tolist()


def test_statistics_alone_are_learned_from(tmp_path: Path):
    result = fit_tiny(tmp_path / "run", *ALONE, "train.epochs=2", data=data())
    assert result.best.val_top1 > 0.9
    model = result.run.load_model(torch.device("cpu"))
    assert not [name for name in model.state_dict() if name.startswith(("backbone", "pool"))]
    fitted_numbers = LENGTH * (2 + model.config.model.dimension)
    assert model.size > fitted_numbers > sum(p.numel() for p in model.parameters())
    split = with_statistics(tiny_split(24, "test", seed=5), 5)
    moved = replace(split, z0=torch.randn_like(split.z0.float()).half())
    assert torch.equal(run_split(model, split).logits, run_split(model, moved).logits)
    assert run_split(model, split).attention.sum(1).numpy() == pytest.approx(np.ones(24))


def test_latents_and_statistics_are_read_together(tmp_path: Path):
    result = fit_tiny(
        tmp_path / "run", WITH, "train.epochs=1", "train.learning_rate=1e-2", data=data()
    )
    model = result.run.load_model(torch.device("cpu"))
    split = with_statistics(tiny_split(12, "test", views=2, seed=5), 5)
    found = embed(model, split)
    assert split.statistics is not None
    for change in (
        replace(split, z0=-split.z0),
        replace(split, statistics=6 - split.statistics),
    ):
        assert np.abs(embed(model, change).vectors - found.vectors).max() > 1e-5
    one = split.take(np.array([4]))
    np.testing.assert_allclose(embed(model, one).vectors[0], found.vectors[4], atol=1e-4)


def test_an_interrupted_run_goes_on_to_the_same_weights(tmp_path: Path):
    class Stopped(Exception):
        pass

    def stop(epoch: object) -> None:
        raise Stopped

    settings = (WITH, "train.epochs=2")
    whole = fit_tiny(tmp_path / "whole", *settings, data=data())
    with pytest.raises(Stopped):
        fit_tiny(tmp_path / "parts", *settings, data=data(), on_epoch=stop)
    parts = fit_tiny(tmp_path / "parts", *settings, data=data())
    assert parts.resumed_after == 1
    for run in (whole, parts):
        assert run.run.weights.is_file()
    first, second = (run.run.load_model(torch.device("cpu")).state_dict() for run in (whole, parts))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_cache_without_statistics_is_refused_with_the_cure(tmp_path: Path):
    with pytest.raises(CacheIncomplete, match="leak cache build --with statistics") as caught:
        fit_tiny(tmp_path / "run", WITH)
    assert "\n" not in str(caught.value)
    model = tiny_model(WITH)
    with pytest.raises(CacheIncomplete, match="leak cache build --with statistics"):
        embed(model, tiny_split(6, "test"))


def test_a_run_must_read_something():
    with pytest.raises(ConfigError, match="nothing else is left"):
        tiny_config("features.latents=false")


def test_settings_of_older_runs_read_as_before(tmp_path: Path):
    (tmp_path / "old.toml").write_text('preset = "paper"\n[features]\ndct_size = 4\n')
    features = load_config(tmp_path / "old.toml").features
    assert (features.latents, features.statistics) == (True, False)


def test_a_class_can_be_added(tmp_path: Path):
    from leaknet.enroll.prototypes import with_class

    result = fit_tiny(tmp_path / "run", *ALONE, "train.epochs=1", data=data())
    model = result.run.load_model(torch.device("cpu"))
    split = with_statistics(tiny_split(12, "test", seed=5), 5)
    vectors = embed(model, split).vectors
    grown = with_class(model, "new", vectors)
    grown.save_pretrained(tmp_path / "grown")
    grown = ProtoLeakNet.from_pretrained(tmp_path / "grown")
    np.testing.assert_allclose(embed(grown, split).vectors, vectors, atol=1e-6)


def with_activations(split: SplitLatents, seed: int) -> SplitLatents:
    """The only trace of the class is in the statistics of activations."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(len(split), VIEWS, LENGTH, generator=generator)
    seen = torch.randn(len(split), SIGHTS, SEEN, generator=generator)
    patterns = torch.randn(len(CLASSES), SEEN, generator=torch.Generator().manual_seed(97))
    seen += patterns[split.targets(CLASSES), None]
    return replace(split, statistics=pixels.half(), activations=seen.half())


def seeing_data() -> TrainingData:
    plain = tiny_data()
    return replace(
        plain, train=with_activations(plain.train, 1), val=with_activations(plain.val, 2)
    )


def test_what_only_activations_show_is_learnt(tmp_path: Path):
    both = seeing_data()
    settings = (*ALONE, "train.epochs=1")
    seeing = fit_tiny(tmp_path / "a", *settings, "features.activations=true", data=both)
    blind = fit_tiny(tmp_path / "b", *settings, data=both)
    assert blind.best.val_top1 < 0.7
    assert seeing.best.val_top1 > 0.9
    model = seeing.run.load_model(torch.device("cpu"))
    split = with_activations(tiny_split(24, "test", seed=5), 5)
    part = split.take(np.arange(3, 9))
    torch.testing.assert_close(run_split(model, part).logits, run_split(model, split).logits[3:9])


def test_what_only_activations_show_of_copies_is_learnt():
    """Copies have the class turned round: one map cannot name both; two can."""
    both = seeing_data()

    def turned(split: SplitLatents, seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        mark = torch.randn(SEEN, generator=torch.Generator().manual_seed(96))
        patterns = torch.randn(len(CLASSES), SEEN, generator=torch.Generator().manual_seed(97))
        wrong = patterns[(split.targets(CLASSES) + 1) % len(CLASSES)]
        values = torch.randn(len(split), COPIES, 2, SEEN, generator=generator)
        return (values + wrong[:, None, None] + mark).half()

    pixels = torch.randn(len(both.train), COPIES, 2, LENGTH).half()
    train = replace(both.train, degraded=pixels, degraded_activations=turned(both.train, 8))
    features = FeatureConfig(statistics=True, activations=True, degraded=True)
    companion = Companion(features, 8)
    companion.fit(train, CLASSES)
    assert companion.copies is not None
    assert len(companion.copies.mean) == 2 * (LENGTH + SEEN)
    copies = turned(both.val, 9)[:, 0, :1].expand(-1, SIGHTS, -1)
    for seen in (both.val.activations, copies):
        assert seen is not None
        picture = replace(both.val, activations=seen)
        shares = shares_of(companion, picture.evidence(slice(None), activations=True))
        named = shares[:, : len(CLASSES)].argmax(1)
        assert (named == both.val.targets(CLASSES)).float().mean() > 0.9


def test_only_pixels_tell_how_unusual_a_picture_is():
    both = seeing_data()
    companion = Companion(FeatureConfig(statistics=True, activations=True), 8)
    companion.fit(both.train, CLASSES)
    assert both.val.statistics is not None
    assert both.val.activations is not None

    def novelty(split: SplitLatents) -> torch.Tensor:
        embedded = companion(split.evidence(slice(None), activations=True))
        return (embedded - companion.without_novelty(embedded)).norm(dim=1)

    noise = torch.randn(both.val.activations.shape, generator=torch.Generator().manual_seed(4))
    foreign = replace(both.val, activations=(both.val.activations + 9 * noise).half())
    torch.testing.assert_close(novelty(foreign), novelty(both.val), atol=1e-4, rtol=1e-3)
    noise = torch.randn(both.val.statistics.shape, generator=torch.Generator().manual_seed(5))
    strange = replace(both.val, statistics=(both.val.statistics + 3 * noise).half())
    assert float(novelty(strange).min()) > float(novelty(both.val).max())


def test_evidence_pairs_each_part_with_itself_reduced():
    """Pixels of a part, its activations as it is and reduced, and the whole's reduced pixels."""
    split = with_copies(seeing_data().train)
    seen = torch.randn(len(split), COPIES, 2, SEEN).half()
    split = replace(split, degraded_activations=seen)
    rows = np.array([3, 1])
    found = split.evidence(rows, activations=True)
    assert split.statistics is not None
    assert split.activations is not None
    assert split.degraded is not None
    for number, row in enumerate(rows):
        for part in range(PARTS):
            expected = [
                split.statistics[row, part],
                split.activations[row, part],
                split.activations[row, PARTS + part],
                split.statistics[row, PARTS],
            ]
            assert torch.equal(found[number, part], torch.cat(expected))
    copies = split.degraded_evidence(1, activations=True)
    assert copies.shape[:2] == (len(split), 1)
    expected = [split.degraded[2, 0, 0], seen[2, 0, 0], seen[2, 0, 1], split.degraded[2, 0, 1]]
    assert torch.equal(copies[2, 0], torch.cat(expected))


def test_statistics_of_activations_that_are_not_there_are_asked_for(tmp_path: Path):
    seeing = (*ALONE, "features.activations=true")
    with pytest.raises(CacheIncomplete, match=r"activations .* --with statistics"):
        fit_tiny(tmp_path / "run", *seeing, data=data())
    both = seeing_data()
    unseen = replace(both, train=replace(both.train, degraded=copies_of(both.train, 7)))
    with pytest.raises(CacheIncomplete, match=r"copies .* --with statistics"):
        fit_tiny(tmp_path / "other", *seeing, "features.degraded=true", data=unseen)
    with pytest.raises(ConfigError, match=r"features\.activations"):
        tiny_config("features.activations=true")
