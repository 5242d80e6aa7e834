"""Methods on frozen vision transformers: OCC-CLIP, and nearest neighbours in their middle."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import timm
import torch
from jaxtyping import Bool, Float, Float32, Int, Int64, UInt8
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from leakcache.errors import TrainingError
from leakcache.images.preprocess import central, fitted
from leakcache.progress import track
from leakcache.store.columns import RESIZED, Cut
from leakcache.store.source_images import Rows
from leakcache.store.zarr_column import ColumnSpec
from leaknet.baselines.base import Baseline, BaselineImages, BaselineOptions
from leaknet.baselines.trained_network import cropped, standardised
from leaknet.baselines.weights import (
    count,
    fingerprint,
    frozen,
    load_model,
    model_folder,
    pretrained,
    transformers,
)
from leaknet.data.embeddings import Embeddings
from leaknet.features.noise import epoch_seed
from leaknet.metrics import closed_values

Vectors = Float[Tensor, "image dimension"]
Context = Float[Tensor, "place width"]

REPOSITORY = "openai/clip-vit-base-patch16"
TOKENIZER = ("vocab.json", "merges.txt")
FILES = ("config.json", "model.safetensors", *TOKENIZER)
MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


class Clip:
    """A frozen CLIP: unit vectors of images, and of prompts with learnable context words.

    Attributes:
        network: transformers' model.
        width: of the word embeddings.
        dimension: of the unit vectors.
    """

    def __init__(self, network: Any, tokenizer: Any, device: torch.device) -> None:
        self.network = frozen(network, device)
        self._tokenizer = tokenizer
        self._device = device
        self.width: int = network.config.text_config.hidden_size
        self.dimension: int = network.config.projection_dim

    @classmethod
    def from_weights(cls, weights: Path | None, device: torch.device, method: str) -> Clip:
        """`REPOSITORY`, from the folder of local weights or from the hub.

        Raises:
            WeightsError: transformers is not installed, or the weights are missing.
        """
        library = transformers(method)
        folder = model_folder(REPOSITORY, FILES, weights)
        network = load_model(library.CLIPModel, folder, use_safetensors=True)
        return cls(network, load_model(library.CLIPTokenizer, folder), device)

    def images(self, pixels: Float[Tensor, "image 3 size size"]) -> Vectors:
        """Unit vectors of standardised pixels, differentiable."""
        pooled = self.network.vision_model(pixel_values=pixels).pooler_output
        return nn.functional.normalize(self.network.visual_projection(pooled), dim=-1)

    def tokens(self, words: tuple[str, ...], context: int) -> Int64[Tensor, "word token"]:
        """Token numbers of prompts: `context` placeholders, then the word."""
        prompts = [" ".join(["x"] * context + [word]) for word in words]
        tokens: Tensor = self._tokenizer(prompts, padding=True, return_tensors="pt")["input_ids"]
        return tokens.to(self._device)

    def prompts(
        self, tokens: Int64[Tensor, "word token"], context: Context
    ) -> Float[Tensor, "word dimension"]:
        """Unit vectors of the prompts with `context` as placeholders, differentiable."""
        with self._with_context(context):
            pooled = self.network.text_model(input_ids=tokens).pooler_output
        return nn.functional.normalize(self.network.text_projection(pooled), dim=-1)

    @property
    def scale(self) -> float:
        """Factor of the cosines in the logits."""
        return float(self.network.logit_scale.exp())

    @contextmanager
    def _with_context(self, context: Tensor) -> Iterator[None]:
        # The text model accepts token numbers only, so a hook replaces the looked-up embeddings.
        def fill(module: nn.Module, inputs: Any, embeddings: Tensor) -> Tensor:
            places = context.expand(len(embeddings), *context.shape)
            return torch.cat([embeddings[:, :1], places, embeddings[:, 1 + len(context) :]], dim=1)

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
"""Initial standard deviation of the context words, as in CoOp."""
_START, _SHOTS, _ORDER = 11, 12, 13  # streams of the seed


@dataclass(frozen=True)
class Bicubic(Cut):
    """Shorter side resized to `side` (bicubic), centre crop: CLIP's preprocessing."""

    side: int

    @property
    def name(self) -> str:  # type: ignore[override]
        """After the side."""
        return f"pixels_bicubic{self.side}"

    @property
    def plain_spec(self) -> ColumnSpec:
        """One view."""
        return ColumnSpec(self.name, (1, self.side, self.side, 3), "uint8")

    def __call__(self, image: Image.Image) -> UInt8[np.ndarray, "view side side 3"]:
        """The view of an RGB image."""
        scaled = fitted(*image.size, self.side)
        left, top = central(scaled, self.side)
        whole = image.resize(scaled, Image.Resampling.BICUBIC)
        return np.asarray(whole.crop((left, top, left + self.side, top + self.side)))[None]


