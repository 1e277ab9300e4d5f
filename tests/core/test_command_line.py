"""A command shows the arguments that an error names as its own options."""

from __future__ import annotations

import pytest

from sdtc.core.command_line import as_options, command
from sdtc.core.errors import InputError


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("`max_frames` is 0", "--max-frames is 0"),
        ("leave out `device='cpu'`, or", "leave out --device cpu, or"),
        ("`batch_size=4`", "--batch-size 4"),
        ("`exact=True` holds no boxes", "--exact holds no boxes"),
        ("add `plan=False`", "add --no-plan"),
        ("`source` is a terminal", "--input is a terminal"),
        ("with `engines=False`", "with --no-plan"),
        ("'my_file' and `Not Ours`", "'my_file' and `Not Ours`"),
    ],
)
def test_arguments_become_options(message, shown) -> None:
    assert as_options(message, {"source": "--input", "engines=False": "--no-plan"}) == shown


def test_a_command_translates_on_its_way_out(capsys) -> None:
    @command("sdtc-x", {"path": "--engine"})
    def main(argv=None) -> int:
        raise InputError("`path` and `hold` do not fit")

    assert main([]) == 2
    assert capsys.readouterr().err == "sdtc-x: error: --engine and --hold do not fit\n"
