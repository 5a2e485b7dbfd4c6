#!/usr/bin/env bash
# Trains on a Cloud TPU slice of any size: one process on each of its hosts, the run folder in a bucket.
#
#   launch/tpu_pod.sh create --name N --zone Z --type T --bucket gs://B [--data FOLDER] [--spot]
#   launch/tpu_pod.sh run    --name N --zone Z --bucket gs://B [--run R] -- ARGS
#   launch/tpu_pod.sh resume --name N --zone Z --type T --bucket gs://B [--run R] [--data FOLDER] [--spot] [--confirm N] -- ARGS
#   launch/tpu_pod.sh logs   --name N --zone Z
#   launch/tpu_pod.sh delete --name N --zone Z [--confirm N]
#
# create  makes the TPU, copies this project to all hosts and installs it there; with --data also the data: FOLDER goes
#         to the bucket and from there to data/ on every host
# run     starts python -m rearm_jax.main ARGS on all hosts and returns; --workdir is gs://B/R (R: the TPU's name)
# resume  as run, and makes the TPU first where it is gone. ARGS are those of run; --overwrite is without effect
# logs    follows the log of the first host, until Ctrl-C
# delete  deletes the TPU after its name was typed (or given again with --confirm); the bucket stays
#
# Every flag may come from the environment instead: TPU_NAME, TPU_ZONE, TPU_TYPE, TPU_BUCKET, TPU_RUN, TPU_DATA,
# TPU_SPOT=1, and --project (TPU_PROJECT), --version (TPU_VERSION, the runtime). TRIES=5 is how often a call of gcloud
# is tried, RESTARTS=10 how often each host starts the program again after a crash. Needs gcloud, logged in.

set -u

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
name=${TPU_NAME:-} zone=${TPU_ZONE:-} type=${TPU_TYPE:-} bucket=${TPU_BUCKET:-} run=${TPU_RUN:-} data=${TPU_DATA:-}
project=${TPU_PROJECT:-} version=${TPU_VERSION:-tpu-ubuntu2204-base} spot=${TPU_SPOT:-} confirm=
tries=${TRIES:-5} pause=${TRY_SECONDS:-30} restarts=${RESTARTS:-10}

say() { printf 'tpu_pod.sh: %s\n' "$*" >&2; }
fail() {
  say "$*"
  exit 2
}

# Prints the words as one line of shell that gives the same words again.
quoted() { printf '%q ' "$@"; }

# Runs a command until it succeeds, at most $tries times.
retry() {
  local attempt
  for ((attempt = 1; ; attempt++)); do
    "$@" && return 0
    if ((attempt == tries)); then
      say "given up after $tries tries: $*"
      return 1
    fi
    say "failed, try $attempt of $tries: $*"
    sleep "$pause"
  done
}

tpu() { # tpu VERB [ARGS]
  local verb=$1
  shift
  gcloud compute tpus tpu-vm "$verb" "$@" --zone="$zone" ${project:+--project="$project"} --quiet
}

on_all_hosts() { tpu ssh "$name" --worker=all --command="$1"; }

state() { tpu describe "$name" --format='value(state)' 2>/dev/null; }

create() {
  need name zone type bucket
  say "creating $name ($type, $zone)"
  retry tpu create "$name" --accelerator-type="$type" --version="$version" ${spot:+--spot} || exit 1
  install_project
}

install_project() {
  local archive
  archive=$(mktemp) || exit 1
  tar -czf "$archive" -C "$root" pyproject.toml README.md rearm_jax configs || exit 1
  if [[ -n $data ]]; then
    retry gcloud storage rsync --recursive "$data" "$bucket/data" || exit 1
  fi
  retry tpu scp "$archive" "$name:rearm_jax.tar.gz" --worker=all || exit 1
  rm -f "$archive"
  # The hosts' own Python may be older than 3.11: uv brings one.
  retry on_all_hosts "set -e
mkdir -p ~/rearm && tar -xzf ~/rearm_jax.tar.gz -C ~/rearm && cd ~/rearm
python3 -m pip install --quiet --user uv
test -d .venv || python3 -m uv venv --quiet --python 3.12 .venv
python3 -m uv pip install --quiet --python .venv/bin/python '.[tpu]' gcsfs
${data:+mkdir -p data && gcloud storage rsync --recursive $(quoted "$bucket/data") data}" || exit 1
  say "$name is ready"
}

