"""What is to be prepared, and which of these settings go together."""

import dataclasses
import os
from collections.abc import Callable, Sequence

from rearm_jax.data.checks import check_modalities
from rearm_jax.data.encode import CACHE_DIR, IMAGE_MODEL, TEXT_MODEL, check_encoder_installed
from rearm_jax.data.folder import check_out
from rearm_jax.data.prepare.frames import Frame
from rearm_jax.data.prepare.kinds import check_kinds
from rearm_jax.data.prepare.reading import QUOTES, Reading
from rearm_jax.data.prepare.tables import is_parquet
from rearm_jax.errors import ConfigError, DataError, shown


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to prepare; the command line's flags, with their names and meanings (see `--help`)."""

    interactions: Sequence[str | Frame]
    out: str
    user_column: str | None = None
    item_column: str | None = None
    rating_column: str | None = None
    time_column: str | None = None
    min_rating: float | None = None
    duplicates: str = "first"
    k_core: int = 1
    split: str = "random"
    ratios: tuple[int, int, int] | None = None
    seed: int = 0
    items: Sequence[str | Frame] = ()
    catalogue: str = "interactions"
    item_id_column: str | None = None
    name_column: Sequence[str] = ()
    text: Sequence[tuple[str, Sequence[str]]] = ()
    category: Sequence[tuple[str, Sequence[str]]] = ()
    category_separator: str | None = None
    number: Sequence[tuple[str, Sequence[str]]] = ()
    quantiles: int = 0
    images: str | None = None
    features: Sequence[tuple[str, str | Frame]] = ()
    feature_ids: Sequence[tuple[str, str]] = ()
    text_model: str = TEXT_MODEL
    image_model: str = IMAGE_MODEL
    batch_size: int = 64
    device: str | None = None
    cache: str = CACHE_DIR
    overwrite: bool = False
    interactions_header: Sequence[str] | None = None
    items_header: Sequence[str] | None = None
    quote: Sequence[tuple[str, str]] = ()
    encoding: str | None = None
    bad_rows: str = "refuse"
    bad_rows_limit: float = 0.01

    def reading_interactions(self) -> Reading:
        """How the tables of `interactions` are read."""
        return self._reading(self.interactions_header, "interactions_header")

    def reading_items(self) -> Reading:
        """How those of `items` are."""
        return self._reading(self.items_header, "items_header")

    def _reading(self, names: Sequence[str] | None, option: str) -> Reading:
        return Reading(names, option, self.quote, self.encoding, self.bad_rows, self.bad_rows_limit)


def check(settings: Settings) -> tuple[str, ...]:
    """Refuses settings that cannot be, before anything is read; returns the names of the modalities.

    Raises:
        ConfigError: a setting is impossible or without effect, settings do not go together, a package is missing, or
            `out` is there.
        DataError: an input is not there.
    """
    modalities = check_choices(settings)
    if not settings.interactions:
        raise ConfigError("interactions names no file")
    check_out(settings.out, settings.overwrite)
    return modalities


def check_choices(settings: Settings) -> tuple[str, ...]:
    """`check`, but for the interactions and where the folder goes."""
    check_kinds(vars(settings))
    of_columns = (*settings.text, *settings.category, *settings.number)
    if (of_columns or settings.name_column) and not settings.items:
        raise ConfigError("text, category, number and name_column name columns of a table of items: give it with items")
    modalities = [name for name, _ in (*of_columns, *settings.features)] + ["image"] * (settings.images is not None)
    if not modalities:
        raise ConfigError(
            "no features: give text, category, number, images or features; the model needs one modality at least"
        )
    check_modalities(modalities)
    features, feature_ids = _checked_features(settings)
    for path in (*settings.interactions, *settings.items, *features.values(), *feature_ids.values()):
        if isinstance(path, Frame):
            continue
        if not os.path.isfile(path):
            raise DataError(f"{path}: there is no such file")
        try:
            os.fspath(path).encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{path!a}: the name of the file is not UTF-8; rename it") from error
    for name, files in (("interactions", settings.interactions), ("items", settings.items)):
        real = [os.path.realpath(path) for path in files if not isinstance(path, Frame)]
        if again := [path for i, path in enumerate(real) if path in real[:i]]:
            raise ConfigError(f"{name} names {again[0]} twice")
    if settings.images is not None and not os.path.isdir(settings.images):
        raise DataError(f"{settings.images}: cannot be read as a folder of pictures (there is no such folder)")
    _check_reading(settings)
    _refuse_idle(settings)
    if settings.text or settings.images is not None:
        check_encoder_installed(pictures=settings.images is not None)
    return tuple(modalities)


