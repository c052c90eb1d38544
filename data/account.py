"""What went into a data folder and what did not, as data_prepare.py prints it."""

from collections import Counter
from dataclasses import dataclass, field

import cli
from data import split as data_split
from data.contract import CLASSES, SPLITS
from data.photographs import show_name
from data.sample import COMMON, Source
from data.sources.oxford import BY_LIST


@dataclass
class Outcome:
    """What a preparation found and did. Names are those of samples."""

    source: Source  # with whatever is left out
    chosen: list = field(default_factory=list)  # the samples of each split
    known: dict = field(
        default_factory=dict
    )  # of each split that was written, what write_split returns
    together: list = field(default_factory=list)  # names of near-duplicates that were kept together
    apart: list = field(
        default_factory=list
    )  # of near-duplicates that lie in different splits, as these are given
    notes: dict = field(default_factory=dict)  # sentence of data/sample.py -> [(name, detail)]
    warnings: list = field(default_factory=list)


def report(args, outcome):
    """Print what went into the data folder and what did not."""
    print_table(outcome)
    print_duplicates(outcome)
    source = outcome.source
    if not source.is_own:
        rules = Counter(sample.species_by for members in outcome.chosen for sample in members)
        if set(rules) != {BY_LIST}:
            print(
                "cat or dog by "
                + "; by ".join(f"{rule}: {count}" for rule, count in sorted(rules.items()))
            )
    for what, found in outcome.notes.items():
        names = [show_name(name) for name, _ in found]
        if any(detail for _, detail in found):
            print(f"{what}: {len(names)}")
            for name, (_, reason) in zip(names, found):
                print(f"  {name}: {reason}")
        else:
            print(
                f"{what}: {len(names)} ({cli.listed(names) if source.is_own or what in COMMON else ', '.join(names)})"
            )
    for remark in source.remarks:
        print(remark)
    print(f"left out: {len(source.left_out)}")
    for name, reason in source.left_out:
        print(f"  {show_name(name)}: {reason}")
    if outcome.apart:
        (name, split), (other, another) = outcome.apart[0]
        outcome.warnings.append(
            f"pairs of near-duplicate photographs in different splits, as these are given: {len(outcome.apart)} "
            f"({show_name(name)} of {split} and {show_name(other)} of {another}), so a network would be measured on what it "
            "knows; put each pair into one split"
        )
    for warning in outcome.warnings:
        cli.warn(warning)
    print(f"written to {args.out}; next: python data_rechunk.py --data {args.out}")


def print_table(outcome):
    """How many images each split has, of which kinds."""
    source = outcome.source
    columns = {"images": lambda samples, known: len(samples)}
    if source.is_own:
        columns["with mask"] = lambda samples, known: sum(known["masks"])
    names = source.classes or (() if source.is_own else [f"{name}s" for name in CLASSES])
    for label, name in enumerate(map(show_name, names)):
        columns[name] = lambda samples, known, label=label: sum(
            sample.label == label for sample in samples
        )
    columns["with box"] = lambda samples, known: sum(known["bboxes"])
    widths = [max(8, len(name) + 2) for name in columns]
    print(f"{'split':8}" + "".join(f"{name:>{width}}" for name, width in zip(columns, widths)))
    nothing = {"masks": (), "bboxes": ()}
    rows = [
        (split, [count(samples, outcome.known.get(split, nothing)) for count in columns.values()])
        for split, samples in zip(SPLITS, outcome.chosen)
    ]
    rows.append(("all", [sum(counts) for counts in zip(*(counts for _, counts in rows))]))
    for name, counts in rows:
        print(f"{name:8}" + "".join(f"{count:{width}}" for count, width in zip(counts, widths)))


def print_duplicates(outcome):
    how = f"(256-bit difference hash, at most {data_split.NEAR_DUPLICATE_BITS} bits apart)"
    if outcome.apart:
        print(
            f"near-duplicates in different splits, left where they are given: {len(outcome.apart)} {how}"
        )
        for (name, split), (other, another) in outcome.apart:
            print(f"  {show_name(name)} ({split}), {show_name(other)} ({another})")
    print(
        f"near-duplicates kept together: {len(outcome.together)} groups, {sum(map(len, outcome.together))} images {how}"
    )
    for group in outcome.together:
        print("  " + ", ".join(map(show_name, group)))
