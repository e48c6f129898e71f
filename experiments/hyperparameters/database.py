"""Where studies are kept."""

import pathlib

import optuna

DATABASE = "study.db"


def default_url(workdir: pathlib.Path) -> str:
    """The database in a search's own folder."""
    return f"sqlite:///{workdir.absolute() / DATABASE}"


def connect(url: str) -> optuna.storages.RDBStorage:
    """A database, made if it is a file that is not there.

    Args:
        url: its address, as SQLAlchemy writes them.
    """
    # Workers wait for one another instead of failing; connections that a server closed are renewed.
    waiting = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    return optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True, **waiting})


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
