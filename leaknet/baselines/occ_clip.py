"""OCC-CLIP (arXiv 2404.02697): one few-shot prompt a generator on a frozen CLIP ViT-B/16.

For each generator 16 context words are learned (CoOp) that tell its images from others': 50 shots
of either, SGD 1e-4, momentum 0.9, weight decay 5e-4, cosine, batches of 10, 200 epochs. Half of
the others in a batch are made harder by one step of FGSM, 0.1 of the standardised input, towards
the generator. A class's score is the log-odds of its two prompts: one against the rest. The words
at the end of the prompts, "target" and "other", and that the step is taken in standardised
values, are ours. Nothing is chosen on the validation fold: the last epoch counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from leakcache.errors import TrainingError
from leakcache.images.resize import central, fitted
from leakcache.progress import track
from leakcache.store.array_store import Rows, RowSpec
from leakcache.store.views import Cut
from leaknet.baselines.augment import standardised
from leaknet.baselines.base import Peer, PeerOptions
from leaknet.baselines.fold_peers_clip import DEVIATION, MEAN, Clip
from leaknet.baselines.fold_peers_frozen import count, fingerprint
from leaknet.baselines.images import PeerImages
from leaknet.data.embeddings import Embeddings
from leaknet.features.noise import epoch_seed

CONTEXT, SHOTS, BATCH, EPOCHS = 16, 50, 10, 200
RATE, MOMENTUM, DECAY, STEP = 1e-4, 0.9, 5e-4, 0.1
WORDS = ("target", "other")
SPREAD = 0.02
"""Standard deviation of the context words at first, as in CoOp."""
AT_ONCE = 16
_START, _SHOTS, _ORDER = 11, 12, 13  # purposes of seeds


@dataclass(frozen=True)
class Bicubic(Cut):
    """Shorter side to `side` by bicubic reduction, centre crop: CLIP's own preparation."""

    side: int

    @property
    def spec(self) -> RowSpec:
        """One view."""
        return RowSpec(f"bicubic{self.side}", (1, self.side, self.side, 3), "uint8")

    def __call__(self, image: Image.Image) -> UInt8[np.ndarray, "view side side 3"]:
        """The view of an RGB picture."""
        scaled = fitted(*image.size, self.side)
        left, top = central(scaled, self.side)
        whole = image.resize(scaled, Image.Resampling.BICUBIC)
        return np.asarray(whole.crop((left, top, left + self.side, top + self.side)))[None]


