"""Which level is chosen where, what its layers refuse, and that nothing runs without them."""

import ctypes
import ctypes.util
import json
import logging
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from archer.config.keys import SandboxConfig
from archer.errors import ConfigError
from archer.rewards.sandbox import Execution
from archer.rewards.sandbox.levels import interpreter, open_executor, open_level, plan
from archer.rewards.sandbox.probe import check_sandbox, open_proven
from archer.rewards.sandbox.seccomp import AUDIT_ARCH, SYSCALLS, assemble, program_filter

ROOT = Path(__file__).parents[2]
on_x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="x86_64 call numbers")


@pytest.fixture(scope="module", params=["A", "B"])
def jail(request):
    try:
        jail = open_level(request.param, SandboxConfig())
    except ConfigError as error:
        pytest.skip(f"level {request.param} is not available: {error}")
    yield jail
    jail.close()


@pytest.mark.parametrize("machine", SYSCALLS)
def test_call_numbers_are_those_of_libseccomp(machine):
    library = ctypes.util.find_library("seccomp")
    if library is None:
        pytest.skip("libseccomp is not installed")
    resolve = ctypes.CDLL(library).seccomp_syscall_resolve_name_arch
    resolve.argtypes = [ctypes.c_uint32, ctypes.c_char_p]
    theirs = {name: resolve(AUDIT_ARCH[machine], name.encode()) for name in SYSCALLS[machine]}
    assert theirs == SYSCALLS[machine]


