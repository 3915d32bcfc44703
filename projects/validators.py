"""What may be typed: branches, addresses, versions, names. Plain functions for forms, models and the command line.

Each raises Django's `ValidationError` with a sentence that says what is wrong; each is an allow-list where it can be
(everything here ends in an argument of a program, a URL, a file or a database).
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping

import psycopg
from django.conf import settings
from django.core.exceptions import ValidationError
from psycopg.conninfo import conninfo_to_dict

from projects.git import address

MAX_BRANCH = 200
DSN_FORM = "Write it as postgresql://role:password@host:5432/postgres."
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_SLUG = re.compile(r"[a-z](?:-?[a-z0-9])*")
_ODOO_VERSION = re.compile(r"(?:1[4-9]|[2-9][0-9])\.0")
"""14 is the oldest that oCore knows how to run."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OF_THE_SYSTEM = """
_ BASHOPTS BASH_ENV CDPATH ENV EUID HOME HOSTNAME IFS LOGNAME OLDPWD OPTIND PATH PPID PS4 PWD SHELL SHELLOPTS TEMP TMP
TMPDIR UID GCONV_PATH GLIBC_TUNABLES HOSTALIASES LOCALDOMAIN LOCPATH MALLOC_TRACE NLSPATH OPENSSL_CONF OPENSSL_ENGINES
OPENSSL_MODULES RESOLV_HOST_CONF RES_OPTIONS SSLKEYLOGFILE
"""
"""The shell's, some of which can't even be assigned; and from where the C library and OpenSSL take code and names."""
_OF_PYTHON = """
PYTHONBREAKPOINT PYTHONCASEOK PYTHONEXECUTABLE PYTHONHOME PYTHONINSPECT PYTHONNOUSERSITE PYTHONOPTIMIZE PYTHONPATH
PYTHONPLATLIBDIR PYTHONPYCACHEPREFIX PYTHONSAFEPATH PYTHONSTARTUP PYTHONUSERBASE
"""
"""From where it takes modules, and what it runs before Odoo. Others, such as PYTHONUNBUFFERED, are free."""
_OF_THE_IMAGE = "HOST ODOO_RC OPENERP_SERVER PASSWORD PORT USER"
"""By which its entrypoint and Odoo find the configuration and the database."""
_FIXED_VARIABLES = frozenset(" ".join((_OF_THE_SYSTEM, _OF_PYTHON, _OF_THE_IMAGE)).split())
_FIXED_PREFIXES = ("LD_", "PG", "OCORE_")
"""Of the loader, of PostgreSQL's client, and of oCore itself."""
_OPTION = re.compile(r"[a-z][a-z0-9_]*")
_MODULE = re.compile(r"[A-Za-z0-9_]+")
_COMMIT = re.compile(r"[0-9a-fA-F]{7,40}|[0-9a-fA-F]{64}")
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_HOST_AND_PORT = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?(?::[0-9]{1,5})?"
_ENDPOINT = re.compile(rf"unix:///[A-Za-z0-9._/-]+|tcp://{_HOST_AND_PORT}")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"(?:(?:localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|[A-Za-z0-9-]+(?=:))(?::[0-9]{{1,5}})?/)?"
    rf"{_COMPONENT}(?:/{_COMPONENT})*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(?:@sha256:[0-9a-f]{{64}})?"
)
_REQUIREMENT = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?(?:\[[A-Za-z0-9._-]+\])?(?:(?:===|==|>=|<=|~=|!=|<|>)[A-Za-z0-9.*+!_-]+)?"
)


def validate_branch(name: str) -> None:
    """A branch as `git check-ref-format --branch` takes it, without a leading dash and unprintable characters."""
    reason = _branch_problem(name)
    if reason:
        raise ValidationError(f"“{printable(name)}” cannot be the name of a branch: {reason}.")


def _branch_problem(name: str) -> str:
    if not name:
        return "it is empty"
    if len(name) > MAX_BRANCH:
        return f"it has more than {MAX_BRANCH} characters"
    if name in ("HEAD", "@"):
        return "git keeps this name to itself"
    if name.startswith("-"):
        return "it begins with a dash"
    if name.startswith("refs/"):
        return "write it as people say it, without “refs/heads/”"
    if any(unprintable(character) for character in name):
        return "it contains an unprintable character"
    found = next((character for character in name if character in " ~^:?*[\\"), "")
    if found:
        return "it contains a space" if found == " " else f"it contains “{found}”"
    for sequence in ("..", "@{", "//"):
        if sequence in name:
            return f"it contains “{sequence}”"
    if name.startswith("/") or name.endswith(("/", ".")):
        return "it begins or ends with a slash, or ends with a dot"
    if any(part.startswith(".") or part.endswith(".lock") for part in name.split("/")):
        return "a part of it begins with a dot or ends with “.lock”"
    return ""


