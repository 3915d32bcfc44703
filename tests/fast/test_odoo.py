"""What oCore knows about Odoo, without an Odoo: the logs in odoo_logs/ are a real Odoo 19's, shortened."""

import configparser
import hashlib
import http.server
import json
import subprocess
import sys
import threading
from base64 import b64decode
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from instances.addons import Addon
from instances.odoo import commands, config, failures, plan, queries, readiness, verdict, versions
from instances.odoo.queries import ModuleRow, Stored
from instances.runtimes.base import Answer

ODOO_19 = versions.series("19.0")
LOGS = Path(__file__).parent / "odoo_logs"


def odoo_config(**changes) -> config.OdooConfig:
    made = config.OdooConfig(
        series=ODOO_19, db_host="postgres", db_user="acme", db_password="secret", db_name="acme", admin_passwd="$hash"
    )
    return replace(made, **changes)


def as_odoo_reads(text: str) -> dict[str, str]:
    parser = configparser.RawConfigParser()
    parser.read_string(text)
    return dict(parser.items("options"))


def addon(name: str, version: str = "19.0.1.0.0", fingerprint: str = "f1", **changes) -> Addon:
    return Addon(name, version, fingerprint, f"addons/{name}", **({"depends": ("web",)} | changes))


CORE = [ModuleRow("base", "installed", "19.0.1.3"), ModuleRow("web", "installed", "19.0.1.0")]


def log(name: str) -> str:
    return (LOGS / f"{name}.txt").read_text()


# odoo.conf


def test_the_configuration_keeps_clients_to_their_own_database():
    options = as_odoo_reads(config.render_config(odoo_config(db_name="acme.production")))

    assert options["list_db"] == "False"
    assert options["dbfilter"] == r"^acme\.production$"
    assert options["proxy_mode"] == "True"
    assert options["db_name"] == "acme.production"


@pytest.mark.parametrize("password", ["p%w;#\"'$x", "%(db_name)s", "[options]", "a = b", "=x", "ü€", "#x", "; x", "0"])
def test_a_password_of_any_characters_comes_back_as_it_was_given(password):
    assert as_odoo_reads(config.render_config(odoo_config(db_password=password)))["db_password"] == password


@pytest.mark.parametrize(
    "value", ["x\nlist_db = True", "x\r\ny", "x\x85y", "x\u2028y", "x\x00", " x", "x ", "", "None", "False", "true"]
)
def test_a_value_that_odoo_would_read_differently_is_refused_by_name(value):
    with pytest.raises(config.InvalidOption, match="db_password"):
        config.render_config(odoo_config(db_password=value))


@pytest.mark.parametrize(
    "option",
    ["list_db", "dbfilter", "db_name", "db_sslrootcert", "admin_passwd", "proxy_mode", "data_dir", "addons_path"],
)
def test_a_protected_option_cannot_be_an_extra_one(option):
    with pytest.raises(config.InvalidOption, match=option):
        config.render_config(odoo_config(extra={option: "x"}))


def test_extra_options_reach_odoo_and_cannot_smuggle_in_others():
    extra = {"smtp_server": "mail.acme.example", "server_wide_modules": "base,web,queue_job", "unaccent": "True"}
    options = as_odoo_reads(config.render_config(odoo_config(extra=extra)))
    assert extra.items() <= options.items()

    for name in ("list_db = True\nx", "List_DB", "LIST_DB", "[options]", "x y", ""):
        with pytest.raises(config.InvalidOption):
            config.render_config(odoo_config(extra={name: "1"}))
    with pytest.raises(config.InvalidOption, match="smtp_server"):
        config.render_config(odoo_config(extra={"smtp_server": "x\n[options]\nlist_db = True"}))


@pytest.mark.parametrize("name", ["ODOO_LIST_DB", "PGPASSWORD", "ODOO_RC", "ODOO_DEV", "HOST", "ODOO_PROXY_MODE"])
def test_an_environment_variable_cannot_overrule_the_configuration(name):
    with pytest.raises(config.InvalidOption, match=name):
        config.check_environment({name: "x"})
    config.check_environment({"TZ": "Europe/Zurich", "ODOO_MAX_HTTP_THREADS": "8", "STRIPE_KEY": "x"})


