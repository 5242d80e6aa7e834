"""Image files, also inside tar archives and Parquet files, which are read in place; on threads.

A path below an archive names one of its images, as if the archive were a folder:

    shards/0007.tar/flux/00012.png              a member of a tar archive without compression
    train-00003.parquet/image/000000012         row 12 of the column `image`
    train-00003.parquet/images/000000012-1      the second of a list of images in that row
"""

from __future__ import annotations

import errno
import hashlib
import importlib
import os
import stat
import tarfile
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path, PurePath
from threading import Lock
from typing import Any, TypeVar

from leakcache.files import read_bytes

FILE_LIMIT = 2**31
"""Most bytes of an image file that are read."""
GROUP_LIMIT = 2**32
"""Most bytes of a row group that are read."""
TAR = (".tar",)
PARQUET = (".parquet",)
_OPEN = 64
"""Tables of contents in memory at most."""
_GROUPS = 2
"""Row groups of a Parquet file in memory at most."""


@dataclass(frozen=True)
class Member:
    """A regular file in a tar archive.

    Attributes:
        name: its path there, without `.`, `..` and leading slashes.
        offset: of its bytes in the archive.
        size: their number.
        problem: why it cannot be used, such as a link; empty for most.
    """

    name: str
    offset: int
    size: int
    problem: str = ""


def archive_of(path: PurePath) -> tuple[Path, str] | None:
    """The archive and the name in it, where one of the folders of a path is named like one."""
    for place, part in enumerate(path.parts[:-1], start=1):
        if part.lower().endswith((*TAR, *PARQUET)) and not Path(*path.parts[:place]).is_dir():
            return Path(*path.parts[:place]), "/".join(path.parts[place:])
    return None


def read_image(path: Path) -> bytes:
    """Bytes of an image file, or of an image in an archive.

    Raises:
        OSError: it is missing, cannot be read, or has more than `FILE_LIMIT` bytes.
    """
    found = archive_of(path)
    if found is None:
        return read_bytes(path, FILE_LIMIT)
    archive, name = found
    if archive.name.lower().endswith(PARQUET):
        column, _, row = name.rpartition("/")
        return _parquet(archive, _time(archive)).read(column, row)
    return read_member(archive, _members(archive, name))


def image_exists(path: Path) -> bool:
    """Whether there is a file, or an archive that has the image."""
    found = archive_of(path)
    if found is None:
        return path.is_file()
    archive, name = found
    try:
        if archive.name.lower().endswith(PARQUET):
            column, _, row = name.rpartition("/")
            return _parquet(archive, _time(archive)).has(column, row)
        return bool(_members(archive, name))
    except OSError:
        return False


def image_stat(path: Path) -> tuple[int | None, int]:
    """Bytes of an image, None where it lies in an archive, and when its file was changed, in ns.

    Raises:
        OSError: there is no such file.
    """
    if found := archive_of(path):
        return None, _time(found[0])
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def tar_members(archive: Path) -> Iterator[Member]:
    """The members of a tar archive without compression, links and special files with their problem.

    Raises:
        OSError, tarfile.TarError: it cannot be read, or is cut off.
    """
    if not stat.S_ISREG(archive.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(archive))
    seen = set[str]()
    with tarfile.open(archive, "r:") as file:
        for member in file:
            if member.isdir():
                continue
            name = "/".join(p for p in member.name.split("/") if p not in ("", ".", ".."))
            problem = _problem(member, name)
            if not problem and name in seen:
                problem = "the archive has two members of this name"
            seen.add(name)
            yield Member(name, member.offset_data, member.size, problem)


def read_member(archive: Path, member: Member) -> bytes:
    """Bytes of a member of a tar archive without compression; raises OSError."""
    if member.problem:
        raise OSError(errno.EINVAL, member.problem, str(archive))
    if member.size > FILE_LIMIT:
        raise OSError(errno.EFBIG, f"it has more than {FILE_LIMIT:,} bytes", str(archive))
    with archive.open("rb") as file:
        file.seek(member.offset)
        data = file.read(member.size)
    if len(data) < member.size:
        raise OSError(errno.EIO, "the archive is cut off", str(archive))
    return data


