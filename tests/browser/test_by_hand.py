"""The portal as an ops person uses it: everything by hand, in a browser, with a real Odoo at the end.

One story, told in its order: each test goes on from where the one before it ended.
"""

import hashlib
import hmac
import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from django.conf import settings
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.eyes import Eyes
from tests.git_remote import GitRemote
from tests.real.portal import Portal

pytestmark = pytest.mark.real

ADDON = Path(settings.BASE_DIR) / "deployments" / "demo" / "addon" / "acme_notes"
VIEWS = "acme_notes/views/acme_note_views.xml"
MANIFEST = "acme_notes/__manifest__.py"
LOOKING = [
    "Environment: can view",
    "Project: can view",
    "Deployment: can view",
]
LIVE = 90_000
"""Milliseconds for a deployment; the first one on a server initialises Odoo's database."""


@pytest.fixture(autouse=True)
def _no_complaints(admin: Eyes) -> Iterator[None]:
    """After each part: nothing in the console, no violation of the content security policy, no failed request."""
    yield
    heard, admin.complaints = admin.complaints, []
    assert heard == []


def files() -> dict[str, str]:
    """The demo's addon as it is when it works."""
    names = [path for path in ADDON.rglob("*") if path.suffix in {".py", ".xml", ".csv"}]
    return {f"acme_notes/{path.relative_to(ADDON)}": path.read_text() for path in names}


def open_group(page: Page, title: str) -> None:
    """One of the collapsed groups of a form."""
    group = page.locator("details", has=page.locator("summary", has_text=title)).first
    if not group.evaluate("one => one.open"):
        group.locator("summary").click()


def choose(page: Page, field: str, text: str) -> None:
    """In a field that searches while one types."""
    page.locator(f".field-{field} .select2-selection").click()
    page.locator(".select2-search__field").last.fill(text)
    page.locator(".select2-results__option", has_text=text).first.click()


def beside(page: Page, field: str) -> str:
    """What stands below a field."""
    return page.locator(f".field-{field} .help").inner_text()


def go_to(page: Page, list_name: str, row: str = "") -> None:
    """By the header, as people do it."""
    page.get_by_role("navigation", name="Daily").get_by_role("link", name=list_name).click()
    if row:
        page.locator("#result_list tbody").get_by_role("link", name=row).first.click()
        page.wait_for_url(re.compile(r"/\d+/change/"))


def row_of(page: Page, name: str) -> Locator:
    """Of the list that is shown."""
    return page.locator("#result_list tbody tr", has=page.get_by_role("link", name=name))


def add_environment(page: Page, project: str, name: str) -> None:
    """Its form, filled with what cannot be inherited."""
    go_to(page, "Environments")
    page.get_by_role("link", name="Add environment").click()
    choose(page, "project", project)
    choose(page, "server", "This machine")
    page.get_by_label("Name:", exact=True).press_sequentially(name)
    page.get_by_label("Kind").select_option("Production")


def watch_to(page: Page, words: str) -> None:
    """The page, which nobody loads again, comes to say so."""
    expect(page.locator("#oc-head .oc-headline")).to_contain_text(words, timeout=LIVE)


def test_the_first_page_knows_this_machine(admin: Eyes) -> None:
    page = admin.page
    admin.look("home-empty")
    go_to(page, "Servers", "This machine")
    page.get_by_role("button", name="Check now").click()
    expect(page.locator(".messagelist")).to_contain_text("This machine answers")
    expect(page.locator(".oc-panel")).to_contain_text("Disk free")
    admin.look("server")


def test_a_project_is_made_with_a_default_of_its_own(admin: Eyes, remote: GitRemote) -> None:
    remote.commit("Keep notes", files())
    page = admin.page
    go_to(page, "Projects")
    page.get_by_role("link", name="Add project").click()
    page.locator("#id_name").press_sequentially("Acme")
    expect(page.locator("#id_slug")).to_have_value("acme")
    page.locator("#id_repository_url").fill(remote.url)
    open_group(page, "Resources")
    page.get_by_label("Cron threads").fill("2")
    admin.look("project-add")
    page.get_by_role("button", name="Save and continue editing").click()
    expect(page.locator(".messagelist")).to_contain_text("was added successfully")
    expect(page.locator("#oc-webhook-url")).to_have_text(f"{admin.url}/webhooks/github/acme/")
    admin.look("project")


def test_an_environment_is_made_with_its_instance_and_one_override(admin: Eyes) -> None:
    page = admin.page
    add_environment(page, "Acme", "Production")
    page.get_by_label("Git branch").fill("main")
    open_group(page, "Resources")
    page.get_by_label("Memory limit:").fill("3G")
    expect(page.locator("#id_instances-0-name")).to_have_value("main")
    admin.look("environment-add")
    page.get_by_role("button", name="Save and continue editing").click()
    expect(page.locator(".messagelist")).to_contain_text("was added successfully")
    expect(page.locator("#oc-live")).to_contain_text("Not deployed yet")