# Starts the program on all hosts, so that it outlives this connection; a host where it runs already refuses.
launch() {
  local loop command
  [[ $* == *--workdir* ]] && fail "--workdir is $bucket/${run:-$name}: choose another with --run, without --workdir"
  # All hosts leave together: a process that has lost another one ends, too, within two minutes. All starts are of one
  # job, which may take the lock of the run folder that an earlier start left.
  loop="cd ~/rearm && export REARM_JOB=$(quoted "tpu-$project-$zone-$name")&& for attempt in \$(seq 0 $restarts); do
.venv/bin/python -m rearm_jax.main --distributed --workdir=$(quoted "$bucket/${run:-$name}") $(quoted "$@")\$again
code=\$?; echo \"exit code \$code\"; case \$code in 0|1|130) exit \$code;; esac
again=--nooverwrite; sleep 5
done"
  command="mkdir -p ~/rearm
if test -e ~/rearm/pid && kill -0 \$(cat ~/rearm/pid) 2>/dev/null; then echo already running >&2; exit 3; fi
setsid nohup bash -c $(quoted "again=; $loop")> ~/rearm/log 2>&1 < /dev/null &
echo \$! > ~/rearm/pid"
  # Not tried again: on some of the hosts it may have begun.
  on_all_hosts "$command" || {
    say "not all hosts have started it: see the lines above, and '$0 logs'"
    exit 1
  }
  say "started on all hosts of $name; '$0 logs' follows it; the run folder is $bucket/${run:-$name}"
}

resume() {
  need name zone type bucket
  local found
  found=$(state)
  case $found in
    READY) ;;
    "") create ;;
    PREEMPTED | TERMINATED)
      say "$name is $found: it is deleted and made anew; checkpoints are in $bucket"
      delete
      create
      ;;
    *) fail "$name is $found: wait until it is READY or gone, then resume" ;;
  esac
  launch "$@" --nooverwrite
}

delete() {
  need name zone
  if [[ -z $confirm ]]; then
    printf 'Type the name of the TPU to delete it: ' >&2
    read -r confirm || confirm=
  fi
  [[ $confirm == "$name" ]] || fail "not deleted: the name is $name, given was '$confirm'"
  retry tpu delete "$name" || exit 1
  say "deleted $name"
}

need() { # need VARIABLE...
  local variable
  for variable in "$@"; do
    [[ -n ${!variable} ]] || fail "--$variable is missing (or TPU_${variable^^} in the environment)"
  done
  if [[ " $* " == *' bucket '* && $bucket != gs://?* ]]; then fail "--bucket is '$bucket': must be gs://NAME"; fi
}

action=${1:-}
if (($#)); then shift; fi
while (($#)); do
  case $1 in
    --)
      shift
      break
      ;;
    --spot) spot=1 ;;
    --name | --zone | --type | --bucket | --run | --data | --project | --version | --confirm)
      (($# > 1)) || fail "$1 needs a value"
      printf -v "${1#--}" %s "$2"
      shift
      ;;
    *) fail "'$1' is no flag of this script: see its first lines; what is meant for the program goes behind --" ;;
  esac
  shift
done
bucket=${bucket%/}

case $action in
  create | logs | delete)
    if (($#)); then fail "$action takes no arguments behind --"; fi
    ;;
  run | resume)
    if ((!$#)); then fail "$action needs the program's arguments behind --, such as: -- --config configs/baby.py"; fi
    ;;
  *) fail "'$action' is none of create, run, resume, logs, delete: see the first lines of this script" ;;
esac
[[ $tries =~ ^[1-9][0-9]*$ && $restarts =~ ^[0-9]+$ ]] || fail "TRIES and RESTARTS must be numbers"
command -v gcloud >/dev/null || fail "gcloud is missing: install the Google Cloud CLI and log in"

case $action in
  create) create ;;
  run)
    need name zone bucket
    launch "$@"
    ;;
  resume) resume "$@" ;;
  logs)
    need name zone
    tpu ssh "$name" --worker=0 --command='tail -n 200 -F ~/rearm/log'
    ;;
  delete) delete ;;
esac
