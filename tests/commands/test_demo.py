"""What `leak demo` reads of the bundled sample."""

from __future__ import annotations

from leakcache.dataset.index import read_index
from leaknet.commands.defaults import sample_root
from leaknet.commands.demo import ONE_IN, some_prompts


def test_it_reads_the_same_prompts_of_every_generator_in_every_fold():
    whole = read_index(sample_root())
    part = some_prompts(whole)
    assert (part.classes, part.unknown) == (whole.classes, whole.unknown)
    for label in part.classes:
        chosen = {r.group for r in part.records if r.label == label}
        assert chosen == {r.group for r in part.records}
    for label, counts in part.counts().items():
        for fold, count in counts.items():
            whole_count = whole.counts()[label][fold]
            assert count == whole_count == 0 or abs(count - whole_count / ONE_IN) < 2
