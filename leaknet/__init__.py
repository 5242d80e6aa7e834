"""Stage two: cached latents become attributions, scores and reports.

`leaknet.ProtoLeakNet` is the model (`from_pretrained` reads a run folder); it is imported when it
is first asked for, because the command line imports this package and should answer at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leaknet.model.protoleaknet import ProtoLeakNet

__all__ = ["ProtoLeakNet"]


def __getattr__(name: str) -> Any:
    if name == "ProtoLeakNet":
        from leaknet.model.protoleaknet import ProtoLeakNet

        return ProtoLeakNet
    raise AttributeError(f"module 'leaknet' has no attribute {name!r}")