def test_each_empty_field_says_what_it_inherits_and_from_whom(admin: Eyes) -> None:
    page = admin.page
    open_group(page, "Resources")
    assert "Inherits 2, from project Acme" in beside(page, "cron_threads")
    assert "Set here. Empty it inherits 2 GiB" in beside(page, "memory_limit")
    expect(page.get_by_label("Memory limit:")).to_have_value("3 GiB")
    open_group(page, "Odoo")
    assert "Inherits 19.0, from" in beside(page, "odoo_version")
    open_group(page, "Effective configuration")
    row = page.locator(".oc-settings tr", has_text="Memory limit").first
    assert re.search(r"3 GiB\s+environment Production", row.inner_text())
    admin.look("environment-inherits")


def test_deploy_now_is_watched_until_it_is_live(admin: Eyes) -> None:
    page = admin.page
    page.get_by_role("button", name="Deploy now").click()
    expect(page.locator(".messagelist")).to_contain_text("is queued")
    steps = page.locator("#oc-steps li")
    build, deploy = page.locator("[data-step=build]"), page.locator("[data-step=deploy]")
    expect(steps).to_have_count(5)
    page.evaluate("window.neverLoadedAgain = true")
    expect(build).to_contain_text("Step ", timeout=LIVE)
    expect(steps.nth(2)).to_contain_text("Running", timeout=LIVE)
    expect(deploy).to_contain_text("odoo.modules.loading", timeout=LIVE)
    admin.snap("deployment-page")
    expect(build).not_to_be_visible()
    expect(deploy).to_contain_text("acme_notes loaded in", timeout=LIVE)
    watch_to(page, "Live")
    for number in range(5):
        expect(steps.nth(number)).to_contain_text(re.compile("Succeeded|Nothing to do"))
    assert page.evaluate("window.neverLoadedAgain")
    admin.look("deployment-live")


def test_odoo_opens_through_the_edge(admin: Eyes, portal: Portal) -> None:
    with admin.page.expect_popup() as opened:
        admin.page.get_by_role("link", name="Open Odoo").click()
    odoo = opened.value
    odoo.wait_for_url(re.compile(rf"http://production-acme\.localhost:{portal.edge}/"))
    # Odoo puts its scripts together for the first who asks; another page that asks meanwhile may get a 422 from it.
    expect(odoo.get_by_role("button", name="Log in")).to_be_visible(timeout=LIVE)
    expect(odoo.locator("input[name=password]")).to_be_visible()
    odoo.screenshot(path=admin.pictures / "odoo-login.png")
    odoo.close()


def test_a_bad_push_is_taken_back_and_the_page_says_what_to_do(admin: Eyes, portal: Portal, remote: GitRemote) -> None:
    page = admin.page
    go_to(page, "Projects", "Acme")
    page.get_by_role("button", name="Show the secret").click()
    secret = page.locator("#oc-secret").inner_text()
    broken = files()[VIEWS].replace('name="due_date"', 'name="due_day"')
    said = push(portal, secret, remote.sha("main"), remote.commit("Show the day it is due", {VIEWS: broken}))
    assert said.status_code == 202, said.text

    go_to(page, "Deployments")
    page.locator("#result_list tbody tr", has_text="Show the day it is due").get_by_role("link").first.click()
    watch_to(page, "Rolled back")
    expect(page.locator("#oc-steps")).to_contain_text("Rollback")
    failure = page.locator(".oc-failure")
    expect(failure).to_contain_text("due_day")
    expect(failure).to_contain_text("What to do")
    expect(page.locator("#oc-head")).to_contain_text("Push by Ann Author")
    admin.look("deployment-rolled-back")


def test_the_list_of_environments_says_what_runs_where(admin: Eyes) -> None:
    """Beside production: a staging added on the project's page, and a project of plain Odoo, just deployed."""
    page = admin.page
    go_to(page, "Projects", "Acme")
    page.get_by_text("Add another Environment").click()
    page.locator("#id_environments-1-name").press_sequentially("Staging")
    expect(page.locator("#id_environments-1-slug")).to_have_value("staging")
    page.locator("#id_environments-1-kind").select_option("Staging")
    page.locator("#id_environments-1-server").select_option("This machine")
    page.locator("#id_environments-1-branch").fill("staging")
    page.get_by_role("button", name="Save", exact=True).click()

    page.get_by_role("link", name="Add project").click()
    page.locator("#id_name").press_sequentially("Globex")
    page.get_by_role("button", name="Save", exact=True).click()
    add_environment(page, "Globex", "Production")
    page.get_by_role("button", name="Save and continue editing").click()
    page.get_by_role("button", name="Deploy now").click()
    expect(page.locator("#oc-head")).to_contain_text("plain Odoo")

    go_to(page, "Environments")
    for name, words in (
        ("Globex / Production", [re.compile("Under way|Running"), "This machine"]),
        ("Acme / Production", ["This machine", "Running", "Rolled back", "Keep notes", "main", "19.0"]),
        ("Acme / Staging", ["Not deployed yet", "nothing yet", "staging"]),
    ):
        for word in words:
            expect(row_of(page, name)).to_contain_text(word)
    admin.look("environments")


