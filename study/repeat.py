"""Repeat a run from its record alone, and say how far it comes out from it.

    python experiments.py --repeat results/runs/mtl/seed3 -- --data datasets/pets128

The same processor type, versions, precision and number of threads give bit-exact results; where
they differ, `conditions` names what was not alike.
"""

from cli import InputError
from config import Config
from files import read_json
from study import commands, records
from study.records import FILES
from study.table import EXPERIMENTS

TIMES = {"train_seconds", "images_per_second", "seconds", "waiting"}
RECORDED = ("precision", "threads", "device", "processes", "convolution")
CONDITIONS = ("commit", "device", "processor", "threads", "processes")


def folders(path):
    """The run folders of a run, a row or a study."""
    for pattern in ("config.json", "*/config.json", "*/*/config.json"):
        found = sorted(file.parent for file in path.glob(pattern))
        if found:
            return found
    raise InputError(f"{path} holds no run; name a run folder, as results/runs/mtl/seed0")


def run_of(folder, options):
    """The Run that repeats the one in a folder; refuses what could not give the same figures."""
    try:
        record = records.read_run(folder)
    except records.Unusable as reason:
        raise InputError(f"{folder} cannot be repeated: {reason}; name another") from None
    if record.config["weighting"] is None:
        raise InputError(f"{folder}/config.json does not say how the losses were weighted")
    own = {key: record.info[key] for key in RECORDED if record.info.get(key)}
    if own.get("convolution") == "fast":  # as earlier versions called it
        own["convolution"] = "winograd"
    config = Config.from_json(record.config | own | {"tensorboard": False, "resume": False})
    config = commands.parse(*config.argv(), "--runs", "repeated", *options)
    there, trained = commands.split_hash_of(config.data), record.info["split_hash"]
    if there != trained:
        raise InputError(
            f"{config.data} has the split hash {there}, and {folder} was trained on {trained}; "
            "name its data with --data after the --"
        )
    one = EXPERIMENTS.get(record.experiment)
    script = one.command if one and one.fits(record.config) else ("train.py",)
    run = commands.Run(script, config)
    if run.path.resolve() == folder.resolve():
        raise InputError(f"{folder} would be repeated in its own place; name another --runs")
    return run


def compare(folder, again):
    """(differences, conditions) of a repetition, lists of lines; no difference: bit-exact."""
    before, after = (read_json(path / "test.json") for path in (folder, again))
    found = []
    for key in before.keys() - TIMES | after.keys() - TIMES:
        was, now = before.get(key), after.get(key)
        if isinstance(was, float) and isinstance(now, float) and was != now:
            found.append(f"{key} was {was:.6g} and is {now:.6g} ({now - was:+.2g})")
        elif was != now:
            found.append(f"{key} was {was} and is {now}")
    for name in ("log.csv", "test_per_image.csv"):
        before, after = (rows(path / name) for path in (folder, again))
        wrong = [k for k, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1]]
        if wrong or len(before) != len(after):
            found.append(f"{name} differs in {len(wrong)} of {len(before)} rows")
    return sorted(found), conditions(folder, again)


def rows(path):
    """The rows of a CSV file, times left out."""
    columns = records.read_columns(path)
    return list(zip(*(cells for key, cells in columns.items() if key not in TIMES), strict=True))


def conditions(folder, again):
    """What was not alike when two runs were trained, as lines."""
    infos = [records.read_config(path / FILES[0])["run"] for path in (folder, again)]
    before, after = ({key: run.get(key) for key in CONDITIONS} | run["versions"] for run in infos)
    differing = [key for key in before | after if before.get(key) != after.get(key)]
    return [f"{key} was {before.get(key)} and is {after.get(key)}" for key in differing]
