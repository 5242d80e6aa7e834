"""Macro AUC of the paper's Table 1 on WILD: ten generators, raw and at steps 1 to 3."""

from __future__ import annotations

PUBLISHED: dict[str, tuple[float, float, float, float]] = {
    "efficientnet-b4": (0.9710, 0.9440, 0.9182, 0.8734),
    "xception": (0.9532, 0.9336, 0.9283, 0.9077),
    "resnet50": (0.9540, 0.9438, 0.9265, 0.9002),
    "freqnet": (0.9756, 0.9561, 0.9029, 0.8934),
    "susy": (0.9802, 0.9590, 0.9277, 0.9040),
    "latenttracer": (0.9788, 0.9605, 0.9253, 0.8809),
    "occ-clip": (0.9570, 0.9391, 0.9267, 0.9199),
    "npr": (0.8981, 0.8048, 0.7648, 0.7115),
    "latte": (0.9716, 0.9599, 0.9441, 0.9096),
    "ours-paper": (0.9813, 0.9614, 0.9462, 0.9225),
}
"""By the row's name; rows that the paper does not have are absent."""
