"""Where studies are kept."""

import pathlib
import time
from typing import Any

import optuna
import sqlalchemy.exc
import sqlalchemy.pool

DATABASE = "study.db"
TRIES = 10


def default_url(workdir: pathlib.Path) -> str:
    """The database in a search's own folder."""
    return f"sqlite:///{workdir.absolute() / DATABASE}"


def connect(url: str) -> optuna.storages.RDBStorage:
    """A database, made if it is a file that is not there.

    Args:
        url: its address, as SQLAlchemy writes them.
    """
    options: dict[str, Any] = {"pool_pre_ping": True}  # what a server closed is opened again
    if url.startswith("sqlite"):
        # Workers wait for one another instead of failing, and leave the file when they have read or
        # written: Optuna has nothing to close it with later.
        options |= {"connect_args": {"timeout": 60}, "poolclass": sqlalchemy.pool.NullPool}
    for _ in range(TRIES):
        try:
            return optuna.storages.RDBStorage(url, engine_kwargs=options)
        except sqlalchemy.exc.DBAPIError as error:
            # Two workers that begin at once make the same tables; the later one finds them made.
            made = isinstance(error, sqlalchemy.exc.IntegrityError) or "exists" in str(error)
            if not made:
                raise
            time.sleep(0.5)
    return optuna.storages.RDBStorage(url, engine_kwargs=options)


def create(
    name: str, storage: optuna.storages.RDBStorage, pruner: optuna.pruners.BasePruner
) -> tuple[optuna.Study, bool]:
    """The study of a name, and whether this process has made it.

    Args:
        name: of the study.
        storage: the database.
        pruner: that it is used with.
    """
    try:
        made = optuna.create_study(
            study_name=name, storage=storage, pruner=pruner, direction="minimize"
        )
        return made, True
    except optuna.exceptions.DuplicatedStudyError:
        return optuna.load_study(study_name=name, storage=storage, pruner=pruner), False
