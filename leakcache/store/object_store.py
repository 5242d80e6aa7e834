"""Objects under a URL of S3, Google or Azure: listed, read, replaced by version; needs obstore."""

from __future__ import annotations

import importlib
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from threading import Lock
from typing import Any, TypeVar

from leakcache.errors import CacheBusy, CacheError, CacheStale, ConfigError
from leakcache.images.archive import in_order
from leakcache.names import visible

TRIES = 4
"""Times that a request is made before a fault of server or network is reported."""
TIMEOUT = 60.0
"""Seconds for one object."""

THREADS = 8
"""Requests at once."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def on_threads(
    function: Callable[[Item], object],
    items: Iterable[Item],
    advance: Callable[[int], object] = lambda count: None,
) -> None:
    """Make a request for each item, several at once; raises what the first of them raises."""
    for _ in in_order(function, items, threads=THREADS):
        advance(1)


class ObjectStore:
    """The objects under a URL; safe in threads.

    All methods raise CacheError where the store cannot be reached or refuses, and ConfigError where
    obstore is not installed or the URL is malformed.

    Attributes:
        url: without a slash at the end.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._lock = Lock()
        self._client: Any = None

    def list(self, folder: str = "") -> dict[str, tuple[str, int]]:
        """Version, and time in ns, of each object in a folder by its key; of all by default."""

        def listed() -> dict[str, tuple[str, int]]:
            batches = self._obstore.list(self._opened, folder or None)
            objects = (one for batch in batches for one in batch)
            return {one["path"]: _version(one) for one in objects}

        return self._request(listed, self.url)

    def head(self, key: str) -> dict[str, tuple[str, int]]:
        """As `list`, of one object; empty where there is none."""

        def found() -> dict[str, tuple[str, int]]:
            try:
                return {key: _version(self._obstore.head(self._opened, key))}
            except FileNotFoundError:
                return {}

        return self._request(found, self._where(key))

    def get(self, key: str, version: str) -> bytes:
        """Content of an object.

        Raises:
            CacheStale: it has another version now.
        """

        def got() -> bytes:
            found = self._obstore.get(self._opened, key, options={"if_match": version})
            return bytes(found.bytes())

        where = self._where(key)
        try:
            return self._request(got, where)
        except self._errors.PreconditionError as error:
            raise CacheStale(f"{where}: was replaced meanwhile; run the command again") from error

    def read(self, key: str) -> tuple[bytes, str]:
        """Content and version of an object; both empty where there is none."""

        def got() -> tuple[bytes, str]:
            try:
                found = self._obstore.get(self._opened, key)
            except FileNotFoundError:
                return b"", ""
            return bytes(found.bytes()), _version(found.meta)[0]

        return self._request(got, self._where(key))

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; those that are not there do not matter."""

        def delete(some: Sequence[str]) -> None:
            try:
                self._obstore.delete(self._opened, some)
            except FileNotFoundError:
                if len(some) > 1:  # the others may be left
                    on_threads(lambda key: delete([key]), some)

        if todo := list(keys):
            self._request(lambda: delete(todo), self._where(todo[0]))

    def put(self, key: str, data: bytes, version: str) -> str:
        """Replace a version of an object, or create it where the version is empty.

        Returns:
            The new version.

        Raises:
            CacheBusy: it has another version with other content, or is there already.
        """

        def put() -> str:
            mode = self._replacing(key, version) if version else "create"
            done = self._obstore.put(self._opened, key, data, mode=mode, use_multipart=False)
            return _quoted(done["e_tag"])

        where = self._where(key)
        try:
            return self._request(put, where)
        except (self._errors.PreconditionError, self._errors.AlreadyExistsError) as error:
            # The answer to an upload that succeeded may have been lost: the same bytes are ours.
            content, found = self.read(key)
            if content != data:
                raise CacheBusy(
                    f"{where}: another process has written it meanwhile; run the command again"
                ) from error
            return found

    def _replacing(self, key: str, version: str) -> dict[str, str]:
        """What obstore takes for the version to replace."""
        if not self.url.startswith("gs:"):
            return {"e_tag": version}
        # Google replaces by its own number of the version, which lists do not have.
        try:
            there = self._obstore.head(self._opened, key)
        except FileNotFoundError:
            there = {"e_tag": "", "version": "0"}
        if _quoted(there["e_tag"]) != version:
            raise self._errors.PreconditionError(f"{key}: has another version")
        return {"e_tag": version, "version": str(there["version"])}

    def _where(self, key: str) -> str:
        return f"{self.url}/{visible(key)}"

    def _request(self, function: Callable[[], Result], where: str) -> Result:
        """Call a function, again where a server or the network fails.

        Raises:
            CacheError: it goes on failing, or there is no use in trying again.
            PreconditionError, AlreadyExistsError: of obstore, for the caller.
        """
        for attempt in range(1, TRIES + 1):
            try:
                return function()
            except (self._errors.PreconditionError, self._errors.AlreadyExistsError):
                raise
            except (self._errors.BaseError, OSError) as error:
                reason, final = _reason(str(error))
                if final or isinstance(error, FileNotFoundError) or attempt == TRIES:
                    raise CacheError(f"{where}: {reason}") from error
            time.sleep(0.2 * 2**attempt)
        raise AssertionError("not reached")

    @property
    def _obstore(self) -> Any:
        return _module("obstore")

    @property
    def _errors(self) -> Any:
        return _module("obstore.exceptions")

    @property
    def _opened(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = _connect(self.url)
            return self._client


def _version(about: Mapping[str, Any]) -> tuple[str, int]:
    return _quoted(about["e_tag"]), int(about["last_modified"].timestamp() * 1e9)


def _quoted(e_tag: Any) -> str:
    """An entity tag as a header has it: lists of Azure leave out the quotes."""
    text = str(e_tag)
    return text if text.endswith('"') else f'"{text}"'


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError('caches by URL need obstore: pip install "leaknet[objects]"') from error


def _connect(url: str) -> Any:
    stores = _module("obstore.store")
    client = {
        "timeout": timedelta(seconds=TIMEOUT),
        "connect_timeout": timedelta(seconds=10),
        "allow_http": True,  # where an endpoint says so
    }
    retry = {"max_retries": 2, "retry_timeout": timedelta(seconds=TIMEOUT)}
    options: dict[str, Any] = {"client_options": client, "retry_config": retry}
    if url.startswith("s3://") and not _has_keys():
        options["credential_provider"] = _profile(url)
    try:
        return stores.from_url(url, **options)
    except (_module("obstore.exceptions").BaseError, ValueError) as error:
        raise ConfigError(f"{url}: {_reason(str(error))[0]}") from error


def _has_keys() -> bool:
    return bool({"AWS_ACCESS_KEY_ID", "AWS_SKIP_SIGNATURE"} & set(os.environ))


def _profile(url: str) -> Any:
    """Credentials of a profile or role, as boto3 finds them."""
    try:
        return _module("obstore.auth.boto3").Boto3CredentialProvider()
    except (ConfigError, ValueError) as error:
        raise CacheError(f"{url}: {NO_CREDENTIALS}") from error


NO_CREDENTIALS = (
    "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE, with boto3 "
    "installed), or AWS_SKIP_SIGNATURE=true for a public bucket"
)
OTHER_REGION = "the bucket is in another region: set AWS_REGION to its region"
_KNOWN = (
    ("ExpiredToken", "the credentials have expired: get new ones", True),
    ("NoSuchBucket", "there is no such bucket: check the URL", True),
    ("ContainerNotFound", "there is no such container: check the URL", True),
    ("InvalidAccessKeyId", "the access key is not known: check the credentials", True),
    ("SignatureDoesNotMatch", "the secret key is wrong: check the credentials", True),
    ("AccessDenied", "access is denied: check the credentials and their rights", True),
    ("403 Forbidden", "access is denied: check the credentials and their rights", True),
    ("redirect", OTHER_REGION, True),
    ("AuthorizationHeaderMalformed", OTHER_REGION, True),
    ("Unable to recognise URL", "names no bucket: write it as s3://bucket/name", True),
    ("MissingSecretAccessKey", NO_CREDENTIALS, True),
    ("169.254.169.254", NO_CREDENTIALS, True),
    ("metadata.google.internal", "no credentials: set GOOGLE_APPLICATION_CREDENTIALS", True),
    ("NoSuchKey", "there is no such object any more; run the command again", True),
    ("timed out", f"no answer within {TIMEOUT:.0f} s, {TRIES} times: try again later", False),
)


def _reason(text: str) -> tuple[str, bool]:
    """Why a request failed, in one line, and whether another try is of no use."""
    for mark, words, final in _KNOWN:
        if mark in text:
            return words, final
    if status := re.search(r"status code: (5\d\d [A-Za-z ]+)", text):
        return f"the server answers {status[1].strip()}, {TRIES} times: try again later", False
    why = " ".join(text.split())[:160]
    return f"cannot be reached ({why}), {TRIES} times: check the network and the endpoint", False
