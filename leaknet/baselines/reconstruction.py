"""Baselines on measurements read by logistic regression: reconstruction errors, AEROBLADE."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from leakcache.errors import TrainingError, WeightsError
from leakcache.store.columns import CROPS
from leakcache.store.source_images import Rows
from leakcache.store.zarr_column import ColumnSpec
from leaknet.baselines.base import Baseline, BaselineImages, BaselineOptions
from leaknet.baselines.trained_network import IMAGENET_MEAN, IMAGENET_STD
from leaknet.baselines.weights import (
    Autoencoder,
    available_autoencoders,
    count,
    fingerprint,
    frozen,
)
from leaknet.data.embeddings import Embeddings

Vectors = Float[np.ndarray, "image dimension"]

STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Candidate inverse strengths of the penalty."""
FLOOR = 1e-6
"""Added to every probability, so that every class stays possible."""
ITERATIONS = 2000


class LinearProbe(Baseline):
    """Logistic regression on a vector of measurements per image.

    Vectors are standardised on the training fold; the penalty is the one of `STRENGTHS` with the
    lowest validation loss. Logits are log-probabilities.
    """

    name: ClassVar[str]
    fitted: dict[str, Tensor]

    @abstractmethod
    def measure(self, images: BaselineImages) -> Vectors:
        """The measurements, finite."""

    def fit(self, train: BaselineImages, val: BaselineImages) -> LinearProbe:
        """Fit at every strength; select on `val`, the middle one if `val` is empty.

        Raises:
            TrainingError: the training fold has fewer than two classes.
        """
        targets = train.targets(self.classes)
        if len(np.unique(targets)) < 2:
            raise TrainingError(f"{self.name}: the training fold has fewer than two classes")
        values = self.measure(train)
        centre, spread = values.mean(axis=0), values.std(axis=0)
        scale = np.where(spread > 0, spread, 1.0)
        known, held_out = (values - centre) / scale, (self.measure(val) - centre) / scale
        candidates = [_fitted(known, targets, strength) for strength in STRENGTHS]
        losses = [self._loss(model, held_out, val.targets(self.classes)) for model in candidates]
        best = int(np.argmin(losses)) if len(val) else len(STRENGTHS) // 2
        self.fitted = {"centre": torch.from_numpy(centre), "scale": torch.from_numpy(scale)}
        self.fitted |= candidates[best]
        return self

    def embed(self, images: BaselineImages) -> Embeddings:
        """Standardised measurements and log-probabilities."""
        centre, scale = self.fitted["centre"].numpy(), self.fitted["scale"].numpy()
        vectors = (self.measure(images) - centre) / scale
        return self.embeddings(images, vectors, self._logits(self.fitted, vectors))

    def _logits(
        self, model: Mapping[str, Tensor], vectors: Vectors
    ) -> Float[np.ndarray, "image class"]:
        scores = torch.from_numpy(vectors) @ model["weights"].T + model["bias"]
        probabilities = torch.full((len(vectors), len(self.classes)), FLOOR, dtype=torch.float64)
        probabilities[:, model["present"]] += scores.softmax(dim=1)
        return (probabilities / probabilities.sum(dim=1, keepdim=True)).log().numpy()

    def _loss(
        self, model: Mapping[str, Tensor], vectors: Vectors, targets: Int[np.ndarray, "image"]
    ) -> float:
        logits = self._logits(model, vectors)
        return float(-logits[np.arange(len(targets)), targets].sum())


def _fitted(
    vectors: Vectors, targets: Int[np.ndarray, "image"], strength: float
) -> dict[str, Tensor]:
    model = LogisticRegression(C=strength, max_iter=ITERATIONS).fit(vectors, targets)
    weights, bias = model.coef_, model.intercept_
    if len(model.classes_) == 2:
        # For two classes scikit-learn has one row: the second against the first.
        weights, bias = np.stack([-weights[0], weights[0]]) / 2, np.stack([-bias[0], bias[0]]) / 2
    return {
        "weights": torch.from_numpy(weights),
        "bias": torch.from_numpy(bias),
        "present": torch.from_numpy(model.classes_),
    }


