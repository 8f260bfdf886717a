"""What `scripts/setup.sh` promises, with a stand-in for Python and pip: of any version, and it downloads nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = [
    "sh",
    "cat",
    "dirname",
    "find",
    "getconf",
    "grep",
    "ls",
    "mkdir",
    "mv",
    "rm",
    "sed",
    "sha256sum",
    "tail",
    "uname",
]

DESCRIBED = ["setup.cfg", "setup.py", "pyproject.toml", "ttbert/convert/_pack.c"]
"""The files that say what is installed and built."""

# Runs what it is given with -c, claiming VERSION; `-m venv` links itself into a new environment; `-m pip` is only noted
# in CALLS, and takes SECONDS and ends with STATUS from the environment.
STAND_IN = """\
#!{real} -I
import os, sys, time
args = sys.argv[1:]
if "-c" in args:
    sys.version_info = {version} + ("final", 0)
    here = os.path.abspath(sys.argv[0])
    in_venv = os.path.exists(os.path.dirname(here) + "/../pyvenv.cfg")
    sys._base_executable = os.path.realpath(here) if in_venv else here
    code = args[args.index("-c") + 1]
    sys.argv = args[args.index("-c"):]
    for missing in {missing}:
        sys.modules[missing] = None
    exec(code)
elif args[:2] == ["-m", "venv"]:
    os.makedirs(args[-1] + "/bin", exist_ok=True)
    os.symlink(os.path.realpath(sys.argv[0]), args[-1] + "/bin/python")
    with open(args[-1] + "/pyvenv.cfg", "w") as config:
        config.write("prompt = %r\\n" % args[args.index("--prompt") + 1])
elif args[:3] == ["-m", "pip", "install"]:
    with open({calls!r}, "a") as calls:
        calls.write(" ".join(args[2:]) + "\\n")
    time.sleep(float(os.environ.get("SECONDS", "0")))
    print("  Downloading torch-9.0-cp312-cp312-manylinux_2_28_x86_64.whl (539.2 MB)")
    print("what pip says, with PYTHONPATH", os.environ.get("PYTHONPATH"))
    sys.exit(int(os.environ.get("STATUS", "0")))
