"""Everything that `leak` refuses to do, as one tree.

    LeakError
    ├── DataError         the data root, an index file or a split cannot be understood
    ├── ImageError        one image cannot be used; the rest of the work goes on
    ├── WeightsError      an autoencoder or backbone cannot be had
    ├── CacheError        a latent cache cannot be used
    │   ├── CacheIncomplete   its build has not finished
    │   ├── CacheBusy         another process writes to it
    │   ├── CacheStale        images, weights or preprocessing have changed since
    │   └── CacheCorrupt      its bytes do not match their checksums
    ├── ConfigError       a setting is unknown or out of range
    ├── RunError          a run folder is missing, incomplete or belongs to another cache
    ├── TrainingError     training cannot start or cannot go on
    └── ScoringError      scores cannot be computed from what was given

Leaves also inherit the builtin that they resemble, so that callers who do not know
`leak` can still catch them. A message is one line: what happened, where, and the cure.
"""

from __future__ import annotations


class LeakError(Exception):
    """Root of all errors that `leak` raises on purpose."""


class DataError(LeakError, ValueError):
    """The data root, an index file or a split cannot be understood."""


class ImageError(LeakError, ValueError):
    """One image cannot be used; its message is the reason listed among the rejects."""


class WeightsError(LeakError, FileNotFoundError):
    """The weights of an autoencoder or backbone cannot be had."""


class CacheError(LeakError, ValueError):
    """A latent cache cannot be used."""


class CacheIncomplete(CacheError):
    """The build of a cache has not finished."""


class CacheBusy(CacheError):
    """Another process writes to a cache."""


class CacheStale(CacheError):
    """Images, weights or preprocessing have changed since the cache was built."""


class CacheCorrupt(CacheError):
    """Stored bytes do not match their checksums or their manifest."""


class ConfigError(LeakError, ValueError):
    """A setting is unknown or out of range."""


class RunError(LeakError, ValueError):
    """A run folder is missing, incomplete or belongs to another cache."""


class TrainingError(LeakError, RuntimeError):
    """Training cannot start, or cannot go on."""


class ScoringError(LeakError, ValueError):
    """Scores cannot be computed from what was given."""


class DecoderWarning(UserWarning):
    """Stored images were decoded by other versions of the libraries than this process has."""
