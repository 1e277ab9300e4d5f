"""README and docs/: their commands run as they stand, and the files, options and error messages that they name exist.

A block runs if its fence says ```bash or ```python and nothing else: ```bash {.notest} does not run. A page is one
session of a user, in a folder of its own beside the checkout's `export/`; pages of docs/ find the README's `bundle` and
`clips`.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from sdtc.core.command_line import as_options

ROOT = Path(__file__).resolve().parents[1]
README, DOCS = ROOT / "README.md", ROOT / "docs"
PAGES = {path.name: path.read_text(encoding="utf-8") for path in [README, *sorted(DOCS.glob("*.md"))]}
COMMANDS = sorted(script.name for script in entry_points(group="console_scripts") if script.value.startswith("sdtc."))


def blocks(page: str) -> list[tuple[str, str]]:
    """Return language and code of the blocks that run."""
    return re.findall(r"^```(bash|python)\n(.*?)^```$", PAGES[page], re.DOTALL | re.MULTILINE)


def fenced(page: str) -> str:
    """Return the code of all blocks, also of those that do not run."""
    return "\n".join(re.findall(r"^```[^\n]*\n(.*?)^```$", PAGES[page], re.DOTALL | re.MULTILINE))


def commands_of(code: str) -> list[str]:
    """Return the lines of a bash block, those left out that install or build what the test's environment has."""
    return [line for line in code.splitlines() if not line.startswith(("make ", "pip "))]


# Other pages show the README's commands where they begin; its own test runs them.
OF_README = {line.split("  #")[0].strip() for _, code in blocks("README.md") for line in commands_of(code)}
# Python blocks that follow one another share a process, which imports once, but no names.
RUN_BLOCKS = (
    "import json, sys\nfor code in json.load(sys.stdin): exec(compile(code, code, 'exec'), {'__name__': 'block'})"
)


def run(page: str, folder: Path, without_readme: bool) -> None:
    for name in ("export", "examples", "benchmarks", "docs"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    environment = os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    for language, group in itertools.groupby(blocks(page), key=lambda block: block[0]):
        codes = [code for _, code in group]
        if without_readme:
            codes = [code for code in codes if code not in PAGES["README.md"]]
        if language == "python":
            command, text = [sys.executable, "-c", RUN_BLOCKS], json.dumps(codes)
        else:
            lines = [line for code in codes for line in commands_of(code)]
            if without_readme:
                lines = [line for line in lines if line.split("  #")[0].strip() not in OF_README]
            command, text = ["bash", "-euo", "pipefail", "-c", "\n".join(lines)], ""
        done = subprocess.run(command, cwd=folder, env=environment, input=text, capture_output=True, text=True)
        assert done.returncode == 0, f"{page}: {command[-1]} {text}\n{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="module")
def readme_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the README's blocks have run."""
    folder = tmp_path_factory.mktemp("readme")
    run("README.md", folder, without_readme=False)
    return folder


@pytest.mark.slow
def test_every_block_of_the_readme_runs(readme_folder) -> None:
    assert (readme_folder / "poses" / "000000_synthetic.mp4").stat().st_size > 1000
    assert (readme_folder / "bundle" / "model.plan").exists()


@pytest.fixture(scope="module")
def sessions(request: pytest.FixtureRequest, readme_folder: Path) -> Iterator[dict[str, Future[Path]]]:
    """The pages whose tests were asked for, two of them running at a time; each gives its folder."""

    def session(page: str) -> Path:
        folder = readme_folder / f"session-{page}"
        folder.mkdir()
        shutil.copytree(readme_folder / "clips", folder / "clips")
        shutil.copytree(readme_folder / "bundle", folder / "bundle", copy_function=os.link)  # an export replaces files
        run(page, folder, without_readme=True)
        return folder

    asked = [item.callspec.params.get("page") for item in request.session.items if hasattr(item, "callspec")]
    with ThreadPoolExecutor(2) as pool:
        yield {page: pool.submit(session, page) for page in asked if page in PAGES}


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page != "README.md" and blocks(page)])
def test_every_block_of_a_page_runs(page, sessions) -> None:
    folder = sessions[page].result()
    if page == "export.md":
        assert (folder / "bundle-fp16" / "model.plan").exists()
    if page == "live.md":
        assert (folder / "two" / "left.json").stat().st_size > 100


def test_every_command_is_run_by_a_block() -> None:
    code = "\n".join(code for page in PAGES for _, code in blocks(page))
    for command in set(COMMANDS) - {"sdtc-export"}:  # is export/to_trt.py
        assert re.search(rf"^(.* )?{command} ", code, re.MULTILINE), command


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page, text in PAGES.items():
        targets = set(re.findall(r"`make ([a-z-]+)`", text)) | set(re.findall(r"^make ([a-z-]+)", text, re.MULTILINE))
        for target in targets:
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), (page, target)


