"""Which generators are left out together, so that each is left out equally often.

The generators are sorted by name, dealt into as many hands as there are blocks, and cut into
blocks of m around the circle. Where m divides their number, one round of disjoint blocks
leaves each out once: four pairs of eight. Otherwise the circle is walked until it closes: five
pairs of five, each generator in two. Dealing keeps neighbours in the alphabet apart, which are
often versions of one model: left out together they would make the task easier.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, gcd

from leakcache.errors import ScoringError


def left_out(
    generators: Sequence[str], together: int, *, always_known: int = 0
) -> tuple[tuple[str, ...], ...]:
    """The blocks of generators that are treated as unknown, one block a training.

    Args:
        generators: those that may be left out.
        together: m, how many at once.
        always_known: classes beside them that stay known, such as photographs.

    Raises:
        ScoringError: fewer than two generators would remain known.
    """
    count = len(generators)
    if together < 1 or count <= together or count - together + always_known < 2:
        raise ScoringError(
            f"--leave-out {together} of {count} generators leaves fewer than two known classes: "
            "take fewer, or 0 to leave none out"
        )
    order = _dealt(sorted(generators), ceil(count / together))
    blocks = count // gcd(count, together)
    starts = [block * together for block in range(blocks)]
    return tuple(
        tuple(sorted(order[(start + step) % count] for step in range(together))) for start in starts
    )


def _dealt(names: list[str], hands: int) -> list[str]:
    return [name for hand in range(hands) for name in names[hand::hands]]
