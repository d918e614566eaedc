"""A real Slurm of two nodes on this machine, as the tests' own: nothing outside its folder."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

COMMANDS = "sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo"
PROGRAMS = "munged", "slurmctld", "slurmd", *COMMANDS
NODES = "n1", "n2"
CONFIG = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=15
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerParameters=sched_interval=1,batch_sched_delay=0
SlurmdParameters=config_overrides
SlurmdTimeout=10
MinJobAge=600
ReturnToService=2
NodeName=DEFAULT CPUs=2 RealMemory=200000
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}]
PartitionName=cpu Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes=n[1-2] MaxTime=INFINITE State=UP
"""
CGROUP = "CgroupPlugin=cgroup/v1\nCgroupMountpoint=/sys/fs/cgroup\nCgroupAutomount=no\n"


class Slurm:
    """A cluster of two nodes; `environment` is what its commands take."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        }

    def start(self) -> None:
        port = 20000 + os.getpid() % 20000
        facts = {"host": socket.gethostname(), "folder": self.folder}
        ports = {"port": port, "first": port + 1, "last": port + 2}
        (self.folder / "slurm.conf").write_text(CONFIG.format(**facts, **ports))
        (self.folder / "cgroup.conf").write_text(CGROUP)
        self._wrap_commands()
        for name in ("state", *(f"spool-{node}" for node in NODES)):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        files = {"key-file": key.name, "socket": "munge.socket", "pid-file": "munged.pid"}
        files |= {"log-file": "munged.log", "seed-file": "munged.seed"}
        self.run("munged", "--force", *(f"--{k}={self.folder / v}" for k, v in files.items()))
        self.run("slurmctld", "-c")
        end = time.monotonic() + 30
        while not self.lives():  # it goes on in the background
            assert time.monotonic() < end, "the controller does not start"
            time.sleep(0.1)
        for node in NODES:
            self.start_node(node)

    def start_node(self, node: str) -> None:
        self.run("slurmd", "-N", node)
        up = "idle,mixed,allocated"
        self.wait(lambda: self.run("sinfo", "-h", "-n", node, "-t", up, "-o", "%D"))

    def kill_node(self, node: str) -> list[str]:
        """As if its power went: its daemon and all that its jobs run. Gives the jobs' ids."""
        jobs = self.jobs_on(node)
        self._kill(self.folder / f"{node}.pid")
        steps, programs = [], []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                name = (process / "cmdline").read_bytes().decode(errors="replace")
                environment = (process / "environ").read_bytes().split(b"\0")
            except OSError:  # gone
                continue
            if name.startswith(tuple(f"slurmstepd: [{job}." for job in jobs)):
                steps.append(int(process.name))
            elif any(f"SLURM_JOB_ID={job}".encode() in environment for job in jobs):
                programs.append(int(process.name))
        for pid in steps + programs:  # steps first, else they report how their programs ended
            self._signal(pid)
        return jobs

    def jobs_on(self, node: str) -> list[str]:
        return self.run("squeue", "-h", "-w", node, "-t", "running", "-o", "%A").split()

    def wait(self, ready: Callable[[], Any], seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not ready():
            log = (self.folder / "slurmctld.log").read_text()[-2000:]
            assert self.lives(), f"the controller died; its last words: {log}"
            assert time.monotonic() < end, log
            time.sleep(0.2)

    def lives(self) -> bool:
        """Whether the controller runs: without it each command waits, and fails."""
        try:
            pid = (self.folder / "slurmctld.pid").read_text().strip()
            return bool(Path("/proc", pid, "cmdline").read_bytes())  # empty where it died
        except OSError:
            return False

    def run(self, *command: str) -> str:
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def stop(self) -> None:
        if self.lives():
            for node in NODES:
                self.kill_node(node)
        for name in (*NODES, "slurmctld", "munged"):
            self._kill(self.folder / f"{name}.pid")
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # gone
                if (process / "cwd").readlink() == self.folder:  # a step, told to end by nobody
                    self._signal(int(process.name))

    def _wrap_commands(self) -> None:
        """Inside a job Snakemake's plugin takes SLURM_CONF from what it starts, srun among it."""
        (self.folder / "bin").mkdir()
        for name in COMMANDS:
            wrapper = self.folder / "bin" / name
            conf = f"SLURM_CONF={self.folder}/slurm.conf"
            wrapper.write_text(f'#!/bin/sh\n{conf} exec {shutil.which(name)} "$@"\n')
            wrapper.chmod(0o755)

    def _kill(self, pid_file: Path) -> None:
        if pid_file.exists():
            self._signal(int(pid_file.read_text()))
            pid_file.unlink(missing_ok=True)

    def _signal(self, pid: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"needs Slurm's programs; not here: {', '.join(missing)}")
    if os.geteuid() != 0:
        pytest.skip("needs root, to start a Slurm of its own")
    folder = Path(subprocess.check_output(("mktemp", "-d"), text=True).strip())  # short paths
    folder.chmod(0o755)  # munged wants to be reached
    cluster = Slurm(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)
