"""The pilot of the masks study: what its protocol says of it stands in its records."""

import csv
import json
import re

from conftest import ROOT

PILOT = ROOT / "results" / "masks" / "pilot"


def test_the_table_is_what_the_records_say():
    rows = re.findall(
        r"^\| (\w+_[\d._]+) \| ([\w ]+) \| ([\d.]+) \| (\d+) \| (\d+) \| ([\d.]+) \| ([\d.]+) \|$",
        (PILOT.parent / "PROTOCOL.md").read_text(encoding="utf-8"),
        re.M,
    )
    assert (
        sorted(row[0] for row in rows) == sorted(path.name for path in PILOT.iterdir())
        and len(rows) >= 7
    )
    for name, beside, share, epochs, best_epoch, best, last in rows:
        folder = PILOT / name / "seed100"
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tasks = ["seg", *{"nothing": [], "breed": ["column:breed"], "head box": ["bbox"]}[beside]]
        assert (
            config["tasks"] == tasks
            and config["options"]["masks"] == 100
            and config["options"]["seed"] == 100
        )
        assert config["weighting"] == (
            "equal" if beside == "nothing" else f"{1 - float(share):g}-{share}"
        )
        with open(folder / "log.csv", newline="", encoding="utf-8") as file:
            values = [100 * float(row["val_dice"]) for row in csv.DictReader(file)]
        assert (len(values), values.index(max(values)) + 1) == (int(epochs), int(best_epoch))
        assert (f"{max(values):.2f}", f"{values[-1]:.2f}") == (best, last)
        assert {path.name for path in folder.iterdir()} == {
            "config.json",
            "log.csv",
        }  # nothing that was measured on the test split