class OccClip(Baseline):
    """OCC-CLIP (arXiv 2404.02697): one few-shot prompt per generator on a frozen CLIP ViT-B/16.

    For each generator, 16 context words (CoOp) are learned that separate its images from others':
    50 shots of each, SGD 1e-4, momentum 0.9, weight decay 5e-4, cosine, batches of 10, 200 epochs.
    Half of the other images in a batch are adversarial: one FGSM step of 0.1 of the standardised
    input towards the generator. A class's score is the log-odds of its two prompts, one against the
    rest. The last words of the prompts, "target" and "other", and the FGSM step in standardised
    values are ours. The validation fold is not used: the last epoch counts.
    """

    name: ClassVar[str] = "occ-clip"
    fitted: dict[str, Tensor]

    def __init__(self, classes: tuple[str, ...], options: BaselineOptions) -> None:
        super().__init__(classes, options)
        self.clip = Clip.from_weights(options.weights, options.device, self.name)
        self._tokens = self.clip.tokens(WORDS, CONTEXT)
        self._cut = Bicubic(int(self.clip.network.config.vision_config.image_size))

    def fit(self, train: BaselineImages, val: BaselineImages) -> OccClip:
        """Learn each generator's context words; `val` is not used.

        Raises:
            TrainingError: a loss is not finite, or a class has no images or no others.
        """
        targets = train.targets(self.classes)
        present = np.unique(targets)
        if len(present) < 2:
            raise TrainingError(f"{self.name}: the training fold has fewer than two classes")
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
        self.fitted = {"contexts": torch.stack(contexts).cpu()}
        return self

    def embed(self, images: BaselineImages) -> Embeddings:
        """CLIP's unit vectors, and the log-odds of each generator."""
        vectors = self.vectors(images)
        return self.embeddings(images, vectors, self._log_odds(torch.from_numpy(vectors)))

    @property
    def parameters(self) -> int:
        """Of CLIP and of all context words."""
        return count(self.clip.network) + len(self.classes) * CONTEXT * self.clip.width

    def vectors(self, images: BaselineImages) -> Float32[np.ndarray, "image dimension"]:
        """CLIP's unit vectors, stored once computed."""
        depends = {"weights": fingerprint(self.clip.network)}
        spec = ColumnSpec("clip-image", (self.clip.dimension,), "float32", depends)
        return images.extract(spec, self._cut, self._extract)[:]

    @torch.inference_mode()
    def _extract(
        self, views: UInt8[np.ndarray, "k side side 3"], _: Int[np.ndarray, "k"]
    ) -> Float32[np.ndarray, "k dimension"]:
        return self.clip.images(self._input(views)).cpu().numpy()

    @torch.inference_mode()
    def _log_odds(self, vectors: Vectors) -> Float32[np.ndarray, "image class"]:
        columns = []
        for context in self.fitted["contexts"].to(self.options.device):
            target, other = self.clip.prompts(self._tokens, context).float().cpu()
            columns.append(self.clip.scale * (vectors @ (target - other)))
        return torch.stack(columns, dim=1).numpy()

    def _start(self, number: int) -> Context:
        generator = torch.Generator().manual_seed(epoch_seed(self.options.seed, number, _START))
        context = SPREAD * torch.randn(CONTEXT, self.clip.width, generator=generator)
        return context.to(self.options.device).requires_grad_(True)

    def _learned(
        self,
        context: Context,
        shots: _Shots,
        pixels: Rows,
        vectors: Float32[np.ndarray, "image dimension"],
        epochs: int,
    ) -> Iterator[None]:
        """Optimise `context` in place; yields after each epoch."""
        optimiser = torch.optim.SGD([context], RATE, momentum=MOMENTUM, weight_decay=DECAY)
        for epoch in range(epochs):
            optimiser.param_groups[0]["lr"] = RATE * (1 + math.cos(math.pi * epoch / epochs)) / 2
            for rows, other in shots.batches(epoch):
                batch = torch.from_numpy(vectors[rows]).to(self.options.device)
                attacked = np.flatnonzero(other)[: int(other.sum()) // 2]
                if len(attacked):
                    x = self._input(pixels[rows[attacked]][:, 0])
                    batch[attacked] = self._adversarial(x, context)
                loss = self._loss(batch, torch.from_numpy(other), context)
                if not bool(torch.isfinite(loss)):
                    raise TrainingError(f"{self.name}: the loss is not finite; try another --seed")
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            yield

    def _adversarial(self, x: Float[Tensor, "image 3 size size"], context: Context) -> Vectors:
        """Vectors of other images after one FGSM step towards the generator."""
        x.requires_grad_(True)
        loss = self._loss(self.clip.images(x), torch.ones(len(x), dtype=torch.bool), context)
        (gradient,) = torch.autograd.grad(loss, x)
        with torch.no_grad():
            return self.clip.images(x + STEP * gradient.sign())

    def _loss(
        self, vectors: Vectors, other: Bool[Tensor, "image"], context: Context
    ) -> Float[Tensor, ""]:
        logits = self.clip.scale * (vectors @ self.clip.prompts(self._tokens, context).T)
        return F.cross_entropy(logits, other.long().to(logits.device))

    def _input(self, views: UInt8[np.ndarray, "k side side 3"]) -> Float[Tensor, "k 3 side side"]:
        return standardised(views, MEAN, DEVIATION).to(self.options.device)


@dataclass(frozen=True)
class _Shots:
    """Training images of one generator's prompts; `other` marks images of other generators."""

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
        """All shots once, in random order."""
        rng = np.random.default_rng([epoch_seed(self.seed, epoch, _ORDER), self.number])
        order = rng.permutation(len(self.rows))
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            yield self.rows[part], self.other[part]


NEIGHBOURS = (1, 3, 5, 10, 20)
ABSENT = -1.0
"""Score of a class without training images: the lowest cosine."""


class MidLayerNeighbours(Baseline):
    """Nearest neighbours in a frozen vision transformer of timm (arXiv 2408.09153).

    Images are represented by the normalised class token after the middle block (resized to 256,
    central crop of 224). A class's score is the mean cosine similarity of its k nearest training
    images; k is the one of `NEIGHBOURS` with the best validation macro AUC.

    Attributes:
        model: timm's name.
        size: side of its input.
    """

    model: ClassVar[str]
    size: ClassVar[int] = 224
    fitted: dict[str, Tensor]

    def __init__(self, classes: tuple[str, ...], options: BaselineOptions) -> None:
        super().__init__(classes, options)
        network: Any = pretrained(self.model, 0, options.weights)
        self.block = len(network.blocks) // 2 - 1
        # Later blocks and the last normalisation are not needed.
        network.prune_intermediate_layers([self.block], prune_norm=True, prune_head=True)
        self.network = frozen(network, options.device)

    def fit(self, train: BaselineImages, val: BaselineImages) -> MidLayerNeighbours:
        """Store the training images; choose k on `val`, the middle one if `val` is empty.

        Raises:
            TrainingError: there are no training images.
        """
        if not len(train):
            raise TrainingError(f"{self.name}: the training fold is empty")
        self.fitted = {
            "known": torch.from_numpy(self.vectors(train)),
            "targets": torch.from_numpy(train.targets(self.classes)),
            "neighbours": torch.tensor(NEIGHBOURS[len(NEIGHBOURS) // 2]),
        }
        targets = val.targets(self.classes)
        if len(np.unique(targets)) > 1:
            vectors = self.vectors(val)
            scores = [self.similarities(vectors, k) for k in NEIGHBOURS]
            aucs = [closed_values(one, targets)["macro_auc"][0] for one in scores]
            self.fitted["neighbours"] = torch.tensor(NEIGHBOURS[int(np.argmax(aucs))])
        return self

    def embed(self, images: BaselineImages) -> Embeddings:
        """Class tokens, and similarities per class."""
        vectors = self.vectors(images)
        neighbours = int(self.fitted["neighbours"])
        return self.embeddings(images, vectors, self.similarities(vectors, neighbours))

    @property
    def parameters(self) -> int:
        """Of the blocks in use."""
        return count(self.network)

    def similarities(
        self, vectors: Float32[np.ndarray, "image dimension"], neighbours: int
    ) -> Float32[np.ndarray, "image class"]:
        """Mean cosine to the nearest images of each class (all, if it has fewer)."""
        known, targets = self.fitted["known"], self.fitted["targets"]
        cosines = torch.from_numpy(vectors) @ known.T
        scores = torch.full((len(vectors), len(self.classes)), ABSENT)
        for number in np.unique(targets.numpy()).tolist():
            own = cosines[:, targets == number]
            nearest = own.topk(min(neighbours, own.shape[1]), dim=1).values
            scores[:, number] = nearest.mean(dim=1)
        return scores.numpy()

    def vectors(self, images: BaselineImages) -> Float32[np.ndarray, "image dimension"]:
        """Unit class tokens, stored once computed."""
        depends = {"weights": fingerprint(self.network), "size": self.size, "block": self.block}
        spec = ColumnSpec(self.name, (int(self.network.embed_dim),), "float32", depends)
        return images.extract(spec, RESIZED, self._tokens)[:]

    @torch.inference_mode()
    def _tokens(
        self, views: UInt8[np.ndarray, "k side side 3"], _: Int[np.ndarray, "k"]
    ) -> Float32[np.ndarray, "k dimension"]:
        settings = timm.get_pretrained_cfg(self.model)
        x = standardised(cropped(views, self.size, None), settings.mean, settings.std)
        tokens: Tensor = self.network.forward_features(x.to(self.options.device))[:, 0].float()
        unit: np.ndarray = F.normalize(tokens, dim=1).cpu().numpy()
        return unit


class ClipNeighbours(MidLayerNeighbours):
    """OpenAI's CLIP ViT-B/16."""

    name = "clip-midlayer-knn"
    model = "vit_base_patch16_clip_224.openai"


class DinoNeighbours(MidLayerNeighbours):
    """DINO's ViT-B/16."""

    name = "dino-midlayer-knn"
    model = "vit_base_patch16_224.dino"
