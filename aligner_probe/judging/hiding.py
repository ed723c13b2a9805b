"""Keys and passwords are taken out of everything that is kept, printed or logged."""

import base64
import logging
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from aligner_probe.errors import AlignerProbeError

#: What stands where a secret was.
HIDDEN = "[key hidden]"
#: A shorter key is no secret: servers without keys are given a word such as "none", which texts contain anyway.
SHORTEST = 8
#: The loggers of the client and its transport. A filter of a logger is not asked about records of those below it.
LOGGERS = (
    *("openai", "openai._base_client", "openai._response", "openai._legacy_response"),
    *("httpx", "httpx2", "httpcore", "httpcore2"),
    *("httpcore.http11", "httpcore2.http11", "httpcore.connection", "httpcore2.connection"),
)


class Secrets:
    """Texts that must not be seen, in the spellings in which a server may send them back."""

    def __init__(self, secrets: Sequence[str | None]):
        spellings = {
            spelling
            for secret in secrets
            if secret and len(secret) >= SHORTEST
            for spelling in (secret, urllib.parse.quote(secret, safe=""), secret.replace("/", "\\/"))
        }
        self._spellings = sorted(spellings, key=len, reverse=True)

    def hide(self, text: str) -> str:
        """The text with every secret replaced."""
        for spelling in self._spellings:
            text = text.replace(spelling, HIDDEN)
        return text

    @contextmanager
    def hidden_in_logs(self) -> Iterator[None]:
        """Replace secrets in what the client and its transport log while the block runs."""
        hiding = _Hiding(self)
        loggers = [logging.getLogger(name) for name in LOGGERS]
        for logger in loggers:
            logger.addFilter(hiding)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeFilter(hiding)


class _Hiding(logging.Filter):
    def __init__(self, secrets: Secrets):
        super().__init__()
        self._secrets = secrets

    def filter(self, record: logging.LogRecord) -> bool:
        message, error = record.getMessage(), record.exc_info
        shown = self._secrets.hide(message)
        if shown != message:
            record.msg, record.args = shown, ()
        if error and error[1] is not None:
            # A traceback names what was sent and received, and its text is made by the handlers, behind this filter.
            record.msg = f"{record.getMessage()} ({self._secrets.hide(repr(error[1]))})"
            record.args, record.exc_info, record.exc_text = (), None, None
        return True


def without_password(url: str) -> tuple[str, tuple[str, ...]]:
    """An address without user, password and query, and those parts, which may be secrets.

    Among those parts are user and password as they stand in the address, the same without percent-encoding, and the one
    text in which the client sends both. Values of the query count as secrets, too, because some servers take their key
    there. Raises AlignerProbeError where `url` is no address; the message does not show it.
    """
    if fault := _fault(url):
        raise AlignerProbeError(
            f"the endpoint's address (OPENAI_BASE_URL) {fault}; expected one such as http://localhost:8000/v1. In a "
            "password, characters other than letters and digits must be percent-encoded"
        )
    parts = urllib.parse.urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    given = [text for text in (parts.username, parts.password) if text]
    decoded = [urllib.parse.unquote(text) for text in (parts.username or "", parts.password or "")]
    sent = [base64.b64encode(":".join(decoded).encode()).decode()] if given else []
    values = [value for _, value in urllib.parse.parse_qsl(parts.query)]
    address = urllib.parse.urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))
    return address, (*given, *filter(None, decoded), *sent, *values)


def _fault(url: str) -> str | None:
    """Why an address is none; None for an address."""
    if not url.isprintable() or " " in url:
        return "has spaces or unprintable characters"
    if "#" in url:
        return "has a #"
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:  # a [ without its ]
        return "has no host that can be read"
    if not parts.hostname:
        return "has no host"
    # Otherwise what stands before a / or ? in a password would be taken for the host and its port, and be shown.
    if "@" in parts.path + parts.query:
        return "has an @ behind its host"
    try:
        _ = parts.port
    except ValueError:
        return "has a port that is no number"
    return None
