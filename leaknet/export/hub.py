"""Runs on the hub: pushed with a model card, and fetched and checked like a run on this disk.

Tensors are safetensors and tables HDF5, JSON or TOML: nothing is unpickled.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from leakcache.encoder.weights import answers
from leakcache.errors import RunError
from leakcache.files import parse_json
from leaknet.checksums import CHECKSUMS, read_text, verify

CARD = "README.md"
NEEDED = ("config.toml", "classes.json", "model.safetensors", CHECKSUMS, "embeddings.h5")
OPTIONAL = (
    "scorers.safetensors",
    "calibration.safetensors",
    "relations.safetensors",
    "range.json",
    "families.toml",
    "enrolment.json",
    "history.jsonl",
    "metrics.json",
)
FILES = (CARD, *NEEDED, *OPTIONAL)


def push_run(
    run: Path, target: str, *, private: bool = False, endpoint: str | None = None
) -> tuple[str, list[str]]:
    """Copy a run to a repository of the hub, or into a folder; where it is, and its files.

    README.md of the run is its model card: it is written where there is none, so that changes of
    the user, such as the licence, are kept.

    Args:
        run: folder of a trained run.
        target: hub id `owner/name`, or a folder: an existing one, or a path with . / or ~ first.
        private: create a private repository.
        endpoint: of the hub, HF_ENDPOINT without.

    Raises:
        RunError: the run is incomplete or damaged, or the hub refuses or cannot be reached.
    """
    names = _present(run)
    if not (run / CARD).is_file():
        from leaknet.files import write_text

        write_text(run / CARD, model_card(run))
    names = list(dict.fromkeys([CARD, *names]))
    if target.startswith((".", "/", "~")) or Path(target).is_dir():
        folder = Path(target).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copyfile(run / name, folder / name)
        return str(folder), names
    return _upload(run, target, names, private, endpoint), names


def model_card(folder: Path) -> str:
    """The card of a run; figures of the test fold where it is scored, else of validation.

    Raises:
        RunError: the folder is no run, or damaged.
    """
    # These import torch, which takes a second that a refusal need not.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from leaknet.model.run_record import RunRecord
    from leaknet.report.metric_labels import CLOSED, OPEN, Figure, interval_text
    from leaknet.report.related import Related, find_related
    from leaknet.report.run_data import ScoredRun

    record, scored = RunRecord.read(folder), None
    with suppress(RunError):
        scored = ScoredRun.read(folder)
    templates = Environment(
        loader=PackageLoader("leaknet.report"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters |= {"code": _code, "plain": _plain}
    return templates.get_template("card.md.jinja").render(
        name=folder.resolve().name,
        record=record,
        metrics=_metrics(folder),
        related=find_related(scored) if scored else Related(),
        closed=CLOSED,
        open=OPEN,
        figure_of=Figure.of,
        interval_text=interval_text,
    )


def _metrics(folder: Path) -> dict[str, Any]:
    path = folder / "metrics.json"
    if not path.is_file():
        return {}
    try:
        found: dict[str, Any] = parse_json(read_text(path))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error}); run `leak score` again") from error
    return found


def _code(text: str) -> str:
    """A value as Markdown code on one line."""
    return f"`{' '.join(text.replace('`', chr(39)).split())}`"


def _plain(text: str) -> str:
    """Text on one line that Markdown shows as it is."""
    line = " ".join(str(text).split())
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in line)


def _present(run: Path) -> list[str]:
    """Files of a run that is complete, each in agreement with its checksum."""
    for name in NEEDED:
        if not (run / name).is_file():
            raise RunError(f"{run} has no {name}: run `leak train --run {run}` to the end")
    names = [name for name in FILES if (run / name).is_file()]
    for name in names:
        verify(run / name)
    return names


def _upload(
    run: Path, repository: str, names: list[str], private: bool, endpoint: str | None
) -> str:
    from huggingface_hub import HfApi, constants

    place = endpoint or constants.ENDPOINT
    if constants.HF_HUB_OFFLINE or not answers(place):
        raise RunError(
            f"{repository}: the hub at {place} cannot be reached; name a folder, such as "
            "./my-run, to push to"
        )
    api = HfApi(endpoint=place)
    try:
        url = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=run,
            allow_patterns=names,
            commit_message="Push a run of leak",
        )
    except _client_errors() as error:
        raise RunError(
            f"{repository}: the hub refused the run ({_reason(error)}); see `hf auth login`"
        ) from error
    return str(url)


def local_run(given: str | Path) -> Path:
    """The folder of a run that is named by its path or, where there is no such path, by a hub id.

    Raises:
        RunError: as `fetch_run`.
    """
    path, text = Path(given), str(given)
    owner, _, name = text.partition("/")
    plain = owner and name and "/" not in name and not text.startswith((".", "~"))
    if path.exists() or not plain or Path(owner).exists():
        return path
    return fetch_run(text)


def fetch_run(
    repository: str, *, endpoint: str | None = None, cache_dir: Path | None = None
) -> Path:
    """Download the newest version of a run, or take the one on this disk where the hub is far.

    Args:
        repository: hub id.
        endpoint: of the hub, HF_ENDPOINT without.
        cache_dir: of the hub's client, its own without.

    Raises:
        RunError: it cannot be had, lacks a file, or a file disagrees with its checksum.
    """
    from huggingface_hub import constants, snapshot_download

    reachable = not constants.HF_HUB_OFFLINE and answers(endpoint or constants.ENDPOINT)
    try:
        snapshot = snapshot_download(
            repository,
            allow_patterns=list(FILES),
            endpoint=endpoint,
            cache_dir=cache_dir,
            local_files_only=not reachable,
        )
    except _client_errors() as error:
        why = f"the hub says {_reason(error)}" if reachable else "the hub cannot be reached"
        raise RunError(
            f"{repository} is no run folder here, and {why}; train a run, or download it with "
            f"`hf download {repository} --local-dir DIR` where there is a network"
        ) from error
    folder = Path(snapshot)
    for name in NEEDED:
        if not (folder / name).is_file():
            raise RunError(f"{repository} is no run of leak: the repository has no {name}")
    for name in FILES:
        if os.path.lexists(folder / name):
            verify(folder / name)
    return folder


def _client_errors() -> tuple[type[Exception], ...]:
    """Errors of the hub's client; a lost connection is one of the HTTP library that it uses."""
    from huggingface_hub.errors import HfHubHTTPError

    bases = [kind for kind in HfHubHTTPError.__bases__ if issubclass(kind, Exception)]
    return (OSError, ValueError, *bases)


def _reason(error: BaseException) -> str:
    """The first line of an error of the hub's client."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}"[:200] if lines else type(error).__name__
