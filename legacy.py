"""Records and checkpoints of earlier versions in the present form: all that knows of them."""

from config import Config

# A field of an earlier version's config.json -> its name now.
LEGACY_NAMES = {
    "average": "ema",
    "scenes": "hard_augment",
    "sides": "resize_schedule",
    "masks": "num_masks",
}
# What a config.json says of the network and its losses, beside the options of earlier versions.
COMPONENTS = ("experiment", "tasks", "weighting", "sharing", "encoder", "encoder_lr", "encoder_bn")
# A key of an earlier version's config.json -> its name now, below `run`.
LEGACY_FACTS = {
    "device": "device",
    "processes": "processes",
    "precision": "precision",
    "convolution": "convolution",
    "threads": "threads",
    "parameters": "parameters",
    "init": "init_sha256",
    "teacher": "teacher_sha256",
    "encoder_weights": "encoder_weights_sha256",
    "settings": "settings",
    "images": "images",
    "images_on": "images_on",
    "taught": "labelled",
    "split_hash": "split_hash",
    "border": "border",
    "size": "size",
    "versions": "versions",
    "commit": "commit",
    "processor": "processor",
}


def from_legacy(record):
    """A config.json of any version in the present form: Config's fields by name, and `run`.

    run   {device, precision, processes, threads, parameters, split_hash, ...}: found when the run
          began. A value that an earlier version did not record is None, or what it then was.
    """
    if "options" not in record:
        return record
    defaults = Config().to_json()
    for key, value in record["options"].items():
        key = LEGACY_NAMES.get(key, key)
        if key in defaults and value is not None:
            defaults[key] = value
    for key in COMPONENTS:
        defaults[key] = record.get(key, defaults[key])
    defaults["weighting"] = record.get("weighting")  # the first version did not record it
    defaults["encoder_weights"] = record.get("encoder_weights_from") or "none"
    if defaults["processes"] == "auto":
        defaults["processes"] = record.get("processes", 1)
    usual = {"processes": 1, "convolution": "direct", "settings": {}, "images_on": "cpu"}
    run = {new: record.get(old, usual.get(new)) for old, new in LEGACY_FACTS.items()}
    for options in (defaults, run):
        if options["convolution"] == "fast":
            options["convolution"] = "winograd"
    return {**defaults, "run": {**run, "label_digest": None}}


def from_legacy_checkpoint(content):
    """The content of a checkpoint of any version under its present names."""
    content = dict(content)
    for old, new in (("beside", "dropped"), ("average", "ema"), ("best_dice", "best_value")):
        if old in content:
            content.setdefault(new, content.pop(old))
    usual = {"sharing": "hard", "encoder": "unet", "dropped": [], "settings": {}, "calibration": {}}
    usual |= {"trained_on": None, "trained_on_looks": None}
    return usual | content
