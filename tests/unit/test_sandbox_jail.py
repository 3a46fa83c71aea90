"""What a program sees in a jail, how its ends are told apart, and that nothing is left of it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from other_user import as_nobody, why_not

from archer.config.keys import SandboxConfig
from archer.errors import ConfigError
from archer.rewards.sandbox import Execution, Limits, SandboxError
from archer.rewards.sandbox.levels import open_level

LEVELS = ("A", "B")


@pytest.fixture(scope="module", params=LEVELS)
def jail(request):
    jail = open_or_skip(request.param)
    yield jail
    jail.close()


def open_or_skip(level, **config):
    try:
        return open_level(level, SandboxConfig(**config))
    except ConfigError as error:
        pytest.skip(f"level {level} is not available: {error}")


def printed(jail, source, stdin="", **limits):
    outcome = jail.run(Execution(source, stdin=stdin, limits=Limits(**limits)))
    assert (outcome.ending, outcome.error) == ("ok", "")
    return outcome.output.decode("utf-8", "surrogatepass")


def returned(jail, source, arguments="[]", entry_point="f", **fields):
    execution = Execution(source, "call", entry_point=entry_point, arguments=arguments, **fields)
    outcome = jail.run(execution)
    assert (outcome.ending, outcome.error) == ("ok", "")
    return json.loads(outcome.output)


NUMBERS = "3\n1 2\n3 4\n5 6\n"
HONEST = {  # source, stdin, output
    "input": ("n=int(input())\nfor _ in range(n): print(sum(map(int, input().split())))",
              NUMBERS, "3\n7\n11\n"),
    "readline": ("r=sys.stdin.readline\nprint([r() for _ in range(5)])", "a\nb",
                 "['a\\n', 'b', '', '', '']\n"),
    "read": ("print(len(sys.stdin.read()))", NUMBERS, "14\n"),
    "iterate": ("print([l.strip() for l in sys.stdin])", "a\nb\n", "['a', 'b']\n"),
    "buffer": ("b=sys.stdin.buffer\nprint(b.readline(), b.readlines())", "a\nb\nc",
               "b'a\\n' [b'b\\n', b'c']\n"),
    "open(0)": ("print(*open(0))", "a\nb\n", "a\n b\n\n"),
    "os.read": ("import os\nprint(os.read(0, 99))", "abc", "b'abc'\n"),
    "fileinput": ("import fileinput\nprint([l for l in fileinput.input()])", "a\n", "['a\\n']\n"),
    "fast reader": ("import os, io\ninput=io.BytesIO(os.read(0, os.fstat(0).st_size)).readline\n"
                    "print(int(input()))", "7\n", "7\n"),
    "end of input": ("try: input()\nexcept EOFError: print('end')", "", "end\n"),
    "windows lines": ("print(repr(input()))", "a\r\nb\r\n", "'a'\n"),
    "stdout.write": ("sys.stdout.write('a\\n')", "", "a\n"),
    "stdout.buffer": ("sys.stdout.buffer.write(b'a\\n')", "", "a\n"),
    "os.write": ("import os\nos.write(1, b'a')", "", "a"),
    "unclosed file": ("out = open(1, 'w')\nout.write('late')", "", "late"),
    "replaced stdout": ("sys.stdout = io.StringIO()\nprint('a')\n"
                        "sys.__stdout__.write(sys.stdout.getvalue())", "", "a\n"),
    "atexit": ("import atexit\natexit.register(print, 'bye')\nprint('hi')", "", "hi\nbye\n"),
    "main": ("if __name__ == '__main__': print('main')", "", "main\n"),
    "exit": ("print(1)\nexit()", "", "1\n"),
    "quit": ("print(1)\nquit(0)", "", "1\n"),
    "sys.exit": ("print(1)\nsys.exit()", "", "1\n"),
    "exit in a function": ("def f():\n  print(1)\n  raise SystemExit(0)\nf()", "", "1\n"),
    "os._exit": ("import os\nprint(1, flush=True)\nos._exit(0)", "", "1\n"),
    "global": ("x = 1\ndef f():\n  global x\n  x += 1\nf()\nprint(x)", "", "2\n"),
    "shadowed names": ("list = [1]\nstr = 'a'\nprint(list, str)", "", "[1] a\n"),
    "future import": ("from __future__ import annotations\nprint(1)", "", "1\n"),
    "prelude": ("print(gcd(4, 6), deque([1]), reduce(operator.add, [1, 2]), List[int])", "",
                "2 deque([1]) 3 typing.List[int]\n"),
    "pow of builtins": ("print(pow(2, 10, 1000))", "", "24\n"),
    "deep recursion": ("def f(n): return 0 if n == 0 else 1 + f(n-1)\nprint(f(40000))", "",
                       "40000\n"),
    "big stack thread": (
        "import threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(256 << 20)\n"
        "def f(n): return 0 if n == 0 else 1 + f(n-1)\n"
        "t = threading.Thread(target=lambda: print(f(50000)))\nt.start()\nt.join()",
        "", "50000\n"),
    "thread that is not joined": (
        "import threading, time\ndef f():\n  time.sleep(0.05)\n  print('late')\n"
        "threading.Thread(target=f).start()", "", "late\n"),
    "thread pool": ("from concurrent.futures import ThreadPoolExecutor as P\n"
                    "with P(8) as p: print(sum(p.map(abs, range(100))))", "", "4950\n"),
    "asyncio": ("import asyncio\nasync def f():\n  await asyncio.sleep(0.001)\n  return 5\n"
                "print(asyncio.run(f()))", "", "5\n"),
    "5001 digits": ("print(len(str(10**5000)))", "", "5001\n"),
    "long digits in": ("print(int(input()) % 7)", "9" * 20000 + "\n",
                       f"{(pow(10, 20000, 7) - 1) % 7}\n"),
    "unicode": ("print(input()[::-1])", "añ😀\n", "😀ña\n"),
    "surrogates": ("print(ascii(input()))", "\ud800\n", "'\\ud800'\n"),
    "surrogates out": ("print(chr(0xd800))", "", "\ud800\n"),
    "time": ("import time\ntime.sleep(0.01)\nprint(time.time() > 1e9)", "", "True\n"),
    "random is fixed": ("print(random.random(), randint(1, 10**9))", "",
                        "0.8444218515250481 813847340\n"),
    "hashes are fixed": ("print(list({'a', 'b', 'c', 'd', 'e'}) == sorted(set('abcde'), key="
                         "lambda c: list({'a', 'b', 'c', 'd', 'e'}).index(c)))", "", "True\n"),
    "decimal": ("from decimal import *\ngetcontext().prec = 30\nprint(Decimal(1) / 3)", "",
                "0." + "3" * 30 + "\n"),
    "fractions": ("from fractions import Fraction\nprint(Fraction(1, 3))", "", "1/3\n"),
    "sqlite": ("import sqlite3\nprint(sqlite3.connect(':memory:').execute('select 1').fetchall())",
               "", "[(1,)]\n"),
    "standard library": (
        "import array, ast, base64, bz2, calendar, cmath, contextlib, ctypes, csv, dataclasses, "
        "difflib, enum, fractions, gzip, hashlib, html, inspect, logging, lzma, numbers, pathlib, "
        "pickle, platform, pprint, queue, secrets, shutil, signal, struct, subprocess, tempfile, "
        "textwrap, threading, timeit, traceback, types, unittest, uuid, zlib, zoneinfo\n"
        "print(hashlib.sha256(b'').hexdigest()[:6])", "", "e3b0c4\n"),
    "memory map": ("import mmap\nm = mmap.mmap(-1, 1 << 20)\nm[:2] = b'hi'\nprint(m[:2])", "",
                   "b'hi'\n"),
    "os.urandom": ("import os\nprint(len(os.urandom(9)), os.cpu_count() > 0)", "", "9 True\n"),
    "own limits": ("import resource as r\nprint(r.getrlimit(r.RLIMIT_NOFILE))\n"
                   "r.setrlimit(r.RLIMIT_STACK, r.getrlimit(r.RLIMIT_STACK))", "", "(64, 64)\n"),
    "more stack": ("from resource import *\nfor soft in (2**29, 0x10000000, RLIM_INFINITY):\n"
                   "  setrlimit(RLIMIT_STACK, [soft, RLIM_INFINITY])\n"
                   "print(getrlimit(RLIMIT_STACK))", "", "(-1, -1)\n"),
    "faster, please": ("import os\nprint(os.nice(-5), os.sched_setaffinity(0, {0}))", "",
                       "0 None\n"),
    "streams by name": ("import os, pathlib\nfd = os.open('/proc/self/fd/0', os.O_RDONLY)\n"
                        "s = os.read(fd, 2)\nt = pathlib.Path('/dev/stdin').read_text()\n"
                        "print(s, t, file=open('/dev/stdout', 'w'))\n"
                        "open('/dev/stderr', 'w').write('x')", "a\nb", "b'a\\n' b\n"),
    "own name": ("print(__file__)", "", "solution.py\n"),
    "locale": ("import locale\nlocale.setlocale(locale.LC_ALL, '')\n"
               "print(locale.getpreferredencoding(), sys.getfilesystemencoding())", "",
               "utf-8 utf-8\n"),
    "stderr without end": ("for _ in range(400): print('x' * 100_000, file=sys.stderr)\nprint(1)",
                           "", "1\n"),
    "alarm": ("import signal, time\nsignal.signal(signal.SIGALRM, lambda *a: print('rang'))\n"
              "signal.setitimer(signal.ITIMER_REAL, 0.01)\ntime.sleep(0.05)", "", "rang\n"),
    "stderr": ("print('debug ' * 1000, file=sys.stderr)\nprint(1)", "", "1\n"),
    "pprint and isatty": ("print(sys.stdin.isatty(), sys.stdout.isatty())", "", "False False\n"),
    "half a gigabyte": ("x = bytearray(500 << 20)\nprint(len(x))", "", f"{500 << 20}\n"),
    "argv": ("print(sys.argv)", "", "['solution.py']\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_program_runs_as_it_would_at_home(jail, name):
    source, stdin, expected = HONEST[name]
    assert printed(jail, source, stdin) == expected


def test_big_input_and_output_arrive_whole(jail):
    stdin = "\n".join(map(str, range(700_000)))
    assert printed(jail, "sys.stdout.write(sys.stdin.read())", stdin) == stdin
    assert len(stdin) > 4 << 20


def test_the_same_program_gives_the_same_output(jail):
    source = "print({hash(str(i)) for i in range(99)}, random.random(), object.__hash__)"
    assert len({printed(jail, source) for _ in range(3)}) == 1


def test_files_in_memory_are_found_by_open(jail):
    source = "print(sys.argv[1:], open(sys.argv[1]).read(), open('b', 'rb').read())"
    execution = Execution(source, argv=("dir/a", "x"), files={"dir/a": "text\n", "b": "ü"})
    assert jail.run(execution).output == b"['dir/a', 'x'] text\n b'\\xc3\\xbc'\n"


CALLS = {  # source, arguments, value
    "function": ("def f(a, b): return a + b", "[1, 2]", 3),
    "method": ("class Solution:\n  def f(self, a): return a[::-1]", "[[1, 2]]", [2, 1]),
    "method over function": ("def f(): return 1\nclass Solution:\n  def f(self): return 2",
                             "[]", 2),
    "tuple": ("def f(): return (1, (2, 3))", "[]", [1, [2, 3]]),
    "typed": ("def f(a: List[int], b: Optional[int] = None) -> Dict[str, int]: return {'a': a[0]}",
              "[[7]]", {"a": 7}),
    "no main": ("if __name__ == '__main__': 1/0\ndef f(): return __name__ != '__main__'", "[]",
                True),
    "printing": ("def f():\n  print('x' * 100)\n  return 1", "[]", 1),
    "printing to descriptors": ("import os\ndef f():\n  os.write(1, b'2')\n  return 1", "[]", 1),
    "surrogates": ("def f(s): return s + chr(0xd801)", '["\\ud800"]', "\ud800\ud801"),
    "big int": ("def f(): return 10 ** 4000", "[]", 10**4000),
    "subclasses": ("class L(list): pass\nclass S(str): pass\ndef f(): return L([S('a')])", "[]",
                   ["a"]),
    "counter": ("def f(s): return Counter(s)", '["aab"]', {"a": 2, "b": 1}),
    "memo": ("@lru_cache(None)\ndef f(n): return n if n < 2 else f(n-1) + f(n-2)", "[90]",
             2880067194370816120),
    "deep recursion": ("def f(n): return 0 if n == 0 else 1 + f(n-1)", "[40000]", 40000),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_a_call_returns_its_value_as_json(jail, name):
    source, arguments, expected = CALLS[name]
    assert returned(jail, source, arguments) == expected


def test_an_expression_is_evaluated_after_its_setup(jail):
    execution = Execution(
        "class A:\n  def __init__(self): self.x = 1", "evaluate",
        setup="a = A()\na.x += 1", expression="[a.x, isinstance(a, A)]",
    )  # fmt: skip
    assert jail.run(execution).output == b"[2, true]"


NO_VALUE = {  # source, error
    "set": ("def f(): return {1}", "TypeError: Object of type set is not JSON serializable"),
    "generator": ("def f(): yield 1", "TypeError: Object of type generator is not"),
    "object": ("class X:\n  def __eq__(s, o): return True\ndef f(): return X()",
               "TypeError: Object of type X is not"),
    "cycle": ("def f():\n  a = []\n  a.append(a)\n  return a", "ValueError: Circular"),
    "nan": ("def f(): return [float('nan')]", "ValueError: Out of range float"),
    "too deep": ("def f():\n  a = []\n  for _ in range(10**6): a = [a]\n  return a", ""),
    "missing": ("def g(): return 1", "NameError: no function 'f'"),
    "missing method": ("class Solution: pass\ndef f(): return 1", "AttributeError: "),
    "arity": ("def f(a): return 1", "TypeError: f() missing 1 required"),
    "exit before": ("import os\ndef f(): os._exit(0)", "it ended before it returned a value"),
    "sys.exit": ("def f(): sys.exit()", "it ended before it returned a value"),
    "raises": ("def f(): raise KeyError('k')", "KeyError: 'k'"),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_VALUE)
def test_what_is_no_json_value_is_a_runtime_error(jail, name):
    source, error = NO_VALUE[name]
    outcome = jail.run(Execution(source, "call", entry_point="f"))
    assert outcome.ending == "runtime_error"
    assert outcome.error.startswith(error)


ENDINGS = {  # source, ending, start of the error
    "exception": ("print('right')\n1/0", "runtime_error", "ZeroDivisionError: division by zero"),
    "exit status": ("print('right')\nexit(3)", "runtime_error", "exit status 3"),
    "exit message": ("exit('sorry')", "runtime_error", "sorry"),
    "syntax": ("print('a'", "runtime_error", "SyntaxError: '(' was never closed"),
    "null byte": ("print(1)\0", "runtime_error", ""),
    "lone surrogate": ("print('\ud800')", "runtime_error", "UnicodeEncodeError"),
    "abort": ("import os\nos.abort()", "runtime_error", "SIGABRT"),
    "segmentation fault": ("import ctypes\nctypes.string_at(0)", "runtime_error", "SIGSEGV"),
    "own signal": ("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)", "runtime_error",
                   "SIGTERM"),
    "endless recursion": ("def f(): f()\nf()", "runtime_error", "RecursionError"),
    "loop": ("while True: pass", "timeout", "0.3 s of CPU time"),
    "loop that catches all": ("while True:\n  try:\n    while True: pass\n"
                              "  except BaseException: pass", "timeout", "0.3 s of CPU time"),
    "ignored signals": ("import signal\nfor s in range(1, 65):\n  try: signal.signal(s, "
                        "signal.SIG_IGN)\n  except Exception: pass\nwhile True: pass",
                        "timeout", "0.3 s of CPU time"),
    "sleep": ("import time\ntime.sleep(99)", "timeout", "0.7 s are over"),
    "thread that does not end": ("import threading, time\nthreading.Thread(target=time.sleep, "
                                 "args=(99,)).start()", "timeout", "0.7 s are over"),
    "C code that does not end": ("10 ** 10 ** 9", "timeout", "0.3 s of CPU time"),
    "memory": ("x = bytearray(3 << 30)", "memory", "MemoryError"),
    "memory piece by piece": ("x = []\nwhile True: x.append(bytearray(50 << 20))", "memory",
                              "MemoryError"),
    "output": ("while True: print('x' * 9999)", "output_limit", "more than 1000000 bytes"),
    "output, errors ignored": (
        "import os, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "try:\n  while True: os.write(1, b'x' * 9999)\nexcept OSError: os._exit(0)",
        "output_limit", "more than 1000000 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDINGS)
def test_each_end_has_its_name(jail, name):
    source, ending, error = ENDINGS[name]
    wall_s = 0.7 if error.startswith("0.7 s") else 8.0  # long, for a machine that is busy
    time_s = 0.3 if ending == "timeout" else 4.0
    limits = Limits(time_s, wall_s, memory_mb=512, output_bytes=1_000_000)
    outcome = jail.run(Execution(source, limits=limits))
    assert outcome.ending == ending
    assert outcome.error.startswith(error)
    assert outcome.wall_s < wall_s + 1
    assert len(outcome.output) <= limits.output_bytes


def test_an_error_after_much_standard_error_is_still_told(jail):
    source = "print('x' * (20 << 20), file=sys.stderr)\n1 / 0"
    outcome = jail.run(Execution(source))
    assert (outcome.ending, outcome.error) == (
        "runtime_error",
        "ZeroDivisionError: division by zero",
    )


def test_the_stack_limit_that_a_program_lifts_bounds_no_less(jail):
    source = (
        "import resource as r\nr.setrlimit(r.RLIMIT_STACK, (-1, -1))\n"
        "sys.setrecursionlimit(1 << 30)\nclass Deep:\n"
        "  def __getattr__(self, name): return getattr(self, name)\nDeep().down"
    )
    outcome = jail.run(Execution(source, limits=Limits(time_s=5, wall_s=10, memory_mb=256)))
    assert outcome.ending in ("runtime_error", "memory")


def test_relative_files_are_written_where_there_is_a_place():
    source = "open('a', 'w').write('x')\nprint(open('a').read())"
    with contextlib.closing(open_or_skip("A")) as jail:
        assert printed(jail, source) == "x\n"


def test_output_of_exactly_the_limit_is_within_it(jail):
    assert len(printed(jail, "print('x' * 999, end='')", output_bytes=999)) == 999


def test_nothing_of_one_program_is_there_for_the_next(jail):
    printed(jail, "import builtins, sys, os\nbuiltins.leak = sys.leak = 1\nprint(os.umask(0o777))")
    for _ in range(2):
        source = "import builtins, os\nprint(hasattr(builtins, 'leak'), os.umask(0) != 0o777)"
        assert printed(jail, source) == "False True\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can read the memory of a jail")
def test_the_zygote_never_sees_a_program_its_input_or_its_output(jail):
    printed(jail, "print(input() + 'output'.upper()) # SOURCE-SECRET", stdin="INPUT-SECRET-")
    zygote = tree(jail.pid)[-1]
    memory = b"".join(writable_memory(zygote))
    assert b"is_dirty" in memory
    for secret in (b"SOURCE-SECRET", b"INPUT-SECRET", b"SECRET-OUTPUT"):
        assert secret not in memory


def writable_memory(pid):
    with open(f"/proc/{pid}/mem", "rb", 0) as memory, open(f"/proc/{pid}/maps") as maps:
        for line in maps:
            span, rights, *_ = line.split()
            start, end = (int(at, 16) for at in span.split("-"))
            if rights.startswith("rw"):
                memory.seek(start)
                yield memory.read(end - start)


def test_a_file_in_tmp_is_gone_with_its_program():
    jail = open_or_skip("A")
    assert printed(jail, "open('/tmp/x', 'w').write('a')\nprint(open('/tmp/x').read())") == "a\n"
    assert printed(jail, "import os\nprint(os.listdir('/tmp'))") == "[]\n"
    jail.close()


def test_tmp_has_a_quota_of_bytes_and_of_files():
    jail = open_or_skip("A", tmp_mb=1)
    flood = (
        "import os\nn = 0\ntry:\n  while True:\n    open(f'/tmp/{{n}}', 'w').write({what})\n"
        "    n += 1\nexcept OSError as e: print(e.errno, n < {most})"
    )
    assert printed(jail, flood.format(what="'x' * 10000", most=110)) == "28 True\n"  # ENOSPC
    assert printed(jail, flood.format(what="''", most=1024)) == "28 True\n"
    jail.close()


def test_level_b_has_no_place_to_write():
    jail = open_or_skip("B")
    source = "for p in ('/tmp/x', '/dev/shm/x', '/var/tmp/x', 'x'):\n  try: open(p, 'w')\n"
    assert printed(jail, source + "  except OSError: print('no')") == "no\n" * 4
    jail.close()


def test_more_threads_than_allowed_are_refused():
    jail = open_or_skip("A")
    source = (
        "import threading, time\nthreading.stack_size(65536)\nn = 0\ntry:\n"
        "  while n < 1000:\n    threading.Thread(target=time.sleep, args=(9,), daemon=True).start()"
        "\n    n += 1\nexcept RuntimeError: print(30 < n < 70)\n"
    )
    assert printed(jail, source) == "True\n"
    jail.close()


@pytest.mark.parametrize("moment", ["before", "during"])
def test_a_killed_zygote_costs_no_verdict(jail, moment):
    before = jail.pid
    if moment == "before":
        kill_tree(before)
    else:
        delay = f"sleep 0.2; kill -9 {' '.join(map(str, tree(before)))}"
        killer = subprocess.Popen(["sh", "-c", delay])
    assert printed(jail, "import time\ntime.sleep(0.4)\nprint('done')") == "done\n"
    assert jail.pid != before
    if moment == "during":
        killer.wait()
    assert_gone(before)


def test_a_zygote_that_does_not_answer_is_replaced(jail):
    before = jail.pid
    for pid in tree(before):
        os.kill(pid, signal.SIGSTOP)
    start = time.monotonic()
    assert printed(jail, "print('done')", time_s=0.5, wall_s=0.5) == "done\n"
    assert 2.4 < time.monotonic() - start < 20  # the limit and 2 s, once
    assert_gone(before)


def test_a_jail_that_cannot_start_again_is_an_error_not_a_verdict(jail, monkeypatch):
    kill_tree(jail.pid)
    with monkeypatch.context() as patch:
        patch.setattr(type(jail.plan), "env", {"LD_PRELOAD": "/dev/null", "PYTHONHOME": "/dev"})
        with pytest.raises(SandboxError, match="twice"):
            jail.run(Execution("print(1)"))
    assert printed(jail, "print(1)") == "1\n"


@pytest.mark.parametrize("level", LEVELS)
def test_closing_leaves_no_process_and_no_descriptor(level):
    open_or_skip(level).close()  # whatever is loaded once
    before = len(os.listdir("/proc/self/fd"))
    jail = open_or_skip(level)
    pids = tree(jail.pid)
    printed(jail, "print(1)")
    jail.close()
    jail.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert_gone(*pids)


@pytest.mark.parametrize("level", LEVELS)
def test_a_jail_dies_with_the_process_that_owns_it(level):
    open_or_skip(level).close()
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER, level], stdout=subprocess.PIPE, text=True, cwd=_ROOT
    )
    assert owner.stdout is not None
    owner.stdout.readline()
    time.sleep(0.3)  # the program runs
    pids = tree(owner.pid)
    assert len(pids) >= 3
    owner.kill()
    owner.wait()
    assert_gone(*pids)


def test_a_program_that_somebody_else_kills_has_not_failed(jail):
    """The machine may be out of memory through no fault of this program."""
    idle = set(tree(jail.pid))

    def kill_once():
        while not (programs := set(tree(jail.pid)) - idle):
            time.sleep(0.01)
        time.sleep(0.1)  # it runs
        os.kill(programs.pop(), signal.SIGKILL)

    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(kill_once)
        outcome = jail.run(Execution("import time\ntime.sleep(0.5)\nprint('done')"))
        killing.result(timeout=10)
    assert (outcome.ending, outcome.output) == ("ok", b"done\n")


def test_programs_that_are_killed_again_and_again_are_no_verdict(jail):
    is_over = threading.Event()

    def kill_all():
        while not is_over.wait(0.1):
            with contextlib.suppress(psutil.NoSuchProcess):
                kill_tree(jail.pid)

    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(kill_all)
        try:
            with pytest.raises(SandboxError, match="twice"):
                jail.run(Execution("import time\ntime.sleep(5)"))
        finally:
            is_over.set()
        killing.result(timeout=10)
    assert printed(jail, "print('well again')") == "well again\n"


def test_no_program_can_look_as_if_somebody_else_had_killed_it(jail):
    source = "import os, threading\nos.kill(os.getpid(), 9)"
    outcome = jail.run(Execution(source))
    assert (outcome.ending, outcome.error[:15]) == ("runtime_error", "PermissionError")
    by_thread = "import os, signal, threading\nsignal.pthread_kill(threading.get_ident(), 9)"
    assert jail.run(Execution(by_thread)).ending == "runtime_error"


_ROOT = Path(__file__).parents[2]
_OWNER = """
import sys
from archer.config.keys import SandboxConfig
from archer.rewards.sandbox import Execution
from archer.rewards.sandbox.levels import open_level
jail = open_level(sys.argv[1], SandboxConfig())
print("ready", flush=True)
jail.run(Execution("while True: pass"))
"""


def tree(pid):
    process = psutil.Process(pid)
    return [pid, *(child.pid for child in process.children(recursive=True))]


def kill_tree(pid):
    for each in reversed(tree(pid)):  # the zygote first: it takes the others with it
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


def assert_gone(*pids, within_s=2.0):
    end = time.monotonic() + within_s
    while left := [pid for pid in pids if is_running(pid)]:
        assert time.monotonic() < end, f"still there: {left}"
        time.sleep(0.01)


def is_running(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_all_of_this_holds_for_an_unprivileged_user():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    result = as_nobody(command, cwd=_ROOT, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stdout[-5000:]
