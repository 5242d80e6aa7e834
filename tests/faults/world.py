"""A small data set with its cache and run, and `leak` commands on it that faults are put into."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from tiny_data import save, tiny_model, write_images  # noqa: E402

LABELS = ("ada", "bob", "cyd")


@dataclass(frozen=True)
class Outcome:
    """What a command did.

    Attributes:
        code: exit status; negative where a signal ended it.
        out, err: what it printed.
        seconds: wall time.
        cpu: seconds of computing.
        mebibytes: peak of memory above that of a process with all libraries.
    """

    code: int
    out: str
    err: str
    seconds: float
    cpu: float
    mebibytes: float

    @property
    def refused(self) -> bool:
        """Whether it ended with status 1 and one line that begins with `error:`."""
        return self.code == 1 and self.lines("error:") == 1 and "Traceback" not in self.err

    @property
    def interrupted(self) -> bool:
        """Whether it ended with status 1 and one line that begins with `interrupted:`."""
        return self.code == 1 and self.lines("interrupted:") == 1 and "Traceback" not in self.err

    def lines(self, start: str) -> int:
        """Lines on stderr that begin so."""
        return sum(line.startswith(start) for line in self.err.splitlines())


class Leak:
    """`leak` commands, run one after another in forks of a process that is started once."""

    def __enter__(self) -> Leak:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.fork_server"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._process:  # closes its pipes and waits
            pass

    def run(self, cwd: Path, *argv: str, signal: int | None = None, after: float = 0.0) -> Outcome:
        """Run one command in `cwd`, and send it `signal` after so many seconds."""
        return self._run(cwd, [argv], signal=signal, after=after)[0]

    def run_together(self, cwd: Path, *commands: tuple[str, ...]) -> list[Outcome]:
        """Run commands in `cwd` that start at the same time."""
        return self._run(cwd, commands, signal=None, after=0.0)

    def _run(self, cwd: Path, commands: Sequence[tuple[str, ...]], **request: Any) -> list[Outcome]:
        assert self._process.stdin is not None
        request |= {"commands": commands, "cwd": str(cwd)}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return [Outcome(**one) for one in self._answer()]

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process that runs the commands has ended"
        return json.loads(line)


TINY = tuple(
    f"--set={setting}"
    for setting in (
        "latents.backbone=test_resnet",
        "head.dimension=8",
        "head.prototypes=2",
        "train.epochs=3",
        "train.batch_size=8",
    )
)
"""Settings under which a training takes about a second."""

BUILD = ("cache", "build", "--data", "images", "--vae", "vae", "--size", "64", "--for", "paper")
FILL = (*BUILD[:-2], "--columns", "pixels_resize256")
TRAIN = ("train", "--preset", "paper", "--run", "runs/r", *TINY)
SCORE = ("score", "--kde", "--run", "runs/r", "--open", "unknown", "--json")
SCORE_IMAGE = ("score", "unknown/eve/9001.png", "images/ada/003.png", "--run", "runs/r", "--json")
ENROLL = ("enroll", "eve", "unknown/eve", "--run", "runs/r")
EVALUATE = ("evaluate", "--preset", "paper", "--seeds", "1", "--out", "eval", "--json", *TINY)
EVALUATE += ("--open", "unknown")
CACHE = "caches/images-vae-resize64"
COMMANDS = {
    "build": ("empty", BUILD),
    "fill": ("build", FILL),
    "train": ("build", TRAIN),
    "score": ("train", SCORE),
    "enroll": ("score", ENROLL),
    "evaluate": ("build", EVALUATE),
}
"""State that each command begins from, and its words."""


LOCKS = (".lock", ".checksums.lock")


def make_world(folder: Path) -> Path:
    """Images of three known generators and an unknown one, and a tiny autoencoder."""
    folder.mkdir(parents=True)
    save(tiny_model(), folder / "vae")
    write_images(folder / "images", LABELS, 24)
    write_images(folder / "unknown", ("eve",), 6, first=9000)
    return folder


def copy_world(world: Path, target: Path) -> Path:
    """A copy of a world, times of files included; images and weights are the same files."""
    target.mkdir(exist_ok=True)
    for path in world.iterdir():
        if path.name in ("images", "unknown", "vae"):
            (target / path.name).symlink_to(path.resolve())
        elif path.is_dir():
            shutil.copytree(path, target / path.name, symlinks=True)
        else:
            shutil.copy2(path, target / path.name)
    return target


def empty(folder: Path) -> None:
    """Remove all in a folder, which may be a mount point."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def content(folder: Path, *, but: tuple[str, ...] = LOCKS) -> dict[str, str]:
    """Hash of every file below a folder, by its path, those with some names left out."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in but
    }


def state(world: Path) -> dict[str, str]:
    """Hash of every file that the commands wrote, without what tells how long they took."""
    found = {}
    for folder in ("caches", "runs", "eval"):
        for path in sorted((world / folder).rglob("*")):
            if path.is_file() and path.name not in (*LOCKS, "checksums.json"):
                name = path.relative_to(world).as_posix()
                found[name] = hashlib.sha256(timeless(path)).hexdigest()
    return found


TIMES = ("seconds", "images_per_second", "facts", "build", "elapsed", "sha256")
"""Keys that differ between two runs of the same command, and checksums over them."""


def timeless(path: Path) -> bytes:
    """Bytes of a file; of JSON its content without times."""
    data = path.read_bytes()
    if path.name in ("manifest.json", "evaluation.json", "rows.json"):
        return repr(_timeless(json.loads(data))).encode()
    if path.name in ("enrolment.json", "latest"):
        return re.sub(rb"@\d+", b"@2", data)  # a second version differs in its name alone
    if path.name == "history.jsonl":
        return repr([_timeless(json.loads(line)) for line in data.splitlines()]).encode()
    return data


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in TIMES}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


class Stages:
    """The states of one world between the commands, which faults begin from.

    All commands run in the same folder, since paths stand in what they write.
    """

    def __init__(self, folder: Path, leak: Leak) -> None:
        self.leak, self.world, self._kept = leak, folder / "world", folder / "kept"
        self._states: dict[str, dict[str, str]] = {}
        self._outcomes: dict[str, Outcome] = {}
        make_world(folder / "files")
        self._kept.mkdir()
        copy_world(folder / "files", self.world)
        self.keep("empty")

    def state(self, name: str) -> dict[str, str]:
        """Hash of every file after a command; see `state`."""
        self._need(name)
        return self._states[name]

    def outcome(self, name: str) -> Outcome:
        """What a command did."""
        self._need(name)
        return self._outcomes[name]

    def _need(self, name: str) -> None:
        """Run a command, unless it has been run, without a change of the world."""
        if name not in COMMANDS or name in self._states:
            return
        before, argv = COMMANDS[name]
        self._need(before)
        aside = self.world.rename(self._kept / f"before {name}")
        self.reset(before)
        self._outcomes[name] = outcome = self.leak.run(self.world, *argv)
        assert outcome.code == 0, f"{name}: {outcome.err}"
        self.keep(name)
        self._states[name] = state(self.world)
        shutil.rmtree(self.world)
        aside.rename(self.world)

    def keep(self, name: str) -> None:
        """Remember the world as it is under a name."""
        shutil.rmtree(self._kept / name, ignore_errors=True)
        copy_world(self.world, self._kept / name)

    def reset(self, name: str) -> None:
        """Bring the world to a remembered state, or to that after a command."""
        self._need(name)
        empty(self.world)
        copy_world(self._kept / name, self.world)
