"""One closed-form fit for all runs of a process that differ in their seed alone.

The closed form has no seed, so that every seed of an evaluation, and each ablation row that changes
something else, shares one fit. Fits are identified by all that they read, byte for byte.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from torch import Tensor

from leaknet.data.columns import ImageColumns
from leaknet.data.stored_column import StoredColumn

if TYPE_CHECKING:
    from leaknet.model.statistics_branch import StatisticsBranch

KEPT = 6
"""Fits: of all images, of four pairs left out, and one more; about 40 MB each."""

_fits: OrderedDict[str, tuple[dict[str, Tensor], Tensor]] = OrderedDict()


def cached_fit(
    branch: StatisticsBranch, train: ImageColumns, classes: tuple[str, ...]
) -> Float[Tensor, "image dimension"]:
    """As `StatisticsBranch.fit_embedding`, or its result when last called with the same."""
    key = _key(branch, train, classes)
    if key in _fits:
        _fits.move_to_end(key)
        state, held_out = _fits[key]
        branch.load_state_dict(state, strict=False)
        return held_out.clone()
    held_out = branch.fit_embedding(train, classes)
    fitted = {name for name, _ in branch.named_buffers()}
    state = {k: v.cpu().clone() for k, v in branch.state_dict().items() if k in fitted}
    _fits[key] = state, held_out.clone()
    while len(_fits) > KEPT:
        _fits.popitem(last=False)
    return held_out


def _key(branch: StatisticsBranch, train: ImageColumns, classes: tuple[str, ...]) -> str:
    settings = (branch.config, len(branch.directions), classes)
    digest = hashlib.blake2b(repr(settings).encode())
    for text in (train.labels, train.groups):
        digest.update("\n".join(text.tolist()).encode())
    for name in branch.columns(training=True):
        column = train.columns.get(name)
        if isinstance(column, StoredColumn):
            store = column.cache.store.folder
            digest.update(repr((name, str(store), train.hashes.tolist())).encode())
            continue
        values = train[name].cpu().contiguous()
        digest.update(repr((name, tuple(values.shape))).encode())
        digest.update(np.ascontiguousarray(values.numpy()).data)
    return digest.hexdigest()
