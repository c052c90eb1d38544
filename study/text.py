"""Text and Markdown that also reads well as it is: short lines, and tables whose columns line up."""

import textwrap

COLUMNS = 72  # of running text


def in_words(names):
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


def count(n, what):
    return f"{n} {what}{'' if n == 1 else 's'}"


def interval(ends):
    return "-" if ends is None else f"{ends[0]:+.2f} to {ends[1]:+.2f}"


def paragraph(text):
    return textwrap.fill(text, COLUMNS, break_long_words=False, break_on_hyphens=False)


def bullets(title, items):
    lines = [
        textwrap.fill(
            item,
            COLUMNS,
            initial_indent="- ",
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for item in items
    ]
    return "\n".join([title, "", *lines] if title else lines)


def table(header, rows):
    """A Markdown table whose columns line up: text to the left in the first, to the right in the others."""
    cells = [[str(cell).replace("|", "/") for cell in row] for row in (header, *rows)]
    widths = [max(3, *(len(row[k]) for row in cells)) for k in range(len(header))]
    lines = [
        "| "
        + " | ".join(
            cell.ljust(width) if k == 0 else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths))
        )
        + " |"
        for row in cells
    ]
    rule = ["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]
    lines.insert(1, "|" + "|".join(rule) + "|")
    return "\n".join(lines)
