"""Exported runs: each graph against torch at several sizes, and the scorer against scoring."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from leakcache.encoder.onnx_network import EXPORTER, missing_packages
from leakcache.errors import ConfigError
from leakcache.statistics.activation_features import activation_statistics
from leakcache.statistics.pixel_features import LENGTHS, pixel_statistics
from leakcache.store.cache import Cache
from leaknet.data.columns import ImageColumns
from leaknet.files import save_tensors
from leaknet.model.inference import embed
from leaknet.model.protoleaknet import ProtoLeakNet
from leaknet.scoring.predict import Predictor
from leaknet.scoring.score_run import prepare_run
from tests.leaknet.small_run import small_run
from tests.tiny_data import tiny_image

if missing := missing_packages(EXPORTER):
    pytest.skip(f"{', '.join(missing)} not installed: the extra [onnx]", allow_module_level=True)

import onnxruntime

from leaknet.export.graphs import NOISE
from leaknet.export.onnx_files import export_onnx
from leaknet.export.scorer import Scorer, log_triangle

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.timeout(900)
BLOCKED = ("torch", "scipy", "jaxtyping", "h5py", "sklearn", "leaknet.model", "filelock")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose two branches have equal weights.

    Its encoder runs under ONNX Runtime, as the export's, so that statistics are rounded to 8 bits
    from the same values.
    """
    root = tmp_path_factory.mktemp("made")
    run = small_run(root, 10, "best", "statistics.degraded=false", runtime="onnx")
    model = ProtoLeakNet.from_pretrained(run)
    model.weights.fill_(1.0)
    save_tensors(run / "model.safetensors", model.state_dict())
    assert model.cache is not None
    prepare_run(run, Cache.open(Path(model.cache.folder)))
    return run


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    """By the command in a process of its own: shape checks do not know symbolic sizes."""
    command = [sys.executable, "-m", "cli", "export", str(run), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["columns"] == ["z0", "noise", "pixel_statistics", "activation_statistics"]
    assert found["folder"] == str(run / "onnx")
    return run / "onnx"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of several sizes, one nearly blank, one no image."""
    folder = tmp_path_factory.mktemp("images")
    sizes = {"small": (64, 64), "wide": (170, 96), "large": (530, 260)}
    for seed, (name, size) in enumerate(sizes.items()):
        tiny_image(seed, size).save(folder / f"{name}.png")
    Image.new("RGB", (128, 128), (40, 90, 200)).save(folder / "blank.png")
    tiny_image(9, (120, 136)).save(folder / "photo.jpg", quality=90)
    (folder / "broken.png").write_bytes(b"not an image")
    return sorted(folder.iterdir())


def test_the_scorer_answers_as_leak_does_without_torch(
    run: Path, exported: Path, images: list[Path]
) -> None:
    expected = Predictor(run, device="cpu").score(images, alpha=0.2).as_dict()["images"]
    program = (
        f"import sys, runpy; sys.modules.update(dict.fromkeys({BLOCKED}))\n"
        f"runpy.run_path({str(exported / 'scorer.py')!r}, run_name='__main__')"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, *map(str, images), "--alpha", "0.2"],
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        | {"PYTHONPATH": str(exported)},
        cwd=exported.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    answers = [json.loads(line) for line in found.stdout.splitlines()]
    for answer, wanted in zip(answers, expected, strict=True):
        _assert_same(answer, wanted)


def _assert_same(answer: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Equal but for rounding; a density of ten images enlarges that a hundred times."""
    tolerances = {"scores": 0.2, "log10_lr": 1e-3}
    for key in ("probability", "family_probability", "probabilities", *tolerances):
        value, found = wanted.pop(key), answer.pop(key)
        if value is not None:
            found = _numbers(found) if key == "log10_lr" else found
            close = pytest.approx(value, rel=1e-4, abs=tolerances.get(key, 1e-4), nan_ok=True)
            assert found == close, key
    assert json.dumps(answer) == json.dumps(wanted)


def _numbers(values: dict[str, float | None]) -> dict[str, float]:
    return {key: float("nan") if value is None else value for key, value in values.items()}


@pytest.mark.parametrize(("count", "height", "width"), [(1, 64, 64), (3, 104, 152)])
def test_pixel_statistics_of_any_number_and_size(
    exported: Path, count: int, height: int, width: int
) -> None:
    views = np.stack([np.asarray(tiny_image(seed, (width, height))) for seed in range(count)])
    expected = pixel_statistics(torch.from_numpy(views))[:, 0].numpy()
    families = _session(exported / "pixels.onnx").run(None, {"pixels": views})
    found = np.concatenate([f if f.ndim == 2 else log_triangle(f) for f in families], axis=1)
    assert found.shape[1] == sum(LENGTHS.values())
    assert np.abs(found - expected).max() < 1e-3
    assert np.abs(found - expected).mean() < 1e-5


@pytest.mark.parametrize(("count", "height", "width"), [(1, 64, 64), (3, 104, 152)])
def test_the_encoder_at_any_number_and_size(
    run: Path, exported: Path, count: int, height: int, width: int
) -> None:
    views = np.stack([np.asarray(tiny_image(seed, (width, height))) for seed in range(count)])
    encoder = Predictor(run, device="cpu").encoder
    latents, activations = encoder.encode_with_activations(torch.from_numpy(views))
    found = _session(exported / "encoder.onnx").run(None, {"views": views})
    for one, expected in zip(found, (latents, *activations), strict=True):
        assert np.abs(one - expected.numpy()).max() < 1e-4


@pytest.mark.parametrize(("count", "side", "scatter"), [(1, 32, 1.0), (3, 44, 1.0), (1, 32, 3e-3)])
def test_activation_statistics_of_any_number_and_size(
    exported: Path, count: int, side: int, scatter: float
) -> None:
    """Also where the least variance is a part of the floor, as in smooth images."""
    maps = [scatter * torch.randn(count, 8, side // scale, 40 // scale) for scale in (1, 2, 4)]
    expected = activation_statistics(tuple(maps))[:, 0].numpy()
    given = dict(zip(("half", "quarter", "eighth"), (one.numpy() for one in maps), strict=True))
    found = _session(exported / "activations.onnx").run(None, given)
    logs = [log_triangle(one[:, step]) for one in found for step in range(3)]
    assert np.abs(np.concatenate(logs, axis=1) - expected).max() < 1e-4


def _session(file: Path) -> Any:
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


def test_the_model_agrees_with_torch_on_equal_columns(
    run: Path, exported: Path, images: list[Path]
) -> None:
    """Both branches, head, detector and calibration, of one image and of several."""
    scorer, predictor = Scorer(exported), Predictor(run, device="cpu")
    paths = [path for path in images if path.stem != "broken"]
    columns = [scorer._columns(path.read_bytes())[0] for path in paths]
    together = {name: np.concatenate([one[name] for one in columns]) for name in columns[0]}
    names = np.array([path.name for path in paths])
    hashes = np.array([hashlib.sha256(path.read_bytes()).hexdigest() for path in paths])
    known = {n: torch.from_numpy(v) for n, v in together.items() if n != NOISE}
    folds = np.full(len(names), "open")
    split = ImageColumns(names, names, folds, hashes, names, known)
    every = embed(predictor.model, split)
    (detector,), calibration = predictor.detectors, predictor.calibration
    expected = {
        "logits": every.logits,
        "embedding": every.vectors,
        "score": detector.score_samples(every),
        "log_probabilities": calibration.log_probabilities(every),
        "log10_ratios": calibration.log10_ratios(every),
    }
    session = _session(exported / "model.onnx")
    outputs = scorer.settings["outputs"][: len(expected)]
    assert outputs == list(expected)
    alone = [session.run(outputs, one) for one in columns]
    for place, name in enumerate(outputs):
        several = session.run([name], together)[0]
        one_by_one = np.concatenate([one[place] for one in alone])
        # The density of ten images is steep: its scores reach thousands.
        scale = np.maximum(np.abs(expected[name]), 1)
        assert np.abs((several - expected[name]) / scale).max() < 1e-4, name
        assert np.abs((one_by_one - expected[name]) / scale).max() < 1e-4, name


def test_a_folder_with_files_is_refused(run: Path, exported: Path) -> None:
    with pytest.raises(ConfigError, match="has files already; name a new folder with --out"):
        export_onnx(run, exported)