def test_a_name_that_is_several_databases_to_odoo_is_refused():
    for name in ("acme,other", "acme%h", "acme other", ""):
        with pytest.raises(config.InvalidOption):
            config.render_config(odoo_config(db_name=name))


def test_each_series_gets_its_own_names_for_ports_and_demo_data():
    old = as_odoo_reads(config.render_config(odoo_config(series=versions.series("14.0"))))
    new = as_odoo_reads(config.render_config(odoo_config()))

    assert (old["longpolling_port"], old["without_demo"]) == ("8072", "all")
    assert (new["gevent_port"], new["with_demo"]) == ("8072", "False")
    assert "gevent_port" not in old
    assert "without_demo" not in new
    assert versions.series("14").health_path == "/web/login"
    assert versions.series("18.0-20260101").health_path == "/web/health"
    with pytest.raises(versions.UnknownVersion):
        versions.series("13.0")


def test_plain_odoo_has_no_addons_path():
    assert "addons_path" not in config.render_config(odoo_config(addons_path=()))
    assert as_odoo_reads(config.render_config(odoo_config()))["addons_path"] == "/opt/ocore/addons"


def test_secrets_do_not_show_in_the_configurations_repr():
    assert "secret" not in repr(odoo_config())
    assert "$hash" not in repr(odoo_config())


def test_the_edge_lets_in_what_the_connections_suffice_for():
    assert config.max_requests(0, {}) == 16
    assert config.max_requests(0, {"db_maxconn": "8"}) == 2
    assert config.max_requests(3, {}) == 6
    assert config.max_requests(0, {"db_maxconn": "32"}) == 8
    assert as_odoo_reads(config.render_config(odoo_config(extra={"db_maxconn": "32"})))["db_maxconn"] == "32"
    with pytest.raises(config.InvalidOption, match="db_maxconn"):
        config.render_config(odoo_config(extra={"db_maxconn": "many"}))


def test_a_password_hash_is_one_that_passlib_verifies():
    hashed = config.password_hash("geheim", rounds=1000)
    _, scheme, rounds, salt, digest = hashed.split("$")

    def decoded(text: str) -> bytes:
        return b64decode(text.replace(".", "+") + "=" * (-len(text) % 4))

    assert scheme == "pbkdf2-sha512"
    assert decoded(digest) == hashlib.pbkdf2_hmac("sha512", b"geheim", decoded(salt), int(rounds))
    assert hashed != config.password_hash("geheim", rounds=1000)


# Command lines


def test_no_command_line_holds_a_secret_and_all_name_the_configuration():
    for argv in (commands.serve(), commands.initialise(ODOO_19), commands.change(update=["a"], install=["b"])):
        assert argv[:3] == ("env", "odoo", "--config=/etc/odoo/odoo.conf")
        assert not any("password" in word or "db_" in word for word in argv)


def test_updating_and_installing_happen_in_one_run_that_ends():
    argv = commands.change(update=["b", "a", "a"], install=["c"])
    assert {"--update=a,b", "--init=c", "--stop-after-init", "--no-http", "--log-level=info"} <= set(argv)
    with pytest.raises(ValueError):
        commands.change()


@pytest.mark.parametrize("name", ["a,b", "--dev=all", "a b", "", "a;b", "ä"])
def test_a_module_name_cannot_become_another_option(name):
    with pytest.raises(commands.InvalidModuleName):
        commands.change(update=[name])


def test_only_series_that_know_it_are_told_to_skip_what_installs_itself():
    assert "--skip-auto-install" in commands.initialise(ODOO_19, auto_install=False)
    assert "--skip-auto-install" not in commands.initialise(versions.series("16.0"), auto_install=False)
    assert "--load-language=de_CH,fr_FR" in commands.initialise(ODOO_19, languages=["de_CH", "fr_FR"])


