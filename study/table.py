"""Every experiment once: its name, the command that trains it, and its published figure.

experiments.py and the pages of results.py are made from this, in the order of the published table.
"""

from dataclasses import dataclass, fields

from config import Config

BASELINE = "baseline"
COMPONENTS = [
    one for one in fields(Config) if "component" in one.metadata and one.name != "experiment"
]
# Figures that records of every version have, in the order of results.csv; null without their task.
DICE = ("dice", "dice_pooled", "iou_pooled")
METRICS = (*DICE, "accuracy", "box_iou")
ALL = ("seg", "cls", "bbox")


@dataclass(frozen=True)
class Experiment:
    """One row of the study.

    command: script and its own options; tasks, weighting: as config.json has them; published: test
    Dice in percent after 60 epochs, from one run, and without the inflation of its formula: divided
    by 1.0407 = ceil(N / 32) 32 / N. N, the number of test images, is inferred (738 or 369): the
    published study does not state it.
    """

    command: tuple
    tasks: tuple
    weighting: str
    published: tuple

    def fits(self, config):
        """Whether a run's config.json is of this experiment, and no component is another."""
        asked = Config(tasks=self.tasks, weighting=self.weighting).to_json()
        return all(config[one.name] == asked[one.name] for one in COMPONENTS)


def split(text, *published):
    return Experiment(("oeq_splits.py", "--split", text), ALL, text, published)


EXPERIMENTS = {
    "mtl": Experiment(("train_mtl.py",), ALL, "equal", (90.21, 86.7)),
    BASELINE: Experiment(("train_baseline.py",), ("seg",), "equal", (92.94, 89.3)),
    "ablation_cls": Experiment(("train_ablation_cls.py",), ("seg", "cls"), "equal", (88.04, 84.6)),
    "ablation_bbox": Experiment(
        ("train_ablation_bbox.py",), ("seg", "bbox"), "equal", (92.75, 89.1)
    ),
    "uncertainty": Experiment(("oeq_uncertainty.py",), ALL, "uncertainty", (87.73, 84.3)),
    "split_80_10_10": split("80-10-10", 91.80, 88.2),
    "split_75_15_15": split("75-15-15", 91.54, 88.0),
    "split_50_25_25": split("50-25-25", 91.29, 87.7),
    "split_25_25_50": split("25-25-50", 90.32, 86.8),
    "split_25_50_25": split("25-50-25", 89.83, 86.3),
}
