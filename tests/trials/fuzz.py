"""Random command lines: each composes a config, or is a user error of three lines at most.

`python -m tests.trials.fuzz [--seed 0] [--composed 2000] [--processes 100]` counts how they end and
exits with 1 where one ends otherwise: in a traceback, a hang, silence. Nothing is trained: commands
and launchers print what they would run.
"""

import argparse
import contextlib
import io
import logging
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from triptych import cli
from triptych.config import CONFIGS, load_rules
from triptych.tools.benchmark import command as benchmark
from triptych.tools.sweep import sweep

SECONDS = 30  # for one command line; most take a quarter of one
ROOTS = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
GROUPS = {
    str(folder.relative_to(CONFIGS)): sorted(path.stem for path in folder.glob("*.yaml"))
    for folder in CONFIGS.rglob("*")
    if folder.is_dir() and list(folder.glob("*.yaml"))
}
VALUES = """
    0 1 -1 2 8 0.5 1e-3 -0.0 1e999 nan inf null true false none yes 0x10 1_000
    10000000000000000000000 a abc best last onecycle cosine resnet50 shapes cpu auto 1.2.3
    a-b a.b a/b a:b a@b
    [] {} [1,2] [[1,[2,[3]]]] {a:1} {a:{b:{c:{d:1}}}}
    [{_target_:os.getcwd}] {_target_:no.such}
    ??? . .. ~ * & ! | % # $ \\ / , ,, =, == : [ ] { } ( ) ' " '' "" 'a "a a' [1 {a: (1
    ${seed} ${no.such} ${oc.env:NOT_SET} ${oc.env:HOME} ${ ${} $${a} ${a.${b}} ${oc.decode:'1'}
    ${now:%Y} ${hydra:job.name} ${oc.create:{a:1}} ${data} ${.x} ${..x} \\${a}
    !!python/name:os.system
    1,2 a,b a,,b ,a a, null,true range(3) range(1,3) choice(1,2) interval(0,1) glob(*) sort(2,1)
    shuffle(1,2) int(1.5) float(x) str(1) bool(2) json_str({}) tag(a,1) extend_list(1) nope(1) f()
    ü 日本 🙂 a\u0301 \u202e \ufeff \x1b[31m \x07 \x7f \udcff
""".split()
VALUES += ["", " ", "\u2028", "\u00a0", "a\rb", "a b", "'a b'", "a\nb", "\t", "a\\,b", "'a,b'"]
VALUES += ['"a\'b"', "[a, b]", "x" * 5000, "9" * 400, "1" + ",1" * 8]
VALUES += ["[" * 60 + "]" * 60, "{a:" * 30 + "1" + "}" * 30]
FLAGS = """
    -m --multirun --cfg -c job hydra all --resolve --package -p --info -i --help -h --hydra-help
    --version --nope -x -- - --cfg=job --config-name -cn train nope --run -r --config-dir --m
""".split()
HYDRA = """
    hydra.run.dir=x hydra.output_subdir=x hydra.launcher.num_jobs=0 hydra.launcher.num_jobs=a
    hydra/launcher=basic hydra/launcher=nope hydra/sweeper=basic hydra.sweep.dir=x hydra.nope=1
    hydra.job.chdir=true hydra.verbose=true hydra/job_logging=default hydra.searchpath=[x] hydra=1
    hydra.job.name=${x} hydra.sweeper.params={seed:1} hydra.mode=MULTIRUN hydra.mode=x hydra/help=x
""".split()


class Case(NamedTuple):
    command: str
    arguments: list[str]

    def __str__(self) -> str:
        return f"{self.command} {shlex.join(self.arguments)!a}"


def draw_case(chance: random.Random) -> Case:
    """A command line: mostly of keys that exist, often with a fault or two."""
    command = chance.choice([*ROOTS, "train"])
    num_arguments = chance.choice([0, 1, 1, 2, 2, 3, 5])
    arguments = [draw_argument(chance, command) for _ in range(num_arguments)]
    if chance.random() < 0.15:
        arguments.insert(chance.randint(0, len(arguments)), chance.choice(FLAGS))
    if chance.random() < 0.2:
        arguments.append("-m")
    return Case(command, [argument.replace("\0", "") for argument in arguments])


def draw_argument(chance: random.Random, command: str) -> str:
    kind = chance.random()
    if kind < 0.2:
        group = chance.choice(list(GROUPS))
        choice = chance.choice([*GROUPS[group], chance.choice(VALUES)])
        package = chance.choice([""] * 6 + ["@x", "@", "@a.b"])
        typed = f"{draw_prefix(chance)}{group}{package}={choice}"
    elif kind < 0.27:
        typed = chance.choice(HYDRA)
    elif kind < 0.32:
        typed = chance.choice(VALUES)
    else:
        typed = f"{draw_prefix(chance)}{draw_key(chance, command)}={chance.choice(VALUES)}"
    return mutate(chance, typed) if chance.random() < 0.2 else typed


