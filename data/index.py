"""A split's index.csv: row, name, breed, species, has_box, and any column of one's own; an empty cell is unknown.

All of it may be missing, all columns but row and name too. Written by data_prepare.py, or by hand or a spreadsheet: a mark
before the first word (BOM), lines that end as on Windows and lines of empty cells are taken. Raises cli.InputError, naming
the file, the value and the way out.
"""

import csv
import os
from pathlib import Path

import numpy as np

from cli import InputError

MOST_SHOWN = 60  # characters of a cell or a first line, in a message
WITHOUT = "or delete it, as images have numbers too"


def read_index(data, split, n):
    """Names of the n samples of a split from its index.csv; row numbers where others prepared the data without one."""
    return [row["name"] for row in read_index_rows(data, split, n)]


def read_index_rows(data, split, n):
    """The n rows of a split's index.csv as dicts."""
    path = Path(data) / split / "index.csv"
    if not os.path.lexists(path):  # a link that leads nowhere is no sign of data without an index
        return [{"name": str(row)} for row in range(n)]
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns, rows = reader.fieldnames or [], [row for row in reader if any(row.values())]
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); put that right, {WITHOUT}"
        ) from None
    except UnicodeDecodeError as error:
        looks = (
            "UTF-16, as Excel's 'Unicode Text' is"
            if error.object[:2] in (b"\xff\xfe", b"\xfe\xff")
            else error.reason
        )
        raise InputError(
            f"{path} is no UTF-8 text ({looks}); save it as 'CSV UTF-8', {WITHOUT}"
        ) from None
    except csv.Error as error:
        raise InputError(
            f"{path} is no readable CSV file ({error}); write it anew, {WITHOUT}"
        ) from None
    reason = fault(columns, rows, n)
    if reason:
        raise InputError(
            f"{path} should list the rows 0 to {n - 1} in order, with their names, {reason}, {WITHOUT}"
        )
    return rows


def fault(columns, rows, n):
    """What is wrong with an index of n images, and the way out; None where nothing is."""
    missing = [column for column in ("row", "name") if column not in columns]
    twice = next(
        (column for k, column in enumerate(columns) if column and column in columns[:k]), None
    )
    marks = [mark for mark in (";", "\t") if len(columns) == 1 and mark in columns[0]]
    if marks:
        return f"and its columns are separated by {'semicolons' if marks[0] == ';' else 'tabs'}; save it with commas"
    if missing:
        return f"and its first line names no column {' and no '.join(missing)} ({shown(','.join(columns))}); add that"
    if twice:
        return f"and its first line names the column {shown(twice)} twice; rename one of them"
    for k, row in enumerate(rows[:n]):
        if row["row"] != str(k):
            return f"and where {k} should stand it says {shown(row['row'])}; correct that"
        if not row["name"]:
            return f"and row {k} has none; give it one"
        if any(row.get(None, ())):  # all cells behind a comma too many stand in the wrong column
            return f"and row {k} has more cells than there are columns; put cells that hold a comma into double quotes"
    return None if len(rows) == n else f"and it lists {len(rows)} rows; list one for each image"


def shown(text):
    """The beginning of a cell or line, quoted."""
    return (
        repr(text) if text is None or len(text) <= MOST_SHOWN else repr(text[:MOST_SHOWN]) + "..."
    )


def column_names(rows):
    """The named columns of an index's rows, in order; none where there is no index."""
    return [column for column in rows[0] if column] if rows and "row" in rows[0] else []


def breeds(rows):
    """The breed of each row of an index, "" where it is not known."""
    return [(row.get("breed") or "").strip() for row in rows]


def contents(rows, column):
    """(number of different values, number of empty cells) of a column."""
    cells = [(row[column] or "").strip() for row in rows]
    return len(set(cells) - {""}), cells.count("")


def check_index(data, split, n, kind, rows, start, classes=("cat", "dog")):
    """Check that index.csv, where it tells species and boxes, tells the same as some rows of binary.h5 and bboxes.h5.

    classes: what the classes 0 and 1 are called. An empty cell says nothing, and so does a class of 255.
    """
    field, words = {"binary": ("species", classes), "bboxes": ("has_box", ("0", "1"))}[kind]
    facts = rows[:, 0] if kind == "binary" else ~np.isnan(rows[:, 0])
    # With classes of one's own, a column called species may be about something else: only the other class contradicts.
    is_other = tuple(words) not in (("cat", "dog"), ("0", "1"))
    for row, fact in zip(read_index_rows(data, split, n)[start:], facts):
        cell = (row.get(field) or "").strip()
        if not cell or fact > 1 or cell == words[int(fact)] or is_other and cell not in words:
            continue
        path = Path(data) / split / "index.csv"
        ways = f"correct one of them, or leave the column {field} out"
        if kind == "binary" and cell not in words:
            ways += ", or name the two classes in the attribute 'classes' of binary.h5"
        raise InputError(
            f"{path}, row {row['row']}: {field} is {shown(row[field])} and {kind}.h5 beside it says "
            f"{words[int(fact)]}; {ways}"
        )
