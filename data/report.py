"""What went into a data folder and what did not, as data_prepare.py prints it and writes it to
report.csv."""

import csv
from collections import Counter
from dataclasses import dataclass, field

import cli
from data import split as data_split
from data.labels import COMMON, Source
from data.layout import CLASSES, SPLITS
from data.photographs import show_name
from data.sources.oxford import BY_LIST

MOST_PRINTED = 50  # photographs of one reason, with its detail; report.csv has all
AS_READ = ("masks of ", "masks in which ", "cut-outs: ", "trimaps: ")  # notes that doubt nothing
TWINS = "near-duplicates mirrored or turned"


@dataclass
class Outcome:
    """What a preparation found and did. Names are those of records.

    chosen: the records of each split; known: of each split that was written, what write_split
    returns; together: names of near-duplicates that were kept together; apart: pairs of (name,
    split) that show the same and lie in different splits; twins: near-duplicates mirrored or
    turned that the split does not keep together; notes: {what: [(name, detail)]}; fates: what
    became of the labels.
    """

    source: Source
    chosen: list = field(default_factory=list)
    known: dict = field(default_factory=dict)
    together: list = field(default_factory=list)
    apart: list = field(default_factory=list)
    twins: list = field(default_factory=list)
    notes: dict = field(default_factory=dict)
    fates: Counter = field(default_factory=Counter)
    warnings: list = field(default_factory=list)


def report(args, outcome):
    """Print what went into the data folder and what did not."""
    source = outcome.source
    print_table(outcome)
    print_duplicates(outcome)
    if not source.is_own:
        rules = Counter(record.species_by for members in outcome.chosen for record in members)
        if set(rules) != {BY_LIST}:
            counts = "; by ".join(f"{rule}: {count}" for rule, count in sorted(rules.items()))
            print(f"cat or dog by {counts}")
    for what, found in outcome.notes.items():
        print_note(what, found, source.is_own)
    for remark in source.remarks:
        print(remark)
    if source.total:
        fates = [f"{count} {fate}" for fate, count in sorted(outcome.fates.items()) if count]
        print(f"labels: {source.total} = {' + '.join(fates)}")
    print(f"left out: {len(source.left_out)}")
    for name, reason in source.left_out:
        print(f"  {show_name(name)}: {reason}")
    if outcome.apart:
        (name, split), (other, another) = outcome.apart[0]
        outcome.warnings.append(
            "pairs of near-duplicate photographs in different splits, as these are given: "
            f"{len(outcome.apart)} ({show_name(name)} of {split} and {show_name(other)} of "
            f"{another}), so a network would be measured on what it knows; put each pair into "
            "one split"
        )
    for warning in (*source.warnings, *outcome.warnings):
        cli.warn(warning)
    print(f"every photograph that was changed, left out or doubted: {args.out / 'report.csv'}")
    print(f"written to {args.out}; next: {cli_words('data_rechunk.py', '--data', args.out)}")


def cli_words(script, *words):
    """A command line that a shell takes as it stands."""
    import shlex

    return shlex.join(["python", script, *map(str, words)])


def print_note(what, found, is_own):
    names = [show_name(name) for name, _ in found]
    if not any(detail for _, detail in found):
        is_short = is_own or what in COMMON
        print(f"{what}: {len(names)} ({cli.listed(names) if is_short else ', '.join(names)})")
        return
    print(f"{what}: {len(names)}")
    for name, (_, reason) in list(zip(names, found, strict=True))[:MOST_PRINTED]:
        print(f"  {name}: {reason}")
    if len(names) > MOST_PRINTED:
        print(f"  and {len(names) - MOST_PRINTED} more")


def write_report(path, outcome):
    """Write report.csv: a line for each photograph and what there is to say of it."""
    with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "what", "detail"])
        for name, reason in outcome.source.left_out:
            writer.writerow([name, "left out", reason])
        for what, found in outcome.notes.items():
            for name, detail in () if what.startswith(AS_READ) else found:
                writer.writerow([name, what, detail])
        for group in outcome.together:
            for name in group:
                writer.writerow([name, "near-duplicates kept together", ", ".join(group)])
        for (name, split), (other, another) in outcome.apart:
            writer.writerow(
                [name, "near-duplicate in another split", f"{split}; {other}, {another}"]
            )
        for name, other in outcome.twins:
            writer.writerow([name, TWINS, other])


def print_table(outcome):
    """How many images each split has, of which kinds."""
    source = outcome.source
    columns = {"images": lambda records, known: len(records)}
    if source.is_own:
        columns["with mask"] = lambda records, known: sum(known["masks"])
    names = source.classes or (() if source.is_own else [f"{name}s" for name in CLASSES])
    for label, name in enumerate(map(show_name, names)):
        columns[name] = lambda records, known, label=label: sum(
            record.label == label for record in records
        )
    columns["with box"] = lambda records, known: sum(known["bboxes"])
    widths = [max(8, len(name) + 2) for name in columns]
    print(f"{'split':8}" + in_columns(columns, widths))
    rows = []
    for split, records in zip(SPLITS, outcome.chosen, strict=True):
        known = outcome.known.get(split, {"masks": (), "bboxes": ()})
        rows.append([count(records, known) for count in columns.values()])
    rows.append([sum(counts) for counts in zip(*rows, strict=True)])
    for name, counts in zip((*SPLITS, "all"), rows, strict=True):
        print(f"{name:8}" + in_columns(counts, widths))


def in_columns(cells, widths):
    return "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))


def print_duplicates(outcome):
    how = f"(256-bit difference hash, at most {data_split.NEAR_DUPLICATE_BITS} bits apart)"
    if outcome.apart:
        print(
            "near-duplicates in different splits, left where they are given: "
            f"{len(outcome.apart)} {how}"
        )
        for (name, split), (other, another) in outcome.apart[:MOST_PRINTED]:
            print(f"  {show_name(name)} ({split}), {show_name(other)} ({another})")
    n = sum(map(len, outcome.together))
    print(f"near-duplicates kept together: {len(outcome.together)} groups, {n} images {how}")
    for group in outcome.together[:MOST_PRINTED]:
        print("  " + ", ".join(map(show_name, group)))
    if outcome.twins:
        pairs = [f"{show_name(name)} and {show_name(other)}" for name, other in outcome.twins]
        print(
            f"{TWINS}, which the split does not keep together: {len(pairs)} ({cli.listed(pairs)})"
        )
