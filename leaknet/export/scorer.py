"""Score images with an exported run: needs onnxruntime, NumPy and Pillow alone.

    python scorer.py IMAGE...

prints one JSON object a line, with the keys of the images of `leak score IMAGE --json`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Eigendecompositions of small matrices are many times slower on several threads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import onnxruntime
from jaxtyping import Float, UInt8
from PIL import Image

from leakcache.errors import ImageError
from leakcache.images.decode import Preprocessing, decoded, preprocess
from leakcache.images.file_parts import declared_origin
from leakcache.images.preprocess import (
    GRID,
    PARTS,
    canonicalise,
    enlarged_view,
    native_view,
    reduced_view,
    refuse_tiny,
)
from leakcache.statistics.rows import activation_parts, dequantise, pixel_parts, quantise
from leaknet.calibration.conformal import (
    conformal_p_values,
    depths,
    naming_threshold,
    prediction_sets,
    set_levels,
    too_weak,
)
from leaknet.features.evaluation_noise import evaluation_noise
from leaknet.scoring.answers import Answer
from leaknet.scoring.scores import (
    ImageFacts,
    ImageRange,
    LikeliestFamily,
    Scores,
    answers_of,
    likeliest_families,
    with_origin,
)

FORMAT = "leak-onnx-2"
ALPHA = 0.05
LEAST = 1e-12
"""Least eigenvalue, below any that the graphs give."""


class Scorer:
    """An exported run.

    Attributes:
        settings: of settings.json.
        classes: the known generators.
    """

    def __init__(self, folder: str | Path) -> None:
        """Load the folder that `leak export` wrote; raises ValueError for another format."""
        self._folder = Path(folder)
        self.settings: dict[str, Any] = json.loads((self._folder / "settings.json").read_text())
        if self.settings["format"] != FORMAT:
            raise ValueError(f"{folder}: is of format {self.settings['format']}, not {FORMAT}")
        self.classes = tuple(self.settings["classes"])
        known = self.settings["range"]
        self._range = ImageRange(**{k: tuple(v) for k, v in known.items()}) if known else None
        with np.load(self._folder / "calibration.npz", allow_pickle=False) as file:
            self._calibration = dict(file)
        self._graphs = {file.stem: _session(file) for file in sorted(self._folder.glob("*.onnx"))}

    def score(self, file: str | Path, alpha: float = ALPHA) -> Answer:
        """The answer for an image file, at the false-alarm rate alpha, in (0, 1)."""
        try:
            data = Path(file).read_bytes()
            columns, facts = self._columns(data)
        except OSError as error:
            return Answer(str(file), f"cannot be read ({error.strerror})")
        except ImageError as error:
            return Answer(str(file), str(error))
        output = self._run("model", columns)
        scored = self._scores(dict(zip(self.settings["outputs"], output, strict=True)), alpha)
        (answer,) = answers_of(scored, [str(file)], self.classes, alpha, [facts], self._range)
        return with_origin(answer, declared_origin(data), self.classes)

    def _columns(self, data: bytes) -> tuple[dict[str, np.ndarray], ImageFacts]:
        """Inputs of the model for the bytes of a file, and facts of the image."""
        cut = Preprocessing(**self.settings["preprocessing"])
        with decoded(data) as whole:
            refuse_tiny(whole.size, cut)
            image, facts = whole, ImageFacts.of(whole, data)
            if cut.canonical:
                image = canonicalise(whole, cut.canonical_size)
                cut = Preprocessing(cut.name, cut.size, cut.views)
            found = self._latents(image, cut, hashlib.sha256(data).hexdigest())
            found |= self._statistics(image)
        return {name: found[name][None] for name in self.settings["columns"]}, facts

    def _latents(
        self, image: Image.Image, cut: Preprocessing, sha256: str
    ) -> dict[str, np.ndarray]:
        if "z0" not in self.settings["columns"]:
            return {}
        latents = self._run("encoder", {"views": preprocess(image, cut)})[0]
        steps, seed = self.settings["timesteps"], self.settings["noise_seed"]
        noise = [
            evaluation_noise(seed, [sha256], steps, latents.shape[1:], view)[0]
            for view in range(len(latents))
        ]
        stored = latents.astype(self.settings["stored"]).astype(np.float32)
        return {"z0": stored, "noise": np.stack(noise)}

    def _statistics(self, image: Image.Image) -> dict[str, np.ndarray]:
        """Statistics as the run reads them: rounded to 8 bits, in the order of their columns."""
        wanted, found = self.settings["columns"], {}
        native = native_view(image)
        reduced = reduced_view(native)
        if "pixel_statistics" in wanted:
            rows = [*self._pixel_rows(native, PARTS), *self._pixel_rows(reduced, 1)]
            found["pixel_statistics"] = rounded(rows, self.settings["pixel_lengths"])
        if "activation_statistics" in wanted:
            views = native, enlarged_view(reduced)
            rows = [row for view in views for row in self._activation_rows(view)]
            found["activation_statistics"] = rounded(rows, self.settings["activation_lengths"])
        return found

    def _pixel_rows(
        self, view: UInt8[np.ndarray, "height width 3"], parts: int
    ) -> list[np.ndarray]:
        found = []
        for rows, columns in pixel_parts(view.shape[:2], parts):
            part = np.ascontiguousarray(view[slice(*rows), slice(*columns)])[None]
            families = self._run("pixels", {"pixels": part})
            found.append(
                np.concatenate([(f if f.ndim == 2 else log_triangle(f))[0] for f in families])
            )
        return found

    def _activation_rows(self, view: UInt8[np.ndarray, "height width 3"]) -> list[np.ndarray]:
        height, width = (side // GRID * GRID for side in view.shape[:2])
        inside = np.ascontiguousarray(view[:height, :width])[None]
        _, *maps = self._run("encoder", {"views": inside})
        names = [one.name for one in self._graphs["activations"].get_inputs()]
        grids = [
            list(activation_parts(one.shape[2:], scale, PARTS))
            for one, scale in zip(maps, (2, 4, 8), strict=True)
        ]
        found = []
        for part in range(PARTS):
            spans = [[slice(*span) for span in grid[part]] for grid in grids]
            cut = {
                name: np.ascontiguousarray(one[:, :, rows, columns])
                for name, one, (rows, columns) in zip(names, maps, spans, strict=True)
            }
            matrices = self._run("activations", cut)
            found.append(log_triangle(np.concatenate([m[0] for m in matrices])).ravel())
        return found

    def _scores(self, output: dict[str, np.ndarray], alpha: float) -> Scores:
        reference, conformity = self._calibration["reference"], self._calibration["conformity"]
        logs, p_values = (
            output["log_probabilities"],
            conformal_p_values(reference, output["score"]),
        )
        return Scores(
            np.exp(logs),
            logs.max(axis=1) > self._threshold("", alpha),
            self._weak(output),
            output["log10_ratios"],
            prediction_sets(conformity, logs, set_levels(p_values, alpha)),
            p_values,
            1 / (1 + len(conformity)),
            depths(reference, output["score"]),
            self._families(output, alpha),
            {self.settings["detector"]: output["score"]},
        )

    def _weak(self, output: dict[str, np.ndarray]) -> np.ndarray:
        """As `leaknet.calibration.calibration.Calibration.weak`."""
        if "evidence" not in output:
            return np.zeros(len(output["score"]), dtype=bool)
        return too_weak(self._calibration["evidence"], output["evidence"])

    def _families(self, output: dict[str, np.ndarray], alpha: float) -> tuple[LikeliestFamily, ...]:
        if not self.settings["families"]:
            return ()
        logs = output["family_log_probabilities"]
        sizes, threshold = (
            np.array(self.settings["family_sizes"]),
            self._threshold("family_", alpha),
        )
        return likeliest_families(self.settings["families"], sizes, logs, threshold)

    def _threshold(self, prefix: str, alpha: float) -> float:
        """Log probability above which a generator, or with a prefix a family, is named."""
        confidence, own = (self._calibration[prefix + k] for k in ("confidence", "conformity"))
        return naming_threshold(confidence, confidence == own, alpha)

    def _run(self, graph: str, given: dict[str, np.ndarray]) -> list[np.ndarray]:
        found: list[np.ndarray] = self._graphs[graph].run(None, given)
        return found


def rounded(rows: Sequence[np.ndarray], lengths: dict[str, int]) -> Float[np.ndarray, "row value"]:
    """Rows as a cache stores them and a model reads them; raises ImageError for no number."""
    found = dequantise(quantise(np.stack(rows), lengths), lengths).astype(np.float32)
    if not np.isfinite(found).all():
        raise ImageError("its statistics are not finite")
    return found


def log_triangle(
    matrices: Float[np.ndarray, "matrix value value"],
) -> Float[np.ndarray, "matrix entry"]:
    """Upper triangles of matrix logarithms, off-diagonal entries times √2; NaN if not finite."""
    rows, columns = np.triu_indices(matrices.shape[1])
    finite = np.isfinite(matrices).all(axis=(1, 2))
    values, vectors = np.linalg.eigh(np.where(finite[:, None, None], matrices, 0))
    logs = np.log(np.maximum(values, LEAST))
    logarithms = (vectors * logs[:, None]) @ vectors.swapaxes(1, 2)
    found = logarithms[:, rows, columns] * np.where(rows == columns, 1.0, math.sqrt(2))
    return np.where(finite[:, None], found, np.nan).astype(np.float32)


def _session(file: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    # Threads that spin while they wait take time from the other graphs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one JSON object for each image; 1 if no image could be scored."""
    parser = argparse.ArgumentParser(description="Score images with an exported run of leak.")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--alpha", type=float, default=ALPHA, help="false-alarm rate, in (0, 1)")
    given = parser.parse_args(arguments)
    if not 0 < given.alpha < 1:
        parser.error(f"--alpha {given.alpha}: give a rate between 0 and 1")
    scorer, done = Scorer(Path(__file__).parent), 0
    for image in given.images:
        answer = scorer.score(image, given.alpha)
        done += not answer.reason
        print(json.dumps(_finite(answer.as_dict())), flush=True)
    return 0 if done else 1


def _finite(value: Any) -> Any:
    """The same with None for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    sys.exit(main())
