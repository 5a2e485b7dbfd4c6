"""REARM, multi-modal recommendation in JAX: trains, and uses what it has trained.

    python -m rearm_jax.main --config configs/demo.py --config.seed=1       trains, or goes on with the run
    python -m rearm_jax.main --config_list                                  names that --config takes: demo, baby, ...
    python -m rearm_jax.main --mode refit --workdir runs/demo --out runs/final   as long, on all interactions
    python -m rearm_jax.main --mode evaluate --workdir runs/demo            metrics, on standard output
    python -m rearm_jax.main --mode recommend --workdir runs/demo --users 3,17 --k 10
    python -m rearm_jax.main --mode export --workdir runs/demo              vectors, ids, index, score function
    python -m rearm_jax.main --mode visualize --workdir runs/demo           report.html
    python -m rearm_jax.main --mode review --lists lists.csv --interactions orders.csv   how lists fared

`rearm_jax` is short for `python -m rearm_jax.main` where the package is installed. A config is a file of Python whose
get_config() returns the settings; rearm_jax/default.py lists them all, and --config.NAME=VALUE changes one.
"""

import contextlib
import gc
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
from absl import flags, logging
from ml_collections import config_flags

from rearm_jax.command_line import PathParser, parse_flags, program_name, run_name
from rearm_jax.errors import ConfigError
from rearm_jax.experiment import build_experiment
from rearm_jax.inference.arguments import UNKNOWN
from rearm_jax.inference.export import check_export, export_run
from rearm_jax.inference.recommend_files import FORMATS, check_output, recommend_run
from rearm_jax.inference.review import below_bounds, review
from rearm_jax.inference.rules import ONLY, Rules, check_rules, parse_max_per
from rearm_jax.inference.seen import check_seen
from rearm_jax.inference.trained import Trained, load_trained, run_config
from rearm_jax.program import DONE, INTERRUPTED, WORSE, help_was_asked_for, run_program
from rearm_jax.report.visualize import check_report, write_report
from rearm_jax.shipped import list_shipped
from rearm_jax.training.distributed import abandon, check_same, first_only, initialize, is_first
from rearm_jax.training.interrupt import quit_on_interrupt, unwind_on_interrupt
from rearm_jax.training.lock import RunLock
from rearm_jax.training.loop import evaluate_run, train
from rearm_jax.training.outcome import next_commands, say_weaknesses, table
from rearm_jax.training.precision import without_x64
from rearm_jax.training.refit import REFIT_BY, refit
from rearm_jax.training.run_data import open_experiment
from rearm_jax.training.run_folder import check_run_folder, clear_run_folder
from rearm_jax.version import VERSION

