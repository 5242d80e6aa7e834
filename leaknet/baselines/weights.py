"""Folders of models as their libraries save them: below --weights, or from the hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from leakcache.encoder.weights import answers
from leakcache.errors import WeightsError


def model_folder(repository: str, files: Sequence[str], weights: Path | None) -> Path:
    """The folder that holds these files of a repository, which are never pickles.

    Args:
        repository: id on the hub; below `weights` its folder has the name after the slash.
        files: paths in the repository, all of which are needed.
        weights: folder of local weights; None for the hub, or what was fetched before.

    Raises:
        WeightsError: a file is not there and cannot be had.
    """
    if weights is not None:
        folder = weights / repository.rpartition("/")[2]
        lacking = [file for file in files if not (folder / file).is_file()]
        if lacking:
            raise WeightsError(
                f"{folder / lacking[0]} is not there: run `hf download {repository} "
                f"--local-dir {folder}` where there is a network"
            )
        return folder
    return _from_hub(repository, files)


def _from_hub(repository: str, files: Sequence[str]) -> Path:
    from huggingface_hub import constants

    try:
        return _fetched(repository, files, local=True)
    except (OSError, ValueError):
        online = not constants.HF_HUB_OFFLINE and answers(constants.ENDPOINT)
    reason = "the hub cannot be reached"
    try:
        if online:
            return _fetched(repository, files, local=False)
    except (OSError, ValueError) as error:
        reason = f"the hub says {type(error).__name__}"
    raise WeightsError(
        f"{repository} is not on this disk and {reason}: run `hf download {repository} "
        f"--local-dir DIR/{repository.rpartition('/')[2]}` where there is a network and pass "
        "--weights DIR"
    )


def _fetched(repository: str, files: Sequence[str], *, local: bool) -> Path:
    from huggingface_hub import hf_hub_download

    paths = [Path(hf_hub_download(repository, file, local_files_only=local)) for file in files]
    return paths[0].parents[files[0].count("/")]
