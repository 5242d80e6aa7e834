"""CLIP by transformers, which is an optional dependency: `pip install leaknet[clip]`."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from leakcache.errors import WeightsError
from leaknet.baselines.weights import model_folder

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