# Versions, as Odoo keeps them


@pytest.mark.parametrize(
    ("series", "manifest", "stored"),
    [
        ("19.0", "1.0", "19.0.1.0"),
        ("19.0", "1.0.0", "19.0.1.0.0"),
        ("19.0", "19.0.1.0.0", "19.0.1.0.0"),
        ("18.0", "1.0.0", "18.0.1.0.0"),
        ("18.0", "18.0.2.0.0", "18.0.2.0.0"),
        ("15.0", "1.0.0.beta", "15.0.1.0.0.beta"),
    ],
)
def test_a_version_gets_the_series_in_front_as_odoo_does_it(series, manifest, stored):
    assert versions.stored_version(manifest, versions.series(series)) == stored


@pytest.mark.parametrize(
    ("series", "manifest"),
    [
        ("19.0", "18.0.1.0.0"),
        ("19.0", "1"),
        ("19.0", "19.0"),
        ("19.0", "1.0.beta"),
        ("18.0", "17.0.1.0.0"),
        ("18.0", "1"),
    ],
)
def test_a_version_that_odoo_would_not_take_is_refused(series, manifest):
    with pytest.raises(versions.InvalidModuleVersion):
        versions.stored_version(manifest, versions.series(series))


# SQL


def test_values_in_sql_are_quoted():
    statement = queries.new_identity_sql("http://o'brien.example/\\", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    assert "o''brien" in statement
    assert "E'http://o''brien.example/\\\\'" in statement
    assert "'2026-01-02 03:04:05'" in statement


def test_what_is_stored_is_read_back():
    stored = Stored("sha256:abc", {"acme_notes": "f1"})
    value = queries.write_stored_sql(stored).split("('ocore.addon_checksums', '")[1].split("', 1,")[0]

    assert queries.read_stored([[value]]) == stored
    assert queries.read_stored([]) is None
    assert queries.read_stored([["nonsense"]]) is None
    assert queries.read_stored([[json.dumps([1])]]) is None


def test_an_administrators_password_is_never_written_in_plain():
    with pytest.raises(ValueError):
        queries.set_admin_sql("admin", "geheim")
    assert "'boss@acme.example'" in queries.set_admin_sql("boss@acme.example", config.password_hash("geheim", rounds=1))


# The plan


def decide(policy="changed", wanted=None, rows=(), stored=None, addons=(), base="b1", before=""):
    return plan.plan_update(policy, wanted, [*CORE, *rows], stored, addons, base, before)


def test_the_first_deployment_installs_every_installable_addon():
    made = decide(addons=[addon("acme_notes"), addon("acme_old", installable=False)], before="b1")

    assert (made.install, made.update) == (("acme_notes",), ())
    assert made.expected == {"acme_notes": "19.0.1.0.0"}
    assert made.stored == Stored("b1", {"acme_notes": "f1"})


def test_later_ones_install_nothing_silently_and_say_what_is_new():
    made = decide(
        rows=[ModuleRow("acme_notes", "installed", "19.0.1.0.0")],
        stored=Stored("b1", {"acme_notes": "f1"}),
        addons=[addon("acme_notes"), addon("acme_wiki")],
    )
    assert not made.changes_database
    assert "acme_wiki" in made.notices[0]


def test_only_the_addon_whose_files_changed_is_updated():
    made = decide(
        rows=[ModuleRow("acme_notes", "installed", "19.0.1.0.0"), ModuleRow("acme_wiki", "installed", "19.0.1.0.0")],
        stored=Stored("b1", {"acme_notes": "f1", "acme_wiki": "f1"}),
        addons=[addon("acme_notes", "19.0.1.1.0", "f2"), addon("acme_wiki")],
    )
    assert made.update == ("acme_notes",)
    assert made.reasons == {"acme_notes": "its files changed"}
    assert made.expected == {"acme_notes": "19.0.1.1.0"}
    assert made.stored.addons == {"acme_notes": "f2", "acme_wiki": "f1"}


def test_a_changed_addon_that_nobody_installed_is_not_updated():
    made = decide(
        rows=[ModuleRow("acme_notes", "uninstalled")],
        stored=Stored("b1", {"acme_notes": "f1"}),
        addons=[addon("acme_notes", fingerprint="f2")],
    )
    assert not made.changes_database


def test_another_odoo_below_updates_everything_once():
    rows = [ModuleRow("acme_notes", "installed", "19.0.1.0.0")]
    stored = Stored("b1", {"acme_notes": "f1"})
    made = decide(rows=rows, stored=stored, addons=[addon("acme_notes")], base="b2")

    assert made.update == ("base",)
    assert made.stored.base_image == "b2"
    assert not decide(rows=rows, stored=made.stored, addons=[addon("acme_notes")], base="b2").changes_database


def test_an_adopted_database_is_updated_as_a_whole():
    made = decide(rows=[ModuleRow("acme_notes", "installed", "19.0.0.9.0")], addons=[addon("acme_notes")])
    assert made.update == ("base",)
    assert made.install == ()


def test_the_policy_version_looks_at_versions_only():
    rows = [ModuleRow("acme_notes", "installed", "19.0.1.0.0"), ModuleRow("acme_wiki", "installed", "19.0.1.0.0")]
    stored = Stored("b1", {"acme_notes": "f1", "acme_wiki": "f1"})
    addons = [addon("acme_notes", "19.0.2.0.0", "f2"), addon("acme_wiki", fingerprint="f2")]
    made = decide("version", rows=rows, stored=stored, addons=addons)

    assert made.update == ("acme_notes",)
    assert made.stored.addons == {"acme_notes": "f2", "acme_wiki": "f1"}, "what was not updated stays due"
    assert decide("changed", rows=rows, stored=made.stored, addons=addons).update == ("acme_wiki",)


def test_the_policies_all_and_none():
    rows = [ModuleRow("acme_notes", "installed", "19.0.1.0.0")]
    stored = Stored("b1", {"acme_notes": "f1"})
    changed = [addon("acme_notes", fingerprint="f2")]

    assert decide("all", rows=rows, stored=stored, addons=changed).update == ("base",)
    none = decide("none", rows=rows, stored=stored, addons=changed, base="b2")
    assert none.update == ()
    assert none.stored == stored
    assert len(none.notices) == 2


def test_a_wanted_list_installs_what_is_missing_from_repository_or_odoo():
    made = decide(
        wanted=["acme_notes", "sale", "web"],
        rows=[ModuleRow("sale", "uninstalled")],
        addons=[addon("acme_notes"), addon("acme_wiki")],
    )
    assert made.install == ("acme_notes", "sale")
    assert made.expected == {"acme_notes": "19.0.1.0.0", "sale": ""}


def test_an_unknown_wanted_module_is_an_error_with_near_matches():
    with pytest.raises(plan.UnknownModule, match=r"“acme_note” \(did you mean acme_notes\?\)"):
        decide(wanted=["acme_note"], addons=[addon("acme_notes")])


def test_an_addon_that_left_the_repository_while_installed_is_missing():
    made = decide(
        rows=[ModuleRow("acme_notes", "installed", "19.0.1.0.0"), ModuleRow("acme_gone", "uninstalled")],
        stored=Stored("b1", {"acme_notes": "f1", "acme_gone": "f1"}),
        addons=[addon("acme_wiki")],
    )
    assert made.missing == ("acme_notes",)


def test_a_dependency_that_is_nowhere_is_refused_before_anything_is_touched():
    with pytest.raises(plan.UnmetDependency, match="acme_gone"):
        decide(addons=[addon("acme_notes", depends=("web", "acme_gone"))])
    assert decide(addons=[addon("acme_notes", depends=("acme_wiki",)), addon("acme_wiki")]).install


def test_a_module_left_half_way_is_finished():
    made = decide(
        rows=[ModuleRow("acme_notes", "to upgrade", "19.0.1.0.0")],
        stored=Stored("b1", {"acme_notes": "f1"}),
        addons=[addon("acme_notes")],
    )
    assert made.update == ("acme_notes",)


# The verdict

NOTES = ModuleRow("acme_notes", "installed", "19.0.1.1.0")
EXPECTED = {"acme_notes": "19.0.1.1.0"}


def test_a_good_update_has_no_problems():
    assert verdict.judge_update(0, log("update"), [*CORE, NOTES], EXPECTED) == []


def test_an_error_that_odoo_deals_with_is_no_problem():
    noise = "2026-11-22 23:44:49,716 1 ERROR acme odoo.sql_db: bad query: b'SELECT 1'\n"
    assert verdict.judge_update(0, noise + log("update"), [*CORE, NOTES], EXPECTED) == []


def test_a_version_that_stayed_behind_is_a_problem():
    problems = verdict.judge_update(0, log("update"), [*CORE, replace(NOTES, version="19.0.1.0.0")], EXPECTED)
    assert problems == [
        "The module “acme_notes” is at version 19.0.1.0.0 in the database, but at 19.0.1.1.0 in the image: it was not"
        " updated."
    ]


def test_a_module_left_half_way_is_a_problem():
    (problem,) = verdict.judge_update(0, log("update"), [*CORE, replace(NOTES, state="to upgrade")], EXPECTED)
    assert "acme_notes (“to upgrade”)" in problem


def test_a_module_that_does_not_exist_is_a_problem_though_odoo_exits_with_zero():
    problems = verdict.judge_update(0, log("unknown-module"), [*CORE, NOTES], {"acme_wiki": ""})
    assert "Odoo's log says: invalid module names, ignored: acme_wiki, acme_notez" in problems
    assert "The module “acme_wiki” is unknown to the database." in problems


@pytest.mark.parametrize("name", ["missing-module", "install-missing-dep"])
def test_a_module_that_odoo_leaves_out_is_a_problem_though_it_exits_with_zero(name):
    problems = verdict.judge_update(0, log(name), [*CORE, NOTES], {})
    assert any("acme_notes" in problem for problem in problems)


def test_an_odoo_that_ended_in_between_is_a_problem_though_it_exits_with_zero():
    (problem,) = verdict.judge_update(0, log("unclean-exit"), [*CORE, NOTES], EXPECTED)
    assert "does not say that the modules were loaded" in problem


def test_a_failed_update_while_serving_shows_in_the_log():
    problems = verdict.judge_update(0, log("update") + log("bad-view"), [*CORE, NOTES], EXPECTED)
    assert "Odoo's log says: Failed to load registry" in problems
    assert any("no_such_field" in problem for problem in problems)


@pytest.mark.parametrize(
    ("name", "what", "advice"),
    [
        ("bad-view", 'acme_note_views.xml cannot be loaded, line 16: Field "no_such_field" does not exist', "Correct"),
        ("bad-record", "acme_note_views.xml cannot be loaded, line 54: ValueError: Invalid field 'titel'", "Correct"),
        ("not-null", 'line 54: psycopg2.errors.NotNullViolation: null value in column "title"', "Correct"),
        ("bad-xml", "acme_note_views.xml is not valid XML: Opening and ending tag mismatch", "Correct"),
        ("bad-csv", "ir.model.access.csv cannot be loaded: No matching record found for", "Correct"),
        ("import-error", "The Python package “phonenumbers_nope” is not in the image.", "requirements.txt"),
        ("import-missing-name", "cannot be imported: cannot import name 'acme_notez'", "Correct the import"),
        ("syntax-error", "models/acme_note.py has a syntax error in line 5: invalid syntax", "Correct"),
        ("missing-depends", "depends on a module that is not there: acme_gone", "depends"),
        ("ext-dep", "not in the image: nonexistpkg", "requirements.txt"),
        ("memory", "Odoo ran out of memory", "memory limits"),
        ("db-down", "Odoo cannot work with PostgreSQL: could not translate host name", "PostgreSQL runs"),
        ("key-error", "there is no 'colour'", "Correct"),
    ],
)
def test_a_failure_is_explained_with_the_next_move(name, what, advice):
    failure = failures.explain_failure(log(name), 255)

    assert what in failure.what
    assert advice in failure.advice
    assert "Traceback" in failure.excerpt
    (problem,) = verdict.judge_update(255, log(name), [*CORE, NOTES], EXPECTED)
    assert what in problem


def test_a_full_disk_and_a_killed_odoo_are_recognised():
    full = log("not-null").replace("NotNullViolation: null value", "DiskFull: could not extend file: null value")
    assert "disk is full" in failures.explain_failure(full, 255).what
    assert "memory limit" in failures.explain_failure(log("oom"), 137).what
    assert failures.explain_failure("", 1).what == "It left no log."


def test_a_long_traceback_is_shortened_in_its_middle():
    lines = [f"  File {number}" for number in range(200)]
    text = "\n".join(["Traceback (most recent call last):", *lines, "KeyError: 'colour'"])
    excerpt = failures.explain_failure(text).excerpt.splitlines()
    assert len(excerpt) == 41
    assert excerpt[-1] == "KeyError: 'colour'"


# Readiness


def test_the_probes_answer_is_found_among_other_output():
    line = "ocore-probe " + json.dumps({"status": 200, "body": "oe_login_form", "seconds": 0.5, "location": ""})
    assert readiness.parse_probe(f"a warning\n{line}\n{line}\n") == [Answer(200, "oe_login_form", 0.5, "")] * 2
    for broken in ("env: 'python3': No such file", "ocore-probe {broken"):
        (answer,) = readiness.parse_probe(broken)
        assert answer.status == 0


@pytest.fixture
def odoo_alike():
    """What answers 200 to its health path and 500 to all else, from half a second after it was made on."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/web/health" else 500)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
    server.server_bind()
    late = threading.Timer(0.3, lambda: (server.server_activate(), server.serve_forever()))
    late.start()
    yield server.server_port
    late.join(0.4)
    server.shutdown()
    server.server_close()


def ask(port: int, *paths: str, patience: float) -> list[Answer]:
    argv = readiness.probe(*paths, port=port, timeout=2, patience=patience)
    done = subprocess.run([sys.executable, *argv[1:]], capture_output=True, text=True, check=True)
    return readiness.parse_probe(done.stdout)


def test_the_probe_waits_for_somebody_to_listen_and_stops_at_the_first_bad_answer(odoo_alike):
    assert [answer.status for answer in ask(odoo_alike, "/web/health", "/web/login", "/x", patience=5)] == [200, 500]


def test_the_probe_says_that_nobody_listens():
    (answer,) = ask(1, "/web/health", "/web/login", patience=0.1)
    assert answer.status == 0
    assert "ConnectionRefused" in answer.body
    assert "does not answer yet" in readiness.judge([answer])[0]


def test_a_login_page_of_this_database_is_ready():
    assert readiness.judge_login(Answer(200, "<form class='oe_login_form'>")) == []
    assert readiness.judge_login(Answer(302, location="https://sso.acme.example/login")) == []


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Answer(303, location="/web/database/selector"), "database selector"),
        (Answer(303, location="http://acme.localhost/web/database/selector"), "database selector"),
        (Answer(500, "<title>500</title><p>Internal Server Error</p>"), "answers 500 instead of 200: Internal"),
        (Answer(200, "<html><body>Welcome to nginx</body></html>"), "no login form: Welcome to nginx"),
        (Answer(0, "ConnectionRefusedError: refused"), "does not answer yet: ConnectionRefused"),
        (Answer(302, location="/web/login"), "in circles"),
    ],
)
def test_anything_else_is_not_ready_and_says_why(answer, says):
    (problem,) = readiness.judge_login(answer)
    assert says in problem


def test_the_health_path_must_answer_200():
    assert readiness.judge_health(Answer(200, '{"status": "pass"}')) == []
    assert "503" in readiness.judge_health(Answer(503, "x"))[0]
    assert "does not answer yet" in readiness.judge_health(Answer(0, "refused"))[0]
