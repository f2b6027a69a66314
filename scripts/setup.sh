#!/usr/bin/env bash
# Make .venv hold an editable cook_jupyter with one set of extras: `scripts/setup.sh dev|demo|lab|bench`.
#
# Up to date (same pyproject.toml, same set) it ends at once. Works from a bare Debian or Ubuntu: what Python lacks there is
# installed with apt when we are root, and named otherwise.
set -euo pipefail
cd "$(dirname "$0")/.."

wanted=${1:-dev}
case "$wanted" in
  dev | demo | lab | bench) ;;
  *) echo "setup: unknown set '$wanted'; there are: dev, demo, lab, bench" >&2; exit 2 ;;
esac

venv=.venv
fingerprint="$(cksum <pyproject.toml) $PWD"
is_done() { [ -x "$venv/bin/python" ] && [ "$(cat "$venv/.set-up-$1" 2>/dev/null)" = "$fingerprint" ]; }

# `dev` holds `lab`, and `lab` holds `demo`.
case "$wanted" in
  demo) covering="demo lab dev" ;;
  lab) covering="lab dev" ;;
  *) covering="$wanted" ;;
esac
for set_name in $covering; do
  if is_done "$set_name"; then exit 0; fi
done

say() { echo "setup: $*"; }
apt_as_root() { # package... : true if they are installed now
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
  say "apt-get install $*"
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1 && return 0
  DEBIAN_FRONTEND=noninteractive apt-get update -qq >/dev/null 2>&1 || return 1
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1
}
find_python() {
  local name
  for name in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
    if command -v "$name" >/dev/null && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$name"
      return 0
    fi
  done
  return 1
}

if [ ! -x "$venv/bin/python" ]; then
  python=$(find_python) || { apt_as_root python3 python3-venv && python=$(find_python); } || {
    say "Python 3.11 or newer is needed and was not found: install it, or name it with PYTHON=/path/to/python3" >&2
    exit 1
  }
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    package="python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
    apt_as_root "$package" || {
      say "$python cannot make a virtual environment: install it with 'sudo apt-get install $package', then try again" >&2
      exit 1
    }
  fi
  say "$venv with $("$python" --version)"
  "$python" -m venv "$venv"
fi

say "pip install -e '.[$wanted]' (the first time takes a minute or two)"
"$venv/bin/python" -m pip install -qq --disable-pip-version-check --prefer-binary -e ".[$wanted]"

if [ "$wanted" = dev ] && ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null &&
  ! command -v google-chrome >/dev/null; then
  apt_as_root chromium || say "no Chromium here: the browser tests will be skipped (install the package 'chromium')"
fi

echo "$fingerprint" >"$venv/.set-up-$wanted"
