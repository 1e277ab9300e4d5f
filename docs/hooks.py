"""What the site needs beside MkDocs: links that lead out of docs/, and pages that lie outside it.

Pages link to files of the repository as they lie on a checkout, `[…](../sdtc/core/crops.py#L12)`. Every file that is
linked in this way gets a page of its own, with an anchor on each line. CONTRIBUTING.md and CHANGELOG.md are pages too.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
# Where setup.py installs the sources.
FOLDERS = {"sdtc": "sdtc", "export": "sdtc/export", "kernels": "sdtc/kernels", "runtime": "sdtc/runtime"}
PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"(?<=\]\()\.\./([^)#\s]+)(?:#([^)\s]*))?")  # [text](../path#anchor "title"), from pages in docs/
FROM_ROOT = re.compile(r"(?<=\]\()(?!\w+:|#|/|\.\./)([^)\s]+)")  # [text](path), from pages beside the README
LINE = re.compile(r"L(\d+)")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".md": "markdown"}


def on_startup(**_: object) -> None:
    """Show mkdocstrings the installed layout: it reads sources, and knows no `package_dir` of setuptools."""
    # Copies: griffe would follow symbolic links back to where the package is not whole.
    layout = ROOT / "build" / "layout"
    shutil.rmtree(layout, ignore_errors=True)
    for folder, package in FOLDERS.items():
        shutil.copytree(ROOT / folder, layout / package, ignore=shutil.ignore_patterns("*.pth", "__pycache__"))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside docs/, and a page for each source file that some page links to."""
    for name, page in PAGES.items():
        # Their links start at the root, those of docs/ one level below it.
        text = FROM_ROOT.sub(lambda match: _from_docs(match[1]), (ROOT / name).read_text(encoding="utf-8"))
        files.append(File.generated(config, page, content=text))
    linked = {match[1] for file in files.documentation_pages() for match in LINK.finditer(file.content_string)}
    for name in sorted(linked - set(PAGES)):
        files.append(File.generated(config, _source_page(name), content=_listing(name)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Turn links out of docs/ into links to their pages."""
    if page.file.src_uri.startswith("source/"):
        return markdown

    def renew(match: re.Match[str]) -> str:
        path, anchor = match[1], match[2]
        if path in PAGES:
            return PAGES[path] + (f"#{anchor}" if anchor else "")
        line = LINE.fullmatch(anchor or "")
        return _source_page(path) + (f"#line-{line[1]}" if line else "")

    return LINK.sub(renew, markdown)


def _from_docs(target: str) -> str:
    """Write a link that starts at the root as one that starts in docs/."""
    return target.removeprefix("docs/") if target.startswith("docs/") else f"../{target}"


def _source_page(name: str) -> str:
    return f"source/{name.rstrip('/')}.md"


def _listing(name: str) -> str:
    """Return the page of a source file, with an anchor on every line; of a folder, the list of its files."""
    path = ROOT / name
    if path.is_dir():
        entries = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith(("_", ".")))
        return _head(name) + "\n".join(f"- `{entry}`" for entry in entries) + "\n"
    if not path.is_file():
        raise PluginError(f"a page links to '{name}', which does not exist")
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import TextLexer, get_lexer_by_name

    lexer = get_lexer_by_name(LANGUAGES[path.suffix]) if path.suffix in LANGUAGES else TextLexer()
    code = highlight(path.read_text(encoding="utf-8"), lexer, HtmlFormatter(nowrap=True))
    lines = (f'<span id="line-{number}">{line or " "}</span>' for number, line in enumerate(code.splitlines(), 1))
    body = "\n".join(lines)
    return _head(name) + f'<div class="highlight"><pre><code>{body}\n</code></pre></div>\n'


def _head(name: str) -> str:
    # Source pages are reached by links and searched on a checkout: they are not in the menu and not in the index.
    return f"---\nsearch:\n  exclude: true\n---\n\n# {name}\n\n"