def test_links_lead_to_files() -> None:
    outside = [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS.glob("*/*.md")]
    for path in [README, *DOCS.glob("*.md"), *outside]:
        text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        text = re.sub(r"`[^`\n]*`", "", text)
        for target in re.findall(r"\]\((?!https?:|#)([^)\s#]+)", text):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_scripts_and_extras_that_pages_name_exist() -> None:
    for page, text in PAGES.items():
        for script in set(re.findall(r"python ((?:export|benchmarks|examples|docs)/[a-z_]+\.py)", text)):
            assert (ROOT / script).exists(), (page, script)
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    (extras,) = [
        keyword.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "extras_require"
    ]
    named = set(re.findall(r"^\| `([a-z-]+)` \| ", PAGES["install.md"].split("## The commands")[0], re.MULTILINE))
    assert named == {key.value for key in extras.keys}
    for page, text in PAGES.items():
        for group in re.findall(r"'(?:sdtc|\.)\[([a-z,-]+)\]'", text):
            assert set(group.split(",")) <= named, (page, group)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(command) -> None:
    executable = shutil.which(command, path=str(Path(sys.executable).parent))
    assert executable, f"{command} is not installed"
    done = subprocess.run([executable, "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "examples:" in done.stdout


def options_of(help_text: str) -> set[str]:
    return set(re.findall(r"^  (--[a-z-]+)", help_text, re.MULTILINE))


def test_every_option_of_inference_has_an_example() -> None:
    from sdtc.runtime.cli import _parser

    options = options_of(_parser().format_help())
    assert len(options) > 20
    examples = set(re.findall(r"--[a-z-]+", fenced("inference.md") + fenced("live.md")))
    assert options - examples == set()
    described = set(re.findall(r"\*\*`(--[a-z-]+)", PAGES["inference.md"] + PAGES["live.md"]))
    assert options - described == set()


def test_every_option_of_the_export_is_described() -> None:
    from sdtc.export.to_trt import _parser

    described = set(re.findall(r"^\| `(--[a-z-]+)", PAGES["export.md"], re.MULTILINE))
    assert described == options_of(_parser().format_help())


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["tiny", "small", "base", "large"])
def test_preset_table_is_what_the_counter_says(preset) -> None:
    from sdtc.model import get_preset
    from sdtc.model.counting import count_network

    row = re.search(rf"\| `{preset}` \|.*", PAGES["weights.md"])
    assert row
    cells = [cell.strip() for cell in row[0].split("|")[1:-1]]
    counted = count_network(get_preset(preset)).to_dict()
    assert cells[3] == f"{counted['parameters']['total'] / 1e6:.1f} M"
    assert cells[4] == f"{counted['parameters']['trainable_inference'] / 1e6:.1f} M"
    assert cells[5] == f"{counted['gflops']:.1f}"


def sentences() -> list[str]:
    """Return every text in the package as the commands show it, values as `…`."""
    found = []
    for folder in ("sdtc", "export", "kernels", "runtime"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                parts = node.values if isinstance(node, ast.JoinedStr) else [node]
                texts = [part.value if isinstance(part, ast.Constant) else "…" for part in parts]
                if all(isinstance(text, str) for text in texts):
                    found.append(_normal(as_options("".join(texts))))
    return found


def _normal(text: str) -> str:
    text = re.sub(r"\{[a-z_]+\}", "…", text)  # of templates that are filled in later
    return re.sub(r"[…\s]+", " ", text.replace("`…`", "…").replace("`…='…'`", "…")).strip()


def test_messages_of_the_troubleshooting_page_are_those_of_the_code() -> None:
    known = [text for text in sentences() if len(text) > 10]
    messages = re.findall(r"^\| `([^`]+)` \|", PAGES["troubleshooting.md"], re.MULTILINE)
    assert len(messages) > 90
    wrong = []
    for message in messages:
        if not any(_normal(message) in text for text in known):
            nearest = difflib.get_close_matches(_normal(message), known, 1, 0.4)
            wrong.append(f"\n  page: {message}\n  code: {nearest[0] if nearest else '-'}")
    assert not wrong, "".join(wrong)


def test_drawing_of_the_streaming_page_shows_what_it_says(tmp_path) -> None:
    spec = importlib.util.spec_from_file_location("streaming_drawing", DOCS / "streaming.py")
    assert spec
    assert spec.loader
    drawing = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(drawing)
    first = drawing.FIRST_SEEN
    encoded = [new for _, _, new in drawing.encoded(first)]
    assert encoded[first - 2 : first] == [{first}, {first + 1}]  # ahead of the keyframe
    assert encoded[first] == {first - 2, first - 1, first + 2}  # before the person came, in the nearest box
    assert encoded[first + 1 : first + 3] == [{first + 3}, {first + 4}]
    places = drawing.sampled()  # [h, w, 2]
    h, w = drawing.MANIFEST.token_grid
    assert (places[:, -1, 0] > w - 1).all()
    assert ((places[:, :-1] > 0) & (places[:, :-1] < (w - 1, h - 1))).all()
    drawing.draw(tmp_path / "streaming.svg")
    assert (tmp_path / "streaming.svg").stat().st_size > 10_000


@pytest.mark.slow
def test_site_builds_strictly(tmp_path) -> None:
    """Links and anchors are checked by MkDocs itself, as mkdocs.yml tells it."""
    for module in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(module, reason="needs the extra `docs`: pip install 'sdtc[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in ("index.html", "paper/index.html", "api/index.html", "contributing/index.html"):
        assert (tmp_path / "site" / page).stat().st_size > 5000, page
    source = (tmp_path / "site" / "source" / "runtime" / "sources" / "windows.py" / "index.html").read_text()
    assert 'id="line-5"' in source
