"""Every experiment once: its name, the command that trains it, and its published figure.

experiments.py, the pages of results.py and README's table are made from this, in the order of the
published table.

    python -m study.table        the table as Markdown, as it stands in README.md
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


@dataclass(frozen=True)
class Experiment:
    """One row of the study.

    command: script and its own options; tasks, weighting: as config.json has them; trains,
    weights: the same in words; published: test Dice in percent after 60 epochs, from one run, and
    without the inflation of its formula: divided by 1.0407 = ceil(N / 32) 32 / N. N, the number
    of test images, is inferred (738 or 369): the published study does not state it.
    """

    name: str
    command: tuple
    tasks: tuple
    weighting: str
    trains: str
    weights: str
    published: tuple

    @property
    def words(self):
        return self.trains if self.weights == "1" else f"{self.trains}, {self.weights}"

    def fits(self, config):
        """Whether a run's config.json is of this experiment, and no component is another."""
        asked = Config(tasks=self.tasks, weighting=self.weighting).to_json()
        return all(config[one.name] == asked[one.name] for one in COMPONENTS)


def _split(text, *published):
    return Experiment(
        f"split_{text.replace('-', '_')}",
        ("oeq_splits.py", "--split", text),
        ALL,
        text,
        "all three tasks",
        f"{text} (seg-cls-bbox)",
        published,
    )


ALL = ("seg", "cls", "bbox")
EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        Experiment(
            "mtl", ("train_mtl.py",), ALL, "equal", "all three tasks", "1/3 each", (90.21, 86.7)
        ),
        Experiment(
            BASELINE,
            ("train_baseline.py",),
            ("seg",),
            "equal",
            "segmentation alone",
            "1",
            (92.94, 89.3),
        ),
        Experiment(
            "ablation_cls",
            ("train_ablation_cls.py",),
            ("seg", "cls"),
            "equal",
            "segmentation and classification",
            "1/2 each",
            (88.04, 84.6),
        ),
        Experiment(
            "ablation_bbox",
            ("train_ablation_bbox.py",),
            ("seg", "bbox"),
            "equal",
            "segmentation and head box",
            "1/2 each",
            (92.75, 89.1),
        ),
        Experiment(
            "uncertainty",
            ("oeq_uncertainty.py",),
            ALL,
            "uncertainty",
            "all three tasks",
            "learned (Kendall et al. 2018)",
            (87.73, 84.3),
        ),
        _split("80-10-10", 91.80, 88.2),
        _split("75-15-15", 91.54, 88.0),
        _split("50-25-25", 91.29, 87.7),
        _split("25-25-50", 90.32, 86.8),
        _split("25-50-25", 89.83, 86.3),
    )
}


def markdown():
    """The experiments as a Markdown table."""
    rows = [("experiment", "command", "trains", "loss weights"), ("---",) * 4]
    rows += [
        (f"`{one.name}`", f"`python {' '.join(one.command)}`", one.trains, one.weights)
        for one in EXPERIMENTS.values()
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    print(markdown())
