"""Images, archives and tables by URL: copied to a local folder once, and read there."""

from __future__ import annotations

import re
from pathlib import Path

from leakcache.dataset.archives import expanded
from leakcache.dataset.folders import IMAGE_SUFFIXES, UNPACKED
from leakcache.dataset.table_file import SUFFIXES
from leakcache.errors import CacheError
from leakcache.progress import track
from leakcache.store.remote import Mirror, is_url, local_path, mirror_name

_FILES = (*UNPACKED, *SUFFIXES, *IMAGE_SUFFIXES)
_INSIDE = re.compile(r"(?!.*(^|/)\.\.?(/|$))[^/].*[^/]")


def local_images(text: str, caches: Path = Path("caches")) -> Path:
    """The path that a text names: of a URL that of its copy below the folder of caches.

    Raises:
        CacheError, ConfigError: as `copy_images` and `local_path`.
    """
    if is_url(text):
        return copy_images(text, caches / f"images-{mirror_name(text)}")
    return Path(local_path(text))


def copy_images(url: str, folder: Path) -> Path:
    """Copy images, archives or tables to a local folder; what is there and unchanged stays.

    Args:
        url: of a folder, a file, or several as in `s3://bucket/shards/{0000..0099}.tar`.
        folder: for this URL alone.

    Returns:
        The local folder, file or pattern.

    Raises:
        CacheError: there is nothing, or the store cannot be reached or refuses; says why.
        ConfigError: obstore is not installed, or the URL is malformed.
    """
    base, wanted = _split(url.rstrip("/"))
    mirror = Mirror.found(folder, base) or Mirror(folder, base, {})
    if wanted and "{" not in wanted:
        found = mirror.objects.head(wanted)
    else:
        names = {str(path) for path in expanded(wanted)} if wanted else set()
        found = mirror.listed("", _INSIDE)
        found = {key: one for key, one in found.items() if not names or key in names}
    if not found:
        raise CacheError(f"{url}: there are no objects: check the URL")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with track("copying", len(found), "objects") as advance:
            mirror.update(found, list(found), advance)
    finally:
        mirror.save()
    return folder / wanted


def _split(url: str) -> tuple[str, str]:
    """URL of a folder, and the file or pattern of files in it; empty for the folder itself."""
    scheme, _, rest = url.partition("://")
    parts = rest.split("/")
    braces = [n for n, part in enumerate(parts) if "{" in part]
    is_file = parts[-1].lower().endswith(_FILES) and len(parts) > 1
    place = braces[0] if braces else len(parts) - is_file
    return f"{scheme}://{'/'.join(parts[:place])}", "/".join(parts[place:])