_MODES = ("train", "refit", "evaluate", "recommend", "export", "visualize", "review")
_CONFIG = config_flags.DEFINE_config_file("config", None, "the settings: configs/NAME.py, or NAME", lock_config=True)
_CONFIG_LIST = flags.DEFINE_bool("config_list", False, "print the names of the configs that come with the package")
_VERSION = flags.DEFINE_bool("version", False, "print the version")
_MODE = flags.DEFINE_enum("mode", "train", _MODES, "what to do")
_WORKDIR = flags.DEFINE(PathParser(), "workdir", "", "run folder; without it runs/NAME of the config")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "delete the run that is there, and start anew; replace an export")
_INIT_FROM = flags.DEFINE(PathParser(), "init_from", None, "run folder to start from, users and items matched by ids")
_INIT_OPTIMIZER = flags.DEFINE_bool("init_optimizer", False, "take over that run's optimiser state, too")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "one of several processes, on SLURM, Cloud TPU or GKE")
_STOPPED_CODE = flags.DEFINE_integer(
    "stopped_code", 0, "exit code after SIGTERM has stopped a run; not 0 where a scheduler restarts what fails"
)
_USERS = flags.DEFINE_string(
    "users", None, "ids with commas between, or a file with an id a line; without it all users"
)
_K = flags.DEFINE_integer("k", 20, "items in a list", lower_bound=1)
_FORMAT = flags.DEFINE_enum("format", "jsonl", FORMATS, "of the recommendations")
_EXCLUDE = flags.DEFINE(PathParser(), "exclude", None, "CSV file of items, or of users and items, never to recommend")
_ALLOW = flags.DEFINE(PathParser(), "allow", None, "CSV file of items in stock, or of users and items: nothing else")
_MAX_PER = flags.DEFINE_multi_string("max_per", [], "COLUMN=N: at most N items of one value of that column of --items")
_ITEMS = flags.DEFINE(PathParser(), "items", None, "table of items with the columns of --max_per")
_ITEM_ID_COLUMN = flags.DEFINE_string("item_id_column", None, "of --items, where it is not recognised")
_UNKNOWN = flags.DEFINE_enum("unknown", "refuse", UNKNOWN, "what users get that the catalogue does not have")
_NEW_ITEMS = flags.DEFINE(
    PathParser(), "new_items", None, "folder of items that training did not see; none; without it those of the data"
)
_FRESH_SHARE = flags.DEFINE_float("fresh_share", None, "part of the places for fresh items, by their scores", 0.0, 1.0)
_FRESH_BELOW = flags.DEFINE_integer("fresh_below", 5, "fresh: with fewer train interactions", lower_bound=1)
_ONLY = flags.DEFINE_enum("only", None, ONLY, "new: lists of fresh items alone")
_SEEN = flags.DEFINE(
    PathParser(),
    "seen",
    "all",
    "what users have, and do not get: all, train or none of the data's splits; or a table of interactions beside all",
)
_USER_COLUMN = flags.DEFINE_string("user_column", None, "of the table of interactions, where it is not recognised")
_ITEM_COLUMN = flags.DEFINE_string("item_column", None, "of the table of interactions, where it is not recognised")
_LISTS = flags.DEFINE(PathParser(), "lists", None, "recommendations that were shown, to be reviewed")
_INTERACTIONS = flags.DEFINE(PathParser(), "interactions", None, "table of what followed them")
_BEFORE = flags.DEFINE(PathParser(), "before", None, "the recommendations before those")
_BOUNDS = {
    "recall": flags.DEFINE_float("min_recall", None, "exit code 3 where the recall is lower", 0.0, 1.0),
    "coverage": flags.DEFINE_float("min_coverage", None, "exit code 3 where the coverage is lower", 0.0, 1.0),
    "overlap": flags.DEFINE_float(
        "min_overlap", None, "exit code 3 where the overlap with --before is lower", 0.0, 1.0
    ),
}
_OUT = flags.DEFINE(
    PathParser(),
    "out",
    None,
    "where to write; else standard output (recommend), WORKDIR/export or WORKDIR/report.html (visualize)",
)
_REFIT_BY = flags.DEFINE_enum(
    "refit_by", "epochs", REFIT_BY, "as many epochs as the best checkpoint had, or about as many steps"
)
_MODES_OF_FLAGS = {
    "workdir": _MODES[:-1],
    "overwrite": ("train", "refit", "export"),
    "stopped_code": ("train", "refit"),
    "init_from": ("train",),
    "init_optimizer": ("train",),
    "refit_by": ("refit",),
    "distributed": ("train", "evaluate"),
    **dict.fromkeys(("users", "k", "format", "exclude", "unknown", "new_items"), ("recommend",)),
    **dict.fromkeys(("allow", "max_per", "items", "item_id_column"), ("recommend",)),
    **dict.fromkeys(("fresh_share", "fresh_below", "only"), ("recommend",)),
    "seen": ("recommend", "export"),
    **dict.fromkeys(("user_column", "item_column"), ("recommend", "export", "review")),
    **dict.fromkeys(("lists", "interactions", "before", "min_recall", "min_coverage", "min_overlap"), ("review",)),
    "out": ("refit", "recommend", "export", "visualize"),
}
_COMPILED = ".cache/compiled"


def main() -> int:
    """Runs the command line; returns one of the exit codes of rearm_jax/program.py."""
    return run_program(_run, after_error=abandon)


def _run() -> int:
    known = flags.FLAGS.get_key_flags_for_module(sys.modules[__name__])
    if help_was_asked_for("python -m rearm_jax.main", __doc__, known):
        return DONE
    with quit_on_interrupt(), without_x64():
        return _dispatch()


def _dispatch() -> int:
    remaining = parse_flags(sys.argv)
    if len(remaining) > 1:
        raise ConfigError(f"unexpected arguments: {' '.join(remaining[1:])}")
    if _VERSION.value or _CONFIG_LIST.value:
        print(VERSION if _VERSION.value else list_shipped())
        return DONE
    _check_flags()
    # Tracing makes millions of objects; a collector that looks through all modules again each time slows it by a fifth.
    gc.freeze()
    _keep_compiled_programs()
    initialize(_DISTRIBUTED.value)
    alone = not jax.distributed.is_initialized() or jax.process_count() == 1
    if not alone and _MODE.value not in _MODES_OF_FLAGS["distributed"]:
        raise ConfigError(f"--mode={_MODE.value} is the work of one process, and here are {jax.process_count()}")
    modes = dict(zip(_MODES, (_train, _refit, _evaluate, _recommend, _export, _visualize, _review), strict=True))
    return modes[_MODE.value]()


def _check_flags() -> None:
    """Refuses flags that mean nothing in this mode, and modes without the run that they need."""
    for name, modes in _MODES_OF_FLAGS.items():
        if flags.FLAGS[name].present and _MODE.value not in modes:
            raise ConfigError(f"--{name} goes with --mode={' or '.join(modes)}, and this is {_MODE.value}")
    if _MODE.value not in ("train", "review") and not _WORKDIR.value:
        raise ConfigError(f"--workdir is missing: name the run folder to {_MODE.value}")
    if _MODE.value == "refit" and not _OUT.value:
        raise ConfigError("--out is missing: name the folder of the refit")
    if _MODE.value == "review" and not (_LISTS.value and _INTERACTIONS.value):
        raise ConfigError("--lists and --interactions are needed: the lists, and a table of what followed them")


