"""The Python on the documentation's pages runs, page by page, from top to bottom."""

import pathlib
import re

import pytest

PAGES = sorted((pathlib.Path(__file__).parents[1] / "docs").rglob("*.md"))


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for block in blocks(page):
        exec(compile(block, str(page), "exec"), names)
    assert len(names) > 1


def test_the_reader_of_files_takes_twenty_lines():
    (page,) = (page for page in PAGES if page.stem == "files")
    reader = blocks(page)[0]
    assert len([line for line in reader.splitlines() if line.strip()]) <= 20 and "fieldtheory as" not in reader
