r"""A table of labels, a CSV file with a line for each photograph:

    filename,class,age,xmin,ymin,xmax,ymax
    farm/bella.jpg,horse,7,120,80,410,300

The column filename, file, image, path or name (the first of these that is there, in any case) says
which photograph, as data/names.py compares names. xmin, ymin, xmax and ymax are a box in pixels of
the upright photograph, or all from 0 to 1. A column class of two values becomes binary.h5, class 0
the first in the alphabet. All columns but those of the box come into index.csv; an empty cell is
unknown, and so are NA, N/A, nan, null and --. Commas, semicolons or tabs between, UTF-8 or UTF-16,
with or without a mark before, lines that end as on Windows or not; 3,5 is 3.5.
"""

import csv
import io
import math
import re
from collections import Counter
from functools import partial
from pathlib import Path

import cli
from cli import InputError
from data.labels import Box
from data.layout import UNKNOWN, UNLABELLED
from data.names import quoted, split_named
from data.photographs import show_name

IDENTITY = ("filename", "file_name", "file", "image", "path", "name")
CORNERS = ("xmin", "ymin", "xmax", "ymax")
RESERVED = ("row", "name", "has_box")  # index.csv has its own
STRATA = ("breed", "class")  # the first of these that is there is spread evenly over the splits
WORDS = ("class", "breed", "species", "split", "subset", "group")  # columns that are never numbers
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
COMMA = re.compile(r"[+-]?\d+,\d+")  # 3,5
THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+")  # or 3,500 of 3500


class Labels:
    """What a table says of the photographs of a folder.

    columns: those that come into index.csv; classes: the two values of its column class, or None;
    has_boxes: whether it has columns of a box; remarks: sentences for the report.
    """

    def __init__(self, path, pictures):
        self.path, self.remarks, self.boxes, self.rows = path, [], {}, {}
        names, self.lines = read_table(path)
        self.by_word = {name.lower(): name for name in reversed(names)}
        identity = self._first(IDENTITY)
        if identity is None:
            raise self.wrong(
                f"its first line names no column {', '.join(IDENTITY[:-1])} or {IDENTITY[-1]} "
                f"({quoted(','.join(names))}); add "
                "one that says which photograph each line is of"
            )
        missing = [word for word in CORNERS if word not in self.by_word]
        self.has_boxes = len(missing) < 4
        if self.has_boxes and missing:
            raise self.wrong(f"it has no column {' and no '.join(missing)}; a box takes all four")
        corners = [self.by_word[word] for word in CORNERS if self.has_boxes]
        self.columns = tuple(name for name in names if name and name not in (identity, *corners))
        for name in self.columns:
            if name.lower() in RESERVED:
                raise self.wrong(
                    f"its column {name} would take the place of index.csv's own; rename it"
                )
        for number, cells in self.lines:
            text = cells[identity]
            key = pictures.require(text, partial(self.wrong, number=number))
            if key in self.rows:
                raise self.wrong(
                    f"{quoted(text)} stands in line {self.rows[key][0]} already; keep one of them",
                    number,
                )
            self.rows[key] = (number, cells)
        for name in (*self.columns, *corners):
            self._judge(name)
        if corners:
            self._read_boxes(corners)
        self.classes = self._two_classes(self.by_word.get("class"))
        self.stratum = self._first(STRATA)
        others = [
            show_name(pictures.name_of(key)) for key in pictures.files if key not in self.rows
        ]
        if others:
            self.remarks.append(
                f"not in {show_name(path)}, so without its labels: {len(others)} "
                f"({cli.listed(others)})"
            )

    def _first(self, words):
        """The first of some columns that is there, or None."""
        return next((self.by_word[word] for word in words if word in self.by_word), None)

    def wrong(self, what, number=None):
        return wrong(self.path, what, number)

    def column(self, name):
        """{photograph: cell} of a column by its name, in any case; None where there is none."""
        name = self.by_word.get(name.lower())
        if name not in self.columns:
            return None
        return {key: cells[name].strip() for key, (_, cells) in self.rows.items()}

    def splits(self, source):
        """{photograph: split} of a column split (or subset) of such words, else None; a column of
        others is said."""
        for word in ("split", "subset"):
            cells = self.column(word)
            if cells is None:
                continue
            others = sorted({cell for cell in cells.values() if cell and not split_named(cell)})
            if not others and any(cells.values()):
                return {key: split_named(cell) for key, cell in cells.items()}
            if word == "split":
                listed = cli.listed([quoted(cell) for cell in others]) or "nothing"
                source.warnings.append(
                    f"the column {word} of {show_name(self.path)} is not used as a split, as it "
                    f"holds {listed}; write train, val or test there, or give it another name"
                )
        return None

    def add_to(self, fields, key):
        """Add what the table says of a photograph to the fields of its Record."""
        empty = dict.fromkeys(self.columns, "")
        cells = self.rows[key][1] if key in self.rows else empty
        fields["cells"] = fields.get("cells", {}) | {name: cells[name] for name in self.columns}
        if self.stratum:
            fields["stratum"] = cells[self.stratum].strip()
        if self.classes:
            value = cells[self.by_word["class"]].strip()
            fields["label"] = self.classes.index(value) if value else UNLABELLED
        if key in self.boxes:
            fields["box"] = self.boxes[key]

    def _judge(self, name):
        """Empty the cells of a column that say in words that nothing is known, and say which;
        refuse numbers but for a few cells; write decimal commas as points."""
        words, numbers, commas, odd = Counter(), 0, [], []
        for number, cells in self.lines:
            cell = cells[name].strip()
            if cell.casefold() in UNKNOWN:
                words[cell] += cell != ""
                cells[name] = ""
            elif NUMBER.fullmatch(cell):
                numbers += 1
            else:
                is_comma = COMMA.fullmatch(cell) or THOUSANDS.fullmatch(cell)
                (commas if is_comma else odd).append((number, cells, cell))
        if +words:
            listed = ", ".join(f"{count} {quoted(word)}" for word, count in (+words).items())
            self.remarks.append(f"column {show_name(name)}: read as unknown: {listed}")
        if name.lower() in WORDS or not commas + odd:
            return
        numbers += len(commas)
        unclear = [one for one in commas if THOUSANDS.fullmatch(one[2])]
        if odd and numbers >= 2 * len(odd):
            raise self.wrong(
                f"{name} is {quoted(odd[0][2])}, and {numbers} other cells of this column are "
                "numbers; write a number, or "
                "leave the cell empty where it is unknown",
                odd[0][0],
            )
        if odd:
            return
        if len(unclear) == len(commas) or any(one[2].count(",") > 1 for one in unclear):
            raise self.wrong(
                f"{name} is {quoted(unclear[0][2])}, which may be a decimal comma or thousands; "
                "write it with a point, or "
                "without",
                unclear[0][0],
            )
        for _, cells, cell in commas:
            cells[name] = cell.replace(",", ".")
        self.remarks.append(
            f"column {show_name(name)}: {len(commas)} decimal commas read as points"
        )

    def _read_boxes(self, corners):
        """The Box of each line that has one, in pixels or, where all lie in [0, 1], as parts of
        the sides."""
        found = {}
        for key, (number, cells) in self.rows.items():
            texts = [cells[name].strip() for name in corners]
            for word, text in zip(CORNERS, texts, strict=True):
                if any(texts) and not (NUMBER.fullmatch(text) and math.isfinite(float(text))):
                    raise self.wrong(
                        f"{word} is {quoted(text)}, no number; write a number of pixels, or leave "
                        "all four empty",
                        number,
                    )
            if any(texts):
                found[key] = (number, tuple(map(float, texts)))
        is_relative = bool(found) and all(
            min(box) >= 0 and max(box) <= 1 for _, box in found.values()
        )
        for key, (number, box) in found.items():
            if max(box) <= 1 and not is_relative:
                raise self.wrong(
                    f"the box {' '.join(f'{value:g}' for value in box)} ends in the first pixel, "
                    "as if it were in [0, 1]; "
                    "multiply it by the photograph's width and height",
                    number,
                )
            self.boxes[key] = Box(box, is_upright=True, is_relative=is_relative)
        if is_relative:
            self.remarks.append(
                "boxes from 0 to 1, read as parts of the photograph's width and height: "
                f"{len(found)}"
            )

    def _two_classes(self, column):
        """The two values of the column class, sorted; None, with a remark, where there are not
        two."""
        if column is None:
            return None
        values = sorted({cells[column].strip() for _, cells in self.rows.values()} - {""})
        if len(values) == 2:
            return tuple(values)
        listed = cli.listed([quoted(value) for value in values]) or "none"
        remark = (
            f"the column {column} of {show_name(self.path)} holds {len(values)} "
            f"value{'s' * (len(values) != 1)} ({listed}) and not two, so there is no binary.h5"
        )
        if len(values) > 2:
            remark += f"; train.py --tasks seg column:{column} learns it"
        self.remarks.append(remark)
        return None


