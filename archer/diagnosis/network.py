"""The check ``network``: how processes reach each other, on this machine and between nodes."""

from __future__ import annotations

import os
import resource
import socket

from archer.config.keys import ClusterConfig, TrainConfig
from archer.diagnosis.finding import Diagnosis, Line

OPEN_FILES = 4096
"""Ray holds several descriptors for every worker."""


def check_network(config: TrainConfig) -> Diagnosis:
    """What processes need to reach each other on this machine and between nodes."""
    lines = [_loopback(), _host_name(config.cluster), _open_files()]
    variables = [name for name in ("http_proxy", "grpc_proxy") if os.environ.get(name)]
    if variables and not os.environ.get("no_proxy"):
        mend = "gRPC, with which Ray's processes talk, obeys it: set no_proxy to the nodes' names."
        lines.append(Line("warning", f"{' and '.join(variables)} without no_proxy", mend))
    return Diagnosis(tuple(lines))


def _loopback() -> Line:
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(5)
            with socket.create_connection(server.getsockname(), timeout=5):
                server.accept()[0].close()
    except OSError as error:
        mend = "Bring the loopback interface up: ip link set lo up."
        return Line("fail", f"no connection over 127.0.0.1: {error}", mend)
    return Line("ok", "connections over loopback")


def _host_name(cluster: ClusterConfig) -> Line:
    name = socket.gethostname()
    try:
        addresses = {info[4][0] for info in socket.getaddrinfo(name, None)}
    except OSError as error:
        mend = f"Add it to /etc/hosts, or to DNS: {name} with an address of this machine."
        return Line("warning", f"the host's name {name} does not resolve: {error}", mend)
    described = f"{name} is {', '.join(sorted(map(str, addresses)))}"
    if cluster.num_nodes > 1 and all(str(a).startswith(("127.", "::1")) for a in addresses):
        mend = "Other nodes cannot reach it by that: give `ray start` its --node-ip-address."
        return Line("warning", described, mend)
    return Line("ok", described)


def _open_files() -> Line:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= OPEN_FILES:
        return Line("ok", f"{soft} open files allowed")
    mend = f"ulimit -n {min(hard, 65536) if hard > 0 else 65536}, before Ray starts."
    return Line("warning", f"{soft} open files allowed, Ray may need {OPEN_FILES}", mend)
