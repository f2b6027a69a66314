#!/usr/bin/env bash
# Run the tests with other versions than those of .venv: `scripts/test_versions.sh newest|oldest|pythons [arguments of pytest]`.
#
#   newest    the highest versions that pyproject.toml allows, released until today
#   oldest    the lowest ones; on Python 3.11 where there is one, since the lower bounds are for the oldest Python
#   pythons   the locked versions, on each Python from 3.11 on that is installed (on the PATH or by pyenv)
#
# Each run has a virtual environment of its own, which goes when it has passed and stays when it has failed.
set -uo pipefail
cd "$(dirname "$0")/.."

supported="3.11 3.12 3.13 3.14"

interpreter() { # version : the path of an interpreter of that version, of those on the PATH first
  local candidate
  for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/"python$1"; do
    # A shim of pyenv may lie on the PATH for a version that is not switched on.
    if "$candidate" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null; then
      command -v "$candidate"
      return 0
    fi
  done
  return 1
}

test_in() { # folder set python [arguments of pytest] : make the environment, test in it, drop it if all passed
  local venv=$1 set_name=$2 python=$3
  shift 3
  rm -rf "$venv"
  PYTHON=$python scripts/setup.sh "$set_name" "$venv" &&
    "$venv/bin/python" -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@" &&
    rm -rf "$venv" && return 0
  echo "test_versions: failed; the environment stays for a closer look: $venv"
  return 1
}

wanted=${1:-}
shift || true
case "$wanted" in
  newest)
    test_in .venv-newest newest "${PYTHON:-}" "$@"
    ;;
  oldest)
    test_in .venv-oldest oldest "${PYTHON:-$(interpreter 3.11)}" "$@"
    ;;
  pythons)
    verdicts=()
    failed=
    for version in $supported; do
      if ! python=$(interpreter "$version"); then
        verdicts+=("Python $version: not found, so not tested")
        continue
      fi
      echo "== Python $version: $python"
      if test_in ".venv-$version" dev "$python" "$@"; then
        verdicts+=("Python $version: passed")
      else
        verdicts+=("Python $version: FAILED")
        failed=1
      fi
    done
    printf '%s\n' "" "${verdicts[@]}"
    [ -z "$failed" ] && [[ "${verdicts[*]}" == *passed* ]]
    ;;
  *)
    echo "usage: scripts/test_versions.sh newest|oldest|pythons [arguments of pytest]" >&2
    exit 2
    ;;
esac
