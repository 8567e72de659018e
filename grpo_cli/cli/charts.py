"""Charts as text: lists of lines that any terminal shows, without colour and without a library.

    sparkline([1, 2, 4, 8], 4)          ▁▂▄█
    line_chart([0.3, 0.5, 0.9], 20, 3)  0.90 ┤⠀⠀⠀⠀⠀⠀⠀⠀⠀⢀⡠⠔⠊   two by four braille dots to a character
    histogram_lines([3, 1], [0, 1, 2], 20)
                                        0 to 1 │████████▌ 3

`ascii_only` draws the same with ASCII characters. Values that are not finite are left out.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

LEVELS = "▁▂▃▄▅▆▇█"
ASCII_LEVELS = "_.:-=+*#"
EIGHTHS = " ▏▎▍▌▋▊▉"  # partial blocks for the end of a bar, filled from the left
BRAILLE = 0x2800
DOT_BITS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # [column][row from the top]


def sparkline(values: Iterable[float], width: int, ascii_only: bool = False) -> str:
    """One line of blocks scaled from lowest to highest; at most `width` characters.

    If there are more values than characters they are averaged, so the whole course stays visible.
    """
    means = averaged([value for value in values if math.isfinite(value)], width)
    if not means:
        return ""
    levels = ASCII_LEVELS if ascii_only else LEVELS
    return "".join(levels[level(value, min(means), max(means), len(levels))] for value in means)


def line_chart(
    values: Iterable[float],
    width: int,
    height: int,
    slots: int = 0,
    ascii_only: bool = False,
    *,
    places: Sequence[int] | None = None,
    mark_best: bool = False,
) -> list[str]:
    """A curve in `height` lines of `width` characters, with labels for its highest and lowest value.

    `slots`: number of values for the full width. A curve with fewer leaves the rest empty, so it grows to the
    right and its past stays in place. 0: the values fill the width. `places`: the slot of each value,
    ascending, where not every slot has one. `mark_best`: a ● at the highest value, the first of equal ones.
    """
    numbers = list(values)
    where = range(len(numbers)) if places is None else places
    known = [(place, value) for place, value in zip(where, numbers, strict=True) if math.isfinite(value)]
    if not known:
        return [" " * width] * height
    finite = [value for _, value in known]
    if places is None:  # what is not known leaves no gap
        known = list(enumerate(finite))
    labels = axis_labels(min(finite), max(finite), height)
    gutter = max(map(len, labels))
    columns = max(1, width - gutter - 2)
    across, down = (1, 1) if ascii_only else (2, 4)  # dots per character
    slots = max(slots, known[-1][0] + 1)
    dots = curve(known, columns * across, height * down, slots)
    rows = ascii_rows(dots, columns, height) if ascii_only else braille_rows(dots, columns, height)
    if mark_best:
        place = next(place for place, value in known if value == max(finite))
        at = column(place, columns * across, slots) // across
        top = height - 1 - level(max(finite), min(finite), max(finite), height * down) // down
        rows[top] = rows[top][:at] + ("o" if ascii_only else "●") + rows[top][at + 1 :]
    tick, wall = ("+", "|") if ascii_only else ("┤", "│")
    return [
        f"{label:>{gutter}} {tick if label else wall}{row}" for label, row in zip(labels, rows, strict=True)
    ]


def histogram_lines(
    counts: Sequence[int], edges: Sequence[float], width: int, ascii_only: bool = False
) -> list[str]:
    """One bar per line for each interval between two edges: label, bar, count."""
    step = min((b - a for a, b in itertools.pairwise(edges)), default=1.0)
    places = 0 if all(edge == int(edge) for edge in edges) else decimals(step)
    texts = [f"{edge:.{places}f}" for edge in edges]
    wide = max(map(len, texts), default=0)
    labels = [f"{a:>{wide}} to {b:>{wide}}" for a, b in itertools.pairwise(texts)]
    return bar_lines(labels, counts, width, ascii_only)


def bar_lines(
    labels: Sequence[str], counts: Sequence[int], width: int, ascii_only: bool = False
) -> list[str]:
    """One bar per line, the longest for the largest count; for a few named values."""
    gutter = max(map(len, labels), default=0)
    digits = max((len(str(count)) for count in counts), default=0)
    room = max(1, width - gutter - digits - 3)
    largest = max(counts, default=0) or 1
    wall = "|" if ascii_only else "│"
    return [
        f"{label:>{gutter}} {wall}{block_bar(count / largest, room, ascii_only)} {count}"
        for label, count in zip(labels, counts, strict=True)
    ]


def block_bar(share: float, width: int, ascii_only: bool = False) -> str:
    """A bar of `share` of the width, in eighths of a character; any share above 0 is visible."""
    if ascii_only:
        return "#" * (max(1, round(share * width)) if share > 0 else 0)
    eighths = max(1, round(share * width * 8)) if share > 0 else 0
    return ("█" * (eighths // 8) + EIGHTHS[eighths % 8]).rstrip()


def progress_bar(share: float, width: int, ascii_only: bool = False) -> tuple[str, str]:
    """The done and open parts of a thin bar, to be coloured differently; together `width` long."""
    full, half, empty = ("#", "", ".") if ascii_only else ("━", "╸", "─")
    halves = int(min(max(share, 0.0), 1.0) * width * 2)
    done = full * (halves // 2) + half * (halves % 2)
    return done, empty * (width - len(done))


def averaged(values: Sequence[float], width: int) -> list[float]:
    """At most `width` values: means over equal intervals."""
    if len(values) <= width:
        return list(values)
    cuts = [i * len(values) // width for i in range(width + 1)]
    return [math.fsum(values[a:b]) / (b - a) for a, b in itertools.pairwise(cuts)]


def level(value: float, low: float, high: float, levels: int) -> int:
    """Index of the nearest of `levels` equal steps from low to high; the middle one if low equals high."""
    if high <= low:
        return (levels - 1) // 2
    return round((value - low) / (high - low) * (levels - 1))


def decimals(span: float) -> int:
    """Decimals needed to distinguish values within `span`: two for rewards, more for a flat curve."""
    if span >= 100:
        return 0
    return min(6, max(2, 1 - math.floor(math.log10(span)))) if span > 0 else 2


def axis_labels(low: float, high: float, height: int) -> list[str]:
    """One label per row: the highest at the top, the lowest at the bottom; for a single row only one."""
    labels = [""] * height
    places = decimals(high - low)
    if high > low and height > 1:
        labels[0], labels[-1] = f"{high:.{places}f}", f"{low:.{places}f}"
    else:
        labels[height // 2] = f"{high:.{places}f}"
    return labels


def column(place: int, across: int, slots: int) -> int:
    """The column of dots of a slot."""
    return place * (across - 1) // max(1, slots - 1)


def curve(known: Sequence[tuple[int, float]], across: int, down: int, slots: int) -> dict[int, range]:
    """The rows, counted from below, that the curve passes in each column of dots, from left to right.

    `known`: slot and value, ascending. Values in the same column are averaged; between two values the curve
    is straight.
    """
    buckets: dict[int, list[float]] = {}
    for place, value in known:
        buckets.setdefault(column(place, across, slots), []).append(value)
    means = {x: math.fsum(bucket) / len(bucket) for x, bucket in buckets.items()}
    values = [value for _, value in known]
    low, high = min(values), max(values)
    points = [(x, level(mean, low, high, down)) for x, mean in means.items()]
    dots = {points[0][0]: range(points[0][1], points[0][1] + 1)}
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        for x in range(x0 + 1, x1 + 1):
            y, before = (round(y0 + (y1 - y0) * (at - x0) / (x1 - x0)) for at in (x, x - 1))
            # Start next to the previous dot, so that a steep curve has no gaps.
            dots[x] = range(min(y, before + 1), max(y, before - 1) + 1)
    return dots


def braille_rows(dots: Mapping[int, range], columns: int, height: int) -> list[str]:
    """The dots as `height` rows of braille characters, from the top."""
    cells = [[0] * columns for _ in range(height)]
    for x, rows in dots.items():
        for y in rows:
            from_top = height * 4 - 1 - y
            cells[from_top // 4][x // 2] |= DOT_BITS[x % 2][from_top % 4]
    return ["".join(chr(BRAILLE + cell) if cell else " " for cell in row) for row in cells]


def ascii_rows(dots: Mapping[int, range], columns: int, height: int) -> list[str]:
    """The dots as `height` rows of asterisks, from the top."""
    cells = [[" "] * columns for _ in range(height)]
    for x, rows in dots.items():
        for y in rows:
            cells[height - 1 - y][x] = "*"
    return ["".join(row) for row in cells]
