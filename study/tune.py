"""The same budget of tuning for every row: values tried on one seed, chosen by validation.

    --tune lr=0.0005,0.001,0.002,0.004

Each value is a run of its own beside the study; RUNS/<experiment>/tuning.json records the values
tried with their best validation figures, the one chosen, the seed and the runs spent.
"""

import json
from itertools import product

from cli import InputError
from study import records
from study.commands import FREE, NAMED, Run, option
from study.records import DEFAULTS, TUNING

SEED = 1000  # that no comparison uses


def parse(words):
    """[(label, options)] of the combinations behind --tune: ("lr=0.001", ["--lr=0.001"])."""
    values = {}
    for word in words:
        key, _, text = word.partition("=")
        field = key.replace("-", "_")
        if field not in DEFAULTS or field in (*FREE, *NAMED, "epochs", "limit") or not text:
            raise InputError(
                f"--tune takes an option and its values, as lr=0.001,0.002; got {word!r}"
            )
        values[field] = list(dict.fromkeys(text.split(",")))
    found = []
    for combination in product(*values.values()):
        pairs = list(zip(values, combination, strict=True))
        label = " ".join(f"{field}={value}" for field, value in pairs)
        found.append((label, [f"{option(field)}={value}" for field, value in pairs]))
    return found


def fields_of(words):
    """The options that are tuned."""
    return [word.partition("=")[0].replace("-", "_") for word in words]


def runs_of(experiment, command, folder, values):
    """{label: Run} of the values of an experiment, each in a folder of its own beside the study."""
    found = {}
    for label, options in values:
        place = folder.with_name(f"{folder.name}_tuning") / label.replace(" ", "_")
        found[label] = Run(experiment, SEED, (*command, *options), place)
    return found


def chosen(folder, experiment, values):
    """The options of the value that a tuning.json chose; None where there is none yet."""
    path = folder / experiment / TUNING
    if not path.is_file():
        return None
    found = records.read_json(path)
    if list(found["values"]) != [label for label, _ in values]:
        raise InputError(
            f"{path} is of other values ({', '.join(found['values'])}); name those, or another --runs"
        )
    return dict(values)[found["chosen"]]


def choose(folder, experiment, runs):
    """Write the tuning.json of an experiment from its finished runs, {label: Run}."""
    best = {}
    for label, run in runs.items():
        try:
            record = records.read_run(run.path)
        except records.Unusable as reason:
            raise InputError(f"{run.path} cannot be compared: {reason}") from None
        key, metric = record.chosen_by
        sign = 1 if metric.higher else -1
        best[label] = sign * float((sign * record.history[f"val_{key}"]).max())
    label = max(best, key=lambda label: sign * best[label])
    found = {
        "options": [word.partition("=")[0] for word in label.split(" ")],
        "values": best,
        "chosen": label,
        "metric": f"val_{key}",
        "seed": SEED,
        "runs": len(runs),
    }
    path = folder / experiment / TUNING
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
