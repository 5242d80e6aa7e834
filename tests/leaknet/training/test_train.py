"""Training: it learns, repeats, resumes to the bit, and refuses in one line."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy

from leakcache.errors import RunError, TrainingError
from leaknet.data.columns import TrainingData
from leaknet.model.inference import run_split
from leaknet.model.protoleaknet import ProtoLeakNet
from leaknet.training.epoch import Stepper, TrainingImages, batch_sizes, train_epoch
from leaknet.training.run_folder import EpochRecord, RunFolder
from leaknet.training.train import fit, train
from tests.leaknet.tiny import (
    CLASSES,
    SHAPE,
    fit_tiny,
    silent,
    tiny_cache,
    tiny_config,
    tiny_data,
    tiny_latents,
    tiny_record,
    tiny_split,
)

CPU = torch.device("cpu")
SHORT = ("train.epochs=4", "train.patience=0")


class Stop(Exception):
    """Stands for whatever ends the process."""


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def stop_after(epochs: int) -> Callable[[EpochRecord], None]:
    def on_epoch(record: EpochRecord) -> None:
        if record.epoch == epochs:
            raise Stop

    return on_epoch


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of `SHORT`."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    fit_tiny(folder, *SHORT)
    return folder


def test_it_learns_what_can_be_learnt(tmp_path: Path) -> None:
    settings = ("train.epochs=8", "train.learning_rate=0.003", "latents.timesteps=0,5")
    result = fit_tiny(tmp_path, *settings, data=tiny_data(count=150))
    assert result.best["latents"].val_macro_auc > 0.95
    assert result.epochs[-1].loss < result.epochs[0].loss / 2


def test_the_kept_weights_are_those_of_the_best_epoch(whole: Path) -> None:
    run = RunFolder(whole)
    ranks = [(e.val_macro_auc, -e.val_loss) for e in run.epochs()]
    flagged = [e.epoch for e in run.epochs() if e.best]
    best = flagged[-1]
    assert ranks[best - 1] == max(ranks)
    assert flagged == [n for n in range(1, 5) if ranks[n - 1] == max(ranks[:n])]
    val = tiny_data().val
    logits = run_split(run.load_model(CPU), val).logits
    loss = torch.nn.functional.cross_entropy(logits, val.targets(CLASSES))
    assert float(loss) == pytest.approx(run.epochs()[best - 1].val_loss, rel=1e-5)


def test_the_same_seed_gives_the_same_bytes_whatever_the_caller_drew(
    whole: Path, tmp_path: Path
) -> None:
    torch.manual_seed(77)
    before = torch.random.get_rng_state()
    fit_tiny(tmp_path / "again", *SHORT)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert weights(tmp_path / "again") == weights(whole)
    fit_tiny(tmp_path / "other", *SHORT, "train.seed=1")
    assert weights(tmp_path / "other") != weights(whole)


@pytest.mark.parametrize("epochs", [1, 2, 3, 4])
def test_a_run_stopped_after_an_epoch_goes_on_to_the_same_bytes(
    whole: Path, tmp_path: Path, epochs: int
) -> None:
    with pytest.raises(Stop):
        fit_tiny(tmp_path, *SHORT, on_epoch=stop_after(epochs))
    assert not RunFolder(tmp_path).finished
    result = fit_tiny(tmp_path, *SHORT)
    assert result.resumed_after == epochs
    assert [e.epoch for e in result.epochs] == [1, 2, 3, 4]
    assert weights(tmp_path) == weights(whole)
    assert RunFolder(tmp_path).finished


@pytest.mark.parametrize(
    "overrides",
    [
        ("latents.time_dropout=0.5", "train.entropy=0.1", "train.optimizer=adamw"),
        # On 1×1 maps torch 2.15's bf16 convolution can give NaN on the processor.
        ("train.precision=bf16", "latents.stem=small", "head.prototypes=0"),
        ("train.precision=fp16", "latents.noise=false", "latents.timesteps=0"),
    ],
)
def test_interrupts_in_the_middle_of_epochs_change_nothing(
    tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    data = tiny_data(count=16, views=2)
    fit_tiny(tmp_path / "whole", *SHORT, *overrides, data=data)
    part = tmp_path / "part"
    for images in (8, 16, 24):
        with pytest.raises(KeyboardInterrupt):
            fit_tiny(part, *SHORT, *overrides, data=data, track=interrupting_after(images))
    if (part / "model.safetensors").exists():
        ProtoLeakNet.from_pretrained(part)
    fit_tiny(part, *SHORT, *overrides, data=data)
    assert weights(part) == weights(tmp_path / "whole")


def interrupting_after(images: int) -> Callable[..., Any]:
    @contextmanager
    def track(description: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        left = images

        def advance(units: int) -> None:
            nonlocal left
            left -= units
            if left < 0:
                raise KeyboardInterrupt

        yield advance

    return track


def test_a_kill_between_the_writes_of_an_epoch_changes_nothing(whole: Path, tmp_path: Path) -> None:
    early, late = tmp_path / "early", tmp_path / "late"
    with pytest.raises(Stop):
        fit_tiny(early, *SHORT, on_epoch=stop_after(1))
    with pytest.raises(Stop):
        fit_tiny(late, *SHORT, on_epoch=stop_after(2))
    for name in ("model.safetensors", "checksums.json", "history.jsonl"):
        shutil.copy(late / name, early / name)
    result = fit_tiny(early, *SHORT)
    assert result.resumed_after == 1
    assert weights(early) == weights(whole)
    assert [(e.epoch, e.best) for e in result.epochs] == [
        (e.epoch, e.best) for e in RunFolder(whole).epochs()
    ]


def test_a_finished_run_is_left_alone(whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.glob("[!.]*")}
    result = fit_tiny(whole, *SHORT)
    assert result.resumed_after == 4
    assert len(result.epochs) == 4
    assert {path: path.stat().st_mtime_ns for path in whole.glob("[!.]*")} == before


def test_other_settings_in_the_same_folder_are_refused(whole: Path) -> None:
    with pytest.raises(RunError, match=r"train\.epochs: 4, now 5.*another --run"):
        fit_tiny(whole, "train.epochs=5", "train.patience=0")


def test_other_training_images_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    config = tiny_config("train.epochs=1")
    train(config, tiny_cache(tmp_path / "a"), tmp_path / "run", device="cpu", track=silent)
    for other, reason in (
        (tiny_cache(tmp_path / "b", extra=3), "training or validation images differ"),
        (tiny_cache(tmp_path / "c", weights="b" * 64), "autoencoder tiny"),
    ):
        with pytest.raises(RunError, match=reason):
            train(config, other, tmp_path / "run", device="cpu", track=silent)


def test_a_cache_is_trained_on_as_its_folds_in_memory(tmp_path: Path) -> None:
    cache = tiny_cache(tmp_path / "cache")
    result = train(
        tiny_config("train.epochs=2"), cache, tmp_path / "run", device="cpu", track=silent
    )
    assert result.best["latents"].val_macro_auc > 0.4
    record = result.run.record()
    assert record.cache is not None
    assert record.cache.fingerprint == cache.manifest.fingerprint
    assert record.classes == CLASSES


def test_patience_stops_after_epochs_without_a_better_one(tmp_path: Path) -> None:
    result = fit_tiny(tmp_path, "train.epochs=60", "train.patience=2", "train.learning_rate=0.01")
    assert len(result.epochs) == result.best["latents"].epoch + 2 < 60
    assert result.run.finished


@pytest.mark.parametrize("count", [3, 7, 9, 17])
def test_few_images_and_odd_rests_are_trained_on(tmp_path: Path, count: int) -> None:
    result = fit_tiny(
        tmp_path, "train.epochs=1", "latents.timesteps=5", data=tiny_data(count=count)
    )
    assert np.isfinite(result.best["latents"].loss)


@given(st.integers(2, 500), st.integers(2, 64))
def test_batches_cover_all_images_and_none_holds_one(count: int, size: int) -> None:
    sizes = batch_sizes(count, size)
    assert sum(sizes) == count
    assert min(sizes) >= 2
    assert max(sizes) <= size + 1


def test_an_epoch_takes_every_image_once_and_each_view_sometimes() -> None:
    branch = tiny_latents()
    seen: list[torch.Tensor] = []
    branch.features.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    split = tiny_split(30, "train", views=3)
    rows = torch.arange(len(split))
    images = TrainingImages(branch.sampler(split), split, split.targets(CLASSES), split.views, rows)
    train_epoch(Stepper(branch, tiny_config().train, CPU), images, 1, lambda done: None)
    crops = {
        tuple(row): index for index, row in enumerate(split.z0.flatten(0, 1).flatten(1).tolist())
    }
    drawn = [crops[tuple(row)] for row in torch.cat(seen).flatten(1).tolist()]
    assert sorted(crop // 3 for crop in drawn) == list(range(30))
    assert {crop % 3 for crop in drawn} == {0, 1, 2}
    assert [crop // 3 for crop in drawn] != list(range(30))


def test_two_classes_are_enough(tmp_path: Path) -> None:
    data = tiny_data(classes=2)
    result = fit(
        tiny_record("train.epochs=1", classes=CLASSES[:2]), data, tmp_path, device=CPU, track=silent
    )
    assert 0 <= result.best["latents"].val_macro_auc <= 1


def broken_data(how: str) -> tuple[TrainingData, tuple[str, ...]]:
    data, classes = tiny_data(), CLASSES
    if how == "one class":
        return tiny_data(classes=1), CLASSES[:1]
    if how == "empty class":
        return data, (*CLASSES, "dan")
    if how == "no validation":
        return replace(data, val=tiny_split(0, "val")), classes
    if how == "one class in validation":
        return replace(data, val=tiny_split(5, "val", classes=1)), classes
    z0 = data.train.z0.clone()
    z0[7, 0, 2, 3, 4] = float("nan")
    return replace(data, train=data.train.with_column("z0", z0)), classes


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("one class", "1 generator"),
        ("empty class", "no training images of dan"),
        ("no validation", "validation fold holds 0 images"),
        ("one class in validation", "validation fold holds 5 images"),
        ("nan", "latent of train/1/7 is not finite"),
    ],
)
def test_data_that_cannot_be_learnt_from_is_refused(tmp_path: Path, how: str, reason: str) -> None:
    data, classes = broken_data(how)
    folder = tmp_path / "run"
    with pytest.raises(TrainingError, match=reason) as caught:
        fit(tiny_record(classes=classes), data, folder, device=CPU, track=silent)
    assert "\n" not in str(caught.value)
    assert not folder.exists()


def test_a_loss_that_is_not_finite_ends_training_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"not finite in epoch 1: lower train\.learning_rate"):
        fit_tiny(tmp_path, "train.learning_rate=1e30", "train.clip=0")
    assert not (tmp_path / "model.safetensors").exists()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be made a run folder"):
        fit_tiny(tmp_path / "file" / "run")


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        fit_tiny(tmp_path, *SHORT, on_epoch=stop_after(1))
    checkpoint = tmp_path / "last.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(RunError, match=r"last\.safetensors is damaged"):
        fit_tiny(tmp_path, *SHORT)


def test_the_entropy_term_is_what_the_attention_lacks_of_evenness() -> None:
    losses, targets = [], torch.tensor([0, 1, 2, 0, 1, 2])
    features = tiny_latents().features(torch.randn(6, *SHAPE), torch.randn(6, 3, *SHAPE))
    for weight in (0.0, 2.0):
        branch = tiny_latents().train()
        with torch.no_grad():
            branch.attention.query.mul_(1000)
            attention = branch.attribute(features).attention.numpy()
        stepper = Stepper(branch, tiny_config(f"train.entropy={weight}").train, CPU)
        losses.append(float(stepper.step(features, targets)))
    lack = np.log(3) - entropy(attention, axis=1).mean()
    assert lack > 0.01
    assert losses[1] - losses[0] == pytest.approx(2 * lack, rel=1e-4)


def test_one_step_is_adams() -> None:
    """Against torch's plain optimiser, unclipped and unfused, on the same features."""
    ours, theirs = tiny_latents(), tiny_latents()
    features = ours.features(torch.randn(6, *SHAPE), torch.randn(6, 3, *SHAPE))
    targets = torch.tensor([0, 1, 2, 0, 1, 2])
    Stepper(ours.train(), tiny_config("train.clip=0").train, CPU).step(features, targets)
    reference = torch.optim.Adam(theirs.train().parameters(), lr=3e-4, weight_decay=1e-4)
    torch.nn.functional.cross_entropy(theirs.attribute(features).logits, targets).backward()
    reference.step()
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6), name
