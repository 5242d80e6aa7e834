"""ProtoLeakNet: a branch of noisy latents and a branch of image statistics, and their fusion.

Fully described by its configuration, its class names and the shape of a latent; everything that
is fitted, the standardisation of its inputs included, is in its state dict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from jaxtyping import Float
from torch import Tensor, nn

from leakcache.errors import RunError
from leaknet.checksums import CHECKSUMS
from leaknet.config import RunConfig
from leaknet.data.columns import ImageColumns
from leaknet.features.noise import epoch_seed, seeded_globally
from leaknet.files import read_tensors, save_tensors
from leaknet.model.branch import Branch, BranchOutput
from leaknet.model.latent_branch import LatentBranch
from leaknet.model.run_record import CLASSES, CONFIG, CacheIdentity, RunRecord
from leaknet.model.statistics_branch import StatisticsBranch

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class ModelOutput:
    """Output of the model for a batch.

    Attributes:
        logits: per class, higher = nearer to that generator.
        embedding: of the branches that have a weight, side by side, scaled by its root.
        attention: a_t of each noise step, rows sum to 1; one column of ones without latents.
        branches: logits of each branch alone, by its name.
    """

    logits: Float[Tensor, "batch class"]
    embedding: Float[Tensor, "batch dimension"]
    attention: Float[Tensor, "batch step"]
    branches: dict[str, Float[Tensor, "batch class"]]


class ProtoLeakNet(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="leaknet",
    license="mit",
    tags=["image-forensics", "attribution"],
    paper_url="https://arxiv.org/abs/2511.04260",
):
    """Attribution model: logits = Σ_b weight_b · logits_b + offsets over the branches b.

    A branch's logits are negative squared distances, so that its embedding times the root of its
    weight has distances on the scale of the sum. A branch of weight 0 adds nothing to either.

    Attributes:
        config: settings it was built from.
        classes: closed generators, in the order of the logits.
        shape: of a latent, (channel, height, width); None for a model that reads no latents.
        cache: the cache it was trained on, None if it was not.
        latents: the branch of noisy latents; None where it is not enabled.
        statistics: the branch of image statistics; None where it is not enabled.
        weights: of each branch, 0 or more, the largest 1; see `leaknet.model.fusion`.
        offsets: added to the logits; 0 for trained classes, set by `leaknet.enroll` for others.
        fixed_weights: `weighted` as numbers, for an export, in which tensors have no values.
    """

    weights: Tensor
    offsets: Tensor

    def __init__(
        self,
        config: RunConfig,
        classes: Sequence[str],
        shape: tuple[int, int, int] | None,
        cache: CacheIdentity | None = None,
    ) -> None:
        """Build with initial weights; training, or a state dict, comes next.

        Raises:
            ConfigError: the settings do not fit each other or the latents.
            WeightsError: pretrained weights were requested and cannot be had.
        """
        super().__init__()
        self.config, self.classes, self.shape, self.cache = config, tuple(classes), shape, cache
        self.fixed_weights: dict[str, float] | None = None
        self.latents = self._latents() if config.latents.enabled else None
        self.statistics = self._statistics() if config.statistics.enabled else None
        self.register_buffer("weights", torch.ones(len(self.branches)))
        self.register_buffer("offsets", torch.zeros(len(self.classes)))

    def _latents(self) -> LatentBranch:
        if self.shape is None:
            raise RunError("a branch of latents needs the shape of a latent")
        config = self.config
        with self._seeded():
            return LatentBranch(config.latents, config.head, len(self.classes), self.shape)

    def _statistics(self) -> StatisticsBranch:
        config = self.config
        with self._seeded():
            return StatisticsBranch(config.statistics, config.head, len(self.classes))

    def _seeded(self) -> AbstractContextManager[None]:
        """Each branch has the same initial weights, whether alone or beside the other."""
        return seeded_globally(epoch_seed(self.config.train.seed, 0), torch.device("cpu"))

    @property
    def branches(self) -> dict[str, Branch]:
        """By name, those that are enabled."""
        found = (self.latents, self.statistics)
        return {branch.name: branch for branch in found if branch is not None}

    @property
    def weighted(self) -> dict[str, float]:
        """Names and weights of the branches whose weight is not 0."""
        if self.fixed_weights is not None:
            return self.fixed_weights
        pairs = zip(self.branches, self.weights.tolist(), strict=True)
        return {name: weight for name, weight in pairs if weight > 0}

    @property
    def size(self) -> int:
        """Fitted numbers: parameters, and what was fitted in closed form."""
        return sum(branch.size for branch in self.branches.values())

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.weights.device

    def forward(self, images: ImageColumns) -> ModelOutput:
        """Embed and attribute images, in evaluation.

        Raises:
            CacheIncomplete: the images lack a column that a branch reads.
        """
        with torch.autocast(self.device.type, enabled=False):
            return self.combine(
                {
                    name: branch.classify(*branch.embed(images))
                    for name, branch in self.branches.items()
                }
            )

    def combine(self, outputs: Mapping[str, BranchOutput]) -> ModelOutput:
        """The model's output, from those of its branches; those without weight may be left out."""
        embedding = torch.cat(
            [weight**0.5 * outputs[name].embedding for name, weight in self.weighted.items()], dim=1
        )
        first = next(iter(outputs.values()))
        logits = {name: output.logits for name, output in outputs.items()}
        return ModelOutput(self.fuse(logits), embedding, first.attention, logits)

    def classify(self, embedding: Float[Tensor, "batch dimension"]) -> Float[Tensor, "batch class"]:
        """Logits of embeddings that `forward` returned."""
        return self.fuse({name: output.logits for name, output in self.heads(embedding).items()})

    def heads(self, embedding: Float[Tensor, "batch dimension"]) -> dict[str, BranchOutput]:
        """Outputs of the weighted branches for embeddings that `forward` returned."""
        found = {}
        for name, part in self.split(embedding).items():
            found[name] = self.branches[name].classify(part, part.new_ones(len(part), 1))
        return found

    def split(
        self, embedding: Float[Tensor, "batch dimension"]
    ) -> dict[str, Float[Tensor, "batch part"]]:
        """Each weighted branch's own embedding, from one that `forward` returned."""
        weighted = self.weighted
        parts = torch.split(embedding, [self.branches[name].width for name in weighted], dim=1)
        return {
            name: part / weight**0.5
            for (name, weight), part in zip(weighted.items(), parts, strict=True)
        }

    def gate(self, embedding: Float[Tensor, "batch dimension"]) -> Float[Tensor, "batch dimension"]:
        """Gate weights w of embeddings that `forward` returned; 1 for values that no gate reads."""
        found = []
        for name, output in self.heads(embedding).items():
            rest = self.branches[name].width - output.gate.shape[1]
            found.append(torch.nn.functional.pad(output.gate, (0, rest), value=1.0))
        return torch.cat(found, dim=1)

    def density(
        self, embedding: Float[Tensor, "batch dimension"]
    ) -> tuple[Float[Tensor, "batch coordinate"] | None, Float[Tensor, "batch"] | None]:
        """Coordinates for density detectors, and evidence, of embeddings that `forward` returned.

        They are those of the branch with a two-covariance model, if it has a weight.
        """
        for name, part in self.split(embedding).items():
            branch = self.branches[name]
            if (evidence := branch.evidence(part)) is not None:
                return branch.density_part(part), evidence
        return None, None

    def fuse(self, logits: dict[str, Float[Tensor, "batch class"]]) -> Float[Tensor, "batch class"]:
        """Weighted sum of the logits of branches, and the offsets."""
        total = self.offsets
        for name, weight in self.weighted.items():
            total = total + weight * logits[name]
        return total

    def record(self) -> RunRecord:
        """Everything needed to build this model but its weights."""
        return RunRecord(self.config, self.classes, self.shape, self.cache)

    @classmethod
    def from_record(cls, record: RunRecord) -> ProtoLeakNet:
        """Build for weights that are about to be loaded: nothing is fetched from the hub."""
        config = record.config
        local = replace(config, latents=replace(config.latents, pretrained=False))
        model = cls(local, record.classes, record.shape, record.cache)
        model.config = config
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
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise RunError(
                    f"{folder / WEIGHTS} has numbers that are not finite in {name}: train again"
                )
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            raise RunError(
                f"{folder / WEIGHTS} does not fit {CONFIG} beside it: train again"
            ) from error
        return model.eval()


def _download(repository: str, **options: Any) -> Path:
    try:
        files = [CONFIG, CLASSES, WEIGHTS, CHECKSUMS]
        return Path(snapshot_download(repository, allow_patterns=files, **options))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise RunError(
            f"{repository} is neither a run folder here nor a model that the hub gives"
        ) from error
