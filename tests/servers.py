"""Real servers for the tests, on ports of their own: S3 (OpenStack Swift from PyPI) and MLflow.

Of S3, moto would be lighter, but it accepts any secret.
"""

import fcntl
import getpass
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

KEY, SECRET, REGION = "mofe:tests", "secret-of-the-tests", "us-east-1"
SWIFT = ("swift==2.38.*", "pyeclib", "setuptools<81")


class Server:
    """The processes of a server; what they store is in a folder and outlives them.

    Args:
        commands: one a process.
        ports: where they listen, the one for clients last.
        folder: for the log.
        inside: environment of the processes, beside this one's.
        client: environment of its clients, except for the address.
        address: the variable that names it.
    """

    def __init__(
        self,
        commands: Sequence[Sequence[str]],
        ports: Sequence[int],
        folder: Path,
        address: str,
        inside: Mapping[str, str] = {},
        **client: str,
    ):
        self.commands = commands
        self.ports = ports
        self.folder = folder
        self.inside = inside
        self.environment = {address: f"http://127.0.0.1:{ports[-1]}", **client}
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start it and wait until it answers."""
        assert not self.processes, "it runs already"
        with (self.folder / "server.log").open("ab") as log:
            self.processes = [
                subprocess.Popen(
                    command, stdout=log, stderr=log, env={**os.environ, **self.inside}, start_new_session=True
                )
                for command in self.commands
            ]
        for _ in range(600):
            if all(map(_listens, self.ports)):
                return
            time.sleep(0.1)
        self.kill()
        pytest.skip(f"the server did not start: see {log.name}")

    def kill(self) -> None:
        """End it as a lost machine would, with all that it has started."""
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.processes = []
        for _ in range(600):  # what they have started ends a little later
            if not any(map(_listens, self.ports)):
                return
            time.sleep(0.05)
        raise TimeoutError(f"something still listens on {self.ports}")


def swift(folder: Path) -> Server:
    """OpenStack Swift with its S3 interface: one node, one replica."""
    programs = _installed_swift() / "bin"
    ports = free_ports(4)
    (folder / "disk").mkdir()
    common = (
        f"bind_ip = 127.0.0.1\nworkers = 0\nuser = {getpass.getuser()}\nswift_dir = {folder}\nlog_level = WARNING\n"
    )
    (folder / "swift.conf").write_text(
        "[swift-hash]\nswift_hash_path_suffix = tests\n[storage-policy:0]\nname = one\ndefault = yes\n"
    )
    for kind, port in zip(("object", "container", "account"), ports, strict=False):
        (folder / f"{kind}.conf").write_text(
            f"[DEFAULT]\n{common}bind_port = {port}\ndevices = {folder}\nmount_check = false\n"
            f"disable_fallocate = true\nrecon_cache_path = {folder}\n[pipeline:main]\npipeline = {kind}-server\n"
            f"[app:{kind}-server]\nuse = egg:swift#{kind}\n"
        )
        ring = str(folder / f"{kind}.builder")
        for step in (["create", "4", "1", "0"], ["add", f"r1z1-127.0.0.1:{port}/disk", "1"], ["rebalance"]):
            subprocess.run([programs / "swift-ring-builder", ring, *step], check=True, stdout=subprocess.DEVNULL)
    filters = {
        "catch_errors": "",
        "memcache": "",  # none runs: Swift goes on without
        "listing_formats": "",
        "bulk": "",
        "s3api": f"location = {REGION}\nmin_segment_size = 1048576\n",
        "tempauth": f"user_{KEY.replace(':', '_')} = {SECRET} .admin\n",
        "copy": "",
        "slo": "",
    }
    (folder / "proxy.conf").write_text(
        f"[DEFAULT]\n{common}bind_port = {ports[3]}\n[pipeline:main]\npipeline = {' '.join(filters)} proxy-server\n"
        "[app:proxy-server]\nuse = egg:swift#proxy\naccount_autocreate = true\n"
        + "".join(f"[filter:{name}]\nuse = egg:swift#{name}\n{more}" for name, more in filters.items())
    )
    kinds = ("account", "container", "object", "proxy")
    commands = [[str(programs / f"swift-{kind}-server"), str(folder / f"{kind}.conf")] for kind in kinds]
    return Server(
        commands,
        ports,
        folder,
        "AWS_ENDPOINT_URL",
        AWS_ACCESS_KEY_ID=KEY,
        AWS_SECRET_ACCESS_KEY=SECRET,
        AWS_DEFAULT_REGION=REGION,
    )


def mlflow(folder: Path, artifacts: str, inside: Mapping[str, str]) -> Server:
    """MLflow with a database of its own; artifacts go through it to a folder or URI."""
    ports = free_ports(1)
    command = [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination", artifacts, "--host", "127.0.0.1", "--port", str(ports[0]), "--workers", "1",
    ]  # fmt: skip
    return Server(
        [command], ports, folder, "MLFLOW_TRACKING_URI", {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **inside}
    )


def _installed_swift() -> Path:
    """A virtual environment with Swift, made on first use and kept."""
    place = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mofe-tests" / "swift"
    place.mkdir(parents=True, exist_ok=True)
    with (place / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several test processes one installs
        if not (place / "whole").exists():
            for command in (
                [sys.executable, "-m", "venv", "--clear", place / "venv"],
                [place / "venv/bin/python", "-m", "pip", "install", "-q", *SWIFT],
                [place / "venv/bin/python", "-c", "import pyeclib.ec_iface"],
            ):
                done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
                if done.returncode:
                    lines = (done.stderr or done.stdout).strip().splitlines() or ["?"]
                    pytest.skip(
                        f"OpenStack Swift cannot be installed here ({lines[-1]}): Debian's liberasurecode-dev may be "
                        "what it lacks; or name an S3 server in AWS_ENDPOINT_URL"
                    )
            (place / "whole").touch()
    return place / "venv"


def free_ports(number: int) -> list[int]:
    """Below the range that the system hands out for connections."""
    ports: list[int] = []
    while len(ports) < number:
        port = random.SystemRandom().randrange(12000, 22000)
        if port not in ports and not _listens(port):
            ports.append(port)
    return ports


def _listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def for_a_moment_dead(server: Server, after: float) -> threading.Thread:
    """Kills the server after some seconds and starts it again; join the thread."""

    def strike() -> None:
        time.sleep(after)
        server.kill()
        time.sleep(1.5)
        server.start()

    thread = threading.Thread(target=strike)
    thread.start()
    return thread