def test_the_list_follows_what_is_under_way(admin: Eyes, remote: GitRemote) -> None:
    page = admin.page
    remote.commit("Show when it is due", {VIEWS: files()[VIEWS], MANIFEST: files()[MANIFEST].replace("1.0.0", "1.1.0")})
    go_to(page, "Environments", "Acme / Production")
    page.get_by_role("button", name="Deploy now").click()
    expect(page.locator(".messagelist")).to_contain_text("is queued")
    go_to(page, "Environments")
    page.evaluate("window.neverLoadedAgain = true")
    expect(row_of(page, "Acme / Production")).to_contain_text("Under way")  # a build, an update: seconds
    expect(row_of(page, "Globex / Production")).to_contain_text("Running", timeout=LIVE)
    expect(row_of(page, "Acme / Production")).to_contain_text("Show when it is due", timeout=LIVE)
    assert page.evaluate("window.neverLoadedAgain")


def test_the_page_for_rolling_back_says_what_will_happen(admin: Eyes) -> None:
    page = admin.page
    go_to(page, "Environments", "Acme / Production")
    page.get_by_role("link", name="Roll back…").click()
    expect(page.locator(".oc-table tr").last).to_contain_text("Keep notes")
    admin.look("roll-back")
    page.get_by_role("link", name="Roll back to this…").click()
    expect(page.locator("#content-main")).to_contain_text("Show when it is due")
    expect(page.locator("#content-main")).to_contain_text("Nothing that was written is lost")
    expect(page.locator("#content-main")).to_contain_text("Everything written to Odoo since then disappears from it")
    expect(page.locator("#content-main")).to_contain_text("The database has another version of acme_notes")
    admin.look("roll-back-to")
    page.get_by_role("link", name="Don't").click()
    expect(page.locator("#oc-live")).to_contain_text("Show when it is due")


def test_what_is_marked_public_stands_on_the_status_page(admin: Eyes) -> None:
    page = admin.page
    page.get_by_label("Public").check()
    page.get_by_role("button", name="Save and continue editing").click()
    expect(page.locator(".messagelist")).to_contain_text("was changed successfully")
    admin.look("environment-live")
    go_to(page, "Projects", "Acme")
    with page.expect_popup() as opened:
        page.locator("[aria-labelledby=oc-status-title]").get_by_role("link").click()
    status = admin.beside(opened.value)
    expect(status.page.get_by_role("heading", name="Production")).to_be_visible()
    for words in ("Everything works", "Odoo 19.0", "100 % up", "Updated", "Update was taken back, nothing changed"):
        expect(status.page.locator("body")).to_contain_text(words)
    expect(status.page.locator("body")).not_to_contain_text("Staging")
    status.look("status-page", size={"width": 1200, "height": 771})
    status.page.close()


def test_who_may_only_look_sees_everything_and_no_button(admin: Eyes, browser: Browser) -> None:
    page = admin.page
    page.goto("/admin/auth/user/add/")
    page.get_by_label("Username").fill("vera")
    for label in ("Password:", "Password confirmation:"):
        page.get_by_label(label, exact=True).fill("only looking around")
    page.get_by_role("button", name="Save and continue editing").click()
    page.get_by_label("Staff status").check()
    page.locator("#id_user_permissions_from").select_option(label=LOOKING)
    page.locator("#id_user_permissions_add, #id_user_permissions_add_link").click()
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator(".messagelist")).to_contain_text("was changed successfully")

    vera = Eyes(browser, admin.url, admin.pictures)
    vera.log_in("vera", "only looking around")
    for list_name, row in (("Environments", "Acme / Production"), ("Deployments", "#"), ("Projects", "Acme")):
        go_to(vera.page, list_name, row)
        expect(vera.page.locator("#content")).to_contain_text("Acme")
        buttons = vera.page.locator("#content").get_by_role("button")
        assert [one.inner_text() or one.input_value() for one in buttons.all()] == (["Copy"] if row == "Acme" else [])
        assert vera.page.locator("#content form[method=post] [type=submit]").count() == 0
        assert vera.page.locator("#content .submit-row input").count() == 0
        vera.look(f"viewer-{list_name.lower()}")
    assert vera.complaints == []
    vera.context.close()


def push(portal: Portal, secret: str, before: str, after: str) -> requests.Response:
    """What GitHub would send, signed as it signs."""
    commit = {"id": after, "message": "Show the day it is due", "author": {"name": "Ann Author"}}
    content = {"ref": "refs/heads/main", "before": before, "after": after, "created": False, "deleted": False}
    content |= {"forced": False, "head_commit": commit, "commits": [commit], "pusher": {"name": "Ann Author"}}
    body = json.dumps(content | {"repository": {"full_name": "acme/notes"}}).encode()
    headers = {
        "Content-Type": "application/json",
        "X-GitHub-Event": "push",
        "X-GitHub-Delivery": str(uuid.uuid4()),
        "X-Hub-Signature-256": "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest(),
    }
    return requests.post(f"http://127.0.0.1:{portal.web}/webhooks/github/acme/", body, headers=headers, timeout=10)
