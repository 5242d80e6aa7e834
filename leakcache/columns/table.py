"""The table of columns that `leak cache build` fills."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from leakcache.columns.column import Column
from leakcache.columns.latents import Z0
from leakcache.columns.pixels import CROPS, RESIZED
from leakcache.columns.statistics import (
    ActivationStatistics,
    DegradedActivationStatistics,
    DegradedPixelStatistics,
    PixelStatistics,
)
from leakcache.errors import ConfigError

COLUMNS: Mapping[str, Column] = MappingProxyType(
    {
        column.name: column
        for column in (
            Z0(),
            PixelStatistics(),
            ActivationStatistics(),
            DegradedPixelStatistics(),
            DegradedActivationStatistics(),
            RESIZED,
            CROPS,
        )
    }
)
"""By name; the low DCT coefficients and moments follow from z0 and are not stored."""


def columns_named(names: Iterable[str]) -> tuple[Column, ...]:
    """Columns in the order of the table, each once.

    Raises:
        ConfigError: there is no column of that name.
    """
    wanted = set(names)
    for name in sorted(wanted - set(COLUMNS)):
        raise ConfigError(f"no column is called {name!r}: take some of {', '.join(COLUMNS)}")
    return tuple(column for name, column in COLUMNS.items() if name in wanted)