def wrong(path, what, number=None):
    line = "" if number is None else f", line {number}"
    return InputError(f"{show_name(path)}{line}: {what}")


def read_table(path):
    """(column names, [(line number, {column: cell})]) of a CSV file; lines of empty cells and
    columns without a name are left out. Raises InputError."""
    try:
        content = Path(path).read_bytes()
        is_wide = content[:2] in (b"\xff\xfe", b"\xfe\xff")
        text = content.decode("utf-16" if is_wide else "utf-8-sig")
    except OSError as error:
        raise InputError(
            f"{show_name(path)} cannot be read ({error.strerror}); name a CSV file"
        ) from None
    except UnicodeDecodeError as error:
        raise wrong(path, f"it is no UTF-8 text ({error.reason}); save it as 'CSV UTF-8'") from None
    first = next((line for line in text.splitlines() if line.strip(" \t,;")), "")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count))
    names, lines = None, []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if names is None:
                names = [cell.strip() for cell in cells]
                continue
            fault = fault_of(cells, names)
            if fault:
                raise wrong(path, fault, reader.line_num)
            row = {name: cell for name, cell in zip(names, cells, strict=False) if name}
            lines.append((reader.line_num, row))
    except csv.Error as error:
        raise wrong(
            path, f"it is no readable CSV ({error}); write it anew", reader.line_num
        ) from None
    twice = [name for name, count in Counter(names).items() if name and count > 1]
    if twice:
        raise wrong(
            path, f"its first line names the column {quoted(twice[0])} twice; rename one of them"
        )
    if not lines:
        raise wrong(
            path,
            "it holds no line of labels; write a line for each photograph below the columns' names",
        )
    return names, lines


def fault_of(cells, names):
    """What is wrong with a line, or None."""
    if any(cell.strip() for cell in cells[len(names) :]):
        return (
            "it has more cells than there are columns; put cells that hold a comma into double "
            "quotes"
        )
    if len(cells) < len(names):
        return f"it has {len(cells)} cells and there are {len(names)} columns; write one for each"
    return None
