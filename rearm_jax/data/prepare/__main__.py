"""From raw files to a data folder: python -m rearm_jax.data.prepare --interactions FILE ... --out DIR

python -m rearm_jax.data.prepare --interactions ml-100k.inter --items ml-100k.item --text text=movie_title \
  --text genres=class --name_column movie_title,release_year --min_rating 4 --k_core 5 --out data/ml-100k

The folder holds the splits, one file of features per modality, the ids and names of the rows, and prepare.json: the
settings, what was kept, what was dropped and why. With --catalogue all, new_items/ has the same of items without
interactions.
"""

import sys
from collections.abc import Sequence

from rearm_jax.data.options import prepare_parser
from rearm_jax.data.prepare.kinds import CATALOGUES
from rearm_jax.data.prepare.pipeline import prepare
from rearm_jax.data.prepare.reading import BAD_ROWS
from rearm_jax.data.prepare.settings import Settings
from rearm_jax.data.prepare.splitting import METHODS
from rearm_jax.program import DONE, run_program, underscored


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line, this process's where None; returns one of the exit codes of rearm_jax/program.py."""
    return run_program(lambda: _run(sys.argv[1:] if arguments is None else arguments))


def parse(arguments: Sequence[str]) -> Settings:
    """The settings of a command line; ends the process after --help.

    Names of flags may have hyphens for underscores: --k-core for --k_core.

    Raises:
        ConfigError: a flag is unknown, or its value impossible.
    """
    return Settings(**vars(prepare_parser(METHODS, BAD_ROWS, CATALOGUES).parse_args(underscored(arguments))))


def _run(arguments: Sequence[str]) -> int:
    prepare(parse(arguments))
    return DONE


if __name__ == "__main__":
    sys.exit(main())