def _checked_features(settings: Settings) -> tuple[dict[str, str | Frame], dict[str, str]]:
    """`features` and `feature_ids`, by modality."""
    features, feature_ids = dict(settings.features), dict(settings.feature_ids)
    if len(feature_ids) < len(settings.feature_ids):
        raise ConfigError("feature_ids: every modality may be named once only")
    if unknown := feature_ids.keys() - features.keys():
        raise ConfigError(f"feature_ids {', '.join(sorted(unknown))}: there are no features of that modality")
    for name, path in features.items():
        if str(path).endswith(".npy") != (name in feature_ids):
            raise ConfigError(f"features {name}={path}: .npy goes with feature_ids {name}=FILE.npy, Parquet without")
    return features, feature_ids


def _check_reading(settings: Settings) -> None:
    files = {os.fspath(path): path for path in (*settings.interactions, *settings.items)}
    for file, mode in settings.quote:
        if mode not in QUOTES:
            raise ConfigError(f"quote is {mode!r}: one of {', '.join(QUOTES)}, or FILE=one of them")
        if file and file not in files:
            raise ConfigError(f"quote {file}={mode}: neither interactions nor items name that file")
        if file and not _is_text(files[file]):
            raise ConfigError(f"quote {file}={mode}: says nothing about Parquet; leave it out")
    if settings.encoding is not None:
        try:
            "".encode(settings.encoding)  # codecs that make no text, such as base64, are refused here too
        except (LookupError, ValueError) as error:
            raise ConfigError(f"encoding: {error}; such as utf-16, cp1252, latin-1, shift_jis") from error


def _is_text(path: str | Frame) -> bool:
    return not isinstance(path, Frame) and not is_parquet(path)


def _has_text(settings: Settings) -> bool:
    return any(map(_is_text, (*settings.interactions, *settings.items)))


def _reads_times(settings: Settings) -> bool:
    return settings.split != "random"


def _encodes(settings: Settings) -> bool:
    return bool(settings.text) or settings.images is not None


def _reads_ids_of_items(settings: Settings) -> bool:
    with_ids = dict(settings.feature_ids)
    return bool(settings.items) or any(name not in with_ids for name, _ in settings.features)


_NO_TEXT = "where no table is text: Parquet says itself what it holds"
_NOT_ENCODED = "without text or images: nothing is encoded"
# A setting, where it has an effect, and what is said of it elsewhere.
_EFFECTS: tuple[tuple[str, Callable[[Settings], object], str], ...] = (
    ("rating_column", lambda s: s.min_rating is not None, "without min_rating: no rating is looked at"),
    ("time_column", _reads_times, "where split is random: no time is looked at"),
    (
        "duplicates",
        lambda s: s.duplicates != "last" or _reads_times(s),
        "where split is random: without times no row of a pair is the last",
    ),
    ("ratios", lambda s: s.split != "leave-one-out", "where split is leave-one-out"),
    ("seed", lambda s: s.split == "random", "unless split is random: the others draw nothing"),
    ("catalogue", lambda s: s.items, "without items: all keeps what they list"),
    ("item_id_column", _reads_ids_of_items, "without items, and without features that have a column of ids"),
    ("category_separator", lambda s: s.category, "without category"),
    ("quantiles", lambda s: s.number, "without number"),
    ("text_model", lambda s: s.text, "without text"),
    ("image_model", lambda s: s.images is not None, "without images"),
    ("batch_size", _encodes, _NOT_ENCODED),
    ("device", _encodes, _NOT_ENCODED),
    ("cache", _encodes, _NOT_ENCODED),
    ("interactions_header", lambda s: any(map(_is_text, s.interactions)), "where no table of interactions is text"),
    ("items_header", lambda s: any(map(_is_text, s.items)), "where no table of items is text"),
    ("quote", _has_text, _NO_TEXT),
    ("encoding", _has_text, _NO_TEXT),
    ("bad_rows", _has_text, _NO_TEXT),
    ("bad_rows_limit", lambda s: s.bad_rows == "skip", "unless bad_rows is skip"),
)


def _refuse_idle(settings: Settings) -> None:
    """Raises ConfigError for a setting that was given and would change nothing."""
    defaults = {field.name: field.default for field in dataclasses.fields(Settings)}
    for name, has_effect, elsewhere in _EFFECTS:
        value = getattr(settings, name)
        is_given = len(value) > 0 if isinstance(value, (list, tuple)) else value != defaults[name]
        if is_given and not has_effect(settings):
            raise ConfigError(f"{name} = {shown(value)} says nothing {elsewhere}. Leave it out")
