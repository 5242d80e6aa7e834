"""Which of several processes this one is: from an option, torchrun or SLURM."""

from __future__ import annotations

import os

from leakcache.errors import ConfigError

_LAUNCHERS = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS"))
_LOCAL = ("LOCAL_RANK", "SLURM_LOCALID")


def parse_worker(text: str) -> tuple[int, int]:
    """Number of this process and how many there are.

    Args:
        text: `K/N` with K from 0, or `auto` for what torchrun or SLURM has set.

    Raises:
        ConfigError: it is neither, or no launcher has set the variables.
    """
    if text == "auto":
        set_by = (names for names in _LAUNCHERS if all(name in os.environ for name in names))
        text = "/".join(os.environ[name] for name in next(set_by, ()))
        if not text:
            raise ConfigError(
                "--worker auto: neither RANK and WORLD_SIZE (torchrun) nor SLURM_PROCID and "
                "SLURM_NTASKS are set; give K/N"
            )
    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal() and int(number) < int(of)):
        raise ConfigError(f"--worker {text}: takes K/N with K from 0 to N - 1, or auto")
    return int(number), int(of)


def local_rank() -> int:
    """Number of this process on its host, by torchrun or SLURM; 0 where neither started it."""
    found = (os.environ.get(name, "") for name in _LOCAL)
    return next((int(text) for text in found if text.isdecimal()), 0)
