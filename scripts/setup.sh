#!/bin/sh
# Make .venv ready for "book" (the site from executed notebooks: no torch) or "test" (everything). Does nothing where it is ready.
set -eu
need=$1
venv=.venv
stamp="$venv/ready-$need"

fail() {
    echo "setup: $*" >&2
    exit 1
}

fingerprint=$(cat requirements.txt requirements-no-deps.txt | cksum)
if [ -x "$venv/bin/python" ] && { [ "$(cat "$stamp" 2>/dev/null)" = "$fingerprint" ] || [ "$(cat "$venv/ready-test" 2>/dev/null)" = "$fingerprint" ]; }; then
    exit 0
fi

python=
for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || fail "no Python 3.11 or newer found (tried: ${PYTHON:-python3 and python3.11 to 3.14}). Install one, or name it: make PYTHON=/path/to/python3.12 $need"
"$python" -c 'import venv, ensurepip' 2>/dev/null || fail "$python has no venv module. On Debian and Ubuntu: apt-get install python3-venv"

case $need in
book) gigabytes=1 what="jupyter-book jupytext nbformat typer sphinx-mathjax-offline -c requirements.txt" ;;
test) gigabytes=4 what="-r requirements.txt" ;;
*) fail "usage: scripts/setup.sh book|test" ;;
esac
free=$(df -Pk . | awk 'NR == 2 {print int($4 / 1048576)}')
[ "$free" -ge "$gigabytes" ] || fail "$free GB free on this disk, $gigabytes GB needed for 'make $need'"

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv" || fail "could not make $venv with $python"
echo "setting up $venv for 'make $need' (once; a few minutes)"
log="$venv/setup.log"
# shellcheck disable=SC2086
{ "$venv/bin/python" -m pip install --disable-pip-version-check $what 2>&1 && touch "$venv/installed"; } | tee "$log" | grep -E --line-buffered '^ *(Downloading|Installing|ERROR)' || true
if [ ! -e "$venv/installed" ]; then
    case $(cat "$log") in
    *"No space left"*) fail "the disk is full; 'make $need' needs $gigabytes GB" ;;
    *"NewConnectionError"* | *"name resolution"* | *"ConnectTimeout"* | *"Network is unreachable"* | *"ProxyError"*)
        fail "no network: pip cannot reach the package index, which is needed once. The log is $log" ;;
    *) fail "pip failed; its last words: $(tail -n 1 "$log"). The log is $log" ;;
    esac
fi
rm "$venv/installed"
if [ "$need" = test ]; then
    "$venv/bin/python" -m pip install --disable-pip-version-check -q --no-deps --no-build-isolation -e . || fail "could not install the package itself"
    "$venv/bin/python" -m pip install --disable-pip-version-check -q --no-deps --no-build-isolation -r requirements-no-deps.txt ||
        fail "could not install the peers in requirements-no-deps.txt; they need the package index once"
fi
echo "$fingerprint" >"$stamp"
