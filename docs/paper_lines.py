"""Keep the line numbers in docs/paper.md true: each link carries the text of the line that it points to.

    python docs/paper_lines.py            rewrite the numbers (and paths of files that were moved)
    python docs/paper_lines.py --check    change nothing, fail if a link is out of date

A link has the form

    [`sdtc/model/smml.py`, line 62](../sdtc/model/smml.py#L62 "S + cross_attention(Q, K, V)")

The title in quotes is the marker: it stands on exactly one line of the file. When code moves, the marker is looked up
again, in the same file first and then in the whole package. A marker that is gone, or that is no longer unique, is an
error: choose a new one by hand.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "paper.md"
FOLDERS = ("sdtc", "kernels", "export", "runtime", "benchmarks")
LINK = re.compile(
    r"\[`(?P<path>[^`\]]+)`, line (?P<line>\d+)\]"
    r'\(\.\./(?P<target>[^)#\s]+)#L(?P<anchor>\d+) "(?P<marker>[^"]+)"\)'
)


@dataclass(frozen=True)
class Place:
    """A line of a source file.

    Attributes:
        path: relative to the repository, with forward slashes.
        line: from 1.
        text: of the line.
    """

    path: str
    line: int
    text: str


def places(path: str, marker: str) -> list[Place]:
    """Return the lines of a file that hold a marker; none where there is no such file."""
    file = ROOT / path
    if not file.is_file():
        return []
    lines = file.read_text(encoding="utf-8").splitlines()
    return [Place(path, number, text) for number, text in enumerate(lines, 1) if marker in text]


def find(path: str, marker: str) -> Place:
    """Return the one line that a marker stands on, in its file or, if that was moved, anywhere in the package.

    Raises:
        LookupError: there is none, or there are several.
    """
    found = places(path, marker)
    if not found:
        sources = sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))
        found = [place for file in sources for place in places(file.relative_to(ROOT).as_posix(), marker)]
    if len(found) != 1:
        where = ", ".join(f"{place.path}:{place.line}" for place in found) or "nowhere"
        raise LookupError(f"the marker '{marker}' of {path} stands {where}: expected exactly one line")
    return found[0]


def rewrite(text: str) -> str:
    """Return a page with the path and line of every link as they are now.

    Raises:
        LookupError: as in `find`.
    """

    def renew(match: re.Match[str]) -> str:
        place = find(match["target"], match["marker"])
        return f'[`{place.path}`, line {place.line}](../{place.path}#L{place.line} "{match["marker"]}")'

    return LINK.sub(renew, text)


def main(arguments: list[str]) -> int:
    old = PAGE.read_text(encoding="utf-8")
    try:
        new = rewrite(old)
    except LookupError as error:
        print(f"paper_lines.py: error: {error}", file=sys.stderr)
        return 1
    if "--check" in arguments:
        if new != old:
            print("docs/paper.md links to lines that have moved: run  python docs/paper_lines.py", file=sys.stderr)
        return int(new != old)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
