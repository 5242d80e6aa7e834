"""The worlds that faults are put into, and the table of what they did."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.faults.world import Leak, Stages

Tally = Counter[tuple[str, str, str]]
TALLY = pytest.StashKey[Tally]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TALLY] = Counter()


@pytest.fixture(scope="session")
def full(pytestconfig: pytest.Config) -> bool:
    """Whether the whole matrix was asked for."""
    return bool(pytestconfig.getoption("--full"))


@pytest.fixture(scope="session")
def leak() -> Iterator[Leak]:
    """`leak` commands, run in forks of one process."""
    with Leak() as running:
        yield running


@pytest.fixture(scope="session")
def stages(tmp_path_factory: pytest.TempPathFactory, leak: Leak) -> Stages:
    """A world after each command."""
    return Stages(tmp_path_factory.mktemp("faults"), leak)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers, the same in every run of a test."""
    return random.Random(request.node.name)


@pytest.fixture
def tally(pytestconfig: pytest.Config) -> Tally:
    """Tries by command or file, fault and outcome; printed at the end."""
    return pytestconfig.stash[TALLY]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    found = config.stash[TALLY]
    if not found:
        return
    terminalreporter.section("faults")
    rows: dict[tuple[str, str], Counter[str]] = {}
    for (what, fault, outcome), count in found.items():
        rows.setdefault((fault, what), Counter())[outcome] += count
    terminalreporter.write_line("| command or file | fault | tries | outcomes |")
    terminalreporter.write_line("|---|---|---|---|")
    for (fault, what), outcomes in sorted(rows.items()):
        words = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
        terminalreporter.write_line(f"| {what} | {fault} | {outcomes.total()} | {words} |")
