"""The leak controls `metadata` and `thumbnail` as rows: features without any signal leak.

Features and trees are those of `leak audit`, with the folds and detectors of all other rows.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Float32
from sklearn.ensemble import ExtraTreesClassifier

from leakcache.errors import TrainingError
from leakcache.images.decode import decode
from leaknet.audit.control_classifiers import fit_trees
from leaknet.audit.file_facts import FactEncoder, FileFacts, read_facts
from leaknet.audit.observations import thumbnail, thumbnail_features
from leaknet.baselines.base import Baseline, BaselineImages
from leaknet.data.embeddings import Embeddings

FLOOR = 1e-6
"""Added to every probability, so that every class stays possible."""
MIN_SIDE = 64
"""Smallest side to which a JPEG may be reduced in decoding."""


class LeakControl(Baseline):
    """Extremely randomised trees; vectors are the features, logits the log-probabilities."""

    _trees: ExtraTreesClassifier

    def fit(self, train: BaselineImages, val: BaselineImages) -> LeakControl:
        """Fit the trees; `val` is not used."""
        if not len(train):
            raise TrainingError(f"{self.name}: the training fold is empty")
        features = self.features(train, fit=True)
        self._trees = fit_trees(features, train.targets(self.classes), seed=self.options.seed)
        return self

    def embed(self, images: BaselineImages) -> Embeddings:
        """Features and log-probabilities."""
        features = self.features(images)
        probabilities = np.full((len(images), len(self.classes)), FLOOR)
        if len(images):
            predicted = self._trees.predict_proba(features)
            probabilities[:, self._trees.classes_] += predicted.round(9)
        logits = np.log(probabilities / probabilities.sum(axis=1, keepdims=True))
        return self.embeddings(images, features, logits)

    @property
    def parameters(self) -> int:
        """Trees have no weights."""
        return 0

    @abstractmethod
    def features(
        self, images: BaselineImages, *, fit: bool = False
    ) -> Float[np.ndarray, "image column"]:
        """One or more columns; `fit` on the training fold."""


class Thumbnail(LeakControl):
    """Mean colours of an 8×8 grid over the image."""

    name: ClassVar[str] = "thumbnail"

    def features(
        self, images: BaselineImages, *, fit: bool = False
    ) -> Float32[np.ndarray, "n 192"]:
        """Colours in [0, 1]."""
        small = [thumbnail(decode(images.data(row), least=MIN_SIDE)) for row in range(len(images))]
        return thumbnail_features(np.array(small, np.uint8).reshape(-1, 8, 8, 3))


class Metadata(LeakControl):
    """File facts; degraded copies are all PNG files, so only their sizes vary."""

    name: ClassVar[str] = "metadata"
    _encoder: FactEncoder

    def features(
        self, images: BaselineImages, *, fit: bool = False
    ) -> Float32[np.ndarray, "n column"]:
        """A column of zeros, in case no fact varies, then the facts that vary in training."""
        facts: list[FileFacts] = [read_facts(images.data(row)) for row in range(len(images))]
        if fit:
            sizes = images.originals.canonical is None
            self._encoder = FactEncoder.of(facts, sizes=sizes)
        columns = self._encoder(facts)
        return np.concatenate([np.zeros((len(facts), 1), np.float32), columns], axis=1)
