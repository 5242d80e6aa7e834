"""TOML to rows: the built-in tables are sound, and what is wrong in a file is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from leakcache.errors import ConfigError
from leaknet.config import PRESETS, RunConfig
from leaknet.experiments.ablation_spec import BUILT_IN, NAMES, find_ablation
from leaknet.experiments.controls import PUBLISHED
from leaknet.model.backbone import build_backbone
from tests.leaknet.experiments.ablation_tables import written

HEAD = '[[row]]\nname = "one"\n'


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("preset", PRESETS)
def test_built_in_tables_fit_every_preset(name: str, preset: str) -> None:
    ablation = find_ablation(name)
    configs = [row.configured(PRESETS[preset], name) for row in ablation.rows]
    assert len(configs) >= 2
    differing = [(str(row.cache), str(row.score)) for row in ablation.rows]
    told_apart = {(str(c), *rest) for c, rest in zip(configs, differing, strict=True)}
    assert len(told_apart) == len(configs)


def test_every_table_that_is_shipped_has_a_name() -> None:
    assert {path.stem for path in BUILT_IN.glob("*.toml")} == set(NAMES)


def test_published_figures_are_the_papers() -> None:
    rows = {row.name: row.published for name in NAMES for row in find_ablation(name).rows}
    assert (
        rows["full"] == rows["M = 4"] == rows["ResNet-18"] == {"top1": 0.826, "macro_auc": 0.9813}
    )
    assert rows["no prototypes"] == {"top1": 0.7263, "macro_auc": 0.9309}
    assert rows["ViT-B/16"] == {"top1": 0.7207, "macro_auc": 0.9453}
    modes = {row.score.attention: row.published for row in find_ablation("table2").rows}
    assert {mode: tuple(found.values()) for mode, found in modes.items()} == PUBLISHED


@pytest.mark.parametrize("row", find_ablation("table4").rows, ids=lambda row: row.name)
def test_backbones_of_table_4_take_latents(row: object) -> None:
    import torch

    config = row.configured(RunConfig(), "table4").latents
    with torch.device("meta"):
        backbone, width = build_backbone(config, 8, (32, 32))
        assert backbone.eval()(torch.empty(2, 8, 32, 32)).shape == (2, width)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (HEAD + "head.prototype = 4", r"row 'one': head.prototype is no setting.*prototypes"),
        (HEAD + "haed.prototypes = 4", r"row 'one': haed is no setting; the nearest is head"),
        (HEAD + "head.prototypes = true", r"head.prototypes = True must be of type int"),
        (HEAD + "head.prototypes = -1", r"row 'one': head.prototypes = -1 is out of range"),
        (HEAD + "cache.vae = 'sdxl'", r"row 'one': cache.vae is no setting"),
        (HEAD + "cache = 'sdxl'", r"row 'one': cache must be a table"),
        (HEAD + "cache.precision = 'fp8'", r"cache.precision = 'fp8' is out of range"),
        (HEAD + "score.detector = 3", r"score.detector = 3 must be of type str"),
        (HEAD + "score.attention = 'on'", r"score.attention = 'on' is out of range"),
        (HEAD + "score = {attention = 'dual', detector = 'knn'}", "evaluated by kde alone"),
        (HEAD + "published.top1 = 82.6", r"published.top1 = 82.6 must be from 0 to 1"),
        (
            HEAD + "published.macro = 0.8",
            r"published.macro is no setting.*macro_auc",
        ),
        (HEAD + "note = 3", r"row.note = 3 must be of type str"),
        (HEAD + HEAD, "two rows are called 'one'"),
        (HEAD + "prefer_pretrained = 1", "must be of type bool"),
        ("[[row]]\nhead.prototypes = 4", "a row has no name"),
        ("reference = 'two'\n" + HEAD, "reference = 'two' names no row"),
        ("titel = 'x'\n" + HEAD, "titel is no setting; the nearest is title"),
        ("title = 'x'", "has no rows"),
        ("row = []", "has no rows"),
        ("row = 3", "has no rows"),
        ("title = ", "cannot be read as TOML"),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line(tmp_path: Path, text: str, reason: str) -> None:
    def read() -> None:
        for row in written(tmp_path, text).rows:
            row.configured(RunConfig(), "mine.toml")

    with pytest.raises(ConfigError, match=reason) as caught:
        read()
    assert "\n" not in str(caught.value)
    assert "mine.toml" in str(caught.value)


def test_names_that_stand_for_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"table9 is no ablation: take one of dct, noise"):
        find_ablation("table9")
    with pytest.raises(ConfigError, match="cannot be read as TOML"):
        find_ablation(str(tmp_path / "absent.toml"))
