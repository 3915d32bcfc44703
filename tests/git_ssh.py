"""A git host over ssh for tests: Debian's own sshd on the loopback, with host keys and authorized keys of its own.

It runs as whoever runs the tests, and lets in the keys in `authorized` only.
"""

import getpass
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

from ocore.machine.packages import find_program
from projects.deploy_keys import new_key, public_half
from projects.git import host_keys
from projects.git.host_keys import HostKey
from tests.git_remote import GitRemote

CONFIGURATION = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
PermitUserRC no
"""


class GitSsh:
    """Serves while its context is open. `folder` is where its repositories lie."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.log = folder / "sshd.log"
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "sshd_config").write_text(CONFIGURATION.format(port=self.port, folder=folder))
        self.authorize()
        self.new_host_key()

    def __enter__(self) -> Self:
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        sshd = find_program("sshd")
        assert sshd, "prepare_tests installs openssh-server"
        command = [sshd, "-D", "-f", str(self.folder / "sshd_config"), "-E", str(self.log)]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            time.sleep(0.05)
        raise AssertionError(f"sshd didn't start: {self.log.read_text()}")

    def __exit__(self, *_: object) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait(10)

    def new_host_key(self, private: str = "") -> None:
        """As when a host was set up anew. A running one must be restarted."""
        private = private or new_key()
        path = self.folder / "host_key"
        path.write_text(private)
        path.chmod(0o600)
        kind, key, _ = public_half(private, "host").split()
        self.host_key = HostKey(self.place, kind, key)

    def restart(self) -> None:
        self.__exit__()
        self.__enter__()

    def authorize(self, *public: str) -> None:
        """Only these keys are let in from now on."""
        (self.folder / "authorized_keys").write_text("".join(f"{key}\n" for key in public))

    @property
    def place(self) -> str:
        return host_keys.place("127.0.0.1", self.port)

    def repository(self, name: str) -> GitRemote:
        shutil.rmtree(self.folder / name, ignore_errors=True)
        return GitRemote(self.folder / name)

    def url(self, name: str) -> str:
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}{self.folder}/{name}"