def evaluate(program, nr, args=(), arch=AUDIT_ARCH["x86_64"]):
    """What a filter answers to a call, by the rules of the BPF machine."""
    data = [nr, arch, 0, 0]  # then the instruction pointer, and each argument low half first
    for value in [*args, *[0] * (6 - len(args))]:
        data += [value & 0xFFFFFFFF, value >> 32]
    code = [
        (int.from_bytes(raw[:2], "little"), raw[2], raw[3], int.from_bytes(raw[4:], "little"))
        for raw in (program.code[at : at + 8] for at in range(0, len(program.code), 8))
    ]
    at, register = 0, 0
    while True:
        operation, if_true, if_false, operand = code[at]
        at += 1
        if operation == 0x06:
            return operand
        if operation == 0x20:
            register = data[operand // 4]
        elif operation == 0x54:
            register &= operand
        else:
            holds = register == operand if operation == 0x15 else register >= operand
            at += if_true if holds else if_false


ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x50001, 0x50026, 0x80000000
O_TRUNC, O_WRONLY = 0o1000, 1
RULES = {  # call, its arguments, answer
    "read": (0, (), ALLOW),
    "socket": (41, (), EPERM),
    "connect": (42, (), EPERM),
    "sendmsg": (46, (), EPERM),
    "fork": (57, (), EPERM),
    "vfork": (58, (), EPERM),
    "execve": (59, (), EPERM),
    "ptrace": (101, (), EPERM),
    "chmod": (90, (), EPERM),
    "truncate": (76, (), EPERM),
    "memfd_create": (319, (), EPERM),
    "io_uring_setup": (425, (), EPERM),
    "unshare": (272, (), EPERM),
    "a number of the future": (9999, (), EPERM),
    "x32 read": (0x40000000, (), EPERM),
    "clone of a thread": (56, (0x3D0F00,), ALLOW),
    "clone of a process": (56, (17,), EPERM),
    "clone3": (435, (), ENOSYS),
    "prlimit64 of itself": (302, (0, 7), ALLOW),
    "prlimit64 of another": (302, (1234, 7), EPERM),
    "PR_SET_NAME": (157, (15,), ALLOW),
    "PR_SET_PDEATHSIG": (157, (1,), EPERM),
    "PR_SET_DUMPABLE": (157, (4, 1), EPERM),
    "F_GETFL": (72, (1, 3), ALLOW),
    "F_SETOWN": (72, (1, 8), EPERM),
    "F_SETSIG": (72, (1, 10), EPERM),
    "F_ADD_SEALS": (72, (1, 1033), EPERM),
    "TCGETS": (16, (0, 0x5401), ALLOW),
    "TIOCSTI": (16, (0, 0x5412), EPERM),
    "socketpair of streams": (53, (1, 0x80801), ALLOW),
    "socketpair of datagrams": (53, (1, 2), EPERM),
    "socketpair of another family": (53, (40, 1), EPERM),
    "sendto without address": (44, (3, 0, 0, 0, 0, 0), ALLOW),
    "sendto with address": (44, (3, 0, 0, 0, 0x7F0000001000, 16), EPERM),
    "sendto, high half of the address": (44, (3, 0, 0, 0, 1 << 32, 16), EPERM),
    "open to read": (257, (0, 0, 0), ALLOW),
    "open to write": (257, (0, 0, O_WRONLY | O_TRUNC), ALLOW),
    "open to read and truncate": (257, (0, 0, O_TRUNC), EPERM),
    "old open to read and truncate": (2, (0, O_TRUNC), EPERM),
    "kill of no process": (62, (1234, 9), EPERM),
}


@pytest.mark.parametrize("name", RULES)
def test_the_filter_decides_by_call_and_argument(name):
    number, arguments, answer = RULES[name]
    assert evaluate(program_filter("x86_64"), number, arguments) == answer


def test_the_filter_lets_signals_go_to_the_own_process_only():
    program = program_filter("x86_64")
    code = bytearray(program.code)
    for at in program.own_pid:
        code[at : at + 4] = (4321).to_bytes(4, "little")
    own = type(program)(bytes(code), ())
    for call in (62, 234):  # kill, tgkill
        assert evaluate(own, call, (4321,)) == ALLOW
        for other in (0, 1, 4320, 0xFFFFFFFF):  # 0 and -1 are whole groups
            assert evaluate(own, call, (other,)) == EPERM


def test_calls_of_another_architecture_kill():
    i386 = 0x40000003
    assert evaluate(program_filter("x86_64"), 11, arch=i386) == KILL
    assert evaluate(program_filter("aarch64"), 63, arch=AUDIT_ARCH["x86_64"]) == KILL
    assert evaluate(program_filter("aarch64"), 63, arch=AUDIT_ARCH["aarch64"]) == ALLOW


@on_x86_64
def test_the_kernel_enforces_the_filter_on_a_program(jail):
    probes = {335, 336}  # uretprobe, uprobe: the kernel's own, which end the caller by a signal
    numbers = {*range(462)} - {*SYSCALLS["x86_64"].values()} - probes
    source = (
        "import ctypes, errno\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        f"print([n for n in {numbers} if libc.syscall(n, -1, -1, -1, -1, -1, -1) != -1 "
        "or ctypes.get_errno() != errno.EPERM])"
    )
    outcome = jail.run(Execution(source))
    assert (outcome.ending, outcome.output) == ("ok", b"[]\n")


@on_x86_64
def test_a_32_bit_call_ends_the_program(jail):
    # mov eax, 20 (getpid of i386); int 0x80; ret
    source = (
        "import ctypes, mmap\ncode = mmap.mmap(-1, 4096, prot=7)\n"
        "code.write(bytes.fromhex('b814000000cd80c3'))\n"
        "address = ctypes.addressof(ctypes.c_char.from_buffer(code))\n"
        "print(ctypes.CFUNCTYPE(ctypes.c_int)(address)())"
    )
    outcome = jail.run(Execution(source))
    assert (outcome.ending, outcome.error) == ("runtime_error", "SIGSYS")


def test_programs_have_an_environment_without_secrets(jail):
    outcome = jail.run(Execution("import os\nprint(sorted(os.environ))"))
    allowed = {
        "HOME", "LANG", "LC_CTYPE", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS",
        "PATH", "PWD", "PYTHONCOERCECLOCALE", "PYTHONDONTWRITEBYTECODE", "PYTHONHASHSEED",
    }  # fmt: skip
    assert set(json.loads(outcome.output.decode().replace("'", '"'))) <= allowed


def test_installed_packages_are_hidden_unless_offered(jail):
    for folder in interpreter(sys.executable).site_folders:
        outcome = jail.run(Execution(f"import os\nprint(os.listdir({folder!r}))"))
        assert outcome.ending == "runtime_error" or outcome.output == b"[]\n"
    assert jail.run(Execution("import archer")).error.startswith("ModuleNotFoundError")


def test_packages_of_the_python_path_are_there(jail, tmp_path):
    (tmp_path / "helper").mkdir()
    (tmp_path / "helper" / "__init__.py").write_text("answer = 42")
    tmp_path.chmod(0o755)  # the folders above stay closed to the user of programs
    offering = open_level(jail.level, SandboxConfig(python_path=[str(tmp_path)]))
    outcome = offering.run(Execution("import helper\nprint(helper.answer)"))
    offering.close()
    assert (outcome.ending, outcome.output) == ("ok", b"42\n")


@pytest.mark.parametrize(
    ("settings", "key", "value", "mend"),
    [
        ({"python": "/bin/false"}, "python", "/bin/false", "/usr/bin/python3"),
        ({"python_path": ["/usr", "/nowhere"]}, "python_path", "/nowhere", "take it off"),
        ({"python_path": ["relative"]}, "python_path", "relative", "take it off"),
        ({"url": "http://sandbox:8080"}, "url", "http://sandbox:8080", "level=remote"),
        ({"url": "http://sandbox", "level": "A"}, "url", "http://sandbox", "drop the URL"),
        ({"level": "remote", "url": "sandbox:x"}, "url", "sandbox:x", "URL"),
        ({"level": "remote"}, "url", None, "URL"),
    ],
)
@pytest.mark.parametrize("opening", [check_sandbox, open_proven, open_executor])
def test_a_wrong_setting_is_named_and_no_risk_is_taken_for_it(opening, settings, key, value, mend):
    with pytest.raises(ConfigError) as caught:
        opening(SandboxConfig(**settings, allow_unsafe_code_execution=True))
    assert (caught.value.key, caught.value.value) == (f"reward.sandbox.{key}", value)
    assert mend in caught.value.mend


@pytest.mark.skipif(os.geteuid() != 0, reason="programs run as this user")
def test_a_folder_that_the_user_of_programs_cannot_read_is_named(tmp_path):
    tmp_path.chmod(0o700)
    with pytest.raises(ConfigError, match=r"reward\.sandbox\.python_path=.*chmod -R o\+rX"):
        plan("B", SandboxConfig(python_path=[str(tmp_path)]))


def test_numpy_is_loaded_once(jail):
    numpy = pytest.importorskip("numpy")
    folder = str(Path(numpy.__file__).parents[1])
    offering = open_level(jail.level, SandboxConfig(python_path=[folder]))
    source = "import numpy as np\nprint(np.arange(4).sum(), np.ones((2, 2)) @ np.ones(2))"
    outcomes = [offering.run(Execution(source)) for _ in range(3)]
    offering.close()
    assert {outcome.output for outcome in outcomes} == {b"6 [2. 2.]\n"}
    assert outcomes[-1].cpu_s < 0.05


def test_without_bubblewrap_auto_is_level_b(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match="bubblewrap"):
        plan("A", SandboxConfig())
    try:
        executor = open_executor(SandboxConfig())
    except ConfigError as error:
        pytest.skip(str(error))
    assert executor.level == "B"
    executor.close()


def test_a_python_that_does_not_run_is_named():
    config = SandboxConfig(python="/bin/false", allow_unsafe_code_execution=True)
    with pytest.raises(ConfigError, match=r"reward\.sandbox\.python='/bin/false'"):
        plan("B", config)


DENIED = {"landlock": [444], "namespaces": [165, 272, 155]}  # mount, unshare, pivot_root


def in_a_container(denied, allow_unsafe):
    """What ``open_executor`` says under a filter like that of a container."""
    numbers = [number for name in denied for number in DENIED[name]]
    instructions = [(0x20, 0, 0, 0)]
    for number in numbers:
        instructions += [(0x15, 0, 1, number), (0x06, 0, 0, EPERM)]
    if "namespaces" in denied:  # clone with CLONE_NEWUSER
        instructions += [(0x15, 0, 1, 435), (0x06, 0, 0, ENOSYS), (0x15, 0, 4, 56)]
        instructions += [(0x20, 0, 0, 16), (0x54, 0, 0, 1 << 28)]
        instructions += [(0x15, 1, 0, 0), (0x06, 0, 0, EPERM)]
    code = assemble([*instructions, (0x06, 0, 0, ALLOW)]).code.hex()
    command = [sys.executable, "-c", _CONTAINER, code, str(int(allow_unsafe))]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


_CONTAINER = """
import json, logging, sys
from archer.config.keys import SandboxConfig
from archer.errors import ConfigError
from archer.rewards.sandbox import Execution
from archer.rewards.sandbox.inside import confine
from archer.rewards.sandbox.levels import open_executor
confine.forbid_new_privileges()
confine.install_filter(bytes.fromhex(sys.argv[1]))
warnings = []
handler = logging.Handler()
handler.emit = lambda record: warnings.append(record.getMessage())
logging.getLogger().addHandler(handler)
try:
    executor = open_executor(SandboxConfig(allow_unsafe_code_execution=sys.argv[2] == "1"))
except ConfigError as error:
    print(json.dumps({"error": str(error)}))
else:
    output = executor.run(Execution("print(6 * 7)")).output.decode()
    print(json.dumps({"level": executor.level, "output": output, "warnings": warnings}))
"""


@on_x86_64
def test_where_namespaces_are_denied_level_b_holds():
    said = in_a_container(["namespaces"], allow_unsafe=False)
    assert said == {"level": "B", "output": "42\n", "warnings": []}


@on_x86_64
def test_where_nothing_holds_nothing_runs():
    error = in_a_container(["landlock", "namespaces"], allow_unsafe=False)["error"]
    assert "reward.sandbox.level='auto'" in error
    assert "Landlock" in error
    assert "reward.sandbox.allow_unsafe_code_execution=true" in error


@on_x86_64
def test_the_risk_can_be_accepted_and_is_warned_of():
    said = in_a_container(["landlock", "namespaces"], allow_unsafe=True)
    assert (said["level"], said["output"]) == ("unsafe", "42\n")
    assert "allow_unsafe_code_execution=true" in said["warnings"][0]


def test_accepting_the_risk_does_not_lower_a_level_that_holds(caplog):
    with caplog.at_level(logging.WARNING):
        executor = open_executor(SandboxConfig(allow_unsafe_code_execution=True))
    executor.close()
    if executor.level == "unsafe":
        pytest.skip("no level holds here")
    assert caplog.messages == []


def test_a_reader_confines_itself():
    said = subprocess.run(
        [sys.executable, "-c", _READER], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert said == ["1.0 ok", *["PermissionError"] * 5]


_READER = r"""
import os, socket, subprocess
from archer.rewards.math_verifier import math_reward
from archer.rewards.sandbox.reader import confine_reader
from archer.types import ScoreRequest
facts = confine_reader()
assert facts["has_seccomp"] and facts["landlock_abi"], facts
result = math_reward(ScoreRequest("0", r"\boxed{x+\frac{1}{2}}", "0.5+x"))
print(result.reward, result.status)
for attempt in (
    lambda: open("/etc/passwd"),
    lambda: open("/tmp/archer-reader", "w"),
    socket.socket,
    os.fork,
    lambda: subprocess.run(["/bin/true"]),
):
    try:
        attempt()
        print("reached")
    except OSError as error:
        print(type(error).__name__)
"""