def has_end_mark(archive: Path) -> bool:
    """Whether a tar archive ends with the zeros that close it: one that is cut does not."""
    with archive.open("rb") as file:
        file.seek(-min(1024, archive.stat().st_size), os.SEEK_END)
        return not any(file.read())


def _problem(member: tarfile.TarInfo, name: str) -> str:
    if member.issym() or member.islnk():
        return "is a link"
    if not member.isreg() or member.issparse():
        return "is no regular file"
    if any("\ud800" <= character <= "\udfff" for character in name):
        return "the name is not valid UTF-8"
    return ""


def _time(archive: Path) -> int:
    return archive.stat().st_mtime_ns


def _members(archive: Path, name: str) -> Member:
    found = _contents(archive, _time(archive)).get(name)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, "the archive has no such member", str(archive))
    return found


@lru_cache(_OPEN)
def _contents(archive: Path, time: int) -> dict[str, Member]:
    try:
        return {member.name: member for member in tar_members(archive) if not member.problem}
    except tarfile.TarError as error:
        raise OSError(errno.EIO, f"the archive is damaged: {error}", str(archive)) from error


@lru_cache(_OPEN)
def _parquet(archive: Path, time: int) -> _Parquet:
    return _Parquet(archive)


class _Parquet:
    """Reads single images of a Parquet file, with its last row groups in memory."""

    def __init__(self, path: Path) -> None:
        try:
            parquet = importlib.import_module("pyarrow.parquet")
            self._file = parquet.ParquetFile(path)
        except (ImportError, ValueError) as error:
            raise OSError(errno.EIO, " ".join(str(error).split()), str(path)) from error
        metadata = self._file.metadata
        rows = (metadata.row_group(n).num_rows for n in range(metadata.num_row_groups))
        self._ends, self._path = list(accumulate(rows)), path
        self._groups: OrderedDict[tuple[str, int], Any] = OrderedDict()
        self._lock = Lock()

    def has(self, column: str, row: str) -> bool:
        """Whether there is a row of this number."""
        number = row.partition("-")[0]
        names = self._file.schema_arrow.names
        return column in names and number.isdecimal() and int(number) < self._ends[-1]

    def read(self, column: str, row: str) -> bytes:
        """Bytes of the image in a row; raises OSError."""
        number, _, place = row.partition("-")
        if not self.has(column, row):
            raise FileNotFoundError(errno.ENOENT, "it has no such row", str(self._path))
        group = bisect_right(self._ends, int(number))
        first = self._ends[group - 1] if group else 0
        value = self._group(column, group)[int(number) - first].as_py()
        if isinstance(value, list):
            value = value[int(place or 0)] if int(place or 0) < len(value) else None
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes) or not data:
            raise OSError(errno.ENODATA, "the row has no image", str(self._path))
        return data

    def _group(self, column: str, group: int) -> Any:
        with self._lock:
            if (column, group) not in self._groups:
                if self._file.metadata.row_group(group).total_byte_size > GROUP_LIMIT:
                    words = f"a row group has more than {GROUP_LIMIT:,} bytes"
                    raise OSError(errno.EFBIG, words, str(self._path))
                try:
                    table = self._file.read_row_group(group, columns=[column])
                except ValueError as error:
                    reason = " ".join(str(error).split())
                    raise OSError(errno.EIO, f"it is damaged: {reason}", str(self._path)) from error
                self._groups[column, group] = table.column(column)
                while len(self._groups) > _GROUPS:
                    self._groups.popitem(last=False)
            return self._groups[column, group]


Item = TypeVar("Item")
Result = TypeVar("Result")

THREADS = min(16, os.cpu_count() or 2)
AHEAD = 32
"""Results in flight at most: bounds memory whatever the number of items."""


def hash_file(path: Path) -> str:
    """sha256 of a file's bytes; empty where it cannot be read."""
    try:
        return hashlib.sha256(read_image(path)).hexdigest()
    except OSError:
        return ""


def in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    ahead: int = AHEAD,
    threads: int = THREADS,
) -> Generator[Result]:
    """Map over items on threads, in order, never more than `ahead` results in memory."""
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as executor:
        try:
            for item in items:
                pending.append(executor.submit(function, item))
                if len(pending) >= ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
