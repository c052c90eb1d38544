"""A split's index.csv: row, name, breed, species, has_box, and any custom column; an empty cell is
unknown.

All of it may be missing, all columns but row and name too. Written by data_prepare.py, or by hand
or a spreadsheet: a mark before the first word (BOM), lines that end as on Windows and lines of
empty cells are taken. Raises cli.InputError, naming the file, the value and the way out.
"""

import csv
import os
from pathlib import Path

import numpy as np

from cli import InputError
from data.layout import CLASSES, UNKNOWN

MOST_SHOWN = 60  # characters of a cell or a first line, in a message
WITHOUT = "or delete it, as images have numbers too"


def read_index(data, split, n):
    """Names of the n samples of a split from its index.csv; row numbers where others prepared the
    data without one."""
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
        reason = f"cannot be read ({error.strerror}); put that right"
    except UnicodeDecodeError as error:
        is_wide = error.object[:2] in (b"\xff\xfe", b"\xfe\xff")
        looks = "UTF-16, as Excel's 'Unicode Text' is" if is_wide else error.reason
        reason = f"is no UTF-8 text ({looks}); save it as 'CSV UTF-8'"
    except csv.Error as error:
        reason = f"is no readable CSV file ({error}); write it anew"
    else:
        reason = fault(columns, rows, n)
        if not reason:
            return [cleared(row) for row in rows]
        reason = f"should list the rows 0 to {n - 1} in order, with their names, {reason}"
    raise InputError(f"{path} {reason}, {WITHOUT}")


def cleared(row):
    """A row whose cells that say in words that nothing is known, such as NA, are empty."""
    for column, cell in row.items():
        is_word = column != "name" and isinstance(cell, str) and cell.strip().casefold() in UNKNOWN
        if is_word:
            row[column] = ""
    return row


def fault(columns, rows, n):
    """What is wrong with an index of n images, and the way out; None where nothing is."""
    missing = [column for column in ("row", "name") if column not in columns]
    twice = [column for k, column in enumerate(columns) if column and column in columns[:k]]
    for mark, name in ((";", "semicolons"), ("\t", "tabs")):
        if len(columns) == 1 and mark in columns[0]:
            return f"and its columns are separated by {name}; save it with commas"
    if missing:
        return (
            f"and its first line names no column {' and no '.join(missing)} "
            f"({shown(','.join(columns))}); add that"
        )
    if twice:
        return f"and its first line names the column {shown(twice[0])} twice; rename one of them"
    for k, row in enumerate(rows[:n]):
        if row["row"] != str(k):
            return f"and where {k} should stand it says {shown(row['row'])}; correct that"
        if not row["name"]:
            return f"and row {k} has none; give it one"
        if any(row.get(None, ())):  # all cells behind a comma too many stand in the wrong column
            return (
                f"and row {k} has more cells than there are columns; put cells that hold a comma "
                "into double quotes"
            )
    return None if len(rows) == n else f"and it lists {len(rows)} rows; list one for each image"


def shown(text):
    """The beginning of a cell or line, quoted."""
    is_long = text is not None and len(text) > MOST_SHOWN
    return repr(text[:MOST_SHOWN]) + "..." if is_long else repr(text)


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


def check_index(data, place, slab, summary):
    """Check that index.csv, where it tells species and boxes, tells the same as some rows of
    binary.h5 and bboxes.h5.

    place: (split, kind); slab: (first row, rows); summary: contract.describe's. An empty cell says
    nothing, and so does a class of 255.
    """
    (split, kind), (start, rows), classes = place, slab, summary["classes"]
    field, words = ("species", classes) if kind == "binary" else ("has_box", ("0", "1"))
    facts = rows[:, 0] if kind == "binary" else ~np.isnan(rows[:, 0])
    # With custom classes, a column called species may be about something else: only the other
    # class contradicts.
    is_other = kind == "binary" and tuple(words) != CLASSES
    found = read_index_rows(data, split, summary["splits"][split])[start:]
    for row, fact in zip(found, facts, strict=False):
        cell = (row.get(field) or "").strip()
        if not cell or fact > 1 or cell == words[int(fact)] or (is_other and cell not in words):
            continue
        ways = f"correct one of them, or leave the column {field} out"
        if kind == "binary" and cell not in words:
            ways += ", or name the two classes in the attribute 'classes' of binary.h5"
        raise InputError(
            f"{Path(data) / split / 'index.csv'}, row {row['row']}: {field} is "
            f"{shown(row[field])} and {kind}.h5 beside it says {words[int(fact)]}; {ways}"
        )
