"""The launch scripts against stand-ins of python, gcloud and srun, which note how they were called and can fail.

Each stand-in appends the arguments of a call as a line of JSON to NAME.calls, and ends with the next word of NAME.plan:
an exit code, or for a process of launch/local.sh "wait", which ends on a signal as the program would.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet

LAUNCH = Path(__file__).parent.parent / "launch"
SCRIPTS = [LAUNCH / name for name in ("local.sh", "tpu_pod.sh", "slurm.sbatch")]
STAND_IN = f"""#!{sys.executable}
import fcntl, json, os, signal, subprocess, sys
from pathlib import Path

if sys.argv[1] == "-c":
    os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])
name = Path(sys.argv[0]).name + os.environ.get("REARM_PROCESS_ID", "")
here = Path(os.environ["STAND_INS"])
shown = ("REARM_JOB", "REARM_NUM_PROCESSES", "REARM_COORDINATOR", "CUDA_VISIBLE_DEVICES", "JAX_LOCAL_DEVICE_IDS")
with (here / f"{{name}}.calls").open("a") as calls:
    fcntl.flock(calls, fcntl.LOCK_EX)
    environment = {{key: os.environ[key] for key in shown if key in os.environ}}
    calls.write(json.dumps({{"args": sys.argv[1:], "env": environment}}) + "\\n")
    plan = here / f"{{name}}.plan"
    words = plan.read_text().split() if plan.exists() else []
    plan.write_text(" ".join(words[1:]))
word = words[0] if words else "0"
print("said by", name, file=sys.stderr, flush=True)
if word == "wait":
    def end(code):
        return lambda *_: os._exit(code)
    signal.signal(signal.SIGTERM, end(0))
    signal.signal(signal.SIGINT, end(130))
    (here / f"{{name}}.waits").touch()
    while True:
        signal.pause()
command = next((arg for arg in sys.argv if arg.startswith("--command=")), None)
if word == "0" and name == "gcloud" and "describe" in sys.argv:
    print(os.environ.get("TPU_STATE", ""))
if word == "0" and command and "TPU_HOME" in os.environ:
    sys.exit(subprocess.run(["bash", "-c", command.removeprefix("--command=")],
                            env=os.environ | {{"HOME": os.environ["TPU_HOME"]}}).returncode)
