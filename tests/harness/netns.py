"""Several hosts on one machine: network namespaces h0, h1, … on one bridge.

  with netns.Hosts(2, rate="100mbit") as hosts:
      job = jobs.Job(hosts.mpirun([PROGRAM, …], ranks=2), hosts.environment)
      hosts.link(1, up=False)

mpirun starts in host 0 and reaches every host through a remote shell agent that
enters its namespace, so that Open MPI takes them for machines of their own. The
processes, files and pids are those of this machine. Needs root.
"""

import atexit
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile

SUBNET = "10.77.0.0/24"
_PREFIX = "thinwire"

# Called as `agent [options] HOST COMMAND…`, like ssh.
_AGENT = """#!/bin/bash
while [[ $1 == -* ]]; do
  case $1 in -l | -o | -p | -i | -F) shift 2 ;; *) shift ;; esac
done
host=$1
shift
exec ip netns exec "$host" env TMPDIR="$NETNS_FOLDER/$host" /bin/sh -c "$*"
"""


def _run(*argv, check=True):
    return subprocess.run(argv, check=check, text=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@functools.cache
def why_not():
    """Why there can be no namespaces here, in a few words; None if there can."""
    for program in ("ip", "tc", "mpirun"):
        if shutil.which(program) is None:
            return f"network namespaces need the program {program}"
    if os.geteuid() != 0:
        return "network namespaces need root"
    try:
        with Hosts(1, rate="1gbit"):
            return None
    except subprocess.CalledProcessError as error:
        line = (error.stderr.strip().splitlines() or ["no message"])[0]
        return f"no network namespaces here: {line}"


def _names():
    """Every namespace made by this file, in use or left behind."""
    listed = _run("ip", "-o", "netns", "list", check=False).stdout
    return [line.split()[0] for line in listed.splitlines()
            if re.match(rf"{_PREFIX}\d+", line)]


def _remove(names):
    for name in names:  # what runs in it first, or the links live on
        pids = _run("ip", "netns", "pids", name, check=False).stdout.split()
        for pid in map(int, pids):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        _run("ip", "netns", "del", name, check=False)


def _sweep():
    """Removes what a test that was killed has left."""
    _remove([name for name in _names() if not os.path.exists(
        "/proc/" + re.match(rf"{_PREFIX}(\d+)", name)[1])])


class Hosts:
    """`count` hosts, their egress limited to `rate` (as tc writes it) if given.
    A context manager; what it made is gone at the end of the process at the
    latest."""

    _made = 0

    def __init__(self, count, rate=None, burst="256kb", latency="50ms"):
        self.count, self.rate = count, rate
        self._shape = ("burst", burst, "latency", latency)
        Hosts._made += 1
        stem = f"{_PREFIX}{os.getpid()}n{Hosts._made}"
        self.names = [f"{stem}h{i}" for i in range(count)]
        self.addresses = [f"10.77.0.{i + 1}" for i in range(count)]
        self._switch = f"{stem}br"
        self._folder = None

    def __enter__(self):
        _sweep()
        atexit.register(self.close)
        try:
            self._make()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    def _make(self):
        self._folder = tempfile.mkdtemp(prefix="thinwire-hosts-")
        self._agent = os.path.join(self._folder, "rsh")
        with open(self._agent, "w", encoding="utf-8") as f:
            f.write(_AGENT)
        os.chmod(self._agent, 0o755)
        switch = self._switch
        _run("ip", "netns", "add", switch)
        _run("ip", "-n", switch, "link", "add", "br0", "type", "bridge")
        _run("ip", "-n", switch, "link", "set", "br0", "up")
        for i, name in enumerate(self.names):
            os.mkdir(os.path.join(self._folder, name))
            _run("ip", "netns", "add", name)
            _run("ip", "-n", name, "link", "set", "lo", "up")
            _run("ip", "-n", name, "link", "add", "eth0", "type", "veth",
                 "peer", "name", f"p{i}", "netns", switch)
            _run("ip", "-n", name, "addr", "add", f"{self.addresses[i]}/24",
                 "dev", "eth0")
            _run("ip", "-n", name, "link", "set", "eth0", "up")
            _run("ip", "-n", switch, "link", "set", f"p{i}", "master", "br0")
            _run("ip", "-n", switch, "link", "set", f"p{i}", "up")
        if self.rate is not None:
            self.set_rate(self.rate)

    def close(self):
        """Ends what runs in the hosts and removes them; may be called twice."""
        atexit.unregister(self.close)
        _remove([n for n in _names() if n in (*self.names, self._switch)])
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def set_rate(self, rate):
        """Limits every host's egress; None lifts the limit."""
        for name in self.names:
            if rate is None:
                _run("tc", "-n", name, "qdisc", "del", "dev", "eth0", "root",
                     check=False)
            else:
                _run("tc", "-n", name, "qdisc", "replace", "dev", "eth0",
                     "root", "tbf", "rate", rate, *self._shape)
        self.rate = rate

    def link(self, host, up):
        """Plugs or unplugs a host's cable."""
        _run("ip", "-n", self.names[host], "link", "set", "eth0",
             "up" if up else "down")

    def counters(self, host):
        """(bytes received, bytes sent) so far by a host's interface, the
        headers of Ethernet, IP and TCP included."""
        link, = json.loads(_run("ip", "-n", self.names[host], "-s", "-j",
                                "link", "show", "eth0").stdout)
        return link["stats64"]["rx"]["bytes"], link["stats64"]["tx"]["bytes"]

    def inside(self, host, argv):
        """The command line that runs argv in a host, for a program that is not
        started by mpirun."""
        return ["ip", "netns", "exec", self.names[host], *map(str, argv)]

    @property
    def environment(self):
        """What mpirun() needs in its environment."""
        return {"NETNS_FOLDER": self._folder,
                "TMPDIR": os.path.join(self._folder, self.names[0]),
                "OMPI_ALLOW_RUN_AS_ROOT": "1",
                "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}

    def mpirun(self, argv, ranks=None, mpi=()):
        """The command line of argv on `ranks` ranks (default one per host),
        dealt to the hosts in turn: rank r runs on host r % count."""
        ranks = self.count if ranks is None else ranks
        slots = -(-ranks // self.count)
        hostfile = os.path.join(self._folder, f"hosts{slots}")
        with open(hostfile, "w", encoding="utf-8") as f:
            f.writelines(f"{name} slots={slots}\n" for name in self.names)
        return self.inside(0, [
            "mpirun", "-np", ranks, "--hostfile", hostfile, "--map-by", "node",
            "--bind-to", "none", "--mca", "plm_rsh_agent", self._agent,
            "--mca", "pml", "ob1", "--mca", "btl", "tcp,self",
            "--mca", "btl_tcp_if_include", SUBNET,
            "--mca", "oob_tcp_if_include", SUBNET,
            "--mca", "mpi_yield_when_idle", "1", *mpi, *argv])
