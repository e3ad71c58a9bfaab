"""Why MLflow cannot be used, in one line, and what to do about it: each kind of fault has its own remedy."""

import re
import shlex
import sqlite3
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

SQLITE = "sqlite:///"

_NO_SERVER = "Start that server, or set MLFLOW_TRACKING_URI to one that runs"
_REMEDIES = (
    ("error code 401", "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to an account of that server"),
    ("Invalid Host header", "Start that server with --allowed-hosts and this host name, with the port"),
    ("error code 403", "Ask whoever runs that server for the permission"),
    ("error code 404", "That is not the address of an MLflow server: correct MLFLOW_TRACKING_URI"),
    ("error code 413", "Let the server's proxy take larger files (nginx: client_max_body_size 0;)"),
    (r"error code 5\d\d|too many 5\d\d error", "That server runs but fails: its own log says why"),
    ("certificate|SSL", "Set MLFLOW_TRACKING_SERVER_CERT_PATH to the certificate that the server is signed with"),
    ("No space left|disk is full|Disk quota", "Make room on that disk"),
    (
        "readonly database|[Rr]ead-only file|Permission denied|unable to open database",
        "Make that file and its folder writable for you",
    ),
    (
        "Operation not permitted",
        f"MLflow copies the modes of files, which that disk refuses: set MLFLOW_TRACKING_URI to {SQLITE}<file>.db on "
        "another disk",
    ),
    ("database is locked|file lock", "Another process uses it: wait until it has ended"),
    ("not a database|malformed", "Move that file away: `harveyseg sync` makes a new one from the files in data/"),
    (r"No module named '(\w+)'", r"`pip install \1`"),
    ("[Uu]nsupported URI|parse .*URL", "That is no address of MLflow's: correct MLFLOW_TRACKING_URI"),
    ("'active' state|'deleted' state", "Somebody deleted it in MLflow: `harveyseg sync` restores it"),
)


class TrackingError(Exception):
    """MLflow cannot be used.

    Args:
        cause: one line.
        remedy: what the user can do, without a full stop.
    """

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(cause)
        self.remedy = remedy


def explain(error: Exception, uri: str) -> TrackingError:
    """The cause and the remedy of an error of MLflow or of the libraries below it.

    Args:
        error: what a call of MLflow raised.
        uri: the tracker's address.
    """
    if isinstance(error, TrackingError):
        return error
    chain = _chain(error)
    text = "\n".join(str(link) for link in chain)
    if schema := re.search(r"schema \(found version (\w+)", text):
        return other_version(schema[1], uri)
    # For a broken connection, a file or a database, the first message says more than the libraries' around it.
    innermost = next((link for link in reversed(chain) if isinstance(link, OSError | sqlite3.Error)), error)
    line = (str(innermost).strip().splitlines() or [type(innermost).__name__])[0]
    cause = re.sub(r"[\w+.-]+://\S+", lambda address: public_address(address[0]), line)
    for pattern, remedy in _REMEDIES:
        if match := re.search(pattern, text):
            return TrackingError(cause, match.expand(remedy))
    return TrackingError(
        cause, _NO_SERVER if "://" in uri and not uri.startswith(SQLITE) else "See what is wrong there"
    )


def other_version(found: str, uri: str) -> TrackingError:
    """The fault of a database whose tables another version of MLflow made.

    Args:
        found: the revision of its tables.
        uri: the database's address.
    """
    installed = version("mlflow")
    if found not in known_revisions():
        return TrackingError(
            f"a newer MLflow than this one ({installed}) made its tables (revision {found})",
            "Use the newer MLflow: `pip install --upgrade mlflow`",
        )
    if uri.startswith(SQLITE):
        database = uri.removeprefix(SQLITE).partition("?")[0]
        copying = shlex.join(["cp", database, f"{database}.backup"])
        steps = f"`{copying}`, then `mlflow db upgrade {shlex.quote(uri)}`"
    else:
        steps = 'then `mlflow db upgrade "$MLFLOW_TRACKING_URI"`'  # never print it: it may hold a password
    return TrackingError(
        f"an older MLflow than this one ({installed}) made its tables (revision {found})",
        f"Back it up and upgrade it: {steps}",
    )


def known_revisions() -> dict[str, bool]:
    """The revisions of a database's tables that the installed MLflow knows, and whether each is the latest.

    They are read from MLflow's migrations: importing MLflow takes 3 s.
    """
    spec = find_spec("mlflow")
    if spec is None or spec.origin is None:
        return {}
    revisions = set()
    outdated = set()
    for path in (Path(spec.origin).parent / "store" / "db_migrations" / "versions").glob("*.py"):
        names = dict(
            re.findall(r"^(revision|down_revision)\b[^\n]*?=\s*[\"'](\w+)", path.read_text("utf-8"), re.MULTILINE)
        )
        revisions.add(names.get("revision", ""))
        outdated.add(names.get("down_revision", ""))
    return {revision: revision not in outdated for revision in revisions}


def public_address(uri: str) -> str:
    """Scheme, host, port and path of an address, without user, password and query.

    >>> public_address("https://ann:secret@mlflow.example.org:5000/team?token=abc")
    'https://mlflow.example.org:5000/team'
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        if uri.startswith("file:") or not re.search(r":.*@|\?", uri):
            return uri  # a path
        scheme, rest = "", uri.lstrip("/")  # the user left the scheme out
    address, *query = re.split("[?#]", rest, maxsplit=1)
    if not address.startswith("/"):  # a file has no user, and its name may hold an @
        if "@" in "".join(query):  # of a query, or after a password that holds a question mark: nobody can tell
            address = "..."
        address = address.rpartition("@")[2]  # the last one: a password may hold an @ or a slash
    return scheme + separator + address


def _chain(error: BaseException) -> list[BaseException]:
    """The error and what caused it, the innermost last."""
    chain = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None and inner not in chain:
        chain.append(inner)
    return chain
