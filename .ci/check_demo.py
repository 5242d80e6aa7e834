"""Fail unless the demo's JSON holds the documented keys and its files exist."""

import json
import sys
from pathlib import Path

result = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
for group, keys in {
    "closed": ("top1", "macro_auc"),
    "open": ("auroc", "eer", "fpr95", "ovl"),
}.items():
    for key in keys:
        value = result[group][key]
        assert 0 <= value <= 1, f"{group}.{key} = {value}"
        print(f"{group}.{key} {value:.3f}")
assert result["closed"]["macro_auc"] > 0.6, "closed.macro_auc is near chance"
assert set(result["branches"]["weights"]) == {"latents", "statistics"}, "a branch is missing"
for key in ("cache", "run", "report"):
    assert Path(result[key]).exists(), f"{key}: {result[key]} is not there"
print(f"demo took {result['seconds']} s")