NATIVE = 256
"""Side of the central native crop; resizing removes most of the trace."""
EPSILON = 1e-8
"""Added to errors before the logarithm, so that a perfect reconstruction stays finite."""
BATCH = 8

Measure = Callable[[Float[Tensor, "image 3 side side"], Autoencoder], Shaped[Tensor, "image *row"]]
"""From RGB in [-1, 1] on the autoencoder's device to one row per image."""


def stored_measurements(
    images: BaselineImages,
    autoencoder: Autoencoder,
    measure: Measure,
    spec: tuple[str, tuple[int, ...], str],
    *,
    side: int = NATIVE,
    **depends: Any,
) -> Rows:
    """Rows of one measurement with one autoencoder, stored by content hash.

    Args:
        images: to measure.
        autoencoder: of the measurement.
        measure: computes the rows of a batch.
        spec: name, shape and type of a row.
        side: of the central crop in pixels, a multiple of 8 up to `NATIVE`.
        depends: further settings of the measurement.
    """
    name, shape, dtype = spec
    settings = {"autoencoder": autoencoder.sha256, "side": side, **depends}
    device = next(autoencoder.network.parameters()).device
    corner = (NATIVE - side) // 2
    inner = slice(corner, corner + side)

    def rows(
        views: UInt8[np.ndarray, "k 256 256 3"], _: Int[np.ndarray, "k"]
    ) -> Shaped[np.ndarray, "k *row"]:
        pixels = torch.from_numpy(np.ascontiguousarray(views[:, inner, inner])).to(device)
        x = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
        return measure(x, autoencoder).cpu().numpy().astype(dtype)

    full = f"{name}-{autoencoder.name}-{autoencoder.sha256[:8]}"
    # The first of several crops is the central one.
    return images.extract(ColumnSpec(full, shape, dtype, settings), CROPS, rows, BATCH)


class ReconstructionErrors(LinearProbe):
    """log10 of reconstruction errors with every available autoencoder, read by a linear probe.

    Attributes:
        side: of the native crop in pixels.
        columns: errors per autoencoder.
    """

    side: ClassVar[int] = NATIVE
    columns: ClassVar[int] = 1

    def __init__(self, classes: tuple[str, ...], options: BaselineOptions) -> None:
        super().__init__(classes, options)
        self.autoencoders = available_autoencoders(options.weights, options.device)

    @abstractmethod
    def errors(
        self, pixels: Float[Tensor, "image 3 side side"], autoencoder: Autoencoder
    ) -> Float[Tensor, "image column"]:
        """Errors of images in [-1, 1], at least 0."""

    @property
    def store_name(self) -> str:
        """Name of the stored rows."""
        return self.name

    @property
    def depends(self) -> dict[str, Any]:
        """Settings of the errors, for the stored rows."""
        return {}

    @property
    def parameters(self) -> int:
        """Of the autoencoders and of the regression."""
        own = sum(one.parameters for one in self.autoencoders)
        return own + (self.columns * len(self.autoencoders) + 1) * len(self.classes)

    def measure(self, images: BaselineImages) -> Float[np.ndarray, "image dimension"]:
        """log10 of the errors, stored once computed."""
        spec = (self.store_name, (self.columns,), "float32")
        rows = [
            stored_measurements(images, one, self.errors, spec, side=self.side, **self.depends)
            for one in self.autoencoders
        ]
        errors = np.concatenate([row[:] for row in rows], axis=1).astype(np.float64)
        return np.log10(errors + EPSILON)


Images = Float[Tensor, "image 3 height width"]
Crops = Float[Tensor, "image 3 side side"]

FILE = "lpips-vgg.safetensors"
KEY = "lin1.model.1.weight"
CURE = (
    f"save the LPIPS package's channel weights (`{KEY}` of vgg.pth, 1×128×1×1) and the tensors "
    "`features.*` of torchvision's vgg16 in it"
)


