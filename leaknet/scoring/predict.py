"""A loaded run that answers for images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float

from leakcache.dataset.image_files import list_images
from leakcache.device import resolve_device
from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import ScoringError
from leakcache.progress import Track, track
from leakcache.store.manifest import Encoding
from leaknet.calibration import Calibration, load_calibration
from leaknet.calibration.conformal import outside_limit
from leaknet.data.embeddings import Embeddings
from leaknet.detectors import Detector
from leaknet.model.inference import embed
from leaknet.scoring.answers import Answer, Answers, variants_of
from leaknet.scoring.encode_files import (
    Source,
    as_split,
    encode_files,
    encoding_of,
    load_encoder,
    name_of,
)
from leaknet.scoring.families import FamilyCalibration, load_families
from leaknet.scoring.run_embeddings import detectors_named, fit_all, load_scorers, read_range
from leaknet.scoring.scores import (
    ImageFacts,
    ImageRange,
    LikeliestFamily,
    Scores,
    answers_of,
    likeliest_families,
    with_origin,
)
from leaknet.training.run_folder import RunFolder


class Predictor:
    """A trained run that scores images; its autoencoder is loaded at the first image.

    Attributes:
        run: the run folder.
        model: in evaluation mode.
        known: embeddings of the images of known generators.
        detectors: fitted ones; the first decides.
        calibration: of the run.
        families: of the known generators, calibrated; None for a run without.
        range: of the images that it is calibrated on; None for a run that does not say.
    """

    def __init__(
        self,
        run: str | Path,
        *,
        detectors: Sequence[str | type[Detector]] = ("kde",),
        vae: str | Encoder | None = None,
        device: str = "auto",
    ) -> None:
        """Load a run.

        Args:
            run: folder of a trained run.
            detectors: names in `leaknet.detectors`, or classes of your own, which are fitted now
                and not kept in the run folder.
            vae: where the run's autoencoder lies now, or the loaded autoencoder, if it is not where
                it was in training.
            device: "auto", or a torch device's name.

        Raises:
            RunError: the run is missing, incomplete or damaged.
            ScoringError: no such detector, or nothing to calibrate on.
            ConfigError: no such device.
        """
        own = [kind for kind in detectors if not isinstance(kind, str)]
        named = detectors_named([kind for kind in detectors if isinstance(kind, str)])
        where = resolve_device(device)
        folder = RunFolder(Path(run))
        self.run, self.model = folder.path, folder.load_model(where)
        self.known, digest = Embeddings.load(folder.embeddings), folder.fingerprint()
        self.detectors = load_scorers(folder.path, named, self.known, digest)
        if own:
            self.detectors = fit_all(own, self.known) + self.detectors
            self.calibration = Calibration.fit(self.known, self.detectors)
        else:
            self.calibration = load_calibration(folder.path, self.detectors, self.known, digest)
        self.families = load_families(folder.path, self.calibration, self.known)
        self.range = read_range(folder.path)
        self._vae, self._device = vae, str(where)

    @property
    def classes(self) -> tuple[str, ...]:
        """The known generators."""
        return self.model.classes

    @property
    def encoding(self) -> Encoding:
        """How images become latents."""
        return encoding_of(self.model)

    @cached_property
    def encoder(self) -> Encoder:
        """The autoencoder of the run; raises WeightsError and RunError as `load_encoder`."""
        return load_encoder(self.encoding, self._vae, self._device)

    def score(
        self,
        images: Sequence[Source],
        *,
        alpha: float = 0.05,
        stability: bool = False,
        names: Sequence[str] | None = None,
        progress: Track = track,
    ) -> Answers:
        """Score images by the same functions that scored the test fold; answers in order.

        Args:
            images: paths of files, and of folders for all images below; bytes of files; Pillow
                images; arrays. What cannot be scored gets an answer with a reason. The noise of
                latents depends on a file's bytes, or on the pixels of what is no file.
            alpha: rate at which images of known generators may be called unknown, in (0, 1).
            stability: also score the eight variants of `leaknet.scoring.answers`.
            names: of the images, one each; then folders are not searched.
            progress: shows progress; see `leakcache.progress`.

        Raises:
            WeightsError: the autoencoder of the run is not on this machine.
            RunError: it is there with other weights.
            ScoringError: alpha is no rate.
        """
        if not 0 < alpha < 1:
            raise ScoringError(f"alpha {alpha}: give a rate between 0 and 1")
        if isinstance(images, str | Path | bytes):
            raise ScoringError("score takes a list of images: put the one image into a list")
        found = _listed(images, names)
        usable = [(image, name) for image, name, reason in found if not reason]
        scored = iter(self._answers(usable, alpha, stability, progress))
        answers = [Answer(name, why) if why else next(scored) for _, name, why in found]
        name = self.detectors[0].name
        facts = self.calibration.as_dict(alpha) | {
            "outside_below": outside_limit(self.calibration.references[name])
        }
        return Answers(tuple(answers), str(self.run), alpha, name, facts)

    def _answers(
        self,
        images: Sequence[tuple[Source, str]],
        alpha: float,
        stability: bool,
        progress: Track,
    ) -> list[Answer]:
        if not images:
            return []
        files = encode_files(
            self.encoder,
            self.encoding,
            [image for image, _ in images],
            variants_of if stability else None,
            columns=self.model.config.columns(training=False),
            names=[name for _, name in images],
            progress=progress,
        )
        usable = [file for file in files if not file.reason]
        scored: Iterator[Answer] = iter(())
        if usable:
            embedded = embed(self.model, as_split(usable, "open", "?"))
            facts = [file.facts for file in usable]
            found = score_embeddings(
                embedded, self.detectors, self.calibration, alpha, facts, self.families, self.range
            )
            scored = (
                with_origin(one, file.origin, self.classes)
                for one, file in zip(found, usable, strict=True)
            )
        return [Answer(str(f.path), f.reason) if f.reason else next(scored) for f in files]


def _listed(images: Sequence[Source], names: Sequence[str] | None) -> list[tuple[Source, str, str]]:
    """Image, name and reason of each image; folders are searched unless names are given."""
    if names is not None:
        return [(image, name, "") for image, name in zip(images, names, strict=True)]
    found: list[tuple[Source, str, str]] = []
    for number, image in enumerate(images, 1):
        if isinstance(image, str | Path):
            found += [(path, str(path), reason) for path, reason in list_images([str(image)])]
        else:
            found.append((image, name_of(image, number), ""))
    return found


def score_embeddings(
    e: Embeddings,
    detectors: Sequence[Detector],
    calibration: Calibration,
    alpha: float,
    images: Sequence[ImageFacts],
    families: FamilyCalibration | None = None,
    known: ImageRange | None = None,
) -> list[Answer]:
    """Answers for embedded images, in their order.

    Args:
        e: images in the order of `images`, each followed by as many variants.
        detectors: of the run; the first decides.
        calibration: of the run.
        alpha: rate at which images of known generators may be called unknown, in (0, 1).
        images: facts of each.
        families: of the run.
        known: range of the images that calibrated the run.
    """
    scored = _score(e, detectors, calibration, alpha, families)
    paths = e.paths[:: len(e) // len(images)].tolist()
    return answers_of(scored, paths, e.classes, alpha, images, known)


def _score(
    e: Embeddings,
    detectors: Sequence[Detector],
    calibration: Calibration,
    alpha: float,
    families: FamilyCalibration | None,
) -> Scores:
    logs = calibration.log_probabilities(e)
    return Scores(
        np.exp(logs),
        calibration.probable(e, alpha),
        calibration.weak(e),
        calibration.log10_ratios(e),
        calibration.prediction_sets(e, detectors[0], alpha),
        calibration.p_values(e, detectors[0]),
        calibration.smallest_p,
        calibration.depths(e, detectors[0]),
        _families(families, logs, alpha),
        {detector.name: detector.score_samples(e) for detector in detectors},
    )


def _families(
    calibration: FamilyCalibration | None,
    log_probabilities: Float[np.ndarray, "image class"],
    alpha: float,
) -> tuple[LikeliestFamily, ...]:
    if calibration is None:
        return ()
    families, threshold = calibration.families, calibration.naming_threshold(alpha)
    logs = families.log_probabilities(log_probabilities)
    return likeliest_families(families.names, np.bincount(families.index), logs, threshold)
