"""ProtoLeakNet: noisy views → backbone → temporal attention → gate → prototypes.

Fully described by its configuration, its class names and the shape of a latent; all that
was learnt, the standardisation of its input included, lies in its state dict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from jaxtyping import Float
from torch import Tensor, nn

from leakcache.errors import RunError
from leaknet.config import RunConfig
from leaknet.features.latent_features import LeakFeatures
from leaknet.files import read_tensors, save_tensors
from leaknet.model.backbone import build_backbone
from leaknet.model.head import Gate, LinearHead, PrototypeHead, TemporalAttention
from leaknet.model.run_record import CLASSES, CONFIG, CacheIdentity, RunRecord
from leaknet.model.statistics_branch import Companion

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class ModelOutput:
    """What the network says about a batch.

    Attributes:
        logits: per class, higher = nearer to that generator.
        embedding: h̄, pooled over steps, plus the companion's, before the gate.
        attention: a_t; each row sums to 1.
        gate: w, each in (0, 1]; all 1 without a gate.
        distances: d to every prototype; no prototype axis entries with a linear head.
    """

    logits: Float[Tensor, "batch class"]
    embedding: Float[Tensor, "batch dimension"]
    attention: Float[Tensor, "batch step"]
    gate: Float[Tensor, "batch dimension"]
    distances: Float[Tensor, "batch class prototype"]


class ProtoLeakNet(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="leaknet",
    license="mit",
    tags=["image-forensics", "attribution"],
    paper_url="https://arxiv.org/abs/2511.04260",
):
    """Attribution network over latents (the paper, section 3).

    Attributes:
        config: settings it was built from.
        classes: closed generators, in the order of the logits.
        shape: of a latent, (channel, height, width).
        cache: the cache it was trained on, None if it was not.
    """

    def __init__(
        self,
        config: RunConfig,
        classes: Sequence[str],
        shape: tuple[int, int, int],
        cache: CacheIdentity | None = None,
    ) -> None:
        """Build with fresh weights; `features.fit` and training, or a state dict, come next.

        Raises:
            ConfigError: the settings do not fit each other or the latents.
            WeightsError: pretrained weights were asked for and cannot be had.
        """
        super().__init__()
        self.config, self.classes, self.shape, self.cache = config, tuple(classes), shape, cache
        model = config.model
        self.features = LeakFeatures(config.features, shape)
        self.backbone: nn.Module | None = None
        if config.features.latents:
            self.backbone, width = build_backbone(model, self.features.channels, shape[1:])
            self.embed = nn.Linear(width, model.dimension)
            self.pool = TemporalAttention(
                model.dimension, attend=model.attention, dropout=model.time_dropout
            )
        self.companion: Companion | None = None
        if config.features.statistics:
            self.companion = Companion(config.features, model.dimension)
        if self.companion is not None and self.backbone is not None:
            # What latents add starts at nothing, beside an embedding that is fitted already.
            nn.init.zeros_(self.embed.weight)
            nn.init.zeros_(self.embed.bias)
        self.gate = Gate(model.dimension) if model.gate else None
        self.head = self._build_head()

    def _build_head(self) -> PrototypeHead | LinearHead:
        model = self.config.model
        if model.prototypes == 0:
            return LinearHead(model.dimension, len(self.classes))
        return PrototypeHead(model.dimension, len(self.classes), model.prototypes)

    @property
    def size(self) -> int:
        """Numbers that were learnt: parameters, and what was fitted in closed form."""
        fitted = () if self.companion is None else self.companion.buffers()
        return sum(values.numel() for values in (*self.parameters(), *fitted))

    def forward(
        self,
        z0: Float[Tensor, "batch channel height width"],
        noise: Float[Tensor, "batch step channel height width"] | None,
        statistics: Float[Tensor, "batch view value"] | None = None,
    ) -> ModelOutput:
        """Attribute clean latents under given noise (None when the config has none).

        Args:
            z0: clean latents; not looked at where features.latents is false.
            noise: ε, of every step.
            statistics: of the same images; None when the config has none.
        """
        with torch.autocast(z0.device.type, enabled=False):
            features = None if self.backbone is None else self.features(z0, noise)
            companions = None if self.companion is None else self.companion(statistics)
        return self.attribute(features, companions)

    def attribute(
        self,
        features: Float[Tensor, "batch step channel height width"] | None,
        companions: Float[Tensor, "batch dimension"] | None = None,
    ) -> ModelOutput:
        """Attribute ready feature maps and embedded statistics; one of them may be missing.

        Under autocast only the backbone is in low precision.
        """
        if features is None:
            assert companions is not None
            steps = len(self.config.features.timesteps)
            return self.classify(
                companions, companions.new_full((len(companions), steps), 1 / steps)
            )
        pooled, attention = self._pooled(features)
        return self.classify(pooled if companions is None else pooled + companions, attention)

    def _pooled(
        self, features: Float[Tensor, "batch step channel height width"]
    ) -> tuple[Float[Tensor, "batch dimension"], Float[Tensor, "batch step"]]:
        assert self.backbone is not None
        maps = features.flatten(0, 1)
        if maps.is_cuda:  # on the processor channels-last gains nothing (docs/PERFORMANCE.md)
            maps = maps.contiguous(memory_format=torch.channels_last)
        h = self.embed(self.backbone(maps)).float().view(*features.shape[:2], -1)
        with torch.autocast(h.device.type, enabled=False):
            pooled, attention = self.pool(h)
            return pooled, attention

    def classify(
        self,
        pooled: Float[Tensor, "batch dimension"],
        attention: Float[Tensor, "batch step"],
    ) -> ModelOutput:
        """Gate and score pooled embeddings h̄; `attention` is passed on."""
        with torch.autocast(pooled.device.type, enabled=False):
            known = self.known_part(pooled)
            gate = torch.ones_like(known) if self.gate is None else self.gate(known)
            logits, distances = self.head(known, gate)
        return ModelOutput(logits, pooled, attention, gate, distances)

    def known_part(
        self, pooled: Float[Tensor, "batch dimension"]
    ) -> Float[Tensor, "batch dimension"]:
        """h̄ less what only says how unusual an image is: what gate and prototypes read."""
        return pooled if self.companion is None else self.companion.without_novelty(pooled)

    def record(self) -> RunRecord:
        """Everything needed to build this model but its weights."""
        return RunRecord(self.config, self.classes, self.shape, self.cache)

    @classmethod
    def from_record(cls, record: RunRecord) -> ProtoLeakNet:
        """Build for weights that are about to be loaded: nothing is fetched from the hub."""
        local = replace(record.config, model=replace(record.config.model, pretrained=False))
        model = cls(local, record.classes, record.shape, record.cache)
        model.config = record.config
        return model

    def _save_pretrained(self, save_directory: Path) -> None:
        self.record().write(save_directory)
        save_tensors(save_directory / WEIGHTS, self.state_dict())

    @classmethod
    def from_pretrained(  # the mixin's own insists on a config.json
        cls, pretrained_model_name_or_path: str | Path, **download: Any
    ) -> ProtoLeakNet:
        """Load from a run folder, or from a repository on the hub that holds one's files.

        Args:
            pretrained_model_name_or_path: the folder, or a hub id.
            download: passed on to `huggingface_hub.snapshot_download` (revision, token, …).

        Returns:
            The model, in evaluation mode, on the CPU.

        Raises:
            RunError: the folder is incomplete, or its parts do not belong together.
        """
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            folder = _download(str(pretrained_model_name_or_path), **download)
        model = cls.from_record(RunRecord.read(folder))
        tensors, _ = read_tensors(folder / WEIGHTS)
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            raise RunError(
                f"{folder / WEIGHTS} does not fit {CONFIG} beside it: train again"
            ) from error
        return model.eval()


def _download(repository: str, **options: Any) -> Path:
    try:
        files = [CONFIG, CLASSES, WEIGHTS]
        return Path(snapshot_download(repository, allow_patterns=files, **options))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise RunError(
            f"{repository} is neither a run folder here nor a model that the hub gives"
        ) from error
