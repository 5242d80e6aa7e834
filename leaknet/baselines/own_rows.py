"""Rows of our own: both presets of the model, and the controls of the audit."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Float32
from sklearn.ensemble import ExtraTreesClassifier

from leakcache.errors import TrainingError
from leakcache.images.decode import decode
from leakcache.statistics.planes import dct_low
from leakcache.store.cache import LatentMoments
from leakcache.store.columns import dct_side
from leaknet.audit.control_classifiers import fit_trees
from leaknet.audit.file_facts import FactEncoder, FileFacts, read_facts
from leaknet.audit.observations import thumbnail, thumbnail_features
from leaknet.baselines.base import Baseline, BaselineImages
from leaknet.config import RunConfig, preset
from leaknet.data.columns import ImageColumns, TrainingData
from leaknet.data.embeddings import Embeddings
from leaknet.model.inference import embed
from leaknet.model.protoleaknet import ProtoLeakNet
from leaknet.model.run_record import RunRecord
from leaknet.training.train import fit


class Ours(Baseline):
    """The `best` preset."""

    name: ClassVar[str] = "ours"
    preset: ClassVar[str] = "best"
    _model: ProtoLeakNet

    @property
    def config(self) -> RunConfig:
        """The preset with the seed and epochs of the options."""
        overrides = [f"train.seed={self.options.seed}"]
        if self.options.epochs is not None:
            overrides.append(f"train.epochs={self.options.epochs}")
        return preset(self.preset).with_overrides(overrides)

    def fit(self, train: BaselineImages, val: BaselineImages) -> Ours:
        """Train, or resume the run in `options.folder`; raises as `leaknet.training.train.fit`."""
        known = train.latents
        data = TrainingData(
            known.to(self.options.device), val.latents.to(self.options.device), moments(known)
        )
        record = RunRecord(self.config, self.classes, known.shape)
        with TemporaryDirectory(prefix="leak-") as temporary:
            folder = (self.options.folder or Path(temporary)) / "run"
            run = fit(record, data, folder, device=self.options.device).run
            self._model = run.load_model(self.options.device)
        return self

    def embed(self, images: BaselineImages) -> Embeddings:
        """With noise that depends on the image alone, and attention over the steps."""
        return embed(self._model, images.latents, run=self.name)

    @property
    def parameters(self) -> int:
        """Of the model, closed-form weights included, the autoencoder's encoder excluded."""
        return self._model.size


class OursPaper(Ours):
    """The `paper` preset."""

    name: ClassVar[str] = "ours-paper"
    preset: ClassVar[str] = "paper"


def moments(latents: ImageColumns) -> LatentMoments:
    """Moments of these latents, equal to those of a cache."""
    z0 = latents.z0.cpu()
    coefficients = dct_low(z0.float(), dct_side(tuple(z0.shape[1:])))
    # Rounded to the type of the cache.
    return LatentMoments.of(z0.numpy(), coefficients.to(z0.dtype).numpy())


FLOOR = 1e-6
"""Added to every probability, so that every class stays possible."""
MIN_SIDE = 64
"""Smallest side to which a JPEG may be reduced in decoding."""


class LeakControl(Baseline):
    """Extremely randomised trees; vectors are the features, logits the log-probabilities.

    Features and trees are those of `leak audit`, with the folds and detectors of all other rows.
    """

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
