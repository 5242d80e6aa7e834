"""What is said of an image that is unlike the images that calibrated."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from leakcache.errors import RunError
from leaknet.scoring.run_embeddings import read_range, write_range
from leaknet.scoring.scores import CONTENT, ImageFacts, ImageRange


def saved(size: tuple[int, int], form: str, **options: int) -> bytes:
    file = io.BytesIO()
    Image.effect_noise(size, 40).convert("RGB").save(file, form, **options)
    return file.getvalue()


def facts(size: tuple[int, int], form: str = "JPEG", **options: int) -> ImageFacts:
    return ImageFacts.of(Image.new("RGB", size), saved(size, form, **options))


KNOWN = [facts((64, 96), quality=90), facts((96, 64), quality=95), facts((80, 96), quality=92)]


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (facts((70, 96), quality=93), CONTENT),
        (facts((96, 70), quality=90), CONTENT),
        (facts((128, 96), quality=93), "its size is 96 x 128 pixels, theirs 64 to 80 x 96"),
        (facts((64, 96), quality=30), "its JPEG quality is 30, theirs 90 to 95"),
        (facts((64, 96), "PNG"), "its format is PNG, theirs JPEG"),
        (ImageFacts.of(Image.new("RGB", (64, 96))), CONTENT),
        (
            facts((9, 9), "PNG"),
            "its size is 9 x 9 pixels, theirs 64 to 80 x 96 and its format is PNG, theirs JPEG",
        ),
    ],
)
def test_size_and_compression_are_named_and_else_content(image: ImageFacts, words: str) -> None:
    found = ImageRange.of(KNOWN)
    assert found is not None
    assert found.difference(image) == words


def test_a_range_is_kept_and_grows_with_new_images(tmp_path: Path) -> None:
    assert read_range(tmp_path) is None
    write_range(tmp_path, [])
    assert read_range(tmp_path) is None
    write_range(tmp_path, KNOWN)
    former = read_range(tmp_path)
    assert former == ImageRange.of(KNOWN)
    write_range(tmp_path, [facts((9, 9), "PNG")], former)
    grown = read_range(tmp_path)
    assert grown == ImageRange((9, 80), (9, 96), ("JPEG", "PNG"), (90, 95))
    (tmp_path / "range.json").unlink()
    with pytest.raises(RunError, match="is missing"):
        read_range(tmp_path)


def test_a_damaged_range_is_refused(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"shorter": 3}', '{"x": [1]}', '{"formats": [], "x": [1, 2]}'):
        (tmp_path / "range.json").write_text(text)
        with pytest.raises(RunError, match=r"range\.json is damaged"):
            read_range(tmp_path)
