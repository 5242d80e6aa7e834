"""The peak memory of a build does not grow with the number of images."""

from __future__ import annotations

from pathlib import Path

from own_process import printed
from tiny_data import save, tiny_image, tiny_model

PIXELS = 128 * 128 * 3
# More than a shard in either, since it takes about one until the allocator has settled.
MANY, FEW = 1120, 280
SLACK = 20 * 2**20


def test_peak_memory_does_not_depend_on_the_number_of_images(tmp_path: Path) -> None:
    (tmp_path / "images" / "ada").mkdir(parents=True)
    image = tiny_image(0, (128, 128))
    for row in range(MANY):
        image.putpixel((0, 0), (row % 256, row // 256, 0))
        image.save(tmp_path / "images" / "ada" / f"{row}.bmp")
    weights = save(tiny_model(width=2), tmp_path / "weights")
    places = [tmp_path / "images", weights, tmp_path]
    few, many = printed(Path(__file__).with_name("peaking.py"), *places, FEW, MANY)
    # Held to the end, the pixels alone would be twice the slack.
    assert (MANY - FEW) * PIXELS > 1.9 * SLACK
    assert (many - few) * 1024 < SLACK
