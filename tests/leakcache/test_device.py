"""Names of devices."""

from __future__ import annotations

import pytest
import torch

from leakcache.device import quick_precision, resolve_device
from leakcache.errors import ConfigError


def test_auto_takes_what_there_is() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert resolve_device("auto").type == expected
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "", "cpu:x", "meta"])
def test_what_is_not_here_is_refused_by_name(name: str) -> None:
    with pytest.raises(
        ConfigError, match=f"--device {name}: not on this machine; take auto or cpu"
    ):
        resolve_device(name)


@pytest.mark.parametrize(("capability", "expected"), [("AVX2", "fp32"), ("AVX512", "bf16")])
def test_half_precision_only_where_the_processor_has_it(
    monkeypatch: pytest.MonkeyPatch, capability: str, expected: str
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert quick_precision(torch.device("cpu")) == expected