sys.exit(int(word))
"""
# What a shell could trip over: each must reach the program as it is.
ARGS = ["--config=a b.py", "--config.data.modalities=('image', \"text\")", "$HOME `id` \\ *; exit", "é\n'x'", ""]


@pytest.fixture
def stand_ins(tmp_path):
    for name in ("python", "gcloud", "srun", "scontrol"):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(STAND_IN)
        path.chmod(0o755)
    return tmp_path


def environment(folder: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TPU_", "SLURM_", "REARM_"))}
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    own = {"PATH": path, "STAND_INS": str(folder), "PYTHON": str(folder / "bin" / "python"), "TRY_SECONDS": "0"}
    return kept | own | {"CUDA_VISIBLE_DEVICES": ""} | more


def run(folder: Path, script: str, *arguments: str, answer: str = "", **more: str) -> tuple[int, str]:
    """(exit code, stderr)."""
    done = subprocess.run(
        [str(LAUNCH / script), *arguments],
        cwd=folder,
        env=environment(folder, **more),
        input=answer,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stderr


def calls(folder: Path, name: str) -> list[dict]:
    path = folder / f"{name}.calls"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def verbs(folder: Path) -> list[str]:
    """The calls of gcloud: create, scp, ssh, ..."""
    found = []
    for call in calls(folder, "gcloud"):
        assert call["args"][:3] == ["compute", "tpus", "tpu-vm"]
        found.append(call["args"][3])
    return found


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck(script):
    shellcheck = Path(sys.executable).with_name("shellcheck")
    found = subprocess.run([shellcheck, script], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
    assert os.access(script, os.X_OK)


def test_local_passes_every_word_to_every_process(stand_ins):
    code, log = run(stand_ins, "local.sh", "3", "--", *ARGS)
    assert code == 0, log
    made = [calls(stand_ins, f"python{number}") for number in range(3)]
    assert [[call["args"] for call in each] for each in made] == [[["-m", "rearm_jax.main", *ARGS]]] * 3
    assert {each[0]["env"]["REARM_NUM_PROCESSES"] for each in made} == {"3"}
    [address] = {each[0]["env"]["REARM_COORDINATOR"] for each in made}
    assert re.fullmatch(r"127\.0\.0\.1:[0-9]+", address)
    assert sorted(log.splitlines()) == [f"[{number}] said by python{number}" for number in range(3)]


def test_local_restarts_all_when_one_dies_and_gives_up_in_the_end(stand_ins):
    for number, plan in enumerate(("wait wait wait", "137 134 70")):
        (stand_ins / f"python{number}.plan").write_text(plan)
    code, log = run(stand_ins, "local.sh", "2", "--", "--overwrite", RESTARTS="2")
    assert code == 70
    for number in (0, 1):
        starts = [call["args"][2:] for call in calls(stand_ins, f"python{number}")]
        # The second and third start must not delete what the first one did.
        assert starts == [["--overwrite"], ["--overwrite", "--nooverwrite"], ["--overwrite", "--nooverwrite"]]
    job = {call["env"]["REARM_JOB"] for number in (0, 1) for call in calls(stand_ins, f"python{number}")}
    assert len(job) == 1  # the lock of the run folder is the job's, whichever start took it
    assert "process 1 ended with code 137; restarting all 2 processes (1 of 2)" in log
    assert "process 1 ended with code 70; given up after 2 restarts" in log


@pytest.mark.parametrize(("plans", "blamed"), [(("1", "1"), "[01]"), (("wait", "1"), "1"), (("134", "1"), "1")])
def test_local_does_not_repeat_an_explained_error(stand_ins, plans, blamed):
    for number, plan in enumerate(plans):
        (stand_ins / f"python{number}.plan").write_text(plan)
    code, log = run(stand_ins, "local.sh", "2", "--", "--config=x")
    assert code == 1
    assert re.search(f"process {blamed} ended with an error that the same command would meet again", log)
    assert [len(calls(stand_ins, f"python{number}")) for number in (0, 1)] == [1, 1]


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_local_passes_signals_on(stand_ins, number, expected):
    for process in (0, 1):
        (stand_ins / f"python{process}.plan").write_text("wait")
    launcher = subprocess.Popen(
        [LAUNCH / "local.sh", "2", "--", "x"], env=environment(stand_ins), stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not all((stand_ins / f"python{process}.waits").exists() for process in (0, 1)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    launcher.send_signal(number)
    _, log = launcher.communicate(timeout=60)
    assert launcher.returncode == expected, log
    assert "restarting" not in log


def test_local_gives_each_process_one_gpu(stand_ins):
    code, log = run(stand_ins, "local.sh", "2", "--", "x", CUDA_VISIBLE_DEVICES="4,6,7")
    assert code == 0, log
    assert [calls(stand_ins, f"python{n}")[0]["env"]["CUDA_VISIBLE_DEVICES"] for n in (0, 1)] == ["4", "6"]
    code, log = run(stand_ins, "local.sh", "2", "--", "x", CUDA_VISIBLE_DEVICES="4")
    assert code == 2
    assert "2 processes, but 1 GPUs" in log


@pytest.mark.parametrize("arguments", [(), ("0", "--", "x"), ("2", "x"), ("two", "--", "x")])
def test_local_explains_its_use(stand_ins, arguments):
    code, log = run(stand_ins, "local.sh", *arguments)
    assert code == 2
    assert "launch/local.sh N -- ARGS" in log


TPU = {"TPU_NAME": "my-tpu", "TPU_ZONE": "zone-a", "TPU_TYPE": "v5p-32", "TPU_BUCKET": "gs://mine"}


def test_tpu_create_repeats_what_fails(stand_ins):
    (stand_ins / "gcloud.plan").write_text("1 1 0 1 0 0")
    code, log = run(stand_ins, "tpu_pod.sh", "create", "--spot", **TPU)
    assert code == 0, log
    assert verbs(stand_ins) == ["create", "create", "create", "scp", "scp", "ssh"]
    create = calls(stand_ins, "gcloud")[0]["args"]
    assert create[:5] == ["compute", "tpus", "tpu-vm", "create", "my-tpu"]
    assert {"--zone=zone-a", "--accelerator-type=v5p-32", "--spot"} < set(create)
    assert all("--worker=all" in call["args"] for call in calls(stand_ins, "gcloud")[3:])


def test_tpu_create_gives_up(stand_ins):
    (stand_ins / "gcloud.plan").write_text("1 1 1")
    code, log = run(stand_ins, "tpu_pod.sh", "create", **TPU, TRIES="3")
    assert code == 1
    assert "given up after 3 tries" in log
    assert verbs(stand_ins) == ["create"] * 3


def worker_home(folder: Path) -> Path:
    """A host of the TPU: its home, where the project is installed with the stand-in for python."""
    home = folder / "home"
    (home / "rearm" / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(folder / "bin" / "python", home / "rearm" / ".venv" / "bin" / "python")
    return home


def wait_for_exit(home: Path) -> str:
    """The log of the host, once the program has ended there for good."""
    deadline = time.monotonic() + 60
    pid = int((home / "rearm" / "pid").read_text())
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return (home / "rearm" / "log").read_text()


def test_tpu_run_brings_every_word_to_the_host(stand_ins):
    home = worker_home(stand_ins)
    code, log = run(stand_ins, "tpu_pod.sh", "run", "--run", "a run", "--", *ARGS, **TPU, TPU_HOME=str(home))
    assert code == 0, log
    assert "exit code 0" in wait_for_exit(home)
    workdir = "--workdir=gs://mine/a run"
    assert [call["args"] for call in calls(stand_ins, "python")] == [
        ["-m", "rearm_jax.main", "--distributed", workdir, *ARGS]
    ]
    assert verbs(stand_ins) == ["ssh"]


def test_tpu_run_starts_again_after_a_crash_but_not_after_an_explained_error(stand_ins):
    home = worker_home(stand_ins)
    sleep = stand_ins / "bin" / "sleep"
    sleep.symlink_to("/bin/true")
    (stand_ins / "python.plan").write_text("134 1")
    code, log = run(stand_ins, "tpu_pod.sh", "run", "--", "--overwrite", **TPU, TPU_HOME=str(home))
    assert code == 0, log
    assert re.findall(r"exit code (\d+)", wait_for_exit(home)) == ["134", "1"]
    assert [call["args"][4:] for call in calls(stand_ins, "python")] == [
        ["--overwrite"],
        ["--overwrite", "--nooverwrite"],
    ]
    assert {call["env"]["REARM_JOB"] for call in calls(stand_ins, "python")} == {"tpu--zone-a-my-tpu"}


def test_tpu_run_refuses_a_second_start(stand_ins):
    home = worker_home(stand_ins)
    (home / "rearm" / "pid").write_text(str(os.getpid()))  # something that runs
    code, log = run(stand_ins, "tpu_pod.sh", "run", "--", "x", **TPU, TPU_HOME=str(home))
    assert code == 1
    assert "already running" in log
    assert calls(stand_ins, "python") == []


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("READY", ["describe", "ssh"]),
        ("", ["describe", "create", "scp", "ssh", "ssh"]),
        ("PREEMPTED", ["describe", "delete", "create", "scp", "ssh", "ssh"]),
    ],
)
def test_tpu_resume_makes_what_is_missing(stand_ins, state, expected):
    arguments = ("resume", "--confirm", "my-tpu", "--", "--overwrite")
    code, log = run(stand_ins, "tpu_pod.sh", *arguments, **TPU, TPU_STATE=state)
    assert code == 0, log
    assert verbs(stand_ins) == expected
    [command] = [arg for arg in calls(stand_ins, "gcloud")[-1]["args"] if arg.startswith("--command=")]
    assert re.search(r"--overwrite\W+--nooverwrite", command)


def test_tpu_resume_deletes_nothing_that_was_not_named(stand_ins):
    code, log = run(stand_ins, "tpu_pod.sh", "resume", "--", "x", **TPU, TPU_STATE="PREEMPTED")
    assert code == 2
    assert "not deleted" in log
    assert verbs(stand_ins) == ["describe"]


@pytest.mark.parametrize("given", ["", "my-tp", "my-tpu2", "y", "yes", "MY-TPU", "my-tpu x", "*"])
def test_tpu_delete_wants_the_exact_name(stand_ins, given):
    code, log = run(stand_ins, "tpu_pod.sh", "delete", answer=f"{given}\n", **TPU)
    assert code == 2
    assert "not deleted: the name is my-tpu" in log
    if given:
        assert run(stand_ins, "tpu_pod.sh", "delete", "--confirm", given, **TPU)[0] == 2
    assert calls(stand_ins, "gcloud") == []


@pytest.mark.parametrize("how", ["typed", "flag"])
def test_tpu_delete(stand_ins, how):
    flags, answer = (("--confirm", "my-tpu"), "") if how == "flag" else ((), "my-tpu\n")
    code, log = run(stand_ins, "tpu_pod.sh", "delete", *flags, answer=answer, **TPU)
    assert code == 0, log
    assert verbs(stand_ins) == ["delete"]
    assert "my-tpu" in calls(stand_ins, "gcloud")[0]["args"]


TPU_MISTAKES = {
    "no action": ((), "none of create, run, resume, logs, delete"),
    "an unknown action": (("destroy",), "'destroy' is none of"),
    "an unknown flag": (("run", "--nmae", "x"), "'--nmae' is no flag"),
    "a flag without a value": (("create", "--name"), "--name needs a value"),
    "no arguments": (("run",), "arguments behind --"),
    "too many arguments": (("delete", "--", "x"), "takes no arguments"),
    "a bucket without gs": (("run", "--bucket", "mine", "--", "x"), "must be gs://NAME"),
    "a run folder of one's own": (("run", "--", "--workdir=x"), "choose another with --run"),
    "no zone": (("run", "--zone", "", "--", "x"), "--zone is missing (or TPU_ZONE in the environment)"),
}


@pytest.mark.parametrize("mistake", TPU_MISTAKES)
def test_tpu_mistakes_are_explained_before_anything_happens(stand_ins, mistake):
    arguments, message = TPU_MISTAKES[mistake]
    code, log = run(stand_ins, "tpu_pod.sh", *arguments, **TPU)
    assert code == 2
    assert message in log
    assert calls(stand_ins, "gcloud") == []


def test_tpu_logs_follows_the_first_host(stand_ins):
    code, log = run(stand_ins, "tpu_pod.sh", "logs", **TPU)
    assert code == 0, log
    [call] = calls(stand_ins, "gcloud")
    assert {"ssh", "my-tpu", "--worker=0"} < set(call["args"])


SLURM = {"SLURM_JOB_ID": "7", "SLURM_NTASKS_PER_NODE": "1", "SLURM_GPUS_ON_NODE": "4"}


def test_slurm_passes_every_word_and_all_gpus(stand_ins):
    code, log = run(stand_ins, "slurm.sbatch", *ARGS, **SLURM)
    assert code == 0, log
    [call] = calls(stand_ins, "srun")
    assert call["args"][-len(ARGS) :] == ARGS
    assert call["args"][-len(ARGS) - 4 : -len(ARGS)] == ["-m", "rearm_jax.main", "--distributed", "--stopped_code=75"]
    assert call["env"]["JAX_LOCAL_DEVICE_IDS"] == "0,1,2,3"
    run(stand_ins, "slurm.sbatch", "x", **SLURM | {"SLURM_NTASKS_PER_NODE": "4"})
    assert "JAX_LOCAL_DEVICE_IDS" not in calls(stand_ins, "srun")[1]["env"]  # jax gives each task its own


@pytest.mark.parametrize(
    ("plan", "code", "starts", "message"),
    [
        ("137 0", 0, 2, "ended with code 137; starting again (1 of 3)"),
        ("134 134 134 134 0", 134, 4, "given up after 3 restarts"),
        ("1", 1, 1, "not restarted"),
        ("75", 75, 1, "queued again"),
    ],
)
def test_slurm_restarts(stand_ins, plan, code, starts, message):
    (stand_ins / "srun.plan").write_text(plan)
    found, log = run(stand_ins, "slurm.sbatch", "--overwrite", **SLURM)
    assert (found, len(calls(stand_ins, "srun"))) == (code, starts), log
    assert message in log
    assert all("--nooverwrite" in call["args"] for call in calls(stand_ins, "srun")[1:])
    assert {call["env"]["REARM_JOB"] for call in calls(stand_ins, "srun")} == {"slurm--7"}
    assert [call["args"] for call in calls(stand_ins, "scontrol")] == ([["requeue", "7"]] if code == 75 else [])


def test_slurm_does_not_overwrite_when_the_job_was_queued_again(stand_ins):
    run(stand_ins, "slurm.sbatch", "--overwrite", **SLURM, SLURM_RESTART_COUNT="1")
    assert calls(stand_ins, "srun")[0]["args"][-2:] == ["--overwrite", "--nooverwrite"]


def jobsets() -> dict[str, dict]:
    documents = yaml.safe_load_all((LAUNCH / "gke_jobset.yaml").read_text())
    return {document["metadata"]["labels"]["accelerator"]: document for document in documents}


@pytest.mark.parametrize("accelerator", ["tpu", "gpu"])
def test_jobset_has_the_schema(accelerator):
    jobset = jobsets()[accelerator]
    # The schema drops fields that it does not know; nothing may be missing afterwards.
    assert JobsetV1alpha2JobSet.from_dict(jobset).to_dict() == jobset


@pytest.mark.parametrize("accelerator", ["tpu", "gpu"])
def test_jobset_restarts_and_fits_together(accelerator):
    jobset = jobsets()[accelerator]
    [job] = jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    pod = spec["template"]["spec"]
    [container] = pod["containers"]
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] > 0
    assert (spec["completionMode"], spec["backoffLimit"], pod["restartPolicy"]) == ("Indexed", 0, "Never")
    assert spec["completions"] == spec["parallelism"]
    assert spec["podFailurePolicy"]["rules"][0]["onExitCodes"]["containerName"] == container["name"]
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    variables = {entry["name"]: entry.get("value") for entry in container["env"]}
    sources = {
        entry["name"]: entry["valueFrom"]["fieldRef"]["fieldPath"] for entry in container["env"] if "valueFrom" in entry
    }
    assert sources["REARM_JOB"] == "metadata.labels['jobset.sigs.k8s.io/jobset-uid']"  # the same for all restarts
    if accelerator == "gpu":
        name = jobset["metadata"]["name"]
        assert variables["REARM_COORDINATOR"].startswith(f"{name}-{job['name']}-0-0.{name}:")
        assert int(variables["REARM_NUM_PROCESSES"]) == spec["completions"] * job["replicas"]
        assert "REARM_PROCESS_ID" in variables
    else:
        assert "--distributed" in container["args"]
        assert set(variables) == {"REARM_JOB"}
