"""`make docs`: the pages of docs and the reference are a site, built strictly."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]

for package in ("mkdocs", "latex2mathml"):
    pytest.importorskip(package, reason="needs the extra docs: pip install -e '.[docs]'")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    run = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return folder


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "site_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_in_the_site_and_the_readme_is_its_home(site):
    for page in (ROOT / "docs").glob("*.md"):
        assert (site / page.stem / "index.html").is_file(), page.name
    home = (site / "index.html").read_text(encoding="utf-8")
    assert "Coming from pytorch-grad-cam" in home
    assert 'href="your-model/"' in home
    assert (site / "images" / "questions.jpg").is_file()


def test_the_reference_has_the_docstrings(site):
    reference = (site / "reference" / "index.html").read_text(encoding="utf-8")
    assert "Hooks exist only during a call" in reference
    assert "reshape_transform" in reference
    assert "Every sample gets one row" in reference


def test_formulas_are_mathml_and_code_is_left(site, hooks):
    method = (site / "method" / "index.html").read_text(encoding="utf-8")
    assert method.count("<math") >= 20
    assert "$" not in re.sub(r"<script.*?</script>", "", method, flags=re.DOTALL)
    page = SimpleNamespace(file=SimpleNamespace(src_uri="a.md"))
    text = hooks.on_page_markdown("$x$ and `$HOME $PATH`\n\n```sh\necho $A $B\n```\n", page)
    assert text.startswith("<math")
    assert text.endswith("</math> and `$HOME $PATH`\n\n```sh\necho $A $B\n```\n")


def test_files_outside_docs_are_named_and_must_exist(hooks):
    page = SimpleNamespace(file=SimpleNamespace(src_uri="a.md"))
    text = "see [results](../bench/results/scenes.json) and [CONTRIBUTING.md](../CONTRIBUTING.md), [b](b.md)"
    named = hooks.on_page_markdown(text, page)
    assert named == "see results (`bench/results/scenes.json`) and `CONTRIBUTING.md`, [b](b.md)"
    with pytest.raises(FileNotFoundError, match=r"a\.md: the site cannot show \.\./no\.md"):
        hooks.on_page_markdown("[no](../no.md)", page)
    with pytest.raises(FileNotFoundError, match="move it into docs"):
        hooks.on_page_markdown("![picture](../LICENSE)", page)
