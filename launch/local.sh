#!/usr/bin/env bash
# Trains with N processes on this machine, and restarts them all when one dies.
#
#   launch/local.sh N -- ARGS        ARGS as for python -m rearm_jax.main
#   launch/local.sh 2 -- --config configs/demo.py
#
# Each process has one GPU where nvidia-smi lists any, and the CPU otherwise. What the processes log comes out on
# standard error with the process's number in front. Needs bash 4.3.
#
# RESTARTS=3 is how often the job is started again after a crash. An error that the program explains (exit code 1) and
# a requested stop are no crash. PYTHON names the interpreter: without it .venv/bin/python of this project, or python3.
#
# SIGINT and SIGTERM are passed on: the processes finish their step and save. Exit code: that of the job, as with one
# process: 0, also after SIGTERM; 130 after SIGINT; 1 for an explained error; 2 for a wrong use of this script.

set -u
set -m # processes in the background get a group and signals of their own: Ctrl-C in a terminal reaches this script alone

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
restarts=${RESTARTS:-3}
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}

say() { printf 'local.sh: %s\n' "$*" >&2; }

if [[ ! ${1:-} =~ ^[1-9][0-9]*$ || ${2:-} != -- || ! $restarts =~ ^[0-9]+$ ]]; then
  say "use: [RESTARTS=number] launch/local.sh N -- ARGS, with N processes, such as: launch/local.sh 2 -- --config configs/demo.py"
  exit 2
fi
processes=$1
shift 2

python=${PYTHON:-}
if [[ -z $python ]]; then
  python=python3
  [[ -x $root/.venv/bin/python ]] && python=$root/.venv/bin/python
fi

gpus=()
if [[ -n ${CUDA_VISIBLE_DEVICES:-} ]]; then
  IFS=, read -r -a gpus <<<"$CUDA_VISIBLE_DEVICES"
elif [[ ! -v CUDA_VISIBLE_DEVICES ]] && command -v nvidia-smi >/dev/null; then
  mapfile -t gpus < <(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null)
fi
if ((${#gpus[@]} > 0 && ${#gpus[@]} < processes)); then
  say "$processes processes, but ${#gpus[@]} GPUs: give at most one process a GPU, or hide the GPUs with CUDA_VISIBLE_DEVICES="
  exit 2
fi

# All starts are of one job, which may take the lock of the run folder that an earlier start left.
export REARM_JOB=${REARM_JOB:-local-$HOSTNAME-$$-$(date +%s)}

pipes=$(mktemp -d) || exit 2
trap 'rm -rf "$pipes"' EXIT

pids=()
loggers=()
asked= # the signal that this script got

forward() {
  asked=$1
  local pid
  for pid in "${pids[@]}"; do kill "-$1" "$pid" 2>/dev/null; done
}
trap 'forward TERM' TERM
trap 'forward INT' INT

# The lines of standard input with the number of the process in front, without Gloo's connections.
prefix() {
  local line
  trap '' INT TERM
  while IFS= read -r line || [[ -n $line ]]; do
    [[ $line == *' is connected to '*' peer ranks.'* ]] || printf '[%s] %s\n' "$1" "$line" >&2
  done
}

start() {
  local port i
  port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])') || exit 2
  export REARM_COORDINATOR=127.0.0.1:$port JAX_COORDINATOR_BIND_ADDRESS=127.0.0.1:$port REARM_NUM_PROCESSES=$processes
  pids=()
  loggers=()
  for ((i = 0; i < processes; i++)); do
    [[ -p $pipes/$i ]] || mkfifo "$pipes/$i" || exit 2
    prefix "$i" <"$pipes/$i" &
    loggers+=($!)
    if ((${#gpus[@]})); then export CUDA_VISIBLE_DEVICES=${gpus[i]}; fi
    REARM_PROCESS_ID=$i "$python" -m rearm_jax.main "$@" </dev/null 2>"$pipes/$i" &
    pids+=($!)
  done
}

# Waits for one process to end, or all of them; sets `ended`, the numbers of those that have, and `codes`.
ended=()
codes=()
observe() {
  local i
  ended=()
  for ((i = 0; i < processes; i++)); do
    kill -0 "${pids[i]}" 2>/dev/null && continue
    wait "${pids[i]}"
    codes[i]=$?
    ended+=("$i")
  done
}

# Runs the job once; sets `code` to what it ends with and `first` to the number of the process that decided it.
run() {
  local i
  code=0
  first=
  codes=()
  start "$@"
  if [[ -n $asked ]]; then forward "$asked"; fi # it came while they were started
  while observe; ((${#ended[@]} < processes)); do
    for i in "${ended[@]}"; do
      # An error that is explained counts more than the crashes that it causes in the others.
      if ((codes[i] != 0)) && [[ -z $first || ${codes[i]} == 1 ]]; then first=$i; fi
    done
    [[ -n $first ]] && break
    wait -n 2>/dev/null
  done
  if ((${#ended[@]} < processes)); then end_the_rest; fi
  wait "${loggers[@]}" 2>/dev/null
  for ((i = 0; i < processes; i++)); do
    if ((codes[i] != 0)) && [[ -z $first ]]; then first=$i; fi
    if ((codes[i] == 1)) && ((codes[first] != 1)); then first=$i; fi
  done
  if [[ -n $first ]]; then code=${codes[first]}; fi
}

# A process that stands alone waits for the others, for minutes. Nothing is lost: checkpoints survive a kill.
end_the_rest() {
  local i
  for ((i = 0; i < 10 && ${#ended[@]} < processes; i++)); do # they may be about to end for the same reason
    sleep 0.1
    observe
  done
  for ((i = 0; i < processes; i++)); do kill -KILL "${pids[i]}" 2>/dev/null; done
  while ((${#ended[@]} < processes)); do
    wait -n 2>/dev/null
    observe
  done
}

for ((attempt = 0; ; attempt++)); do
  # A run that is started again goes on: --overwrite was for the first start.
  if ((attempt == 1)); then set -- "$@" --nooverwrite; fi
  run "$@"
  case $code in
    0 | 130) exit "$code" ;;
    1)
      say "process $first ended with an error that the same command would meet again (see above); not restarted"
      exit 1
      ;;
  esac
  if [[ -n $asked ]]; then
    say "process $first ended with code $code after SIG$asked"
    exit "$code"
  fi
  if ((attempt == restarts)); then
    say "process $first ended with code $code; given up after $restarts restarts"
    exit "$code"
  fi
  say "process $first ended with code $code; restarting all $processes processes ($((attempt + 1)) of $restarts)"
done
