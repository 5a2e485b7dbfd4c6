"""Adds features to a folder of data: python -m rearm_jax.data.encode --items FILE --text COLUMN --root FOLDER

python -m rearm_jax.data.encode --items products.jsonl --item_id_column sku --text story=description --root data/shop

A modality is there whole or not at all. Runs on the other modalities of the folder go on as before; data/encode/add.py
says more.
"""

import sys
from collections.abc import Sequence

from rearm_jax.data.encode.add import add_modalities
from rearm_jax.data.options import encode_parser
from rearm_jax.data.prepare.reading import BAD_ROWS
from rearm_jax.data.prepare.settings import Settings
from rearm_jax.program import DONE, run_program, underscored


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line, this process's where None; returns one of the exit codes of rearm_jax/program.py."""
    return run_program(lambda: _run(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: Sequence[str]) -> int:
    given = vars(encode_parser(BAD_ROWS).parse_args(underscored(arguments)))
    in_order = given.pop("in_order")
    add_modalities(Settings((), out=given.pop("root"), **given), in_order)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
