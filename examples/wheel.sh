#!/usr/bin/env bash
# The demo from a wheel alone: in an environment of its own, in an empty folder, with nothing of a checkout in sight.
#
#     examples/wheel.sh dist/rearm_jax-0.1.0-py3-none-any.whl
#
# With "train" behind the wheel's name it only trains. PYTHON picks the interpreter (default: python3).
set -euo pipefail
wheel=$(realpath "${1:?name the wheel}")
only=${2:-all}
[ "$(wc -c <"$wheel")" -lt 1000000 ] || { echo "$wheel has 1 MB or more"; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH

"${PYTHON:-python3}" -m venv env
env/bin/pip install --quiet "${wheel}[export,report]"
PATH="$work/env/bin:$PATH"
mkdir empty
cd empty

rearm_jax --version
rearm_jax --config_list
rearm_jax --config demo --config.num_epochs=3
[ -s runs/demo/result.json ] || { echo "no result.json"; exit 1; }
[ "$only" != train ] || exit 0
rearm_jax --mode evaluate --workdir runs/demo >evaluated.json
rearm_jax --mode recommend --workdir runs/demo --users 3,17 --k 10
rearm_jax --mode export --workdir runs/demo
rearm_jax --mode visualize --workdir runs/demo
python -m rearm_jax.compare --spec demo --workdir runs/compare --dry_run
for file in evaluated.json runs/demo/export/README.md runs/demo/report.html; do
  [ -s "$file" ] || { echo "no $file"; exit 1; }
done

pip uninstall --quiet --yes rearm-jax
left=$(find "$work/env" -iname '*rearm*')
[ -z "$left" ] || { echo "uninstalling left $left"; exit 1; }
echo "The wheel holds all that the demo needs, and leaves nothing."
