"""A real portal, and Debian's Chromium in front of it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser.eyes import Eyes, pictures_folder
from tests.git_remote import GitRemote
from tests.real.portal import PASSWORD, Portal, clean, serving

CHROMIUM = ["chromium", "chromium-browser", "google-chrome"]
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> GitRemote:
    """The client's repository, empty so far."""
    return GitRemote(tmp_path_factory.mktemp("git") / "acme")


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory, remote: GitRemote) -> Iterator[Portal]:
    more = {"OCORE_FILE_REPOSITORIES": str(remote.path.parent), "OCORE_PROBE_SECONDS": "5"}
    state = tmp_path_factory.mktemp("browser")
    with (
        clean(Portal(state, "ocore-test-browser", web=18102, edge=18082, more=more)) as made,
        serving(made, "--no-demo"),
    ):
        yield made


@pytest.fixture(scope="module")
def pictures(portal: Portal) -> Path:
    return pictures_folder(portal.state / "screenshots")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """For this module only: while Playwright's loop runs, Django's ORM refuses to be used in this process."""
    program = next(filter(None, map(shutil.which, CHROMIUM)), None)
    assert program, f"None of {', '.join(CHROMIUM)} is in PATH."
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=QUIET)
        yield started
        started.close()


@pytest.fixture(scope="module")
def admin(browser: Browser, portal: Portal, pictures: Path) -> Iterator[Eyes]:
    """The ops person, logged in."""
    eyes = Eyes(browser, portal.url, pictures)
    eyes.page.goto("/admin/")
    eyes.look("login")
    eyes.log_in("admin", PASSWORD)
    yield eyes
    eyes.context.close()
