"""The same budget of tuning for every row: values tried on one seed, chosen by validation.

    --tune lr=0.0005,0.001,0.002,0.004

Each value is a run of its own beside the study; RUNS/<experiment>/tuning.json records the values
tried with their best validation figures, the one chosen, the seed and the runs spent.
"""

from cli import InputError
from files import write_json
from study import records
from study.commands import Run, parse
from study.compare import FIXED
from study.records import TUNING

SEED = 1000  # that no comparison uses


def values_of(word):
    """{label: {field: value}} of what stands behind --tune."""
    key, _, texts = word.partition("=")
    key = key.replace("-", "_")
    if key not in FIXED or not texts:
        raise InputError(f"--tune takes an option and its values, as lr=0.001,0.002; got {word!r}")
    found = {}
    for text in texts.split(","):
        config = parse("--tasks", "any", f"--{key.replace('_', '-')}={text}")
        found[f"{key}={text}"] = {key: getattr(config, key)}
    return found


def runs_of(run, values):
    """{label: Run} of the values of a run, each in a folder of its own beside the study."""
    found, runs = {}, run.config.runs
    for label, options in values.items():
        place = runs.with_name(f"{runs.name}_tuning") / label
        found[label] = Run(run.script, run.config.replace(seed=SEED, runs=place, **options))
    return found


def chosen(run, values):
    """The options of the value that an experiment's tuning.json chose; None without one."""
    path = run.path.parent / TUNING
    if not path.is_file():
        return None
    found = records.read_json(path)
    if list(found["values"]) != list(values):
        tried = ", ".join(found["values"])
        raise InputError(f"{path} is of other values ({tried}); name those, or another --runs")
    return values[found["chosen"]]


def choose(run, runs):
    """Write the tuning.json of an experiment from its finished runs, {label: Run}."""
    best = {}
    for label, tried in runs.items():
        try:
            record = records.read_run(tried.path)
        except records.Unusable as reason:
            raise InputError(f"{tried.path} cannot be compared: {reason}") from None
        key, metric = record.chosen_by
        sign = 1 if metric.higher else -1
        best[label] = float(sign * (sign * record.history[f"val_{key}"]).max())
    label = max(best, key=lambda label: sign * best[label])
    run.path.parent.mkdir(parents=True, exist_ok=True)
    found = {
        "option": label.partition("=")[0],
        "values": best,
        "chosen": label,
        "metric": f"val_{key}",
        "seed": SEED,
        "runs": len(runs),
    }
    write_json(run.path.parent / TUNING, found)
