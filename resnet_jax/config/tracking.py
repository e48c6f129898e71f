"""Where runs are shown beside their folder: what trackers can be told of."""

import re
import urllib.parse

from resnet_jax.config.schema import LogConfig
from resnet_jax.errors import InputError

# What both can take: W&B refuses / \ # ? % and :.
_PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
SQLITE = "sqlite:///"


def check(log: LogConfig) -> None:
    """Refuses a tracking URI that leads nowhere, and a name that trackers do not take.

    Raises:
        InputError: naming the field.
    """
    if not _PROJECT.fullmatch(log.project):
        raise InputError(
            "config.log.project must be 1 to 128 letters, digits, '.', '_' or '-', and begin with "
            f"a letter or digit, got {log.project!r}; for example 'resnet_jax'"
        )
    uri = log.mlflow
    if not uri or (uri.startswith(SQLITE) and uri.removeprefix(SQLITE).strip("/")):
        return
    try:
        parts = urllib.parse.urlsplit(uri)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, or an unfinished address
        usable = None
    if not usable:
        raise InputError(
            "config.log.mlflow must be '' (none), 'sqlite:///FILE' or 'http(s)://HOST[:PORT]', "
            f"got {uri!r}; for example 'sqlite:///runs/mlflow.db'"
        )
    if parts.username is not None or parts.password is not None:
        raise InputError(
            "config.log.mlflow must not hold a user name or password, for it is written to the "
            f"run's folder, got one for {parts.hostname!r}; set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD"
        )