def _train() -> int:
    config = _CONFIG.value
    if config is None:
        raise ConfigError("--config is missing: name a file, or one of --config_list, such as --config=demo")
    if _INIT_FROM.value or _INIT_OPTIMIZER.value:
        config.init_from, config.init_optimizer = _INIT_FROM.value or config.init_from, _INIT_OPTIMIZER.value
    workdir = _WORKDIR.value or f"runs/{run_name(config_flags.get_config_filename(flags.FLAGS['config']))}"
    if config.init_from and os.path.realpath(config.init_from) == os.path.realpath(workdir):
        raise ConfigError(f"--init_from names {workdir}, the run itself: name another --workdir")
    with RunLock(workdir) as lock:
        if not _OVERWRITE.value:
            check_run_folder(workdir, config)
        experiment = build_experiment(config) if _OVERWRITE.value else open_experiment(config, workdir)
        check_same(experiment)
        if _OVERWRITE.value:
            first_only(clear_run_folder, workdir)
        result, stopped_by = train(experiment, workdir, lock)
    if result is None:
        return _stopped(stopped_by)
    metric = experiment.config.evaluation.metric
    logging.info("%s\nrun folder: %s (all metrics: result.json)", table(result, metric), workdir)
    say_weaknesses(result, metric)
    logging.info("%s", next_commands(program_name(), workdir, experiment.dataset.labels.user_ids[:100]))
    return DONE


def _refit() -> int:
    assert _OUT.value  # `_check_flags` saw to it
    config = run_config(_WORKDIR.value, _CONFIG.value)
    result, stopped_by = refit(config, _WORKDIR.value, _OUT.value, _REFIT_BY.value, _OVERWRITE.value)
    if result is None:
        return _stopped(stopped_by)
    logging.info("%s\nrun folder: %s", table(result, config.evaluation.metric), _OUT.value)
    return DONE


def _stopped(signal_number: int | None) -> int:
    return INTERRUPTED if signal_number == signal.SIGINT else _STOPPED_CODE.value


def _evaluate() -> int:
    experiment = open_experiment(run_config(_WORKDIR.value, _CONFIG.value), _WORKDIR.value, brief=True)
    check_same(experiment)
    metrics = evaluate_run(experiment, _WORKDIR.value)
    if is_first():
        print(json.dumps(metrics, indent=2))
    return DONE


def _recommend() -> int:
    check_output(_FORMAT.value, _OUT.value)
    check_seen(**_seen())
    of_items = _ALLOW.value, parse_max_per(_MAX_PER.value), _ITEMS.value, _ITEM_ID_COLUMN.value
    rules = Rules(*of_items, _FRESH_SHARE.value, _FRESH_BELOW.value, _ONLY.value)
    check_rules(rules)
    with _trained_run() as trained:
        recommend_run(
            trained,
            users=_USERS.value,
            k=_K.value,
            format=_FORMAT.value,
            out=_OUT.value,
            exclude=_EXCLUDE.value,
            unknown=_UNKNOWN.value,
            new_items=_NEW_ITEMS.value,
            **_seen(),
            rules=rules,
        )
    return DONE


def _export() -> int:
    out = _OUT.value or os.path.join(_WORKDIR.value, "export")
    check_seen(**_seen())
    with _trained_run(check_export, out, _OVERWRITE.value) as trained:
        export_run(trained, out, **_seen(), overwrite=_OVERWRITE.value)
    return DONE


def _seen() -> dict[str, Any]:
    return {"seen": _SEEN.value, "user_column": _USER_COLUMN.value, "item_column": _ITEM_COLUMN.value}


def _visualize() -> int:
    with _trained_run(check_report, _WORKDIR.value, _OUT.value) as trained:
        write_report(trained, _OUT.value)
    return DONE


def _review() -> int:
    assert _LISTS.value  # `_check_flags` saw to both
    assert _INTERACTIONS.value
    found = review(_LISTS.value, _INTERACTIONS.value, _BEFORE.value, _USER_COLUMN.value, _ITEM_COLUMN.value)
    below = below_bounds(found, {name: flag.value for name, flag in _BOUNDS.items()})
    print(json.dumps(found, indent=2))
    for line in below:
        logging.warning("%s", line)
    return WORSE if below else DONE


@contextlib.contextmanager
def _trained_run(check_output: Callable | None = None, *arguments: Any) -> Iterator[Trained]:
    """The run of --workdir, opened once `check_output(*arguments)` has refused nothing; to open it takes longer."""
    config = run_config(_WORKDIR.value, _CONFIG.value)  # a folder without a run is named before an output's place in it
    if check_output:
        check_output(*arguments)
    trained = load_trained(_WORKDIR.value, config)
    with unwind_on_interrupt():
        yield trained


def _keep_compiled_programs() -> None:
    """Compiled programs are kept on the disk, so that the same run starts in seconds the next time."""
    # JAX_COMPILATION_CACHE_DIR names another folder.
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", _COMPILED)


if __name__ == "__main__":
    sys.exit(main())
