"""WILD (arXiv 2504.19595): what should be in it, how to get it, and what a download lacks.

Two sets of ten generators, 1,000 PNG images each; the known ones are split 5,000/2,000/3,000 by
prompt. How its folders are spelt differs between copies, so names are compared by their letters
and digits alone, and by a few other spellings.
"""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from leakcache.dataset.index import read_index
from leakcache.dataset.records import DatasetIndex, list_folder
from leakcache.encoder.weights import answers
from leakcache.errors import DataError

KAGGLE = "pietrob92/wild-in-the-wild-image-linkage-dataset"
PAGE = f"https://www.kaggle.com/datasets/{KAGGLE}"
IMAGES = 1000
FOLD_IMAGES = {"train": 5000, "val": 2000, "test": 3000}

CLOSED: Mapping[str, tuple[str, ...]] = {
    "Adobe Firefly": ("firefly",),
    "DALL·E 3": ("openai dalle3",),
    "FLUX.1": ("flux", "flux1dev", "flux1schnell"),
    "FLUX 1.1 Pro": ("fluxpro", "fluxpro11"),
    "Freepik": (),
    "Leonardo AI": ("leonardo",),
    "Midjourney": (),
    "Stable Diffusion 3.5": ("sd35",),
    "Stable Diffusion XL": ("sdxl",),
    "Starry AI": ("starry",),
}
OPEN: Mapping[str, tuple[str, ...]] = {
    "DALL·E 1": ("dalle", "dallemini"),
    "Deep AI": (),
    "Hotpot AI": ("hotpot",),
    "NVIDIA Sana PAG": ("sanapag", "nvidiasana", "sana"),
    "Stable Cascade": (),
    "SD Attend & Excite": ("attendandexcite", "attendexcite", "sdattendandexcite"),
    "StyleGAN": ("stylegan1",),
    "StyleGAN2": (),
    "StyleGAN3": (),
    "Tencent Hunyuan": ("hunyuan",),
}
"""Every generator with other spellings of its folder; those of letters, digits and case aside."""

HOW = f"""\
WILD: 20 generators, {IMAGES:,} images each (arXiv 2504.19595).

Get it from {PAGE}
  by hand       download and unpack it there
  by command    pip install kagglehub && leak data wild --download
It asks for a Kaggle account: put your token where kagglehub looks for it, ~/.kaggle/kaggle.json.

Then check it and use it:
  leak data wild FOLDER
  leak cache build --data FOLDER --split all
"""


@dataclass(frozen=True)
class WildFinding:
    """What a copy of WILD lacks ("missing") or has otherwise than published ("odd")."""

    level: Literal["missing", "odd"]
    sentence: str


@dataclass(frozen=True)
class WildCheck:
    """An index of WILD and what was found.

    Attributes:
        index: the copy as it is understood.
        folders: the label in the index of every generator that is there.
        steps: number of post-processed images of each step, 0 where there are none.
        findings: what is missing first.
    """

    index: DatasetIndex
    folders: dict[str, str]
    steps: dict[str, int]
    findings: tuple[WildFinding, ...]

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return all(finding.level != "missing" for finding in self.findings)


def check(folder: Path, seed: int = 0) -> WildCheck:
    """Compare a folder with what WILD should hold.

    Args:
        folder: the download, or a folder that holds it at most three levels below.
        seed: of the fold cut where there is no Split.json.

    Raises:
        DataError: there are no classes of images at all.
    """
    index = read_index(find_sets(folder), seed=seed)
    folders = _folders(index)
    findings = [*_classes(index, folders), *_images(index, folders), *_folds(index)]
    findings.sort(key=lambda finding: finding.level)
    return WildCheck(index, folders, _steps(index.root), tuple(findings))


def find_sets(folder: Path) -> Path:
    """The folder that holds Closed_Set or Open_Set: this one, or the first of those below it."""
    level = [folder]
    for _ in range(4):
        for place in level:
            names = {Path(name).name.casefold() for name in list_folder(place, "").folders}
            if names & {"closed_set", "open_set", "closed set", "open set"}:
                return place
        level = [place / name for place in level for name in sorted(list_folder(place, "").folders)]
    return folder


