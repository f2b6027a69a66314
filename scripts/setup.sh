#!/usr/bin/env bash
# Make a virtual environment: `scripts/setup.sh SET [FOLDER]`. FOLDER is .venv unless it is given.
#
#   dev, lab, demo, bench   the versions of requirements/SET.txt and an editable cook_jupyter
#   tools                   what `make lock` runs on (requirements/tools.txt), without cook_jupyter
#   newest, oldest          the highest or lowest versions that pyproject.toml allows for development, and an editable cook_jupyter
#
# An environment that is up to date (same pyproject.toml, same lock) takes no time. Needs nothing but a Python and its own pip. On a
# bare Debian or Ubuntu, what Python lacks is installed with apt when we are root, and named otherwise. PYTHON names the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."

wanted=${1:-dev}
venv=${2:-.venv}
case "$wanted" in
  dev | lab | demo | bench | tools | newest | oldest) ;;
  *) echo "setup: unknown set '$wanted'; there are: dev, lab, demo, bench, tools, newest, oldest" >&2; exit 2 ;;
esac

say() { echo "setup: $*"; }
fail() { say "$*" >&2; exit 1; }

fingerprint() { echo "$(cat pyproject.toml "requirements/$1.txt" | cksum) $PWD"; }
works() { "$venv/bin/python" -m pip --version >/dev/null 2>&1; } # false for one whose making was interrupted
is_done() { [ -x "$venv/bin/python" ] && [ "$(cat "$venv/.set-up-$1" 2>/dev/null)" = "$(fingerprint "$1")" ]; }

# `dev` holds `lab`, and `lab` holds `demo`.
case "$wanted" in
  demo) covering="demo lab dev" ;;
  lab) covering="lab dev" ;;
  newest | oldest) covering="" ;; # what they install depends on the day
  *) covering="$wanted" ;;
esac
for set_name in $covering; do
  if is_done "$set_name"; then exit 0; fi
done

apt_as_root() { # package... : true if they are installed now
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
  say "apt-get install $*"
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1 && return 0
  DEBIAN_FRONTEND=noninteractive apt-get update -qq >/dev/null 2>&1 || return 1
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1
}
is_new_enough() { command -v "$1" >/dev/null && "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
find_python() {
  local name
  for name in python3 python3.13 python3.12 python3.11; do
    if is_new_enough "$name"; then command -v "$name"; return 0; fi
  done
  return 1
}
install_python() { # from the distribution: its python3, or beside it a newer one
  apt_as_root python3 python3-venv && find_python >/dev/null && return 0
  local version
  for version in 3.13 3.12 3.11; do
    apt_as_root "python$version" "python$version-venv" && return 0
  done
  return 1
}

if ! works; then
  if [ -n "${PYTHON:-}" ]; then
    is_new_enough "$PYTHON" || fail "PYTHON=$PYTHON is not a Python 3.11 or newer"
    python=$PYTHON
  else
    python=$(find_python) || { install_python && python=$(find_python); } ||
      fail "Python 3.11 or newer was not found: install it ('sudo apt-get install python3 python3-venv' where that is new enough), or name it with PYTHON=/path/to/python3"
  fi
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    package="python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
    apt_as_root "$package" ||
      fail "$python cannot make a virtual environment: install it with 'sudo apt-get install $package', then try again"
  fi
  say "$venv with $("$python" --version)"
  "$python" -m venv --clear "$venv"
fi

install() { "$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-compile "$@"; }
install_locked() { install --no-deps --require-hashes --only-binary :all: -r "$1"; }
install_package() { install --no-deps --no-build-isolation -e .; } # built by the locked hatchling
compile() { # as pip would, but on all cores
  # It fails for files that no Python can compile, such as templates; pip passes over those in silence too.
  "$venv/bin/python" -m compileall -qq -j 0 "$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" || true
}

rm -f "$venv/.set-up-$wanted"
say "$wanted into $venv (the first time takes a minute or two)"
case "$wanted" in
  tools)
    install_locked requirements/tools.txt
    ;;
  newest)
    install --upgrade --upgrade-strategy eager --prefer-binary -e '.[dev]'
    ;;
  oldest)
    "$0" tools .venv-tools
    # The lowest version that has a wheel depends on the Python: the one of this environment.
    .venv-tools/bin/python scripts/lock.py --oldest "$venv/oldest.txt" --python "$venv/bin/python"
    install --no-deps --only-binary :all: -r "$venv/oldest.txt"
    install_package
    ;;
  *)
    install_locked "requirements/$wanted.txt"
    install_package
    ;;
esac

case "$wanted" in
  tools | demo) ;; # use a part of what they install: compiled when it is imported
  *) compile ;;
esac

case "$wanted" in
  dev | newest | oldest)
    if ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null && ! command -v google-chrome >/dev/null; then
      apt_as_root chromium || say "no Chromium here: the browser tests will be skipped (install the package 'chromium')"
    fi
    # Not in the locks: it has no wheel, and its dependency http-parser does not build.
    install --no-deps --require-hashes -r requirements/pymesos.txt 2>/dev/null ||
      say "no pymesos here: its tests will be skipped (docs/reference/mesos-connections.md)"
    say "Mesos, for tests (the first time takes half a minute)"
    "$venv/bin/python" -m tests.mesos.local_mesos.install >/dev/null || say "the tests with a real Mesos will be skipped"
    ;;
esac

case "$wanted" in
  newest | oldest) ;;
  *) fingerprint "$wanted" >"$venv/.set-up-$wanted" ;;
esac