"""


@dataclass
class Machine:
    """A machine with one clone, an empty HOME and a PATH of a few programs; neither Python nor pyenv unless added."""

    root: Path
    clone: Path = field(init=False)
    calls: Path = field(init=False)

    def __post_init__(self) -> None:
        self.calls = self.root / "calls"
        self.programs = self.root / "bin"
        self.programs.mkdir()
        for name in PROGRAMS:
            found = shutil.which(name)
            assert found, f"these tests need {name}"
            (self.programs / name).symlink_to(found)
        self.clone = self.add_clone("a clone")

    def add_clone(self, name: str) -> Path:
        clone = self.root / name
        for path in ["scripts/setup.sh", *DESCRIBED]:
            (clone / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, clone / path)
        return clone

    def add_python(self, path: str, version: tuple[int, int, int], missing: tuple[str, ...] = ()) -> Path:
        text = STAND_IN.format(real=sys.executable, version=version, missing=missing, calls=str(self.calls))
        return self.add_script(path, text)

    def add_script(self, path: str, text: str) -> Path:
        script = self.root / path
        script.parent.mkdir(parents=True, exist_ok=True)
        script.unlink(missing_ok=True)
        script.write_text(text)
        script.chmod(0o755)
        return script

    def start(self, clone: Path | None = None, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.programs / "sh", (clone or self.clone) / "scripts/setup.sh"],
            env={"HOME": str(self.root / "home"), "PATH": f"{self.programs}", **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            cwd="/",
        )

    def set_up(self, clone: Path | None = None, **variables: str) -> tuple[int, str]:
        """The exit code and what was said; nothing may go to stdout, which belongs to the command that comes after."""
        process = self.start(clone, **variables)
        out, said = process.communicate(timeout=60)
        assert out == ""
        return process.returncode, said

    def pip_calls(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


INSTALLS = ["setuptools>=77", "-e .[test]"]


def ends(calls: list[str]) -> list[str]:
    """What each call of pip installs, without its options."""
    return [next(end for end in [*INSTALLS, "-e ."] if call.endswith(end)) for call in calls]


def test_without_a_suitable_interpreter_one_line_says_what_to_install(machine: Machine) -> None:
    machine.add_python("bin/python3", (3, 11, 7))
    machine.add_python("bin/python3.12", (3, 11, 7))
    code, said = machine.set_up()
    assert code == 1
    (line,) = said.splitlines()
    assert "CPython 3.12 or 3.10" in line
    assert "python3.12-venv" in line and "pyenv install 3.12" in line and "uv python install 3.12" in line
    assert not (machine.clone / ".venv").exists()


def test_interpreter_without_venv_is_named_with_its_package(machine: Machine) -> None:
    python = machine.add_python("bin/python3.12", (3, 12, 1), missing=("ensurepip",))
    code, said = machine.set_up()
    assert code == 1
    (line,) = said.splitlines()
    assert str(python) in line and "apt install python3.12-venv" in line


@pytest.mark.parametrize(
    ("given", "why"),
    [("bin/python3", "is Python 3.11.7"), ("bin/broken", "not a working Python 3"), ("bin/none", "not a program")],
)
def test_unsuitable_python_variable_is_refused_with_the_reason(machine: Machine, given: str, why: str) -> None:
    machine.add_python("bin/python3.12", (3, 12, 1))
    machine.add_python("bin/python3", (3, 11, 7))
    machine.add_script("bin/broken", "#!/bin/sh\nexit 127\n")
    code, said = machine.set_up(PYTHON=str(machine.root / given))
    assert code == 1
    (line,) = said.splitlines()
    assert why in line and given in line
    assert machine.pip_calls() == []


def test_python_variable_wins_over_what_would_be_found(machine: Machine) -> None:
    machine.add_python("bin/python3.12", (3, 12, 1))
    chosen = machine.add_python("elsewhere/my python", (3, 10, 13))
    code, said = machine.set_up(PYTHON=str(chosen))
    assert code == 0
    assert f"CPython 3.10.13: {chosen}" in said


def test_newer_of_the_two_versions_is_preferred(machine: Machine) -> None:
    machine.add_python("bin/python3.10", (3, 10, 13))
    newer = machine.add_python("bin/python3.12", (3, 12, 1))
    code, said = machine.set_up()
    assert code == 0
    assert f"CPython 3.12.1: {newer}" in said


@pytest.mark.parametrize(
    "path",
    [
        "home/.pyenv/versions/3.12.1/bin/python3.12",
        "home/.local/share/uv/python/cpython-3.12.4-linux-x86_64-gnu/bin/python3.12",
        "home/miniforge3/envs/some/bin/python3.12",
    ],
)
def test_interpreter_that_is_not_on_the_path_is_found(machine: Machine, path: str) -> None:
    python = machine.add_python(path, (3, 12, 1))
    code, said = machine.set_up()
    assert code == 0
    assert str(python) in said


def test_interpreter_of_pyenv_is_found_when_its_shim_fails_and_home_is_another(machine: Machine) -> None:
    machine.add_script("pyenv/shims/python3.12", "#!/bin/sh\necho 'pyenv: python3.12: command not found' >&2\nexit 127\n")
    python = machine.add_python("pyenv/versions/3.12.1/bin/python3.12", (3, 12, 1))
    code, said = machine.set_up(PATH=f"{machine.root}/pyenv/shims:{machine.programs}")
    assert code == 0
    assert str(python) in said
    assert "command not found" not in said


@pytest.mark.parametrize(
    ("script", "text", "why"),
    [
        ("bin/uname", "case $1 in -s) echo Darwin ;; *) echo arm64 ;; esac", "Darwin on arm64"),
        ("bin/getconf", "echo glibc 2.31", "glibc 2.34 or newer"),
    ],
)
def test_machine_without_wheels_is_refused_in_one_line(machine: Machine, script: str, text: str, why: str) -> None:
    machine.add_python("bin/python3.12", (3, 12, 1))
    machine.add_script(script, f"#!/bin/sh\n{text}\n")
    code, said = machine.set_up()
    assert code == 1
    (line,) = said.splitlines()
    assert why in line


def test_second_run_is_silent_and_does_not_call_pip(machine: Machine) -> None:
    machine.add_python("bin/python3.12", (3, 12, 1))
    code, said = machine.set_up()
    assert code == 0
    assert "torch (539.2 MB)" in said
    assert ends(machine.pip_calls()) == INSTALLS
    assert machine.set_up() == (0, "")
    assert machine.set_up(PYTHON="python3.12") == (0, "")
    assert len(machine.pip_calls()) == 2


@pytest.mark.parametrize("name", DESCRIBED)
def test_changed_requirements_are_installed_into_the_same_environment(machine: Machine, name: str) -> None:
    machine.add_python("bin/python3.12", (3, 12, 1))
    machine.set_up()
    kept = machine.clone / ".venv/kept"
    kept.touch()
    with (machine.clone / name).open("a") as file:
        file.write("\n# changed\n")
    assert machine.set_up()[0] == 0
    assert ends(machine.pip_calls()) == INSTALLS * 2
    assert kept.exists()


def test_another_interpreter_makes_the_environment_anew(machine: Machine) -> None:
    machine.add_python("bin/python3.12", (3, 12, 1))
    machine.set_up()
    old = machine.clone / ".venv/old"
    old.touch()
    other = machine.add_python("other/python3.10", (3, 10, 13))
    assert machine.set_up(PYTHON=str(other))[0] == 0
    assert not old.exists()
    assert machine.set_up() == (0, "")


def test_another_name_of_the_same_interpreter_changes_nothing(machine: Machine) -> None:
    python = machine.add_python("bin/python3.12", (3, 12, 1))
    machine.set_up()
    link = machine.root / "python3"
    link.symlink_to(python)
    assert machine.set_up(PYTHON=str(link)) == (0, "")


def test_environment_whose_interpreter_is_gone_is_made_anew(machine: Machine) -> None:
    machine.add_python("bin/python3.12", (3, 12, 1)).rename(machine.root / "bin/python3.10")
    machine.set_up()
    (machine.root / "bin/python3.10").unlink()
    python = machine.add_python("bin/python3.12", (3, 12, 1))
    code, said = machine.set_up()
    assert code == 0
    assert str(python) in said


def test_second_clone_with_the_same_environment_installs_only_itself(machine: Machine) -> None:
    machine.add_python("bin/python3.12", (3, 12, 1))
    shared = str(machine.root / "shared venv")
    machine.set_up(TTBERT_VENV=shared)
    assert machine.set_up(machine.add_clone("second"), TTBERT_VENV=shared)[0] == 0
    assert ends(machine.pip_calls()) == [*INSTALLS, "-e ."]
    assert "--no-deps" in machine.pip_calls()[-1]


def test_extension_that_was_removed_is_built_again(machine: Machine) -> None:
    machine.add_python("bin/python3.12", (3, 12, 1))
    built = machine.clone / "ttbert/convert/_pack.abi3.so"
    built.touch()
    machine.set_up()
    assert machine.set_up() == (0, "")
    built.unlink()
    assert machine.set_up()[0] == 0
    assert ends(machine.pip_calls()) == [*INSTALLS, "-e ."]
    assert machine.set_up() == (0, ""), "where there is no compiler it is not tried again and again"


def test_failed_install_is_reported_and_the_next_run_goes_on(machine: Machine) -> None:
    machine.add_python("bin/python3.12", (3, 12, 1))
    code, said = machine.set_up(STATUS="1")
    assert code == 1
    assert "what pip says" in said
    assert "run the same command again" in said
    assert ends(machine.pip_calls()) == INSTALLS[:1]
    assert machine.set_up()[0] == 0
    assert ends(machine.pip_calls()) == [*INSTALLS[:1], *INSTALLS]


def test_failed_update_is_not_forgotten_when_the_change_is_taken_back(machine: Machine) -> None:
    machine.add_python("bin/python3.12", (3, 12, 1))
    machine.set_up()
    settings = machine.clone / "setup.cfg"
    before = settings.read_text()
    settings.write_text(before + "\n# changed\n")
    assert machine.set_up(STATUS="1")[0] == 1
    settings.write_text(before)
    assert machine.set_up()[0] == 0
    assert ends(machine.pip_calls()) == [*INSTALLS, *INSTALLS[:1], *INSTALLS]


def test_packages_on_pythonpath_do_not_count_as_installed(machine: Machine) -> None:
    machine.add_python("bin/python3.12", (3, 12, 1))
    machine.set_up(PYTHONPATH="/a/checkout")
    log = (machine.clone / ".venv/ttbert-install.log").read_text()
    assert "with PYTHONPATH None" in log


def wait_for_pip(machine: Machine) -> None:
    deadline = time.monotonic() + 30
    while not machine.pip_calls():
        assert time.monotonic() < deadline, "pip was never called"
        time.sleep(0.02)


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_install_leaves_no_stamp_and_the_next_run_goes_on(machine: Machine, kill: signal.Signals) -> None:
    machine.add_python("bin/python3.12", (3, 12, 1))
    process = machine.start(SECONDS="60")
    wait_for_pip(machine)
    os.killpg(process.pid, kill)
    process.communicate(timeout=60)
    assert process.returncode != 0
    torn = machine.clone / ".venv/lib/python3.12/site-packages/torch-9.0.dist-info"
    torn.mkdir(parents=True)
    (torn / "METADATA").touch()
    assert machine.set_up()[0] == 0
    assert ends(machine.pip_calls()) == [*INSTALLS[:1], *INSTALLS]
    assert not torn.exists(), "pip would take the half-written package for an installed one"
    assert machine.set_up() == (0, "")


def test_simultaneous_runs_install_once(machine: Machine) -> None:
    machine.add_python("bin/python3.12", (3, 12, 1))
    first = machine.start(SECONDS="1")
    wait_for_pip(machine)
    code, said = machine.set_up()
    first.communicate(timeout=60)
    assert (first.returncode, code) == (0, 0)
    assert "waiting for another set-up" in said
    assert ends(machine.pip_calls()) == INSTALLS


@pytest.mark.parametrize("name", ["notes.txt", "pyvenv.cfg"])
def test_folder_that_setup_did_not_make_is_left_alone(machine: Machine, name: str) -> None:
    machine.add_python("bin/python3.12", (3, 12, 1))
    theirs = machine.root / "theirs"
    theirs.mkdir()
    (theirs / name).write_text("home = /usr/bin\n")
    for _ in range(2):
        code, said = machine.set_up(TTBERT_VENV=str(theirs))
        assert code == 1
        assert "remove it or set TTBERT_VENV" in said.splitlines()[-1]
        assert (theirs / name).read_text() == "home = /usr/bin\n"