def validate_ref(ref: str) -> None:
    """What a person may ask to deploy: a branch, a tag, or a commit's id, whole or its first 7 characters or more."""
    try:
        validate_branch(ref)
    except ValidationError:
        raise ValidationError(f"“{printable(ref)}” is no branch, tag or commit id.") from None


def is_commit_id(text: str) -> bool:
    """Whether it can be a commit's id, whole (SHA-1 or SHA-256) or abbreviated. A branch may look the same."""
    return bool(_COMMIT.fullmatch(text))


def validate_repository_url(url: str) -> None:
    address.parse(url)


def validate_folder(folder: str) -> None:
    """A folder within a repository, by its path from the root."""
    if any(part in ("", ".", "..") for part in folder.split("/")) or any(map(unprintable, folder)) or "\\" in folder:
        raise ValidationError(f"“{printable(folder)}” is no folder in a repository. Write for example addons/sale.")


def validate_slug(slug: str) -> None:
    """Part of host names, container names and addresses of pages."""
    if not _SLUG.fullmatch(slug) or len(slug) > 40:
        raise ValidationError(
            f"“{printable(slug)}” is no short name: up to 40 small letters, digits and single dashes, a letter first."
        )


def validate_odoo_version(version: str) -> None:
    if not _ODOO_VERSION.fullmatch(version):
        raise ValidationError(
            f"“{printable(version)}” is not a version of Odoo that oCore runs. Write for example 19.0."
        )


def validate_image(reference: str) -> None:
    """An image's name as Docker takes it; `{version}` may stand for the Odoo version."""
    filled = reference.replace("{version}", "19.0")
    if not _IMAGE.fullmatch(filled) or len(filled) > 255:
        raise ValidationError(
            f"“{printable(reference)}” is not the name of an image. Write for example odoo:{{version}} or "
            "registry.example.com/odoo:19.0."
        )


def validate_endpoint(endpoint: str) -> None:
    """Where a Docker engine listens."""
    if not _ENDPOINT.fullmatch(endpoint) or ".." in endpoint:
        raise ValidationError(
            f"“{printable(endpoint)}” is not where an engine listens. Write for example "
            "unix:///var/run/docker.sock or tcp://host:2375."
        )


def validate_dsn(dsn: str) -> None:
    """How to reach a PostgreSQL that the server's containers reach too. The message repeats nothing: it holds a
    password."""
    try:
        said = {key: str(value) for key, value in conninfo_to_dict(dsn).items() if value is not None}
    except psycopg.Error:
        raise ValidationError(f"This is not a PostgreSQL DSN. {DSN_FORM}") from None
    host = said.get("host", "")
    if not host or host.startswith(("/", "@")) or "," in host or host in {"localhost", "127.0.0.1", "::1"}:
        raise ValidationError(f"The DSN must name one host, one that the server's containers reach. {DSN_FORM}")
    if not said.get("user"):
        raise ValidationError(f"The DSN must name the role to connect with. {DSN_FORM}")
    if "service" in said or any(character in value for value in said.values() for character in "\r\n\x00"):
        raise ValidationError(f"The DSN has a part that cannot be passed on. {DSN_FORM}")


def validate_domain(domain: str) -> None:
    if not _DOMAIN.fullmatch(domain) or len(domain) > 200:
        raise ValidationError(f"“{printable(domain)}” is not a domain. Write for example odoo.example.com.")


def validate_https_url(url: str) -> None:
    """An address over TLS, without user, query or fragment."""
    if not re.fullmatch(rf"https://{_HOST_AND_PORT}(?:/[A-Za-z0-9._~/-]*)?", url):
        raise ValidationError(f"“{printable(url)}” is not an https:// address.")


