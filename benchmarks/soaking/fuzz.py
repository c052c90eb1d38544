"""Damaged, hostile and odd input for every script: refused in one sentence, or taken for what it is; never a traceback, a
crash or a hang."""

import re
import shutil
import time
from collections import Counter

import numpy as np
from tqdm import tqdm

from soaking import fuzz_data, fuzz_folders, fuzz_own, fuzz_pictures, fuzz_runs, fuzz_tasks, server
from soaking.bench import Bench, Case, pick
from soaking.options import HOSTILE, scripts_and_options
from soaking.server import digests


def soak(reference, n, seed):
    """Try n inputs; returns (rows of a table, results, failures)."""
    bench = Bench(reference)
    counts, seconds, failures = {make.__name__: Counter() for make in KINDS_OF_INPUT}, Counter(), []
    for number in tqdm(range(seed, seed + n), desc="fuzz", unit="input", disable=None):
        make = KINDS_OF_INPUT[number % len(KINDS_OF_INPUT)]
        place = reference.folder / f"fuzz{number}" / "here"
        place.mkdir(parents=True)
        begin = time.perf_counter()
        case = make(bench, place, np.random.default_rng(number))
        wrong, outcomes = attempt(case, place)
        if wrong:
            failures.append(f"fuzz, {make.__name__}, --seed {number}, {case.what}: {wrong}")
        counts[make.__name__][outcome_of(outcomes, wrong)] += 1
        seconds[make.__name__] += time.perf_counter() - begin
        shutil.rmtree(place.parent)
    outcomes = ("refused", "refused by --check", "harmless", "wrong")
    tried = {name: sum(count.values()) for name, count in counts.items() if count}
    rows = [
        [
            name.replace("_", " "),
            number,
            seconds[name] / number,
            *(counts[name][outcome] for outcome in outcomes),
        ]
        for name, number in tried.items()
    ]
    results = {
        "inputs": n,
        "inputs_by_kind": tried,
        **{
            outcome.replace(" --", "_").replace(" ", "_"): sum(
                count[outcome] for count in counts.values()
            )
            for outcome in outcomes
        },
    }
    return [["input", "tried", "seconds each", *outcomes], *rows], results, failures


def attempt(case, place):
    """Run a case's commands; returns (what is wrong or None, the outcomes)."""
    outcomes = []
    for script, argv, expect in case.commands:
        outcome = server.run(script, argv, place)
        outcomes.append((script, "--check" in argv, outcome))
        wrong = judge(outcome, expect, place)
        if wrong:
            shown = " ".join(str(word)[:60] for word in argv)
            return f"{script} {shown}: {wrong}", outcomes
    return None, outcomes


def judge(outcome, expect, place):
    """What is wrong with an outcome; None where nothing is."""
    said = outcome.err.strip()
    said = said if len(said) < 1500 else said[said.find("\n", len(said) - 1500) + 1 :]
    if outcome.status is None:
        return f"hangs: {said}"
    if outcome.status not in (0, 2) or "Traceback" in outcome.err:
        return f"status {outcome.status}: {said}"
    if outcome.status == 2 and ".py: " not in said.splitlines()[-1]:
        return f"it does not say why: {said}"
    strange = [line for line in said.splitlines() if not re.match(r"[\w.]+\.py: ", line)]
    if strange:  # what a library warns of, source lines of ours, a second line of a message
        return f"a line that is none of ours: {strange[0]}"
    if (place / "ran-foreign-code").exists():
        return "it ran code that a checkpoint held"
    if expect == "refuse" and outcome.status != 2:
        return "not refused"
    if expect == "accept" and outcome.status != 0:
        return f"refused: {said}"
    return expect(outcome) if callable(expect) else None


def outcome_of(outcomes, wrong):
    if wrong:
        return "wrong"
    refused = [check for _, check, outcome in outcomes if outcome.status == 2]
    return "harmless" if not refused else "refused by --check" if all(refused) else "refused"


def hostile_option(bench, place, rng):
    (place / "a-file").write_text("a file")
    (place / "a-folder").mkdir()
    (place / "a-loop").symlink_to("a-loop")
    table = scripts_and_options(bench.reference)
    script = pick(rng, tuple(table))
    usual, every = table[script]
    option, value = pick(rng, every), pick(rng, HOSTILE)
    if script == "export.py":
        argv = (
            [value, "copy.pt"] if option == "SOURCE" else [bench.reference.run / "best.pt", value]
        )
    elif option == "IMAGE":
        argv = [*(word for pair in usual.items() for word in pair), value]
    else:
        if option == "--synthetic":
            usual = {key: value for key, value in usual.items() if key != "--root"}
        argv = [word for pair in {**usual, option: value}.items() for word in pair]
    before = digests(bench.reference.data)

    def untouched(outcome):
        if digests(bench.reference.data) != before:
            return "it changed the data"

    return Case(f"{option} {value[:40]!r}", [(script, argv, untouched)])


KINDS_OF_INPUT = (
    *fuzz_data.KINDS_OF_INPUT,
    *fuzz_runs.KINDS_OF_INPUT,
    *fuzz_tasks.KINDS_OF_INPUT,
    *fuzz_pictures.KINDS_OF_INPUT,
    *fuzz_folders.KINDS_OF_INPUT,
    *fuzz_own.KINDS_OF_INPUT,
    hostile_option,
    hostile_option,
)