def draw_prefix(chance: random.Random) -> str:
    return chance.choice([""] * 8 + ["+", "++", "~", "+++", "~+"])


def draw_key(chance: random.Random, command: str) -> str:
    names = [*load_rules(command)]
    name = chance.choice(names)
    kind = chance.random()
    if kind < 0.1:
        return f"{name}.{chance.choice(['a', '0', 'a.b.c.d.e.f', '_target_', '', '.', 'é'])}"
    if kind < 0.2:
        return name.rpartition(".")[0] or name
    if kind < 0.25:
        return ".".join(chance.choices(["a", "data", "seed", "", "0"], k=chance.randint(1, 40)))
    return name


def mutate(chance: random.Random, text: str) -> str:
    """The text with one place cut out, doubled, or overwritten."""
    place = chance.randint(0, len(text))
    rest = text[place:]
    return text[:place] + chance.choice([rest[1:], rest[:1] + rest, chance.choice(VALUES) + rest])


class Hang(BaseException):
    """A command line took longer than any should."""


def hang(*_: Any) -> None:
    raise Hang


def start(command: str, arguments: list[str]) -> None:
    """Start a command that prints its config, or its jobs, and does nothing else."""
    cli.load_function = lambda command: print  # type: ignore[assignment]
    sweep.run_sweep = benchmark.benchmark_each = print  # type: ignore[assignment]
    sys.argv = [f"{command}.py", *arguments]
    cli.main(command)


def compose_here(case: Case) -> tuple[int, str, str]:
    """Exit code and what was printed of a case in this process; a traceback counts as printed."""
    out, err = io.StringIO(), io.StringIO()
    signal.signal(signal.SIGALRM, hang)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), restore_process():
        signal.alarm(SECONDS)
        try:
            start(*case)
            code: Any = 0
        except SystemExit as ended:
            code = ended.code
        except BaseException:
            traceback.print_exc()
            code = 1
        finally:
            signal.alarm(0)
    return code or 0, out.getvalue(), err.getvalue()


@contextlib.contextmanager
def restore_process() -> Iterator[None]:
    """Take back what a command changes in its process: environment, log handlers, folder."""
    environment, root = dict(os.environ), logging.getLogger()
    handlers, level, folder = root.handlers[:], root.level, Path.cwd()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        root.handlers[:], root.level = handlers, level
        os.chdir(folder)


def run_process(case: Case) -> tuple[int, str, str]:
    """The same of a case in a process of its own."""
    words = [sys.executable, __file__, "--start", *case.arguments]
    environment = os.environ | {"FUZZED": case.command}
    try:
        ended = subprocess.run(
            [os.fsencode(word) for word in words],
            capture_output=True,
            env=environment,
            timeout=10 * SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return 1, "", "Hang"
    out, err = (text.decode(errors="replace") for text in (ended.stdout, ended.stderr))
    return ended.returncode, out, err


def judge(code: int, out: str, err: str) -> str:
    """`composed`, `user error`, or what was wrong."""
    if "Traceback" in out + err or "Hang" in err:
        return "a traceback, or a hang"
    if code == 0:
        return "composed" if out and not err else "silence, or words on stderr"
    if code != 2:
        return f"exit code {code}"
    lines = err.strip().splitlines()
    return "user error" if 1 <= len(lines) <= 3 else f"an error of {len(lines)} lines"


def try_all(cases: list[Case], run_case: Any, name: str) -> list[str]:
    """Try every case; what was wrong, a text each."""
    wrong, counted = [], Counter[str]()
    for one in cases:
        code, out, err = run_case(one)
        ending = judge(code, out, err)
        counted[ending] += 1
        if ending not in ("composed", "user error"):
            wrong.append(f"{ending}: {one}\n{out[:500]!a}\n{err[-700:]!a}")
    print(f"{name}: " + ", ".join(f"{num} {ending}" for ending, num in sorted(counted.items())))
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser()
    for option, default in (("seed", 0), ("composed", 2000), ("processes", 100)):
        parser.add_argument(f"--{option}", type=int, default=default)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ |= {"LOG_DIR": f"{folder}/logs", "DATA_DIR": folder}
        cases = [draw_case(chance) for _ in range(options.composed)]
        wrong = try_all(cases, compose_here, "in one process")
        commands = [ROOTS[n % len(ROOTS)] for n in range(options.processes)]
        processes = [draw_case(chance)._replace(command=command) for command in commands]
        wrong += try_all(processes, run_process, "in processes of their own")
        os.chdir("/")
    print("\n\n".join(wrong[:20]))
    return bool(wrong)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--start"]:
        start(os.environ["FUZZED"], sys.argv[2:])
    else:
        sys.exit(main())
