"""The page of time to a result: mean and spread of wall time and of test Dice, from timed runs.

A timed run's folder (benchmarks/bench_quality.py) holds config.json and time.json: seconds (wall
time of training and validation, without start-up), dice_pooled (of the last epoch's network on the
test split), and the target, where it is not that of the protocol for its number of epochs.
"""

import numpy as np

from cli import InputError
from study import records
from study.text import fill, in_words, spread, table
from study.verdict import at_least_p

TARGETS = {10: 0.90, 40: 0.93}  # of results/time/PROTOCOL.md, by epochs


def make_page(root):
    """The page of all timed runs under `root`, a row for each target and processor."""
    rows, commits = {}, set()
    for path in sorted(root.rglob("time.json")):
        config, found = records.read_config(path.with_name("config.json")), records.read_json(path)
        target = found.get("target", TARGETS.get(config["epochs"], 1))
        key = target, config["epochs"], str(config["run"]["processor"] or "unknown")
        rows.setdefault(key, []).append((found["seconds"] / 60, found["dice_pooled"]))
        commits.add(str(config["run"]["commit"])[:12])
    if not rows:
        raise InputError(f"there is no time.json under {root}; see benchmarks/bench_quality.py")
    lines = []
    for (target, epochs, processor), figures in sorted(rows.items()):
        minutes, dice = np.transpose(figures)
        p = f"{at_least_p(dice, target):.2g}" if len(dice) > 1 else "-"
        reached = "yes" if dice.mean() >= target else "no"
        cells = len(dice), spread(minutes, 1), spread(dice, 1, 4), reached, p, processor
        lines.append((target, epochs, *cells))
    header = ("target", "epochs", "n", "minutes", "pooled Dice", "reached", "p", "processor")
    return fill(f"""
# Time to a result

Full network, all three tasks. A fixed number of epochs; validation neither stops a run nor chooses
its length, and the last epoch's network is measured. Minutes: wall time of training and validation
without start-up. Dice: pooled, test split. Mean and standard deviation over n seeds; p: one-sided t
test that the mean Dice is at least the target (small: shown).

{table(header, lines)}

Commit: {in_words(sorted(commits))}. Each run's log is beside its record. Made by `python results.py
--times results/time` from the records.
""")
