"""One closed-form fit for all runs of a process that differ in their seed alone.

The closed form has no seed, so that every seed of an evaluation, and each ablation row that changes
something else, shares one fit. Fits are identified by all that they read, byte for byte.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from torch import Tensor

from leaknet.data.columns import ImageColumns
from leaknet.data.stored_column import StoredColumn
from leaknet.data.training_data import TrainingData

if TYPE_CHECKING:
    from leaknet.model.statistics_branch import StatisticsBranch

KEPT = 6
"""Fits: of all images, of four pairs left out, and one more; about 40 MB each."""

HeldOutPair = tuple[Float[Tensor, "image part"], Float[Tensor, "other dimension"]]

_fits: OrderedDict[str, tuple[dict[str, Tensor], Tensor, Tensor]] = OrderedDict()


def cached_fit(
    branch: StatisticsBranch, data: TrainingData, classes: tuple[str, ...]
) -> HeldOutPair:
    """As `StatisticsBranch.fit_embedding`, or its result when last called with the same."""
    key = _key(branch, data, classes)
    if key in _fits:
        _fits.move_to_end(key)
        state, train, val = _fits[key]
        branch.load_state_dict(state, strict=False)
        return train.clone(), val.clone()
    train, val = branch.fit_embedding(data, classes)
    fitted = {name for name, _ in branch.named_buffers()}
    state = {k: v.cpu().clone() for k, v in branch.state_dict().items() if k in fitted}
    _fits[key] = state, train.clone(), val.clone()
    while len(_fits) > KEPT:
        _fits.popitem(last=False)
    return train, val


def _key(branch: StatisticsBranch, data: TrainingData, classes: tuple[str, ...]) -> str:
    settings = (branch.config, len(branch.directions), classes)
    digest = hashlib.blake2b(repr(settings).encode())
    for images, training in ((data.train, True), (data.val, False)):
        for part in _identity(images, branch.columns(training=training)):
            digest.update(part)
    return digest.hexdigest()


def _identity(images: ImageColumns, names: Iterable[str]) -> Iterator[bytes | memoryview]:
    for text in (images.labels, images.groups):
        yield "\n".join(text.tolist()).encode()
    for name in names if len(images) else ():
        column = images.columns.get(name)
        if isinstance(column, StoredColumn):
            store = column.cache.store.folder
            yield repr((name, str(store), images.hashes.tolist())).encode()
            continue
        values = images[name].cpu().contiguous()
        yield repr((name, tuple(values.shape))).encode()
        yield np.ascontiguousarray(values.numpy()).data
