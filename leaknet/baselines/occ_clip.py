"""OCC-CLIP (arXiv 2404.02697): one few-shot prompt a generator on a frozen CLIP ViT-B/16.

For each generator 16 context words are learned (CoOp) that tell its images from others': 50 shots
of either, SGD 1e-4, momentum 0.9, weight decay 5e-4, cosine, batches of 10, 200 epochs. Half of
the others in a batch are made harder by one step of FGSM, 0.1 of the standardised input, towards
the generator. A class's score is the log-odds of its two prompts: one against the rest. The words
at the end of the prompts, "target" and "other", and that the step is taken in standardised
values, are ours. Nothing is chosen on the validation fold: the last epoch counts.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Int64, UInt8
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from leakcache.errors import TrainingError, WeightsError
from leakcache.images.resize import central, fitted
from leakcache.progress import track
from leakcache.store.array_store import Rows, RowSpec
from leakcache.store.views import Cut
from leaknet.baselines.augment import standardised
from leaknet.baselines.base import Baseline, BaselineOptions
from leaknet.baselines.images import BaselineImages
from leaknet.baselines.weights import count, fingerprint, model_folder
from leaknet.data.embeddings import Embeddings
from leaknet.features.noise import epoch_seed

# CLIP by transformers, which is an optional dependency: `pip install leaknet[clip]`.

REPOSITORY = "openai/clip-vit-base-patch16"
TOKENIZER = ("vocab.json", "merges.txt")
FILES = ("config.json", "model.safetensors", *TOKENIZER)
MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


def library(method: str) -> Any:
    """The transformers package.

    Raises:
        WeightsError: it is not installed.
    """
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise WeightsError(
            f"{method} needs transformers, which is not installed: `pip install transformers`"
        ) from error


def load(kind: Any, folder: Path, **options: Any) -> Any:
    """A model or tokenizer of diffusers or transformers from a local folder; no pickle is read.

    Raises:
        WeightsError: it is not there or does not fit.
    """
    try:
        return kind.from_pretrained(folder, local_files_only=True, **options)
    except (OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
        said = " ".join(str(error).split())[:200]
        raise WeightsError(f"{folder}: no {kind.__name__} can be loaded ({said})") from error


class Clip:
    """A frozen CLIP: unit vectors of images, and of prompts whose first words can be learned.

    Attributes:
        network: transformers' model.
        width: of the words' embeddings.
        dimension: of the unit vectors.
    """

    def __init__(self, network: Any, tokenizer: Any, device: torch.device) -> None:
        self.network = network.to(device).eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._device = device
        self.width: int = network.config.text_config.hidden_size
        self.dimension: int = network.config.projection_dim

    @classmethod
    def from_weights(cls, weights: Path | None, device: torch.device, method: str) -> Clip:
        """`REPOSITORY`, from below the folder of local weights or from the hub.

        Raises:
            WeightsError: transformers is not installed, or the weights cannot be had.
        """
        transformers = library(method)
        folder = model_folder(REPOSITORY, FILES, weights)
        network = load(transformers.CLIPModel, folder, use_safetensors=True)
        return cls(network, load(transformers.CLIPTokenizer, folder), device)

    def images(
        self, pixels: Float[Tensor, "image 3 size size"]
    ) -> Float[Tensor, "image dimension"]:
        """Unit vectors of standardised pixels; gradients flow to them."""
        pooled = self.network.vision_model(pixel_values=pixels).pooler_output
        return nn.functional.normalize(self.network.visual_projection(pooled), dim=-1)

    def tokens(self, words: tuple[str, ...], context: int) -> Int64[Tensor, "word token"]:
        """Token numbers of prompts: `context` places to be filled, then the word."""
        prompts = [" ".join(["x"] * context + [word]) for word in words]
        found = self._tokenizer(prompts, padding=True, return_tensors="pt")["input_ids"]
        ready: Tensor = found.to(self._device)
        return ready

    def prompts(
        self, tokens: Int64[Tensor, "word token"], context: Float[Tensor, "place width"]
    ) -> Float[Tensor, "word dimension"]:
        """Unit vectors of the prompts with `context` in their places; gradients flow to it."""
        with self._in_place(context):
            pooled = self.network.text_model(input_ids=tokens).pooler_output
        return nn.functional.normalize(self.network.text_projection(pooled), dim=-1)

    @property
    def scale(self) -> float:
        """What cosines are multiplied by."""
        return float(self.network.logit_scale.exp())

    @contextmanager
    def _in_place(self, context: Tensor) -> Iterator[None]:
        # The model takes no embeddings from outside, so they are put in as it looks words up.
        def fill(module: nn.Module, given: Any, found: Tensor) -> Tensor:
            places = context.expand(len(found), *context.shape)
            return torch.cat([found[:, :1], places, found[:, 1 + len(context) :]], dim=1)

        table = self.network.text_model.embeddings.token_embedding
        handle = table.register_forward_hook(fill)
        try:
            yield
        finally:
            handle.remove()


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


class OccClip(Baseline):
    """One prompt pair a generator."""

    name: ClassVar[str] = "occ-clip"
    _contexts: Float[Tensor, "class place width"]

    def __init__(self, classes: tuple[str, ...], options: BaselineOptions) -> None:
        super().__init__(classes, options)
        self.clip = Clip.from_weights(options.weights, options.device, self.name)
        self._tokens = self.clip.tokens(WORDS, CONTEXT)
        self._cut = Bicubic(int(self.clip.network.config.vision_config.image_size))

    def fit(self, train: BaselineImages, val: BaselineImages) -> OccClip:
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

    def embed(self, images: BaselineImages) -> Embeddings:
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

    def vectors(self, images: BaselineImages) -> Float32[np.ndarray, "image dimension"]:
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
