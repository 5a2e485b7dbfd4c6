"""The one way in which .npy files are opened: never whole in memory, never running what they hold."""

import os
import warnings

import numpy as np

from rearm_jax.errors import DataError


def open_npy(path: str | os.PathLike) -> np.ndarray:
    """Maps a .npy file as a read-only array, so that a wide float64 table never lies in memory whole.

    Raises:
        DataError: the file cannot be read, is not complete, or holds objects (pickles).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd headers: what matters about the array is checked afterwards
            return np.lib.format.open_memmap(os.fspath(path), mode="r")  # cannot unpickle anything
    except Exception as error:  # numpy's header parser raises nearly anything on a damaged file
        raise DataError(
            f"{os.fspath(path)}: not a complete .npy file of numbers or text ({error}); write it again with numpy.save"
        ) from error
