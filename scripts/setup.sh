#!/bin/sh
# Make the virtual environment in which ttbert runs, or bring it up to date; at once if there is nothing to do.
#
#   PYTHON        the interpreter to use; without it one is looked for: 3.12 before 3.10
#   TTBERT_VENV   where the environment goes; .venv beside setup.cfg without it
#
# A stamp in the environment says what it was made from. It is removed before anything changes and written when all is
# done, so that after an interruption the next run goes on.
set -eu

wanted='CPython 3.12 or 3.10 is needed (ttnn has wheels for no other)'

say() { printf 'ttbert: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# What this interpreter is good for: "ok PATH VERSION", or "no REASON". PATH is that of the installation, not of a
# virtual environment over it nor of a link to it. Nothing if it does not run, as the shims of pyenv do not for a
# version not activated.
judge() {
    "$1" -I -c '
import os, platform, struct, sys
version = "%d.%d.%d" % sys.version_info[:3]
if sys.implementation.name != "cpython":
    print("no is", platform.python_implementation())
elif sys.version_info[:2] not in [(3, 12), (3, 10)]:
    print("no is Python", version)
elif struct.calcsize("P") != 8:
    print("no is a 32-bit Python")
else:
    try:
        import ensurepip, venv
        print("ok", os.path.realpath(sys._base_executable), version)
    except ImportError:
        package = "python%d.%d-venv" % sys.version_info[:2]
        print("no cannot make virtual environments (on Debian and Ubuntu: apt install " + package + ")")
' </dev/null 2>/dev/null || :
}

# Set python and version if this one will do; remember in almost why one of the right version will not.
accept() {
    verdict=
    [ -x "$1" ] || return 1
    verdict=$(judge "$1")
    case $verdict in
        'ok '*)
            version=${verdict##* }
            python=${verdict#ok }
            python=${python% *} ;;
        'no cannot '*)
            almost=${almost:-$1 ${verdict#no }}
            return 1 ;;
        *) return 1 ;;
    esac
}

# Look for an interpreter: on PATH, then where pyenv, asdf, mise, uv and conda keep theirs. Their folders are also
# looked for beside those on PATH, for HOME may be another one (as in CI).
search() {
    home=${HOME:-/nonexistent}
    for minor in 3.12 3.10; do
        old_ifs=$IFS
        IFS=:
        for dir in $PATH; do
            IFS=$old_ifs
            accept "$dir/python$minor" && return
        done
        IFS=:
        for dir in ${PYENV_ROOT:-}/bin $PATH $home/.pyenv/bin; do
            IFS=$old_ifs
            for found in "${dir%/*}/versions/$minor"*/bin/"python$minor" \
                "${dir%/*}/installs/python/$minor"*/bin/"python$minor" \
                "${dir%/bin}/share/uv/python/cpython-$minor"*/bin/"python$minor"; do
                accept "$found" && return
            done
        done
        IFS=$old_ifs
        uv=${UV_PYTHON_INSTALL_DIR:-${XDG_DATA_HOME:-$home/.local/share}/uv/python}
        for found in "$uv/cpython-$minor"*/bin/"python$minor" \
            "${CONDA_PREFIX:-$home/miniconda3}/bin/python$minor" \
            "$home"/*conda3/bin/"python$minor" "$home"/*forge3/bin/"python$minor" \
            "$home"/*conda3/envs/*/bin/"python$minor" "$home"/*forge3/envs/*/bin/"python$minor"; do
            accept "$found" && return
        done
    done
    return 1
}

# Set python and version: $PYTHON, or what the environment was made with, or what is found.
choose() {
    almost=
    if [ -n "${PYTHON:-}" ]; then
        given=$(command -v "$PYTHON") || die "PYTHON=$PYTHON is not a program; $wanted"
        accept "$given" && return
        verdict=${verdict#no }
        die "PYTHON=$PYTHON ${verdict:-is not a working Python 3}; $wanted"
    fi
    accept "$venv/bin/python" || search && return
    [ -z "$almost" ] || die "$almost; $wanted"
    die "$wanted; install one, for instance \`apt install python3.12-venv\`, \`pyenv install 3.12\`" \
        "or \`uv python install 3.12\`, or set PYTHON=/path/to/python3.12"
}

# What a stamp would say of the clone, the environment and the interpreter as they are now. The last line is the only
# one that another clone with the same environment changes, or one from which the built extension was removed; where it
# could not be built, for want of a compiler, its pattern stands for it.
describe() {
    printf 'needs %s\npython %s\nplaces %s %s %s\n' "$needs" "$python" "$root" "$venv" "$(echo ttbert/convert/_pack.*so)"
}

stamped() { [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(describe)" ] && [ -x "$venv/bin/python" ]; }

# pip install, with a line for each large download in place of hundreds; all of it is in the log.
pip_install() {
    {
        "$venv/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off "$@" 2>&1 ||
            echo "pip has failed"
    } | (
        while IFS= read -r line; do
            printf '%s\n' "$line" >>"$log"
            case $line in
                *'Downloading '*[0-9][0-9].[0-9]' MB)' | *'Using cached '*[0-9][0-9].[0-9]' MB)')
                    file=${line##*/}
                    file=${file#*Downloading }
                    file=${file#*Using cached }
                    say "  ${file%%-*} (${file##*\(}" ;;
                'Installing collected packages: '*,*) say "  unpacking" ;;
                *'WARNING: Retrying '*) say "  no connection to the package index; trying again" ;;
                'pip has failed') exit 1 ;;
            esac
        done
    ) || {
        tail -n 15 "$log" >&2
        die "pip could not install what ttbert needs; all it said is in $log; run the same command again to go on"
    }
}

[ "$(uname -s) $(uname -m)" = "Linux x86_64" ] ||
    die "only Linux on x86-64 will do (ttnn has wheels for nothing else); this is $(uname -s) on $(uname -m)"

libc=$(getconf GNU_LIBC_VERSION 2>/dev/null) || libc=
case $libc in
    'glibc 2.'[0-9] | 'glibc 2.'[0-2]* | 'glibc 2.3'[0-3]*)
        die "ttnn's wheels need glibc 2.34 or newer (as in Ubuntu 22.04 and Debian 12); this is $libc" ;;
esac

# Nothing of these may show through: what they add would count as installed.
unset PYTHONPATH PYTHONHOME CDPATH
export PIP_USER=0

root=$(cd -- "$(dirname -- "$0")/.." && pwd -P)
cd -- "$root"
venv=${TTBERT_VENV:-.venv}
case $venv in /*) ;; *) venv=$root/$venv ;; esac
stamp=$venv/ttbert-stamp
log=$venv/ttbert-install.log
needs=$(cat setup.cfg setup.py pyproject.toml ttbert/convert/_pack.c | sha256sum)
needs=${needs%% *}

if [ -z "${PYTHON:-}" ] && [ -f "$stamp" ]; then
    python=$(sed -n 's/^python //p' "$stamp")
    stamped && exit
fi
choose
stamped && exit

# Only what this script made is ever removed: its environments have their prompt as a mark.
if [ -d "$venv" ] && [ ! -f "$venv/pyvenv.cfg" ] && [ ! -f "$venv/ttbert-lock" ] && [ -n "$(ls -A "$venv")" ]; then
    die "$venv is there, but is not a virtual environment; remove it or set TTBERT_VENV to another folder"
fi
mkdir -p "$venv"

# One set-up at a time. The lock is this shell's open file, so it goes when this shell and its pip do, however they end.
exec 9>>"$venv/ttbert-lock"
"$python" -I -c '
import fcntl, sys
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("ttbert: waiting for another set-up of", sys.argv[1], file=sys.stderr)
    fcntl.flock(9, fcntl.LOCK_EX)
except OSError:
    pass  # a file system without locks
' "$venv" 9>&9
stamped && exit

if [ -f "$stamp" ] && [ "$(sed '$d' "$stamp")" = "$(describe | sed '$d')" ] && [ -x "$venv/bin/python" ]; then
    say "pointing $venv to $root"
    rm -f "$stamp"
    : >"$log"
    pip_install --no-deps --no-build-isolation -e .
else
    say "using CPython $version: $python"
    what="installing dependencies (about 6 GB, a few minutes, once)"
    [ ! -f "$stamp" ] || what="bringing the dependencies up to date"
    rm -f "$stamp"
    if [ "$(judge "$venv/bin/python")" != "ok $python $version" ] ||
        ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        [ ! -f "$venv/pyvenv.cfg" ] || grep -q "^prompt = 'ttbert'" "$venv/pyvenv.cfg" ||
            die "$venv is not from this script, and cannot be used; remove it or set TTBERT_VENV to another folder"
        say "making the virtual environment $venv"
        find "$venv" -mindepth 1 -maxdepth 1 ! -name ttbert-lock -exec rm -rf {} +
        "$python" -m venv --prompt ttbert "$venv"
    fi
    # pip names itself in INSTALLER last of all; a package without it was interrupted, and must not count as installed.
    for package in "$venv"/lib/python*/site-packages/*.dist-info; do
        [ ! -d "$package" ] || [ -f "$package/INSTALLER" ] || rm -rf "$package"
    done
    say "$what"
    : >"$log"
    pip_install 'setuptools>=77'
    pip_install --no-build-isolation -e '.[test]'
fi

describe >"$stamp.new"
mv -f "$stamp.new" "$stamp"
say "$venv is ready"
