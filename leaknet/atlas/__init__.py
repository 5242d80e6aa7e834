"""What the traces of generators are: mean deviations in the columns of a cache, and distances."""

from leaknet.atlas.traces import Atlas, make_atlas

__all__ = ["Atlas", "make_atlas"]
