"""Repeat a run from its record alone, and say how far it comes out from it.

    python experiments.py --repeat results/runs/mtl/seed3 -- --data datasets/pets128

The same processor type, versions, precision and number of threads give bit-exact results; where
they differ, `conditions` names what was not alike.
"""

from cli import InputError
from study import commands, records
from study.commands import option
from study.records import FILES
from study.table import EXPERIMENTS

TIMES = {"train_seconds", "images_per_second", "seconds", "waiting"}
RECORDED = ("precision", "threads", "device", "processes", "convolution")
OWN = ("tasks", "weighting", "sharing", "encoder", "encoder_weights", "encoder_lr", "encoder_bn")


def folders(path):
    """The run folders of a run, a row or a study."""
    for pattern in ("config.json", "*/config.json", "*/*/config.json"):
        found = sorted(found.parent for found in path.glob(pattern))
        if found:
            return found
    raise InputError(f"{path} holds no run; name a run folder, as results/runs/mtl/seed0")


def run_of(folder, options, runs, data):
    """The Run that repeats the one in a folder; refuses what could not give the same figures."""
    try:
        record = records.read_run(folder)
    except records.Unusable as reason:
        raise InputError(f"{folder} cannot be repeated: {reason}; name another") from None
    config = record.config
    data = data or config["data"]
    there, trained = commands.split_hash_of(data), record.info["split_hash"]
    if there != trained:
        raise InputError(
            f"{data} has the split hash {there}, and {folder} was trained on {trained}; name its "
            "data with --data after the --"
        )
    command = (*script_of(folder, config), *options_of(config), *options)
    run = commands.Run(record.experiment, record.seed, command, runs)
    if run.path.resolve() == folder.resolve():
        raise InputError(f"{folder} would be repeated in its own place; name another --runs")
    return run


def script_of(folder, config):
    """Script and own options of a run: those of its experiment, else train.py's."""
    experiment = EXPERIMENTS.get(config["experiment"])
    if experiment and experiment.fits(config):
        return experiment.command
    if config["weighting"] is None:
        raise InputError(f"{folder}/config.json does not say how the losses were weighted")
    values = [f"{option(key)}={config[key]}" for key in OWN[1:] if config[key] is not None]
    return ("train.py", f"--name={config['experiment']}", *values, "--tasks", *config["tasks"])


def options_of(config):
    """The options that repeat a run; what was found or measured at its start is said outright."""
    values = config | {key: config["run"].get(key) for key in RECORDED}
    left_out = (*OWN, "run", "experiment", "seed", "runs", "resume", "tensorboard")
    found = []
    for key, value in values.items():
        if key not in left_out and value is not None:
            found.append(f"{option(key)}={value}")
    return found


def compare(folder, again):
    """(differences, conditions) of a repetition, lists of lines; no difference: bit-exact."""
    before, after = (commands.read_json(path / "test.json") for path in (folder, again))
    found = []
    for key in before | after:
        was, is_ = before.get(key), after.get(key)
        if key in TIMES or was == is_:
            continue
        far = f" ({is_ - was:+.2g})" if isinstance(was, float) and isinstance(is_, float) else ""
        found.append(f"{key} was {was} and is {is_}{far}")
    for name in FILES[1::2]:
        before, after = (rows(path / name) for path in (folder, again))
        wrong = [k for k, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1]]
        if len(before) != len(after):
            found.append(f"{name} had {len(before)} rows and has {len(after)}")
        elif wrong:
            found.append(
                f"{name} differs in {len(wrong)} of {len(before)} rows, first {wrong[0] + 1}"
            )
    return found, conditions(folder, again)


def rows(path):
    """The rows of a CSV file as lists, times left out."""
    columns = records.read_columns(path)
    kept = [cells for key, cells in columns.items() if key not in TIMES]
    return list(zip(*kept, strict=True))


def conditions(folder, again):
    """What was not alike when two runs were trained, as lines."""
    infos = []
    for path in (folder, again):
        info = records.read_config(path / "config.json")["run"]
        keys = ("commit", "device", "processor", "threads", "processes")
        infos.append({key: info.get(key) for key in keys} | info["versions"])
    before, after = infos
    differing = [key for key in before | after if before.get(key) != after.get(key)]
    return [f"{key} was {before.get(key)} and is {after.get(key)}" for key in differing]
