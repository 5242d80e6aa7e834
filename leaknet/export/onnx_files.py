"""Write a run as a folder of ONNX graphs with a scorer.

    encoder.onnx      views → latents, activations; any number and size of views
    pixels.onnx       a part of a view → values and covariances of its pixels
    activations.onnx  a part of activations → covariances
    model.onnx        columns of images → logits, embedding, detector's score, calibrated values
    settings.json, calibration.npz    what the scorer reads besides
    scorer.py, leakcache/, leaknet/   the scorer, and copies of the modules that it imports

Only what the weighted branches read is written.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from leakcache.encoder.autoencoder import TORCH
from leakcache.encoder.onnx_network import EXPORTER, missing_packages
from leakcache.errors import ConfigError
from leakcache.files import write_json
from leakcache.statistics import activation_features, pixel_features
from leakcache.store.columns import COLUMNS
from leaknet.config import ACTIVATIONS, PIXELS, Z0
from leaknet.detectors import GlobalKDE
from leaknet.export.graphs import NOISE, ActivationGraph, EncoderGraph, ModelGraph, PixelGraph
from leaknet.export.scorer import FORMAT
from leaknet.scoring.encode_files import load_encoder
from leaknet.scoring.predict import Predictor

VIEW = {0: "view", 1: "height", 2: "width"}
LATENTS = ["latents", "half", "quarter", "eighth"]
PIXEL_OUTPUTS = list(pixel_features.LENGTHS)


def export_onnx(run: Path, folder: Path, vae: str | None = None) -> dict[str, Any]:
    """Export a run; the settings that the scorer reads.

    The encoder is exported in single precision, whatever the run's own precision is.

    Args:
        run: folder of a trained run.
        folder: new or empty.
        vae: where the run's autoencoder lies now.

    Raises:
        ConfigError: a package is missing, or the folder has files already.
        RunError: the run is incomplete or damaged.
        WeightsError: its autoencoder is not on this machine.
        ScoringError: it has nothing to calibrate on.
    """
    if missing := missing_packages(EXPORTER):
        raise ConfigError(f'leak export: needs {", ".join(missing)}: pip install "leaknet[onnx]"')
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: has files already; name a new folder with --out")
    predictor = Predictor(run, vae=vae, device="cpu")
    families = predictor.families.families if predictor.families else None
    (detector,) = predictor.detectors
    assert isinstance(detector, GlobalKDE)
    graph = ModelGraph(predictor.model, detector, predictor.calibration, families)
    folder.mkdir(parents=True, exist_ok=True)
    _export_encoder(predictor, vae, folder)
    if PIXELS in graph.inputs:
        example = torch.randint(0, 256, (2, 96, 112, 3), dtype=torch.uint8)
        _export(
            PixelGraph(), [example], (["pixels"], PIXEL_OUTPUTS), [VIEW], folder / "pixels.onnx"
        )
    if ACTIVATIONS in graph.inputs:
        _export_activations(predictor, folder)
    _export_model(predictor, graph, folder)
    settings = _settings(predictor, graph)
    _write_calibration(predictor, folder)
    write_json(folder / "settings.json", settings)
    copy_scorer(folder)
    return settings


def _export_encoder(predictor: Predictor, vae: str | None, folder: Path) -> None:
    encoding = replace(predictor.encoding, precision="fp32", runtime=TORCH)
    encoder = load_encoder(encoding, vae)
    graph = EncoderGraph(encoder.network, encoder.identity)
    example = torch.randint(0, 256, (2, 64, 72, 3), dtype=torch.uint8)
    _export(graph, [example], (["views"], LATENTS), [VIEW], folder / "encoder.onnx")


def _export_activations(predictor: Predictor, folder: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "encoder.onnx")
    _, *maps = session.run(LATENTS, {"views": np.zeros((2, 128, 192, 3), np.uint8)})
    outputs = [f"{name}_covariances" for name in LATENTS[1:]]
    free = [{0: "part", 2: f"rows_{name}", 3: f"columns_{name}"} for name in LATENTS[1:]]
    _export(
        ActivationGraph(),
        [torch.from_numpy(one) for one in maps],
        (LATENTS[1:], outputs),
        free,
        folder / "activations.onnx",
    )


def _export_model(predictor: Predictor, graph: ModelGraph, folder: Path) -> None:
    encoding = predictor.encoding
    latents = graph.model.latents
    steps = len(latents.config.timesteps) if latents else 0
    views, *shape = encoding.latent_shape
    shapes = {
        Z0: (2, views, *shape),
        NOISE: (2, views, steps, *shape),
        PIXELS: (2, *_rows(PIXELS, predictor)),
        ACTIVATIONS: (2, *_rows(ACTIVATIONS, predictor)),
    }
    examples = [torch.randn(shapes[name]) for name in graph.inputs]
    free = [{0: "image"} for _ in examples]
    _export(graph, examples, (graph.inputs, graph.outputs), free, folder / "model.onnx")


def _rows(column: str, predictor: Predictor) -> tuple[int, int]:
    """Rows of an image in a column of statistics, and values of a row."""
    rows = COLUMNS[column].spec(predictor.encoding).shape[0]
    length = pixel_features.LENGTH if column == PIXELS else activation_features.LENGTH
    return rows, length


def _settings(predictor: Predictor, graph: ModelGraph) -> dict[str, Any]:
    encoding, config = predictor.encoding, predictor.model.config
    families = predictor.families.families if predictor.families else None
    return {
        "format": FORMAT,
        "leak": version("leaknet"),
        "run": predictor.run.name,
        "preset": config.preset,
        "classes": list(predictor.classes),
        "columns": graph.inputs,
        "outputs": graph.outputs,
        "preprocessing": asdict(encoding.preprocessing),
        "stored": encoding.stored,
        "precision": encoding.precision,
        "noise_seed": config.latents.noise_seed,
        "timesteps": list(config.latents.timesteps),
        "pixel_lengths": dict(pixel_features.LENGTHS),
        "activation_lengths": dict(activation_features.LENGTHS),
        "detector": predictor.detectors[0].name,
        "range": vars(predictor.range) if predictor.range else None,
        "families": list(families.names) if families else [],
        "family_sizes": np.bincount(families.index).tolist() if families else [],
    }


def _write_calibration(predictor: Predictor, folder: Path) -> None:
    calibration, families = predictor.calibration, predictor.families
    np.savez(
        folder / "calibration.npz",
        reference=calibration.references[predictor.detectors[0].name],
        conformity=calibration.conformity,
        evidence=calibration.evidence,
        confidence=calibration.confidence,
        family_conformity=families.conformity if families else np.empty(0),
        family_confidence=families.confidence if families else np.empty(0),
    )


def _export(
    module: nn.Module,
    examples: Sequence[Tensor],
    names: tuple[Sequence[str], Sequence[str]],
    free: Sequence[Mapping[int, str]],
    file: Path,
) -> None:
    """Write a graph; `names` of its inputs and outputs, `free` axes of each input."""
    inputs, outputs = names
    shapes: Any = tuple(dict(axes) for axes in free)
    # Tensors that are cached at their first use must not be made during the export.
    with torch.inference_mode():
        module.eval()(*examples)
    with warnings.catch_warnings():
        # The exporter warns of its own internals.
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            module,
            tuple(examples),
            dynamo=True,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=(shapes,) if isinstance(module, ModelGraph) else shapes,
            verbose=False,
        )
    program.save(file)


ROOT = Path(__file__).parents[2]
MAIN = "leaknet.export.scorer"
OWN = ("leakcache", "leaknet")


def copy_scorer(folder: Path) -> None:
    """Write scorer.py and what it imports into the folder.

    Imports of jaxtyping, which serve type checks alone, are left out of the copies.
    """
    done: set[str] = set()
    waiting = [MAIN]
    while waiting:
        name = waiting.pop()
        if name in done:
            continue
        done.add(name)
        source = ROOT.joinpath(*name.split(".")).with_suffix(".py")
        target = folder / ("scorer.py" if name == MAIN else source.relative_to(ROOT))
        target.parent.mkdir(parents=True, exist_ok=True)
        imported, text = _without_types(source.read_text("utf-8"))
        origin = (
            f"# Copied by `leak export` {version('leaknet')} from {source.relative_to(ROOT)}.\n"
        )
        target.write_text(origin + text, "utf-8")
        waiting += [one for one in imported if one.startswith(OWN)]
    # Without them an installed package of the same name would come first.
    for path in {parent for one in folder.glob("*/**/*.py") for parent in one.parents}:
        if path != folder and path.is_relative_to(folder):
            (path / "__init__.py").touch()


def _without_types(source: str) -> tuple[list[str], str]:
    """Modules that a source imports at its top, and the source without imports of jaxtyping."""
    lines, imported = source.splitlines(keepends=True), []
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            imported.append(node.module)
            if node.module == "jaxtyping":
                lines[node.lineno - 1 : node.end_lineno] = [""] * (
                    (node.end_lineno or node.lineno) - node.lineno + 1
                )
    return imported, "".join(lines)