def validate_api_url(url: str) -> None:
    """The base of an API: http only where the operator has allowed that host, no user, query or fragment."""
    match = re.fullmatch(rf"(https?)://({_HOST_AND_PORT})(?:/[A-Za-z0-9._~%-]+)*/?", url)
    if not match:
        raise ValidationError(
            f"“{printable(url)}” is not the address of an API. Write for example https://git.example.com/api/v4."
        )
    host = match[2].lower()
    port = host.partition(":")[2]
    if port and not 1 <= int(port) <= 65535:
        raise ValidationError(f"There is no port {port}.")
    if match[1] == "http" and not {host, host.partition(":")[0]} & set(settings.OCORE_PLAIN_GIT_HOSTS):
        raise ValidationError(
            "A token is sent there, so the address must begin with https://. For a host without TLS the operator of "
            "this portal names it in OCORE_PLAIN_GIT_HOSTS."
        )


def validate_path(path: str) -> None:
    """The path of a page, with its query if need be; never a whole URL."""
    if not re.fullmatch(r"/(?:[A-Za-z0-9._~!$&'()*+,;=:@?%-][A-Za-z0-9._~!$&'()*+,;=:@?%/-]*)?", path):
        raise ValidationError(f"“{printable(path)}” is not a path. Write for example /web/health.")


def validate_variable_name(name: str) -> None:
    if not _VARIABLE.fullmatch(name) or len(name) > 200:
        raise ValidationError(
            f"“{printable(name)}” is not the name of a variable: letters, digits and _ are, not beginning with a digit."
        )
    if name in _FIXED_VARIABLES or name.startswith(_FIXED_PREFIXES):
        raise ValidationError(
            f"“{name}” cannot be set here: the container, Python or the way to the database depends on it, and oCore "
            "or the image sets it. Choose another name for a variable of your own."
        )


def validate_option_name(name: str) -> None:
    if not _OPTION.fullmatch(name) or len(name) > 100:
        raise ValidationError(
            f"“{printable(name)}” is not the name of an odoo.conf option: small letters, digits and _ are."
        )


def validate_variables(variables: Mapping[str, str | None] | None, field: str) -> None:
    """Environment variables; the error is put to the named field."""
    _validate_entries(variables, field, validate_variable_name, "\x00")


def validate_odoo_options(options: Mapping[str, str | None] | None, field: str = "odoo_conf") -> None:
    """Options of odoo.conf by shape; which ones are oCore's own is known where the file is written."""
    _validate_entries(options, field, validate_option_name, "\x00\r\n")


def validate_modules(modules: Iterable[str] | None, field: str = "custom_modules") -> None:
    """Technical names of addons, or `*`."""
    for name in modules or ():
        if name != "*" and (not _MODULE.fullmatch(name) or len(name) > 100):
            raise ValidationError({field: f"“{printable(name)}” is not an addon's technical name."})


def validate_pip_packages(packages: Iterable[str] | None, field: str = "pip_packages") -> None:
    """Names with a version if need be; no options, addresses or files."""
    for package in packages or ():
        if not _REQUIREMENT.fullmatch(package) or len(package) > 200:
            raise ValidationError(
                {field: f"“{printable(package)}” is not a package. Write for example phonenumbers==8.13.1."}
            )


def validate_paths(paths: Iterable[str] | None, field: str = "deploy_paths") -> None:
    """Patterns of a repository's paths, or the word `addons`."""
    for path in paths or ():
        parts = path.split("/")
        if path.startswith("/") or "" in parts[:-1] or ".." in parts or "***" in path or len(path) > 200:
            shown = printable(path)
            raise ValidationError({field: f"“{shown}” is no path in a repository. Write for example crm/** or *.txt."})
        if path.count("*") > 8 or any(unprintable(character) for character in path):
            raise ValidationError({field: f"“{printable(path)}” has too many “*”, or an unprintable character."})


def _validate_entries(
    entries: Mapping[str, str | None] | None, field: str, validate_name: Callable[[str], None], forbidden: str
) -> None:
    for name, value in (entries or {}).items():
        try:
            validate_name(name)
        except ValidationError as error:
            raise ValidationError({field: error.messages}) from None
        if value is not None and any(
            character in forbidden or "\ud800" <= character <= "\udfff" for character in value
        ):
            raise ValidationError({field: f"The value of “{name}” contains a character that cannot be written there."})


def unprintable(character: str) -> bool:
    """Control characters, halves of surrogates, line separators, and what turns the direction of text."""
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in _BIDI


def printable(text: str) -> str:
    """Fit to be repeated in a message, whatever somebody sent."""
    return "".join("�" if unprintable(character) else character for character in text[:100])


def validate_cpus(value: float) -> None:
    if not (value == 0 or 0.1 <= value <= 512):
        raise ValidationError("That is no number of processors: 0 for all, or from 0.1 to 512.")
