"""Configurations survive TOML, and refuse what they do not know in one line."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakcache.errors import ConfigError
from leaknet.config import (
    PAPER,
    PRESETS,
    config_from_table,
    differences,
    dump_config,
    load_config,
    preset,
)

tables = st.fixed_dictionaries(
    {
        "preset": st.sampled_from(sorted(PRESETS)),
        "latents": st.fixed_dictionaries(
            {
                "schedule": st.sampled_from(["cosine", "scaled_linear", "linear"]),
                "timesteps": st.lists(st.integers(0, 999), min_size=1, max_size=5, unique=True),
                "dct_placement": st.sampled_from(["corner", "upsampled", "lowpass", "none"]),
            }
        ),
        "head": st.fixed_dictionaries({"prototypes": st.integers(0, 9), "gate": st.booleans()}),
        "train": st.fixed_dictionaries(
            {"learning_rate": st.floats(1e-9, 1), "seed": st.integers(0, 2**31)}
        ),
    }
)


@given(tables)
def test_toml_gives_back_the_same_configuration(table: dict[str, Any]) -> None:
    config = config_from_table(table, "memory")
    assert config.train.learning_rate == table["train"]["learning_rate"]
    assert config_from_table(tomllib.loads(dump_config(config)), "memory") == config


def test_a_file_changes_only_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('preset = "authors"\n[train]\nlearning_rate = 1\n')
    config = load_config(path)
    authors = preset("authors")
    assert config == replace(authors, train=replace(authors.train, learning_rate=1.0))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[train]\nlearning_rat = 1.0", ["train.learning_rat", "train.learning_rate"]),
        ("[trian]\nseed = 1", ["trian", "train"]),
        ("seed = 1", ["seed"]),
        ('[train]\nepochs = "ten"', ["train.epochs", "'ten'", "int"]),
        ("[train]\nepochs = true", ["train.epochs", "True"]),
        ("[train]\nepochs = 2.5", ["train.epochs", "2.5"]),
        ("[train]\nepochs = 0", ["train.epochs = 0", "1 or more"]),
        ("train = 3", ["train", "[train]"]),
        ("preset = 'papr'", ["papr", "paper, authors, best"]),
        ("preset = 4", ["preset", "4"]),
        ("[latents]\ntimesteps = [0, 1000]", ["latents.timesteps", "999"]),
        ("[latents]\ntimesteps = [5, 5]", ["latents.timesteps"]),
        ("[latents]\ntimesteps = []", ["latents.timesteps"]),
        ("[latents]\ntimesteps = [0.5]", ["latents.timesteps", "whole numbers"]),
        ("[latents]\nnoise = false", ["latents.timesteps", "latents.noise"]),
        ("[latents]\ndct_size = 17", ["latents.dct_size", "16"]),
        ("[latents]\nstem = 'tiny'", ["latents.stem", "imagenet, small"]),
        ("[train]\nlearning_rate = nan", ["train.learning_rate"]),
        ("[train]\nlearning_rate = inf", ["train.learning_rate"]),
        ("[train]\nclip = nan", ["train.clip"]),
        ("[train", ["cannot be read as TOML"]),
    ],
)
def test_refusals_name_file_setting_and_cure(tmp_path: Path, text: str, parts: list[str]) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
    if "preset" not in text:
        assert str(path) in message


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml"):
        load_config(tmp_path / "absent.toml")


def test_overrides_take_toml_values_bare_words_and_lists() -> None:
    config = PAPER.with_overrides(
        [
            "head.prototypes=6",
            "train.optimizer = adamw",
            "latents.timesteps=0,50,100",
            "train.learning_rate=1",
            "head.gate=false",
            "latents.schedule='linear'",
        ]
    )
    assert config.head == replace(PAPER.head, prototypes=6, gate=False)
    assert config.train == replace(PAPER.train, optimizer="adamw", learning_rate=1.0)
    assert config.latents.timesteps == (0, 50, 100)
    assert config.latents.schedule == "linear"
    assert PAPER.with_overrides(["latents.timesteps=7"]).latents.timesteps == (7,)


def test_overrides_of_one_section_are_checked_together() -> None:
    clean = PAPER.with_overrides(["latents.timesteps=0", "latents.noise=false"])
    assert not clean.latents.noise
    assert PAPER.with_overrides(["latents.noise=false", "latents.timesteps=0"]) == clean


@pytest.mark.parametrize(
    "override", ["epochs=3", "train.epochs", "train.epochs=", "=3", "train.epoch=3", "a.b=1"]
)
def test_malformed_overrides_are_refused(override: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        PAPER.with_overrides([override])


def test_differences_name_each_setting_once() -> None:
    other = PAPER.with_overrides(["train.epochs=20", "head.gate=false"])
    assert differences(PAPER, other) == ["head.gate: True, now False", "train.epochs: 10, now 20"]
    assert differences(PAPER, PAPER) == []


def test_best_adds_a_branch_to_the_paper() -> None:
    assert differences(preset("paper"), preset("best")) == [
        "preset: paper, now best",
        "statistics.enabled: False, now True",
    ]