class Lpips2(nn.Module):
    """LPIPS at relu2_2 of VGG16: 260,160 parameters of the trunk and 128 channel weights.

    Features are normalised to unit length at each position; their squared differences are
    weighted by channel and averaged over positions. The trunk is torchvision's VGG16, the channel
    weights and the image scaling are those of the LPIPS package.
    """

    def __init__(self) -> None:
        super().__init__()
        # Layer indices equal those of torchvision's vgg16.
        self.trunk = nn.Sequential(*_block(3, 64), nn.MaxPool2d(2), *_block(64, 128))
        self.weights = nn.Parameter(torch.ones(1, 128, 1, 1))

    @classmethod
    def load(cls, folder: Path | None) -> Lpips2:
        """With the weights in `FILE` of the folder of local weights.

        Raises:
            WeightsError: the folder or the file is missing, or its content does not fit.
        """
        if folder is None or not (folder / FILE).is_file():
            where = FILE if folder is None else folder / FILE
            raise WeightsError(f"{where} is missing: {CURE}, and pass --weights")
        path = folder / FILE
        try:
            tensors = load_file(path)
            network = cls()
            own = {f"trunk.{name}": tensors[f"features.{name}"] for name in _names(network.trunk)}
            network.load_state_dict(own | {"weights": tensors[KEY]})
        except (SafetensorError, OSError, KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise WeightsError(f"{path}: contains other weights ({reason}): {CURE}") from error
        return network

    def forward(self, x: Images, y: Images) -> Float[Tensor, "image"]:
        """Distances of images in [-1, 1], at least 0."""
        squares = (self._features(x) - self._features(y)).square()
        return (squares * self.weights).sum(dim=1).mean(dim=(1, 2))

    def _features(self, x: Images) -> Float[Tensor, "image 128 rows columns"]:
        mean, deviation = (
            torch.tensor(values, device=x.device).view(3, 1, 1)
            for values in (IMAGENET_MEAN, IMAGENET_STD)
        )
        features: Tensor = self.trunk(((x + 1) / 2 - mean) / deviation)
        return features / (features.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)


def _block(channels: int, width: int) -> tuple[nn.Module, ...]:
    first, second = nn.Conv2d(channels, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
    return first, nn.ReLU(), second, nn.ReLU()


def _names(trunk: nn.Module) -> list[str]:
    return list(trunk.state_dict())


class Aeroblade(ReconstructionErrors):
    """AEROBLADE (arXiv 2401.17879): distance between an image and its reconstructions.

    The published distance is LPIPS (arXiv 1801.03924) at VGG16's second block, and the published
    score its minimum over autoencoders, for generated against real. Here logistic regression reads
    the vector of log distances, one per available autoencoder: our K-way adaptation, on the central
    native crop of 256. `reconstruction-mse` replaces LPIPS by the mean square error; it is not
    AEROBLADE.
    """

    name: ClassVar[str] = "aeroblade"

    def __init__(self, classes: tuple[str, ...], options: BaselineOptions) -> None:
        # First, because LPIPS is the weights file most likely to be missing.
        self.lpips = frozen(Lpips2.load(options.weights), options.device)
        super().__init__(classes, options)

    @torch.inference_mode()
    def errors(self, pixels: Crops, autoencoder: Autoencoder) -> Float[Tensor, "image 1"]:
        """LPIPS at the second block."""
        distances: Tensor = self.lpips(pixels, autoencoder.reconstruct(pixels))
        return distances[:, None]

    @property
    def depends(self) -> dict[str, Any]:
        """Hash of the LPIPS weights."""
        return {"lpips": fingerprint(self.lpips)}

    @property
    def parameters(self) -> int:
        """Includes those of LPIPS."""
        return super().parameters + count(self.lpips)


class ReconstructionMSE(ReconstructionErrors):
    """Mean square error, without LPIPS."""

    name: ClassVar[str] = "reconstruction-mse"

    @torch.inference_mode()
    def errors(self, pixels: Crops, autoencoder: Autoencoder) -> Float[Tensor, "image 1"]:
        """Mean square error."""
        return (pixels - autoencoder.reconstruct(pixels)).square().mean(dim=(1, 2, 3))[:, None]
