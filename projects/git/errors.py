"""What can go wrong with a repository, told apart by what the reader has to do about it."""

import re
from enum import StrEnum

from ocore.errors import ExpectedError


class Trouble(StrEnum):
    """What is wrong with the way to a repository, in the words that people read."""

    HOST_NAME = "host name unknown"
    NO_CONNECTION = "no connection"
    CERTIFICATE = "certificate not trusted"
    HOST_KEY_UNKNOWN = "host key unknown"
    HOST_KEY_CHANGED = "host key changed"
    REFUSED = "key or token refused"
    NOT_FOUND = "repository not found"
    MOVED = "repository moved"
    NO_REF = "branch or tag missing"
    ADDRESS = "address not accepted"
    PROGRAM = "program missing on this machine"
    THIS_MACHINE = "trouble of this machine"
    OTHER = "something else"


class GitError(ExpectedError):
    """Something about a repository; the subclasses say what."""

    default_advice = "Read what git said, and check the project's repository."
    default_trouble = Trouble.OTHER

    def __init__(self, message: str, *, detail: str = "", advice: str = "", trouble: Trouble | None = None) -> None:
        super().__init__(message, detail=detail, advice=advice)
        self.trouble = trouble or self.default_trouble


class RepositoryUnreachable(GitError):
    default_trouble = Trouble.NO_CONNECTION
    default_advice = (
        "Check the address's host name, and that this machine can reach it (name server, proxy, firewall, "
        "certificate). Then try again; nothing was changed."
    )


class HostKeyUnknown(RepositoryUnreachable):
    """Nobody has said yet that this is the host's ssh key."""

    default_trouble = Trouble.HOST_KEY_UNKNOWN
    default_advice = (
        "Compare the fingerprint with the one that the host publishes. If it is the same, accept the key: in the admin "
        "under “SSH host keys”, or with ./manage.py known_hosts."
    )


class HostKeyChanged(RepositoryUnreachable):
    """The host shows another ssh key than the accepted one, or one that was revoked."""

    default_trouble = Trouble.HOST_KEY_CHANGED
    default_advice = (
        "Somebody may be in between: do not accept it before the host's operator has confirmed, by another way, that "
        "the key was changed on purpose. Then accept the new one, in the admin under “SSH host keys” or with "
        "./manage.py known_hosts; the old one is revoked by that."
    )


class RepositoryRefused(GitError):
    """The host answered, and didn't let us in: credentials, permission, or there is no such repository."""

    default_trouble = Trouble.REFUSED

    default_advice = "Check the repository's address and the access token or deploy key of the project."


class UnknownRef(GitError):
    """No such branch, tag or commit."""

    default_trouble = Trouble.NO_REF
    default_advice = "Check the spelling, and that it was pushed."


class UnsafeRepository(GitError):
    """What we would be made to do with it is something that we don't do."""

    default_trouble = Trouble.ADDRESS
    default_advice = "Correct it in the repository and push again."


class StreamEnded(GitError):
    """git's output ended too early; why is known to who runs git."""


class MirrorDamaged(GitError):
    """Our own copy is broken; the next fetch makes it anew."""

    default_advice = "Try again: the copy is then fetched anew."


class MirrorUnusable(GitError):
    """This machine's trouble: no git, no space, no permission, another fetch that doesn't end."""

    default_trouble = Trouble.THIS_MACHINE
    default_advice = "Check this machine's disk, and the permissions of oCore's state folder."


