r"""A table of labels, a CSV file with a line for each photograph:

    filename,class,age,xmin,ymin,xmax,ymax
    farm/bella.jpg,horse,7,120,80,410,300

The column filename, file, image, path or name (the first of these that is there, in any case) says which photograph, as
data/sources/pictures.py compares names. xmin, ymin, xmax and ymax are a box in pixels of the upright photograph. A column
class of two values becomes binary.h5, class 0 the first in the alphabet. All columns but those of the box come into
index.csv as they are; an empty cell is unknown. Commas between, UTF-8 or UTF-16, with or without a mark before, lines that
end as on Windows or not.
"""

import csv
import io
import math
from pathlib import Path

import cli
from cli import InputError
from data.contract import UNLABELLED
from data.photographs import show_name
from data.sample import Box
from data.sources.pictures import shown_cell

IDENTITY = ("filename", "file", "image", "path", "name")
CORNERS = ("xmin", "ymin", "xmax", "ymax")
RESERVED = ("row", "name", "has_box")  # index.csv has its own
STRATA = ("breed", "class")  # the first of these that is there is spread evenly over the splits


class Labels:
    """What a table says of the pictures of a folder.

    columns: those that come into index.csv; classes: the two values of its column class, or None; has_boxes: whether it has
    columns of a box; remarks: sentences for the report.
    """

    def __init__(self, path, pictures):
        self.path, self.remarks = path, []
        names, lines = read_table(path)
        by_word = {name.lower(): name for name in reversed(names)}
        identity = next((by_word[word] for word in IDENTITY if word in by_word), None)
        if identity is None:
            raise self.wrong(
                f"its first line names no column {', '.join(IDENTITY[:-1])} or {IDENTITY[-1]} "
                f"({shown_cell(','.join(names))}); add one that says which photograph each line is of"
            )
        corners = [by_word[word] for word in CORNERS if word in by_word]
        if 0 < len(corners) < 4:
            missing = [word for word in CORNERS if word not in by_word]
            raise self.wrong(
                f"it has a column {corners[0]} and no {' and no '.join(missing)}; a box takes all four"
            )
        self.columns = tuple(name for name in names if name and name not in (identity, *corners))
        for name in self.columns:
            if name.lower() in RESERVED:
                raise self.wrong(
                    f"its column {name} would take the place of index.csv's own; rename it"
                )
        self.cells, self.boxes, self.has_boxes, seen = {}, {}, bool(corners), {}
        for number, row in lines:
            key = pictures.find(row[identity])
            if key is None:
                raise self.wrong(
                    f"{shown_cell(row[identity])} is no photograph of {show_name(pictures.folder)}; correct "
                    "the name, or take the line out",
                    number,
                )
            if key in seen:
                raise self.wrong(
                    f"{shown_cell(row[identity])} stands in line {seen[key]} already; keep one of them",
                    number,
                )
            seen[key] = number
            self.cells[key] = {name: row[name] for name in self.columns}
            self.boxes[key] = self.box_of([row[name] for name in corners], number)
        self.classes = self.two_classes(by_word.get("class"))
        self.stratum = next((by_word[word] for word in STRATA if word in by_word), None)
        others = [show_name(key) for key in pictures.found if key not in seen]
        if others:
            self.remarks.append(
                f"not in {show_name(path)}, so without its labels: {len(others)} ({cli.listed(others)})"
            )

    def wrong(self, what, number=None):
        return InputError(
            f"{show_name(self.path)}{'' if number is None else f', line {number}'}: {what}"
        )

    def of(self, key):
        """What a sample is told of its labels, as keyword arguments."""
        cells = self.cells.get(key, dict.fromkeys(self.columns, ""))
        known = {"cells": cells} | (
            {"stratum": cells[self.stratum].strip()} if self.stratum else {}
        )
        if self.classes:
            value = cells[self.class_column].strip()
            known["label"] = self.classes.index(value) if value else UNLABELLED
        return known | ({"box": self.boxes.get(key)} if self.has_boxes else {})

    def box_of(self, cells, number):
        """The box of a line, None where its cells are empty."""
        if not any(cell.strip() for cell in cells):
            return None
        values = []
        for word, cell in zip(CORNERS, cells):
            try:
                values.append(float(cell))
            except ValueError:
                values.append(math.nan)
            if not math.isfinite(values[-1]):
                raise self.wrong(
                    f"{word} is {shown_cell(cell)}, no number; write a number of pixels, or leave all four "
                    "empty",
                    number,
                )
        return Box(tuple(values), None, is_upright=True)

    def two_classes(self, column):
        """The two values of the column class, sorted; None, with a remark, where there are not two."""
        self.class_column = column
        if column is None:
            return None
        values = sorted({cells[column].strip() for cells in self.cells.values()} - {""})
        if len(values) == 2:
            return tuple(values)
        self.remarks.append(
            f"the column {column} of {show_name(self.path)} holds {len(values)} value{'s' * (len(values) != 1)} and not two"
            ", so there is no binary.h5"
            + (f"; train.py --tasks seg column:{column} learns it" if len(values) > 2 else "")
        )
        return None


def read_table(path):
    """(column names, [(line number, {column: cell})]) of a CSV file; lines of empty cells and columns without a name are
    left out. Raises InputError."""

    def wrong(what, number=None):
        return InputError(
            f"{show_name(path)}{'' if number is None else f', line {number}'}: {what}"
        )

    try:
        content = Path(path).read_bytes()
        text = content.decode(
            "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        )
    except OSError as error:
        raise InputError(
            f"{show_name(path)} cannot be read ({error.strerror}); name a CSV file"
        ) from None
    except UnicodeDecodeError as error:
        raise wrong(f"it is no UTF-8 text ({error.reason}); save it as 'CSV UTF-8'") from None
    reader, names, lines = csv.reader(io.StringIO(text, newline="")), None, []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if names is None:
                names = check_names([cell.strip() for cell in cells], wrong)
                continue
            if any(cell.strip() for cell in cells[len(names) :]):
                raise wrong(
                    "it has more cells than there are columns; put cells that hold a comma into double quotes",
                    reader.line_num,
                )
            if len(cells) < len(names):
                raise wrong(
                    f"it has {len(cells)} cells and there are {len(names)} columns; write one for each",
                    reader.line_num,
                )
            lines.append(
                (reader.line_num, {name: cell for name, cell in zip(names, cells) if name})
            )
    except csv.Error as error:
        raise wrong(f"it is no readable CSV ({error}); write it anew", reader.line_num) from None
    if not lines:
        raise wrong(
            "it holds no line of labels; write a line for each photograph below the columns' names"
        )
    return names, lines


def check_names(names, wrong):
    """The names of columns, as they are. Raises what `wrong` makes of a sentence where they cannot be such."""
    mark = next((mark for mark in (";", "\t") if len(names) == 1 and mark in names[0]), None)
    if mark:
        raise wrong(
            f"its columns are separated by {'semicolons' if mark == ';' else 'tabs'}; save it with commas"
        )
    twice = next((name for k, name in enumerate(names) if name and name in names[:k]), None)
    if twice:
        raise wrong(
            f"its first line names the column {shown_cell(twice)} twice; rename one of them"
        )
    return names
