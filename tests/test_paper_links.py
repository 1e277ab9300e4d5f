"""docs/paper.md: every equation of the paper is there, linked to the line that computes it, and that line says so."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EQUATIONS, TABLES = range(1, 17), range(1, 11)


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


paper_lines = load("paper_lines")
PAGE = paper_lines.PAGE.read_text(encoding="utf-8")


def numbers(text: str) -> set[int]:
    """Numbers of equations that a text names: "Eq. 2 and 3", "(Eq. 1, 4, 15)", "Eq. 6-8"."""
    found: set[int] = set()
    for listed in re.findall(r"Eq\. ?(\d+(?:(?:, | and |[-–])\d+)*)", text):
        for low, high in re.findall(r"(\d+)(?:[-–](\d+))?", listed):
            found |= set(range(int(low), int(high or low) + 1))
    return found


def sections() -> dict[tuple[int, ...], str]:
    """The page's parts on equations, by their numbers."""
    parts = re.split(r"^#+ ", PAGE, flags=re.MULTILINE)
    return {tuple(sorted(numbers(part.split(":")[0]))): part for part in parts if part.startswith("Eq.")}


def test_numbers_reads_every_form() -> None:
    assert numbers("a (Eq. 6-8), Eq. 2 and 3, (Eq. 1, 4, 15) and 7") == {1, 2, 3, 4, 6, 7, 8, 15}


def test_links_are_up_to_date() -> None:
    assert paper_lines.rewrite(PAGE) == PAGE, "run  python docs/paper_lines.py"
    sources = re.findall(r"\]\(\.\./(?:sdtc|kernels|export|runtime)/[^)]*\.py[^)]*\)", PAGE)
    assert len(sources) == len(paper_lines.LINK.findall(PAGE)) > 30, "a link to a line without a marker"


def test_every_equation_has_its_own_part() -> None:
    assert sorted(number for part in sections() for number in part) == list(EQUATIONS)
    assert numbers(PAGE) == set(EQUATIONS)


@pytest.mark.parametrize("equations", sections(), ids=str)
def test_the_lines_that_a_part_links_to_name_its_equations(equations) -> None:
    named: set[int] = set()
    for link in paper_lines.LINK.finditer(sections()[equations]):
        lines = (ROOT / link["target"]).read_text(encoding="utf-8").splitlines()
        line = int(link["line"])
        named |= numbers("\n".join(lines[max(line - 3, 0) : line + 2]))  # a docstring stands below its function
    assert set(equations) <= named


def test_every_table_is_listed() -> None:
    for table in TABLES:
        assert re.search(rf"^\| Table {table} |^\| Table 1–3 ", PAGE, re.MULTILINE), table


def test_a_marker_that_is_gone_or_not_unique_is_an_error(tmp_path, monkeypatch) -> None:
    for name, text in {"sdtc/a.py": "x = 1\ny = 2\n", "sdtc/b.py": "z = 3\nx = 1\n"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(paper_lines, "ROOT", tmp_path)

    def link(path: str, line: int, marker: str) -> str:
        return f'[`{path}`, line {line}](../{path}#L{line} "{marker}")'

    assert paper_lines.rewrite(link("sdtc/a.py", 7, "y = 2")) == link("sdtc/a.py", 2, "y = 2")
    assert paper_lines.rewrite(link("sdtc/moved.py", 7, "z = 3")) == link("sdtc/b.py", 1, "z = 3")
    assert paper_lines.rewrite(link("sdtc/b.py", 7, "x = 1")) == link("sdtc/b.py", 2, "x = 1")
    for marker in ("x = 1", "w = 4"):
        with pytest.raises(LookupError, match="exactly one line"):
            paper_lines.rewrite(link("sdtc/moved.py", 7, marker))
