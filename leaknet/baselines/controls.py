"""The two leak controls as rows: what the file says of itself, and an 8×8 thumbnail.

The evidence and the trees are those of `leak audit` (`leaknet.audit`), under the folds and
detectors of all other rows. Neither looks at any signal leak: what they reach can be had
without one.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Float32
from sklearn.ensemble import ExtraTreesClassifier

from leakcache.errors import TrainingError
from leakcache.images.decode import decode
from leaknet.audit.cross_validation import fit_trees
from leaknet.audit.fact_table import FactEncoder
from leaknet.audit.file_facts import FileFacts, read_facts
from leaknet.audit.observations import thumbnail, thumbnail_features
from leaknet.baselines.base import Baseline
from leaknet.baselines.images import BaselineImages
from leaknet.data.embeddings import Embeddings

FLOOR = 1e-6
"""Added to every probability, so that no class is ever ruled out."""
THUMBNAIL_SIDE = 64
"""Sides down to which a JPEG may be reduced while it is decoded for a thumbnail."""


class LeakControl(Baseline):
    """Extremely randomised trees on features that hold no signal leak.

    The features are the vectors, log-probabilities the logits.
    """

    _trees: ExtraTreesClassifier

    def fit(self, train: BaselineImages, val: BaselineImages) -> LeakControl:
        """Grow the trees; nothing is chosen on `val`."""
        if not len(train):
            raise TrainingError(f"{self.name}: there are no training images to learn from")
        features = self.features(train, learn=True)
        self._trees = fit_trees(features, train.targets(self.classes), seed=self.options.seed)
        return self

    def embed(self, images: BaselineImages) -> Embeddings:
        """Features and log-probabilities."""
        features = self.features(images)
        probabilities = np.full((len(images), len(self.classes)), FLOOR)
        if len(images):
            found = self._trees.predict_proba(features)
            probabilities[:, self._trees.classes_] += found.round(9)
        logits = np.log(probabilities / probabilities.sum(axis=1, keepdims=True))
        return self.embeddings(images, features, logits)

    @property
    def parameters(self) -> int:
        """Trees have none that could be compared with a network's."""
        return 0

    @abstractmethod
    def features(
        self, images: BaselineImages, *, learn: bool = False
    ) -> Float[np.ndarray, "image column"]:
        """What is known of the images without looking for any leak; one column or more."""


class Thumbnail(LeakControl):
    """Mean colours of an 8×8 grid over the picture."""

    name: ClassVar[str] = "thumbnail"

    def features(
        self, images: BaselineImages, *, learn: bool = False
    ) -> Float32[np.ndarray, "n 192"]:
        """Colours, 0 to 1."""
        small = [
            thumbnail(decode(images.data(row), least=THUMBNAIL_SIDE)) for row in range(len(images))
        ]
        return thumbnail_features(np.array(small, np.uint8).reshape(-1, 8, 8, 3))


class Metadata(LeakControl):
    """Size, format, coding, compression tables and metadata of the file.

    Degraded copies are all lossless PNG files, so there only their size in pixels and bytes is
    left to see.
    """

    name: ClassVar[str] = "metadata"
    _encoder: FactEncoder

    def features(
        self, images: BaselineImages, *, learn: bool = False
    ) -> Float32[np.ndarray, "n column"]:
        """Facts that vary in the training fold, after a column of zeros for where none does."""
        facts: list[FileFacts] = [read_facts(images.data(row)) for row in range(len(images))]
        if learn:
            sizes = images.originals.canonical is None
            self._encoder = FactEncoder.of(facts, sizes=sizes)
        columns = self._encoder(facts)
        return np.concatenate([np.zeros((len(facts), 1), np.float32), columns], axis=1)
