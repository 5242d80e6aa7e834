"""WILD-like degradations: one to three operations in a chain, drawn from the image's own hash.

What is done to an image depends on (seed, the hash of its file, step) and on nothing else: not
on its path, its class, the order of the images or the machine. So copies can be made in any
order, on any number of workers and again later, and no class is treated unlike another.
"""

from __future__ import annotations

from PIL import Image

from leakcache.degrade.hash_rng import HashRNG
from leakcache.degrade.operations import OPERATIONS, Operation
from leakcache.errors import ConfigError

STEPS = (1, 2, 3)


def operations(step: int, seed: int, sha256: str) -> list[Operation]:
    """The `step` different operations, in order, for the image whose file has that hash.

    Raises:
        ConfigError: `step` is not 1, 2 or 3.
    """
    if step not in STEPS:
        raise ConfigError(f"step {step} is not known: use 1, 2 or 3")
    draws = HashRNG("degradation", seed, sha256, step)
    return [kind.draw(draws) for kind in draws.sample(OPERATIONS, step)]


def degrade(
    image: Image.Image, step: int, seed: int, sha256: str
) -> tuple[Image.Image, list[Operation]]:
    """A degraded copy of an RGB image, and what was done to it, in order.

    Args:
        image: RGB, any size; it is left as it is.
        step: how many operations are chained, 1 to 3.
        seed: draws other operations for every image.
        sha256: hash of the image's file, as in an index or a cache.

    Raises:
        ConfigError: `step` is not 1, 2 or 3.
        ImageError: the image is too large for what was drawn.
    """
    chain = operations(step, seed, sha256)
    for operation in chain:
        image = operation.apply(image)
    return image, chain
