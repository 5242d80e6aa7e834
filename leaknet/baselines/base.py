"""What every compared method is: built, fitted on closed images, asked for embeddings.

The three calls, the same for all methods of `leak bench`:

    peer = Method(classes, options)     # refuse here what cannot run: raise WeightsError
    peer.fit(train, val)                # closed folds; every choice is made on `val`
    peer.embed(images)                  # any images, closed or open, degraded or not

How to write one
----------------
One file a method in this package. Subclass `Baseline`, set `name`, and list the class in
`leaknet.baselines.BASELINES`; nothing else registers it. A second row of the same method (from
scratch,
other input) is a small subclass with its own `name`.

- *Images* come as `BaselineImages` (`leaknet.baselines.images`): aligned columns `labels`,
`groups`,
  `folds`, `hashes`, `paths`, and by position the original bytes (`data`), the decoded picture
  (`picture`), canonical uint8 pixels (`pixels(cut)`), latents of the cache (`latents`). Ask for
  pixels by a cut (`leakcache.store.views`): they are decoded once, ever. Never decode in an epoch.
- *What a method computes once for an image* (a trajectory, a reconstruction loss) goes through
  `images.derived(spec, compute)`: kept in Zarr by content hash, resumed, checksummed, shared by
  folds, seeds and limits. Put all that it depends on into the spec: weights' hashes, sizes, seed.
  Noise drawn there must depend on (seed, content hash) alone, as in `leaknet.features.noise`.
- *Weights*: `options.weights` is a folder of local safetensors; without it the hub. What cannot
  be had raises `WeightsError` in the constructor, as one line that names the file or the hub id
  and the cure; `leak bench` prints it as the row's reason and goes on. No pickle is ever read.
- *Training*: `options.epochs` is None for the method's own recipe, else that many; `options.seed`
  decides every draw (initialisation, order, augmentation), without the global generator. Folds
  may be tiny (`--limit`): a batch of one, or a class without validation images, must not fail.
- *Embeddings*: `vectors` (n, D) before the classifier, on which the density detectors are fitted;
  `logits` (n, K), higher = nearer, in the order of `classes`; a method without a classifier of
  its own gives class scores (log-probabilities, similarities). Use `embeddings()` below, which
  makes `attention` (n, 1) of ones. An image's row may not depend on what else is in the batch.
- `fit` sees folds "train" and "val" alone. `embed` never adapts to what it is given.
- `parameters` counts all weights that embedding an image takes, frozen ones included.
- `state`/`restore` keep what `fit` learned, so that further steps are judged without training
  again; a method that returns None is simply fitted again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from leaknet.baselines.images import BaselineImages
from leaknet.data.embeddings import Embeddings

__all__ = ["Baseline", "BaselineImages", "BaselineOptions"]

CPU = torch.device("cpu")


@dataclass(frozen=True)
class BaselineOptions:
    """What the user of `leak bench` chose, the same for all methods.

    Attributes:
        weights: folder of local weights; None for the hub.
        epochs: passes over the training fold; None for the method's own number.
        seed: of everything that is drawn.
        device: where to compute.
        precision: of networks that are trained, "fp32" or "bf16" under autocast.
        folder: of this method and seed, where a training may keep what lets it go on; None for
            nowhere.
    """

    weights: Path | None = None
    epochs: int | None = None
    seed: int = 0
    device: torch.device = CPU
    precision: str = "fp32"
    folder: Path | None = None


class Baseline(ABC):
    """One compared method.

    Attributes:
        name: of its row; lower case and dashes, as `--methods` takes it.
        classes: the known generators, in the order of the logits.
        options: what the user chose.
    """

    name: ClassVar[str]

    def __init__(self, classes: tuple[str, ...], options: BaselineOptions) -> None:
        """Raise WeightsError here where weights cannot be had."""
        self.classes = classes
        self.options = options

    @abstractmethod
    def fit(self, train: BaselineImages, val: BaselineImages) -> Baseline:
        """Learn from the training fold; settings and epochs are chosen on `val`.

        Raises:
            TrainingError: the loss is not finite, or the folds cannot be learnt from.
        """

    @abstractmethod
    def embed(self, images: BaselineImages) -> Embeddings:
        """One row an image, in the order given, of whatever fold."""

    @property
    @abstractmethod
    def parameters(self) -> int:
        """Weights that it takes to embed an image; 0 for a method without any."""

    def state(self) -> Mapping[str, Tensor] | None:
        """What `fit` learned, by name; None where it is not kept."""
        return None

    def restore(self, state: Mapping[str, Tensor]) -> Baseline:
        """Become what `state` was taken from, instead of `fit`."""
        raise NotImplementedError(f"{self.name} keeps no state")

    def embeddings(
        self,
        images: BaselineImages,
        vectors: Float[np.ndarray, "n dimension"],
        logits: Float[np.ndarray, "n class"],
    ) -> Embeddings:
        """The table that `embed` returns; raises ScoringError where a number is not finite."""
        return Embeddings(
            vectors=vectors,
            logits=logits,
            attention=np.ones((len(images), 1)),
            labels=images.labels,
            groups=images.groups,
            folds=images.folds,
            hashes=images.hashes,
            paths=images.paths,
            classes=self.classes,
            run=self.name,
            seed=self.options.seed,
        )
