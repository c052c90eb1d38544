"""Markdown that also reads well as text: short lines, tables whose columns line up."""

import re
import textwrap

import numpy as np

COLUMNS = 72  # of running text


def fill(markdown):
    """Markdown of a template: paragraphs and lists wrapped anew, tables and headings as they are.

    Blocks are parted by blank lines; empty ones are left out."""
    blocks = re.split(r"\n\s*\n", markdown)
    return "\n\n".join(filter(None, map(_block, blocks))) + "\n"


def _block(text):
    lines = [line.strip() for line in text.strip().splitlines()]
    if lines and lines[0][0] in "|#!":
        return "\n".join(lines)
    items = re.split(r"(?:^|\n)- ", "\n".join(lines))
    wrapped = [_wrap(items[0])] + [_wrap(item, "- ", "  ") for item in items[1:]]
    return "\n".join(filter(None, wrapped))


def _wrap(text, first="", following=""):
    indents = {"initial_indent": first, "subsequent_indent": following}
    words = " ".join(text.split())
    whole = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.fill(words, COLUMNS, **indents, **whole)


def bullets(items):
    """A list; nothing of nothing."""
    return "\n".join(f"- {item}" for item in items if item)


def table(header, rows):
    """A Markdown table: text to the left in the first column, to the right in the others."""
    lines = [[str(cell).replace("|", "/") for cell in row] for row in (header, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        aligned = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        line[:] = [line[0].ljust(widths[0]), *aligned[1:]]
    text = [f"| {' | '.join(line)} |" for line in lines]
    rule = [f"{'-' * (width + 1)}:" for width in widths[1:]]
    return "\n".join([text[0], f"|{'|'.join(['-' * (widths[0] + 2), *rule])}|", *text[1:]])


def each(rows, cells):
    """Lines of a table: a name and the cells of its value, of {name: value}."""
    return [(name, *cells(value)) for name, value in rows.items()]


def in_words(names):
    """ "a, b and c"."""
    names = list(map(str, names))
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


def count(n, noun):
    """ "1 run", "2 runs"."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def interval(ends, digits=2):
    """Two numbers with their signs, or a dash."""
    return "-" if ends is None else f"{ends[0]:+.{digits}f} to {ends[1]:+.{digits}f}"


def spread(values, scale=100.0, digits=2):
    """Mean and standard deviation as text; a dash without values."""
    values = scale * np.asarray(values, float)
    known = values[~np.isnan(values)]
    if len(known) < len(values):
        return f"only in {len(known)} of {len(values)} runs" if len(known) else "-"
    deviation = f" ± {known.std(ddof=1):.{digits}f}" if len(known) > 1 else ""
    return f"{known.mean():.{digits}f}{deviation}"
