"""Runs a command under a container's seccomp profile: ``container_profile.py FILE COMMAND...``.

The file is in the format of Docker's --security-opt seccomp=FILE; libseccomp compiles it, as it
does for container engines.
"""

import ctypes
import json
import os
import sys

ACTIONS = {"SCMP_ACT_ALLOW": 0x7FFF0000, "SCMP_ACT_ERRNO": 0x00050000}


def load(profile):
    libseccomp = ctypes.CDLL("libseccomp.so.2")
    libseccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(libseccomp.seccomp_init(ACTIONS[profile["defaultAction"]]))
    for rule in profile["syscalls"]:
        action = ACTIONS[rule["action"]] | rule.get("errnoRet", 0)
        for name in rule["names"]:
            number = libseccomp.seccomp_syscall_resolve_name(name.encode())
            assert number != -1, f"libseccomp knows no call {name}"
            assert libseccomp.seccomp_rule_add(context, action, number, 0) == 0, name
    assert libseccomp.seccomp_load(context) == 0


if __name__ == "__main__":
    file, *command = sys.argv[1:]
    with open(file) as profile:
        load(json.load(profile))
    os.execv(command[0], command)
