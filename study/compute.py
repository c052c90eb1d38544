"""Total compute of all studies, from their records: core hours and GPU hours by processor."""

import numpy as np

from study import records
from study.text import each, fill, table


def make_page(root):
    """A table of the runs under `root`, by study and processor."""
    totals = {}
    for path in sorted(root.rglob("config.json")):
        run, seconds = records.read_config(path)["run"], seconds_of(path.with_name("log.csv"))
        study = path.relative_to(root).parts[0].replace("runs", "first study")
        cores = (run["threads"] or 1) * run["processes"]
        on_gpu = run["device"] == "cuda"
        hours = np.array([1, seconds * cores * (not on_gpu) / 3600, seconds * on_gpu / 3600])
        key = f"{study}: {run['processor'] or 'unknown'}"
        totals[key] = totals.get(key, 0) + hours
    totals["all"] = sum(totals.values(), np.zeros(3))

    def cells(hours):
        return f"{hours[0]:.0f}", f"{hours[1]:.1f}", f"{hours[2]:.2f}"

    return fill(f"""
# Total compute

Training steps of all runs whose records are here, finished or not: seconds of log.csv times threads
and processes. Validation, tests and start-up come on top. Processors of the earliest records are
unknown.

{table(("study: processor", "runs", "core hours", "GPU hours"), each(totals, cells))}

Made by `python results.py --compute results` from the records.
""")


def seconds_of(path):
    """Seconds of training steps in a log.csv, 0 where there is none."""
    columns = records.read_columns(path) if path.is_file() else {}
    return records.numbers(columns.get("seconds", [])).sum()
