"""What a person has before them: a page, its pictures, and everything that the browser complained about."""

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, ConsoleMessage, Page, Response, ViewportSize, expect

WIDE: ViewportSize = {"width": 1400, "height": 900}
PHONE: ViewportSize = {"width": 390, "height": 844}
CUT_OFF = """() => {
  const scrolls = (one) => ["auto", "scroll"].includes(getComputedStyle(one).overflowX);
  const reachable = (one) => { for (; one; one = one.parentElement) if (scrolls(one)) return true; return false; };
  return [...document.querySelectorAll("body, body *:not(input, select, textarea, svg *)")]
    .filter((one) => one.clientWidth > 1 && one.scrollWidth > one.clientWidth + 1 && !reachable(one))
    .map((one) => `${one.tagName.toLowerCase()}#${one.id}.${one.className}: ${one.scrollWidth} pixels`);
}"""
"""What is wider than its place, and nowhere on the way up can it be scrolled to."""
PATIENCE = 10_000
"""Milliseconds for what should be there at once."""


class Eyes:
    """A page of the portal, in a session of its own."""

    def __init__(self, browser: Browser, url: str, pictures: Path) -> None:
        self.context = browser.new_context(base_url=url, viewport=WIDE, color_scheme="light", locale="en-GB")
        self.context.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        self.url = url
        self.pictures = pictures
        self.complaints: list[str] = []
        self.context.on("console", self._heard)
        self.context.on("weberror", lambda error: self.complaints.append(f"{error.page.url}: {error.error}"))
        self.context.on("response", self._answered)
        self.page: Page = self.context.new_page()

    def _heard(self, message: ConsoleMessage) -> None:
        """Chromium tells violations of the content security policy here too. Odoo's own pages are not ours."""
        if message.type in ("error", "warning") and self._is_ours(message.location["url"]):
            self.complaints.append(f"{message.page.url if message.page else ''}: {message.text}")

    def _answered(self, response: Response) -> None:
        if response.status >= 400 and self._is_ours(response.url):
            self.complaints.append(f"{response.url} answered {response.status}")

    def _is_ours(self, url: str) -> bool:
        return not url.startswith("http") or url.startswith(self.url)

    def beside(self, page: Page) -> "Eyes":
        """The same person's look at another window."""
        other = copy.copy(self)
        other.page = page
        return other

    def log_in(self, name: str, password: str) -> None:
        self.page.goto("/admin/")
        self.page.get_by_label("Username").fill(name)
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_role("button", name="Log in").click()
        self.page.get_by_role("button", name="Log out").wait_for()

    def snap(self, name: str) -> None:
        """What is on the screen now."""
        self.page.screenshot(path=self.pictures / f"{name}.png")

    def look(self, name: str, size: ViewportSize = WIDE) -> None:
        """Pictures: light, and of the whole page dark and on a phone, where nothing may be cut off."""
        page = self.page
        with self._shown(dark=False, size=size):
            self.snap(name)
        with self._shown(dark=True):
            page.screenshot(path=self.pictures / f"{name}-dark.png", full_page=True)
        with self._shown(dark=False, size=PHONE):
            cut_off = page.evaluate(CUT_OFF)
            page.screenshot(path=self.pictures / f"{name}-phone.png", full_page=True)
        self.complaints += [f"{page.url} cuts off on a phone: {one}" for one in cut_off]

    @contextmanager
    def _shown(self, *, dark: bool, size: ViewportSize = WIDE) -> Iterator[None]:
        self.page.emulate_media(color_scheme="dark" if dark else "light")
        self.page.set_viewport_size(size)
        yield
        self.page.emulate_media(color_scheme="light")
        self.page.set_viewport_size(WIDE)


def pictures_folder(otherwise: Path) -> Path:
    """Where `make screenshots` wants them; the portal's own state folder else."""
    folder = Path(os.environ.get("OCORE_SCREENSHOTS") or otherwise)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