def download() -> Path:
    """Fetch WILD through kagglehub, which keeps it and resumes; returns where it lies.

    Raises:
        DataError: kagglehub is not installed, Kaggle cannot be reached, or refuses.
    """
    if find_spec("kagglehub") is None:
        raise DataError(
            f"kagglehub is not installed: `pip install kagglehub`, or download {PAGE} by hand and "
            "give its folder"
        )
    if not answers(PAGE):
        raise DataError(
            f"www.kaggle.com cannot be reached from here: download {PAGE} where it can and give "
            "its folder"
        )
    hub = importlib.import_module("kagglehub")
    kinds = importlib.import_module("kagglehub.exceptions")
    refused = (
        OSError,
        ValueError,
        kinds.BackendError,
        kinds.CredentialError,
        kinds.DataCorruptionError,
        kinds.NotFoundError,
        kinds.UnauthenticatedError,
    )
    try:
        # Its words are for people; stdout is for what was asked for.
        with redirect_stdout(sys.stderr):
            return Path(hub.dataset_download(KAGGLE))
    except refused as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"kagglehub could not fetch {KAGGLE} ({said}): download {PAGE} by hand and give its "
            "folder"
        ) from error


def _folders(index: DatasetIndex) -> dict[str, str]:
    """The label of every generator that is there; a spelling of its own goes before others."""
    labels = {_letters(label): label for label in (*index.classes, *index.unknown)}
    found: dict[str, str] = {}
    for name, others in (*CLOSED.items(), *OPEN.items()):
        spelt = [_letters(spelling) for spelling in (name, *others)]
        match = next((labels[letters] for letters in spelt if letters in labels), None)
        if match is not None:
            found[name] = labels.pop(_letters(match))
    return found


def _letters(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _classes(index: DatasetIndex, folders: Mapping[str, str]) -> list[WildFinding]:
    found = []
    for side, names, there in (
        ("Closed_Set", CLOSED, index.classes),
        ("Open_Set", OPEN, index.unknown),
    ):
        for name in names:
            if name not in folders:
                found.append(WildFinding("missing", f"no class {name} in {side}"))
            elif folders[name] not in there:
                found.append(WildFinding("odd", f"{folders[name]} should lie in {side}"))
    known = set(folders.values())
    found += [
        WildFinding("odd", f"{label} is no generator of WILD")
        for label in (*index.classes, *index.unknown)
        if label not in known
    ]
    return found


def _images(index: DatasetIndex, folders: Mapping[str, str]) -> list[WildFinding]:
    found = []
    counts = {label: sum(row.values()) for label, row in index.counts().items()}
    for label in folders.values():
        if counts[label] < IMAGES:
            lacking = f"{label} has {counts[label]} of {IMAGES} images"
            found.append(WildFinding("missing", lacking))
        elif counts[label] > IMAGES:
            found.append(WildFinding("odd", f"{label} has {counts[label]} images, not {IMAGES}"))
    empty = [r.path for r in index.records if not _bytes(index.root / r.path)]
    if empty:
        sentence = f"{len(empty)} files are empty, {empty[0]} for one: download again"
        found.append(WildFinding("missing", sentence))
    suffixes = Counter(Path(record.path).suffix.lower() for record in index.records)
    others = {suffix: count for suffix, count in suffixes.items() if suffix != ".png"}
    if others:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
        found.append(WildFinding("odd", f"{kinds}: all of WILD is PNG, and format tells a class"))
    return found


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _folds(index: DatasetIndex) -> list[WildFinding]:
    found = []
    if not any("Split.json" in part for part in index.layout.split("; ")):
        how = "the folds were cut here, not as published"
        found.append(WildFinding("missing", f"no Split.json: {how}"))
    counts = Counter(record.fold for record in index.records)
    wrong = [f"{fold} {counts[fold]}" for fold, due in FOLD_IMAGES.items() if counts[fold] != due]
    if wrong:
        due = "/".join(f"{number:,}" for number in FOLD_IMAGES.values())
        found.append(WildFinding("odd", f"folds are not {due}: {', '.join(wrong)}"))
    if index.crossing_groups:
        sentence = f"{len(index.crossing_groups)} prompts have images in several folds"
        found.append(WildFinding("odd", f"{sentence}, {index.crossing_groups[0]} for one"))
    return found


def _steps(root: Path) -> dict[str, int]:
    steps = {}
    for step in ("step1", "step2", "step3"):
        try:
            steps[step] = len(read_index(root / step).records)
        except DataError:
            steps[step] = 0
    return steps
