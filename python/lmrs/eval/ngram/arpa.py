"""N-gram models as ARPA text: counts, then for each order lines of log₁₀ p, the words and the weight of backing off."""

import math
from pathlib import Path

from lmrs.errors import FormatError, MissingFileError
from lmrs.eval.ngram.model import UNKNOWN, Entry, Table
from lmrs.files import lines, replace_file

MOST_ORDER = 32


def read(path: Path) -> Table:
    """The model in a file, which may be gzipped. Raises MissingFileError, FileError, FormatError naming the line."""
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file")
    ids: dict[str, int] = {UNKNOWN: 0}
    entries: dict[tuple[int, ...], Entry] = {}
    counts: dict[int, int] = {}
    order = seen = 0
    number, ended = 0, False
    for number, written in lines(path):
        line = written.strip(" \t")
        if not line or ended:
            continue
        if line.startswith("ngram ") and not order:
            n, _, count = line.removeprefix("ngram ").partition("=")
            if not (n.strip().isdecimal() and count.strip().isdecimal() and int(n) == len(counts) + 1 <= MOST_ORDER):
                raise FormatError(f"{path}:{number}: {line!r}, expected ngram {len(counts) + 1}=COUNT")
            counts[int(n)] = int(count)
        elif line in (f"\\{order + 1}-grams:", "\\end\\"):
            if order and seen != counts[order]:
                raise FormatError(f"{path}:{number}: {seen} {order}-grams, expected {counts[order]}")
            ended = line == "\\end\\"
            if not ended and order + 1 not in counts:
                raise FormatError(f"{path}:{number}: {line}, expected at most {len(counts)}")
            if ended and order != len(counts):
                raise FormatError(f"{path}:{number}: the end, expected \\{order + 1}-grams:")
            order, seen = order + 1, 0
        elif order:
            words, entry = _entry(f"{path}:{number}", line, order, last=order == len(counts))
            if order == 1:
                ids.setdefault(UNKNOWN if words[0] == "<UNK>" else words[0], len(ids))
            try:
                entries[tuple(ids[UNKNOWN if word == "<UNK>" else word] for word in words)] = entry
            except KeyError as error:
                raise FormatError(f"{path}:{number}: the word {error} is no 1-gram") from None
            seen += 1
        elif line != "\\data\\":
            raise FormatError(f"{path}:{number}: {line[:80]!r}, expected \\data\\ and counts")
    if not ended:
        raise FormatError(f"{path}:{number}: ends before \\end\\")
    return Table(len(counts), ids, entries)


def _entry(where: str, line: str, order: int, *, last: bool) -> tuple[list[str], Entry]:
    """``p words [backoff]``, apart by tabs and spaces."""
    prob, *words = line.split()
    weight = words.pop() if len(words) == order + 1 else "0"
    try:
        entry = float(prob), float(weight)
    except ValueError:
        raise FormatError(f"{where}: {line[:80]!r}, expected a number, {order} words and perhaps a number") from None
    if len(words) != order or (last and float(weight) != 0.0):
        raise FormatError(f"{where}: {len(words)} words or a back-off that should not be there, expected {order} words")
    if not (entry[0] <= 0 and math.isfinite(entry[1])):
        raise FormatError(f"{where}: log₁₀ p is {prob} and the back-off {weight}, expected at most 0 and a number")
    return words, entry


def write(table: Table, path: Path) -> None:
    """Write a model, whole or not at all. Raises FileError if the system refuses."""
    names = {number: word for word, number in table.ids.items()}
    by_order: dict[int, list[str]] = {n: [] for n in range(1, table.order + 1)}
    for words, (prob, weight) in sorted(table.entries.items()):
        text = f"{prob:.9g}\t{' '.join(names[word] for word in words)}"
        by_order[len(words)].append(text if len(words) == table.order else f"{text}\t{weight:.9g}")
    lines = ["\\data\\", *(f"ngram {n}={len(found)}" for n, found in by_order.items()), ""]
    for n, found in by_order.items():
        lines += [f"\\{n}-grams:", *found, ""]
    replace_file(path, "\n".join([*lines, "\\end\\", ""]).encode())