class OccClip(Peer):
    """One prompt pair a generator."""

    name: ClassVar[str] = "occ-clip"
    _contexts: Float[Tensor, "class place width"]

    def __init__(self, classes: tuple[str, ...], options: PeerOptions) -> None:
        super().__init__(classes, options)
        self.clip = Clip.from_weights(options.weights, options.device, self.name)
        self._tokens = self.clip.tokens(WORDS, CONTEXT)
        self._cut = Bicubic(int(self.clip.network.config.vision_config.image_size))

    def fit(self, train: PeerImages, val: PeerImages) -> OccClip:
        """Learn each generator's context words; `val` is not looked at.

        Raises:
            TrainingError: a loss is not finite, or a class has no images or no others.
        """
        targets = train.targets(self.classes)
        present = np.unique(targets)
        if len(present) < 2:
            raise TrainingError(f"{self.name}: fewer than two classes to learn from")
        pixels, vectors = train.pixels(self._cut), self.vectors(train)
        epochs = EPOCHS if self.options.epochs is None else self.options.epochs
        contexts = []
        with track(self.name, len(self.classes) * epochs, "epochs") as advance:
            for number in range(len(self.classes)):
                shots = _Shots.drawn(targets, number, self.options.seed)
                context = self._start(number)
                for _ in self._learned(context, shots, pixels, vectors, epochs):
                    advance(1)
                contexts.append(context.detach())
        self._contexts = torch.stack(contexts).cpu()
        return self

    def embed(self, images: PeerImages) -> Embeddings:
        """CLIP's unit vectors, and the log-odds of each generator."""
        vectors = self.vectors(images)
        return self.embeddings(images, vectors, self._log_odds(torch.from_numpy(vectors)))

    @property
    def parameters(self) -> int:
        """Of CLIP, and the context words of all generators."""
        return count(self.clip.network) + len(self.classes) * CONTEXT * self.clip.width

    def state(self) -> Mapping[str, Tensor]:
        """The context words."""
        return {"contexts": self._contexts}

    def restore(self, state: Mapping[str, Tensor]) -> OccClip:
        """Take the context words."""
        self._contexts = state["contexts"]
        return self

    def vectors(self, images: PeerImages) -> Float32[np.ndarray, "image dimension"]:
        """CLIP's unit vectors, kept once they are computed."""
        depends = {"weights": fingerprint(self.clip.network)}
        spec = RowSpec("clip-image", (self.clip.dimension,), "float32", depends)
        pixels = images.pixels(self._cut)

        def compute(rows: Int[np.ndarray, "k"]) -> Float32[np.ndarray, "k dimension"]:
            starts = range(0, len(rows), AT_ONCE)
            views = [self._input(pixels, rows[start : start + AT_ONCE]) for start in starts]
            with torch.inference_mode():
                return torch.cat([self.clip.images(x).cpu() for x in views]).numpy()

        return images.derived(spec, compute)[:]

    @torch.inference_mode()
    def _log_odds(
        self, vectors: Float[Tensor, "image dimension"]
    ) -> Float32[np.ndarray, "image class"]:
        columns = []
        for context in self._contexts.to(self.options.device):
            target, other = self.clip.prompts(self._tokens, context).float().cpu()
            columns.append(self.clip.scale * (vectors @ (target - other)))
        return torch.stack(columns, dim=1).numpy()

    def _start(self, number: int) -> Float[Tensor, "place width"]:
        generator = torch.Generator().manual_seed(epoch_seed(self.options.seed, number, _START))
        context = SPREAD * torch.randn(CONTEXT, self.clip.width, generator=generator)
        return context.to(self.options.device).requires_grad_(True)

    def _learned(
        self,
        context: Float[Tensor, "place width"],
        shots: _Shots,
        pixels: Rows,
        vectors: Float32[np.ndarray, "image dimension"],
        epochs: int,
    ) -> Iterator[None]:
        """Change `context`, one epoch at a time."""
        optimiser = torch.optim.SGD([context], RATE, momentum=MOMENTUM, weight_decay=DECAY)
        for epoch in range(epochs):
            optimiser.param_groups[0]["lr"] = RATE * (1 + math.cos(math.pi * epoch / epochs)) / 2
            for rows, other in shots.batches(epoch):
                found = torch.from_numpy(vectors[rows]).to(self.options.device)
                harder = np.flatnonzero(other)[: int(other.sum()) // 2]
                if len(harder):
                    found[harder] = self._harder(self._input(pixels, rows[harder]), context)
                loss = self._loss(found, torch.from_numpy(other), context)
                if not bool(torch.isfinite(loss)):
                    raise TrainingError(f"{self.name}: the loss is not finite; try another --seed")
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            yield

    def _harder(
        self, x: Float[Tensor, "image 3 size size"], context: Float[Tensor, "place width"]
    ) -> Float[Tensor, "image dimension"]:
        """Vectors of others' images after one step that makes them look like the generator's."""
        x.requires_grad_(True)
        loss = self._loss(self.clip.images(x), torch.ones(len(x), dtype=torch.bool), context)
        (gradient,) = torch.autograd.grad(loss, x)
        with torch.no_grad():
            return self.clip.images(x + STEP * gradient.sign())

    def _loss(
        self,
        vectors: Float[Tensor, "image dimension"],
        other: Bool[Tensor, "image"],
        context: Float[Tensor, "place width"],
    ) -> Float[Tensor, ""]:
        logits = self.clip.scale * (vectors @ self.clip.prompts(self._tokens, context).T)
        return F.cross_entropy(logits, other.long().to(logits.device))

    def _input(self, pixels: Rows, rows: Int[np.ndarray, "k"]) -> Float[Tensor, "k 3 size size"]:
        return standardised(pixels[rows][:, 0], MEAN, DEVIATION).to(self.options.device)


@dataclass(frozen=True)
class _Shots:
    """The images that one generator is learned from; `other` are not its own."""

    rows: Int[np.ndarray, "shot"]
    other: Bool[np.ndarray, "shot"]
    seed: int
    number: int

    @classmethod
    def drawn(cls, targets: Int[np.ndarray, "image"], number: int, seed: int) -> _Shots:
        rng = np.random.default_rng(epoch_seed(seed, number, _SHOTS))
        own = rng.permutation(np.flatnonzero(targets == number))[:SHOTS]
        others = rng.permutation(np.flatnonzero(targets != number))[:SHOTS]
        other = np.arange(len(own) + len(others)) >= len(own)
        return cls(np.concatenate([own, others]), other, seed, number)

    def batches(self, epoch: int) -> Iterator[tuple[Int[np.ndarray, "k"], Bool[np.ndarray, "k"]]]:
        """All shots once, in a drawn order."""
        rng = np.random.default_rng([epoch_seed(self.seed, epoch, _ORDER), self.number])
        order = rng.permutation(len(self.rows))
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            yield self.rows[part], self.other[part]