_HOST_KEY_UNKNOWN = re.compile(r"host key verification failed|host key is known for")
_HOST_KEY_CHANGED = re.compile(
    r"remote host identification has changed|host key for \S+ has changed|revoked host key|marked as revoked"
)
_FINGERPRINT = re.compile(r"\bSHA256:[A-Za-z0-9+/]{43}\b")
_UNREACHABLE = (
    (r"could not resolve (host|proxy)|name or service not known|temporary failure in name|"
     r"no address associated with hostname", "its host name is unknown", Trouble.HOST_NAME),
    (r"certificate|ssl.*(error|alert|handshake)|gnutls", "its host's certificate is not trusted, or TLS failed",
     Trouble.CERTIFICATE),
    (r"connection refused", "its host refuses connections", Trouble.NO_CONNECTION),
    (r"timed? ?out|operation too slow", "its host doesn't answer in time", Trouble.NO_CONNECTION),
    (r"no route to host|network is unreachable|failed to connect|couldn't connect|could not connect|connect to host",
     "its host cannot be reached", Trouble.NO_CONNECTION),
    (r"returned error: (5\d\d|429)", "its host answers with an error of its own", Trouble.NO_CONNECTION),
)  # fmt: skip
_CREDENTIALS = re.compile(
    r"authentication failed|could not read (username|password)|terminal prompts disabled|permission denied \(|"
    r"returned error: (401|403)|access denied|invalid (username|credentials)|too many authentication failures|"
    r"dubious ownership|public key authentication failed"
)
_NOT_FOUND = re.compile(
    r"repository .*not found|returned error: 404|does not appear to be a git repository|not found: did you run|"
    r"repository .*does not exist|project .*could not be found|not a git repository|tf401019"
)
_REDIRECT = re.compile(r"returned error: 30\d|redirect")
_NO_REF = re.compile(r"not our ref|couldn't find remote ref|unadvertised object|no such remote ref")
_LOCAL = re.compile(r"no space left on device|read-only file system|disk quota exceeded|cannot allocate memory")
_NO_SSH = re.compile(r"cannot run ssh: no such file|\bssh: (command )?not found")
_DAMAGED = re.compile(
    r"corrupt|bad object|unable to read (tree|sha1|object)|is empty$|inflate: data stream error|"
    r"missing (blob|tree|commit)|could not parse (commit|object)|unable to parse object|"
    r"packfile .* (cannot be|does not match|is far too short)|"
    r"bad (config|signature)|did not send all necessary objects|"
    r"fatal: (not a git repository|unable to (load|read)|failed to read)|"
    r"does not point to a valid object|broken (ref|link)|garbage at end of loose object|failed to read object",
    re.MULTILINE,
)
_HANG_UP = re.compile(r"hung up unexpectedly|early eof|connection (reset|closed|was reset)|could not read from remote")


def from_output(url: str, output: str) -> GitError:
    """The error for what git said (already without secrets) when it had to do with the remote at `url`."""
    said = output.lower()
    if _LOCAL.search(said):
        return unusable(output)
    if _NO_SSH.search(said):
        return program_missing("ssh", "openssh-client", output)
    if _HOST_KEY_CHANGED.search(said):
        shown = _FINGERPRINT.search(output)
        now = f" It now shows {shown[0]}." if shown else ""
        return HostKeyChanged(f"The host of {url} shows another ssh key than the accepted one.{now}", detail=output)
    if _HOST_KEY_UNKNOWN.search(said):
        return HostKeyUnknown(f"The ssh key of the host of {url} has not been accepted yet.", detail=output)
    if _NO_REF.search(said):
        return UnknownRef(f"The repository {url} doesn't have what was asked for.", detail=output)
    if _REDIRECT.search(said):
        return RepositoryRefused(
            f"The host of {url} sends us to another address.",
            detail=output,
            trouble=Trouble.MOVED,
            advice="Enter the address where the repository is now, as the host shows it for cloning (often with .git).",
        )
    if _CREDENTIALS.search(said):
        return RepositoryRefused(
            f"The host of {url} doesn't accept our credentials, or they lack the right to read it.",
            detail=output,
            advice="Check the project's access token or deploy key: not expired, at its place at the git host, and "
            "allowed to read this repository. A host may also say this of a repository that doesn't exist.",
        )
    if _NOT_FOUND.search(said):
        return RepositoryRefused(
            f"There is no repository {url}, or our credentials may not see it.",
            detail=output,
            trouble=Trouble.NOT_FOUND,
            advice="Check the address; if the repository is private, check the project's access token or deploy key.",
        )
    for pattern, reason, trouble in _UNREACHABLE:
        if re.search(pattern, said):
            message = f"The repository {url} cannot be reached: {reason}."
            return RepositoryUnreachable(message, detail=output, trouble=trouble)
    if _HANG_UP.search(said):
        return RepositoryUnreachable(f"The connection to {url} broke off.", detail=output)
    return GitError(f"git failed on {url}.", detail=output)


def from_local_output(output: str) -> GitError:
    """The error for what git said of our own mirror."""
    said = output.lower()
    if _LOCAL.search(said) or "permission denied" in said:
        return unusable(output)
    return MirrorDamaged("oCore's copy of the repository is damaged.", detail=output)


def looks_damaged(output: str) -> bool:
    """Whether git speaks of objects that cannot be read, and not of a remote's."""
    return bool(_DAMAGED.search(output.lower())) and "remote error" not in output.lower()


def may_be_ours(error: GitError) -> bool:
    """Whether a failed fetch may be our mirror's fault: then one into a fresh mirror works, or says what is wrong."""
    return type(error) in (GitError, MirrorDamaged) or looks_damaged(error.detail)


def program_missing(program: str, package: str, output: str = "") -> MirrorUnusable:
    return MirrorUnusable(
        f"There is no {program} on this machine.",
        detail=output,
        advice=f"Install it, on Debian with: apt-get install {package}",
        trouble=Trouble.PROGRAM,
    )


def unusable(output: str) -> MirrorUnusable:
    return MirrorUnusable("This machine cannot keep its copy of the repository.", detail=output)
