"""Experiments by Ray actors of which one is killed in a training, for `test_on_actors`.

    python acting.py SCRATCH

A program of its own. Prints one JSON object: how often each training was begun, by the folder of
its run.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from leakcache.processes import RayPool
from leaknet.experiments import trial
from leaknet.experiments.ablation_run import CachePool, run_ablation
from leaknet.experiments.bench_trial import raw_data
from leaknet.experiments.benchmark import BenchPlan, run_bench
from leaknet.experiments.evaluation import EvaluationPlan
from leaknet.experiments.protocols import evaluate
from tests.leaknet.experiments.ablation_tables import HEADS, plan, written
from tests.leaknet.experiments.small_bench import Colours, Weightless, small_caches
from tests.leaknet.experiments.synthetic import closed_cache, open_cache
from tests.leaknet.tiny import tiny_config

ACTORS = 2
VICTIM = "fold1-seed3"
BEGUN = "BEGUN"


def die_once() -> None:
    """In each actor: note which trainings begin, and kill the actor once in the midst of one."""
    plain, begun = trial.fit, Path(os.environ[BEGUN])

    def fit(record: Any, data: Any, folder: Path, **options: Any) -> Any:
        name = f"{folder.parent.name}-{folder.name}"
        first = not list(begun.glob(f"{name}.*"))
        (begun / f"{name}.{time.monotonic_ns()}").touch()
        if first and folder.name == VICTIM:
            threading.Thread(target=kill_after_an_epoch, args=(folder,), daemon=True).start()
        return plain(record, data, folder, **options)

    trial.fit = fit


def kill_after_an_epoch(folder: Path) -> None:
    while not (folder / "history.jsonl").is_file():
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGKILL)


def same(actors: Any, local: Any) -> None:
    """Compare results, but for folders and times."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            left_out = ("run", "runs", "seconds", "training_seconds", "trained", "reused", "out")
            return {k: plain(v) for k, v in value.items() if k not in left_out}
        if isinstance(value, list | tuple):
            return [plain(one) for one in value]
        return str(value)

    assert plain(actors) == plain(local)


def main(scratch: Path) -> None:
    begun = scratch / "begun"
    begun.mkdir()
    os.environ[BEGUN] = str(begun)
    hook = {"worker_process_setup_hook": die_once}
    ray.init(num_cpus=ACTORS, log_to_driver=False, include_dashboard=False, runtime_env=hook)
    pool = RayPool(actors=ACTORS)
    closed = closed_cache(scratch / "closed")
    unknown = [open_cache(scratch / "open-eve", "eve", seed=41)]
    config = tiny_config("train.epochs=2", "train.learning_rate=3e-3", "train.seed=3")
    asked = EvaluationPlan(out=scratch / "e", config=config, leave_out=1, shuffle=True)
    table = evaluate(replace(asked, out=scratch / "r", pool=pool), closed, unknown)
    same(table.as_dict(), evaluate(asked, closed, unknown).as_dict())

    heads = plan(written(scratch, HEADS), scratch / "a", seeds=1)
    ray_heads = replace(heads, out=scratch / "ar", pool=pool)
    rows = run_ablation(ray_heads, CachePool(closed))
    assert rows.trained == 0  # by this process
    same(rows.as_dict(), run_ablation(heads, CachePool(closed)).as_dict())

    data = raw_data(*small_caches(scratch / "bench"))
    bench = BenchPlan(out=scratch / "b", methods=(Colours, Weightless), seeds=2)
    found = run_bench(replace(bench, out=scratch / "br", pool=pool), data)
    assert Colours.fits == 0  # in this process
    same(found.as_dict(), run_bench(bench, data).as_dict())
    ray.shutdown()
    print(json.dumps(Counter(file.name.rpartition(".")[0] for file in begun.iterdir())))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
