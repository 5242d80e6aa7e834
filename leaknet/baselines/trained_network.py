"""Baselines that are one network trained by cross-entropy: the shared training loop.

A sample is one view of one image; an epoch covers all views of all images. In evaluation an
image's vector and class probabilities are the means over its views. The best epoch on the
validation fold by macro AUC, then by loss, is restored. All randomness derives from (seed, epoch).
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from leakcache.errors import TrainingError
from leakcache.progress import Advance, track
from leakcache.store.columns import RESIZED, Cut
from leakcache.store.source_images import Rows
from leaknet.baselines.base import Baseline, BaselineImages, BaselineOptions
from leaknet.data.embeddings import Embeddings
from leaknet.features.noise import epoch_seed, seeded_globally
from leaknet.metrics import closed_values
from leaknet.training.epoch import batch_sizes

SampleViews = Shaped[np.ndarray, "sample height width channel"]
Samples = Int[np.ndarray, "sample"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def cropped(
    views: SampleViews, size: int, rng: np.random.Generator | None, *, grid: int = 1
) -> Shaped[np.ndarray, "sample size size channel"]:
    """A random crop of each view, the central one without `rng`; corners on multiples of `grid`.

    Raises IndexError if a view is smaller than `size`.
    """
    free = np.array(views.shape[1:3]) - size
    if free.min() < 0:
        raise IndexError(f"views of {views.shape[1:3]} have no crop of {size}")
    if rng is None:
        corners = np.tile(free // 2 // grid, (len(views), 1))
    else:
        corners = rng.integers(0, free // grid + 1, (len(views), 2))
    pairs = zip(views, (corners * grid).tolist(), strict=True)
    return np.stack([view[top : top + size, left : left + size] for view, (top, left) in pairs])


def flipped(views: SampleViews, rng: np.random.Generator | None) -> SampleViews:
    """Each view mirrored with probability one half; unchanged without `rng`."""
    if rng is None:
        return views
    mirrored = rng.random(len(views)) < 0.5
    return np.where(mirrored[:, None, None, None], views[:, :, ::-1], views)


def standardised(
    views: UInt8[np.ndarray, "sample height width 3"],
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Float[Tensor, "sample 3 height width"]:
    """(x / 255 − mean) / std, channels first."""
    x = torch.from_numpy(np.ascontiguousarray(views)).permute(0, 3, 1, 2).float() / 255
    centre, scale = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    return (x - centre) / scale


_ORDER, _AUGMENT, _LAYERS = 1, 2, 3  # streams of the seed; 0 is the initialisation
BATCH = 32
"""Views per forward pass in evaluation, and in training on the CPU."""

CPU = torch.device("cpu")


def constant(epoch: float, epochs: int) -> float:
    """Constant learning rate."""
    return 1.0


def step_decay(factor: float, every: int) -> Callable[[float, int], float]:
    """Learning rate multiplied by `factor` every `every` epochs."""
    return lambda epoch, epochs: factor ** math.floor(epoch / every)


@dataclass(frozen=True)
class Recipe:
    """Training settings of a network.

    Attributes:
        learning_rate: maximum.
        batch: views per optimiser step.
        epochs: default number.
        patience: epochs without improvement before training stops; 0 for never.
        optimiser: from parameters and learning rate.
        rate: factor of the learning rate, from the epoch (fractional, from 0) and their number.
    """

    learning_rate: float
    batch: int
    epochs: int
    patience: int = 0
    optimiser: Callable[[Any, float], torch.optim.Optimizer] = torch.optim.Adam
    rate: Callable[[float, int], float] = constant


class TrainedNetwork(Baseline):
    """A network from views to (vectors, logits).

    Attributes:
        recipe: training settings.
        at_once: views per forward pass on the CPU; an optimiser step accumulates the gradients
            of its batch in parts of this size.
        network: on the device.
    """

    recipe: ClassVar[Recipe]
    at_once: ClassVar[int] = BATCH

    def __init__(self, classes: tuple[str, ...], options: BaselineOptions) -> None:
        super().__init__(classes, options)
        with seeded_globally(epoch_seed(options.seed, 0), CPU):
            network = self.build(len(classes))
        # Convolutions are faster in channels-last order.
        self.network = network.to(options.device).to(memory_format=torch.channels_last)

    @abstractmethod
    def build(self, classes: int) -> nn.Module:
        """The network; `forward` maps the output of `prepare` to vectors and logits.

        Raises:
            WeightsError: weights are missing.
        """

    @abstractmethod
    def rows(self, images: BaselineImages) -> Rows:
        """Stored views of the images: (image, view, ...)."""

    @abstractmethod
    def prepare(
        self, views: Shaped[np.ndarray, "sample *view"], rng: np.random.Generator | None
    ) -> Float[Tensor, "sample *input"]:
        """The network's input, on the CPU; augmented with `rng`, None in evaluation."""

    @property
    def parameters(self) -> int:
        """Number of weights of the network."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    def state(self) -> Mapping[str, Tensor]:
        """Weights and buffers."""
        return dict(self.network.state_dict())

    def restore(self, state: Mapping[str, Tensor]) -> TrainedNetwork:
        """Load weights and buffers."""
        self.network.load_state_dict(dict(state))
        return self

    def fit(self, train: BaselineImages, val: BaselineImages) -> TrainedNetwork:
        """Train, then restore the best epoch.

        Raises:
            TrainingError: there are no training images, or the loss is not finite.
        """
        if not len(train):
            raise TrainingError(f"{self.name}: the training fold is empty")
        epochs = self.recipe.epochs if self.options.epochs is None else self.options.epochs
        optimiser = self.recipe.optimiser(self.network.parameters(), self.recipe.learning_rate)
        data, held_out = _Samples.of(self.rows(train), train.targets(self.classes)), self.rows(val)
        targets = val.targets(self.classes)
        best: tuple[float, float] = (-math.inf, -math.inf)
        best_state, best_epoch = copy.deepcopy(self.state()), 0
        with track(self.name, epochs * len(data), "views") as advance:
            for epoch in range(1, epochs + 1):
                self._train(optimiser, data, epoch, epochs, advance)
                rank = self._validate(held_out, targets)
                if rank >= best:
                    best, best_epoch = rank, epoch
                    best_state = copy.deepcopy(self.state())
                if 0 < self.recipe.patience <= epoch - best_epoch:
                    break
        return self.restore(best_state)

    def embed(self, images: BaselineImages) -> Embeddings:
        """One pass in evaluation mode."""
        vectors, logits = self._outputs(self.rows(images))
        return self.embeddings(images, vectors, logits)

    def _train(
        self,
        optimiser: torch.optim.Optimizer,
        data: _Samples,
        epoch: int,
        epochs: int,
        advance: Advance,
    ) -> None:
        seed, device = self.options.seed, self.options.device
        rng = np.random.default_rng(epoch_seed(seed, epoch, _AUGMENT))
        batches = data.batches(self.recipe.batch, epoch_seed(seed, epoch, _ORDER))
        done = 0
        self.network.train()
        with seeded_globally(epoch_seed(seed, epoch, _LAYERS), device):
            for samples in batches:
                rate = self.recipe.rate(epoch - 1 + done / len(data), epochs)
                for group in optimiser.param_groups:
                    group["lr"] = self.recipe.learning_rate * rate
                self._step(optimiser, data, samples, rng)
                done += len(samples)
                advance(len(samples))

    def _step(
        self,
        optimiser: torch.optim.Optimizer,
        data: _Samples,
        samples: Samples,
        rng: np.random.Generator,
    ) -> None:
        device = self.options.device
        views, targets = data.read(samples)
        # Prepared as a whole, so that augmentation does not depend on the number of parts.
        inputs, labels = self.prepare(views, rng), torch.from_numpy(targets)
        at_once = len(samples) if device.type == "cuda" else self.at_once
        parts = -(-len(samples) // at_once)
        optimiser.zero_grad(set_to_none=True)
        for x, y in zip(inputs.tensor_split(parts), labels.tensor_split(parts), strict=True):
            with self._autocast():
                _, logits = self.network(self._on_device(x))
            loss = F.cross_entropy(logits.float(), y.to(device), reduction="sum")
            if not bool(torch.isfinite(loss)):
                raise TrainingError(f"{self.name}: the loss is not finite: use another --seed")
            (loss / len(samples)).backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    def _autocast(self) -> torch.autocast:
        reduced = self.options.precision == "bf16"
        return torch.autocast(self.options.device.type, torch.bfloat16, enabled=reduced)

    def _on_device(self, x: Tensor) -> Tensor:
        """Input on the network's device and in its memory format."""
        x = x.to(self.options.device)
        return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x

    def _validate(self, rows: Rows, targets: Int[np.ndarray, "image"]) -> tuple[float, float]:
        """Macro AUC and negative loss; (0, 0) for an empty fold."""
        if not len(rows):
            return 0.0, 0.0
        _, logits = self._outputs(rows)
        if not np.isfinite(logits).all():
            raise TrainingError(f"{self.name}: the network's outputs are not finite")
        loss = float(F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(targets)))
        if len(np.unique(targets)) < 2:
            return 0.0, -loss
        return float(closed_values(logits, targets)["macro_auc"][0]), -loss

    @torch.inference_mode()
    def _outputs(
        self, rows: Rows
    ) -> tuple[Float[np.ndarray, "image dimension"], Float[np.ndarray, "image class"]]:
        self.network.eval()
        views = rows.shape[1]
        step = max(1, BATCH // views)
        parts = [
            self._views(rows[np.arange(start, min(start + step, len(rows)))])
            for start in range(0, len(rows), step)
        ]
        vectors, logits = (torch.cat(column) for column in zip(*parts, strict=True))
        return vectors.numpy(), logits.numpy()

    def _views(self, values: np.ndarray) -> tuple[Tensor, Tensor]:
        images, views = values.shape[:2]
        flat = values.reshape(images * views, *values.shape[2:])
        with self._autocast():
            outputs = self.network(self._on_device(self.prepare(flat, None)))
        vectors, logits = (out.float().cpu() for out in outputs)
        vectors = vectors.unflatten(0, (images, views)).mean(dim=1)
        return vectors, mean_over_views(logits.unflatten(0, (images, views)))


class PixelNetwork(TrainedNetwork):
    """A network on stored pixels: random or central crop, flip, standardised colours.

    Attributes:
        cut: stored views.
        size: side of the network's input.
        grid: crops start at multiples of this.
    """

    cut: ClassVar[Cut] = RESIZED
    size: ClassVar[int] = 224
    grid: ClassVar[int] = 1

    @property
    def colours(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel."""
        return IMAGENET_MEAN, IMAGENET_STD

    def rows(self, images: BaselineImages) -> Rows:
        """Pixels of the cut."""
        return images.pixels(self.cut)

    def prepare(
        self, views: UInt8[np.ndarray, "sample side side 3"], rng: np.random.Generator | None
    ) -> Float[Tensor, "sample 3 size size"]:
        """Crop, flip, standardise."""
        x = flipped(cropped(views, self.size, rng, grid=self.grid), rng)
        return standardised(x, *self.colours)


def mean_over_views(logits: Float[Tensor, "image view class"]) -> Float[Tensor, "image class"]:
    """Logits whose probabilities are the mean over views.

    Their logsumexp is the mean over views too, so energies stay comparable; a single view's
    logits do not change.
    """
    if logits.shape[1] == 1:
        return logits[:, 0]
    mean = torch.log_softmax(logits, dim=-1).logsumexp(dim=1) - math.log(logits.shape[1])
    return mean + logits.logsumexp(dim=-1).mean(dim=1, keepdim=True)


@dataclass(frozen=True)
class _Samples:
    """Views of images as samples: view v of image i is sample i · views + v."""

    rows: Rows
    targets: Int[np.ndarray, "image"]
    views: int

    @classmethod
    def of(cls, rows: Rows, targets: Int[np.ndarray, "image"]) -> _Samples:
        return cls(rows, targets, rows.shape[1])

    def __len__(self) -> int:
        return len(self.rows) * self.views

    def batches(self, size: int, seed: int) -> Iterator[Samples]:
        """All samples once, in random order."""
        order = np.random.default_rng(seed).permutation(len(self))
        ends = np.cumsum(batch_sizes(len(self), size))
        yield from np.split(order, ends[:-1])

    def read(self, samples: Samples) -> tuple[Shaped[np.ndarray, "sample *view"], Samples]:
        """Views and targets of these samples."""
        images, views = np.divmod(samples, self.views)
        values = self.rows[images]
        return values[np.arange(len(samples)), views], self.targets[images]
