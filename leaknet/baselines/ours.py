"""Our own model as a row, trained by its own training loop."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

from leakcache.columns.table import dct_side
from leakcache.dct import dct_low
from leakcache.store.cache import LatentMoments
from leaknet.baselines.base import Baseline, BaselineImages
from leaknet.config import RunConfig, preset
from leaknet.data.columns import ImageColumns
from leaknet.data.embeddings import Embeddings
from leaknet.data.training_data import TrainingData
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
