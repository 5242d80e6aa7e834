"""What `leak demo` reads of the bundled sample."""

from __future__ import annotations

from leakcache.dataset.index import read_index
from leaknet.commands.base import sample_root
from leaknet.commands.train import PROMPTS, some_prompts


def test_it_reads_the_same_prompts_of_every_generator():
    whole = read_index(sample_root())
    part = some_prompts(whole)
    assert (part.classes, part.unknown) == (whole.classes, whole.unknown)
    known = {**PROMPTS, "open": 0}
    unknown = dict.fromkeys(PROMPTS, 0) | {"open": PROMPTS["val"] + PROMPTS["test"]}
    for label, counts in part.counts().items():
        assert counts == (known if label in part.classes else unknown)
    prompts = {
        label: {r.group for r in part.records if r.label == label and r.fold != "train"}
        for label in (*part.classes, *part.unknown)
    }
    assert len({frozenset(groups) for groups in prompts.values()}) == 1
