"""A real browser for the tests of the HTML pages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path("/usr/bin/chromium")
_FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]


@contextmanager
def chromium() -> Iterator[Any]:
    """Chromium, started by Playwright; skips the test where one of the two is missing."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[dev]'")
    if not CHROMIUM.exists():
        pytest.skip(f"needs {CHROMIUM}: apt-get install chromium (Debian)")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_FLAGS)
        yield browser
        browser.close()


class PageReader:
    """A page opened from disk; `problems` lists console messages, errors, dialogs and network requests."""

    def __init__(self, browser: Any, address: str, **context: Any) -> None:
        self.problems: list[str] = []
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | context)
        self.context.route("**/*", self._refuse_network)
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.problems.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: self.problems.append(f"dialog: {dialog.message}"))
        self.page.set_default_timeout(10_000)
        self.open(address)

    def open(self, address: str) -> None:
        self.page.goto("about:blank")
        self.page.goto(address)

    def allows(self, url: str) -> bool:
        """Whether the page may load this address: files on disk and data in the page itself."""
        return url.startswith(("file://", "data:"))

    def _refuse_network(self, route: Any) -> None:
        if self.allows(route.request.url):
            return route.continue_()
        self.problems.append(f"request: {route.request.url}")
        return route.abort()


def axe_violations(page: Any) -> list[tuple[str, str]]:
    """What axe finds wrong with a page's accessibility: (rule, explanation of its first case)."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    violations = axe.Axe().run(page).response["violations"]
    return [(item["id"], item["nodes"][0]["failureSummary"]) for item in violations]
