"""Any OpenAI-compatible endpoint as a judge.

The address and the key come from the environment variables OPENAI_BASE_URL and OPENAI_API_KEY. The `openai` client
itself tries 408, 409, 429 and 5xx again and obeys Retry-After, so nothing here waits. Answers are read from the raw
text of the response: what is broken is told apart from what is absent, and no missing member becomes a value.
"""

import json
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Literal

from tqdm.auto import tqdm

from aligner_probe.errors import AlignerProbeError
from aligner_probe.files import storable
from aligner_probe.judging.asks import Answer, Ask, Told
from aligner_probe.judging.hiding import Secrets, without_password
from aligner_probe.judging.verdicts import schema_of

Verdicts = Literal["auto", "schema", "pattern"]
BASE_URL, KEY = "OPENAI_BASE_URL", "OPENAI_API_KEY"
#: Temperature 0 makes a judge as repeatable as it can be. 1024 tokens are enough for an explanation and a verdict.
SETTINGS: dict[str, Any] = {"temperature": 0, "max_tokens": 1024}
#: These are decided here; a setting that changes them would change what an answer means.
FIXED = ("model", "messages", "stream", "n", "response_format", "tools")
#: So many requests in a row may fail before the first answer, and after it, until the command gives up.
FAILURES_AT_FIRST, FAILURES = 3, 10
#: The key that is sent to a server that wants none. The client does not accept an empty one.
NO_KEY = "none"
#: Reasons why an answer ended, as servers name them, after which it is whole. Some servers name none.
WHOLE = ("stop", "eos", "end_turn", "stop_sequence", None)
#: Statuses after which no other request can succeed: key, payment, address or model.
HOPELESS = (401, 402, 404)
#: HTTP statuses with which a server may say that it has no structured output; some routers say 404 for that.
NO_SCHEMA = (400, 404, 415, 422, 501)
LONGEST_REASON = 300


class Endpoint:
    """A model behind an OpenAI-compatible endpoint.

    Args:
        model: The model's name on the server.
        base_url: The address, up to and with "/v1".
        key: The key; None sends the word "none", for servers that need no key.
        verdicts: "schema" asks for structured output, "pattern" reads the verdict from the text, and "auto" asks for
            structured output until the server rejects it.
        settings: Members of the request; they replace those of `SETTINGS`, and None leaves one out.
        workers: Requests under way at a time.
        timeout: Seconds that a server may be silent before the request is tried again.
        max_retries: How often the client tries a request again.

    Raises:
        AlignerProbeError: The address is none, or a setting is one of `FIXED`.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str,
        key: str | None,
        verdicts: Verdicts = "auto",
        settings: Mapping[str, Any] | None = None,
        workers: int = 4,
        timeout: float | int = 120,
        max_retries: int = 5,
    ):
        if wrong := [name for name in settings or {} if name in FIXED]:
            raise AlignerProbeError(f"the setting {wrong[0]!r} is decided by the evaluation; leave it out")
        self.model, self.verdicts, self.workers = model, verdicts, workers
        self.settings = {name: value for name, value in {**SETTINGS, **(settings or {})}.items() if value is not None}
        self._base_url, self._key, self._timeout, self._max_retries = base_url, key, timeout, max_retries
        self.address, passwords = without_password(base_url)
        self.secrets = Secrets([key, *passwords])
        self._schema: bool | None = {"auto": None, "schema": True, "pattern": False}[verdicts]

    @classmethod
    def from_environment(cls, model: str, **options: Any) -> "Endpoint":
        """The endpoint that the environment variables name. Raises AlignerProbeError where they name none."""
        base_url, key = os.environ.get(BASE_URL), os.environ.get(KEY)
        if not base_url:
            raise AlignerProbeError(
                f"{BASE_URL} is not set, so it is not known which endpoint to ask; set it, for instance to "
                f"https://api.openai.com/v1 or http://localhost:8000/v1, and {KEY} where the server wants a key"
            )
        if not base_url.startswith(("http://", "https://")):
            raise AlignerProbeError(f"{BASE_URL} does not begin with http:// or https://; expected an address with it")
        key = (key or "").strip()
        if not key.isascii() or not key.isprintable() or " " in key:
            raise AlignerProbeError(f"{KEY} has characters that no key has, for instance a space; copy it again")
        return cls(model, base_url=base_url, key=key or None, **options)

    @property
    def name(self) -> str:
        return f"{self.model} at {self.address}"

    @property
    def identity(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "base_url": self.address,
            "settings": self.settings,
            "verdicts": self.verdicts,
        }

    def answer(self, asks: Sequence[Ask], told: Told) -> None:
        """Ask for all answers, several at a time; see `Judge.answer`.

        If it is stopped, requests that are under way are waited for, because their answers may have been paid for.
        """
        session = _Session(self, told)
        with self.secrets.hidden_in_logs():
            left = list(enumerate(asks))
            while left and self._schema is None:
                session.ask(*left.pop(0))
            with ThreadPoolExecutor(self.workers) as pool:
                futures = [pool.submit(session.ask, index, ask) for index, ask in left]
                try:
                    _first_error(futures)
                except BaseException:
                    _stop(futures)
                    raise

    def client(self) -> Any:
        """The client of this endpoint. Raises AlignerProbeError where `openai` is not installed."""
        try:
            import openai
        except ImportError as error:
            raise AlignerProbeError(
                'asking an endpoint needs the package openai, which is missing: pip install "aligner-probe[judge]"'
            ) from error
        return openai.OpenAI(
            api_key=self._key or NO_KEY,
            base_url=self._base_url,
            timeout=self._timeout,
            max_retries=self._max_retries,
        )

    def note_schema(self, works: bool) -> None:
        """Note whether the server gives structured output."""
        self._schema = works

    @property
    def schema(self) -> bool | None:
        """Whether structured output is asked for; None as long as it is not known whether the server can."""
        return self._schema


class _Session:
    """One call of `Endpoint.answer`: the client, and how many requests in a row have failed.

    A single request that the server rejects, for instance because it is too long, has no answer. It does not count as a
    failure, because the next request may succeed.
    """

    def __init__(self, endpoint: Endpoint, told: Told):
        self._endpoint, self._told, self._client = endpoint, told, endpoint.client()
        self._lock = threading.Lock()
        self._failed, self._any, self._stopped = 0, False, False

    def ask(self, index: int, ask: Ask) -> None:
        """Ask once, tell the answer, and raise AlignerProbeError where going on makes no sense; then ask no more."""
        if self._stopped:
            return
        try:
            self._ask(index, ask)
        except BaseException:
            self._stopped = True
            raise

    def _ask(self, index: int, ask: Ask) -> None:
        endpoint = self._endpoint
        answer, status = self._request(ask, schema=endpoint.schema is not False)
        if endpoint.schema is None:
            if status in NO_SCHEMA:
                answer, status = self._request(ask, schema=False)
                if answer.status != "missing":
                    endpoint.note_schema(False)
            elif answer.status != "missing":
                endpoint.note_schema(True)
        with self._lock:
            self._told(index, answer)
            if answer.status != "missing":
                self._failed, self._any = 0, True
            # Any other status rejects this request alone, for instance because it is too long.
            elif status is None or status in (408, 429) or status >= 500:
                self._failed += 1
                if self._failed >= (FAILURES if self._any else FAILURES_AT_FIRST):
                    raise AlignerProbeError(
                        f"{self._failed} requests in a row failed at {endpoint.address}, the last one: {answer.text}; "
                        "solve that; then the same command asks only for what is missing"
                    )

    def _request(self, ask: Ask, schema: bool) -> tuple[Answer, int | None]:
        """The answer, and the status of the response; None where there was no response."""
        import openai

        endpoint = self._endpoint
        body = dict(endpoint.settings)
        if schema:
            form = {"name": "verdict", "strict": True, "schema": schema_of(ask)}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        messages = [{"role": role, "content": text} for role, text in ask.messages]
        try:
            response = self._client.chat.completions.with_raw_response.create(
                model=endpoint.model, messages=messages, extra_body=body
            )
            text = response.text
        except openai.APIStatusError as error:
            said = error.message.removeprefix(f"Error code: {error.status_code} - ")
            reason = self._reason(f"HTTP {error.status_code}: {said}")
            tried = schema and endpoint.schema is None and error.status_code in NO_SCHEMA
            if (error.status_code in HOPELESS and not tried) or error.code == "insufficient_quota":
                raise AlignerProbeError(
                    f"{endpoint.address} refuses to work: {reason}; check {KEY}, {BASE_URL} and the model's name, "
                    "then the same command goes on"
                ) from None
            return Answer("missing", reason), error.status_code
        except openai.APITimeoutError:
            return Answer("missing", "the server was silent for too long"), None
        except openai.APIConnectionError as error:
            reason = self._reason(f"no connection ({error.__cause__ or error})")
            if not self._any:
                raise AlignerProbeError(f"{endpoint.address}: {reason}; check {BASE_URL}") from None
            return Answer("missing", reason), None
        except openai.OpenAIError as error:
            return Answer("unreadable", self._reason(repr(error)), way="schema" if schema else "pattern"), HTTPStatus.OK
        answer = read_response(endpoint.secrets.hide(text), way="schema" if schema else "pattern")
        # Once more, because JSON has further spellings of the same text.
        shown = {name: self._shown(getattr(answer, name)) for name in ("text", "model", "version")}
        return replace(answer, **shown), HTTPStatus.OK

    def _reason(self, text: str) -> str:
        return self._shown(" ".join(text.split()))[:LONGEST_REASON]

    def _shown(self, text: str) -> str:
        """A text without secrets, and without halves of characters, which no file and no terminal takes."""
        return storable(self._endpoint.secrets.hide(text))


def read_response(text: str, way: str) -> Answer:
    """The answer in the text of a response with status 200. Nothing that is absent is replaced."""
    try:
        fields = json.loads(text)
        if isinstance(fields, dict) and fields.get("error") and not fields.get("choices"):
            # Some routers report what failed behind them with status 200. No answer came, so it is asked again.
            return Answer("missing", str(fields["error"])[:LONGEST_REASON])
        choice = fields["choices"][0]
        message, why = choice["message"], choice.get("finish_reason")
        said = message.get("content")
        refusal = message.get("refusal")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return Answer("unreadable", text[:LONGEST_REASON], way=way)
    model, version = (str(fields.get(name) or "") for name in ("model", "system_fingerprint"))
    content = said if isinstance(said, str) else ""
    if why == "length":
        return Answer("cut off", content, model, version, way)
    if refusal or why == "content_filter":
        return Answer("refused", str(refusal or content), model, version, way)
    if not isinstance(said, str) or why not in WHOLE:
        return Answer("unreadable", text[:LONGEST_REASON], model, version, way)
    return Answer("complete", content, model, version, way)


def _first_error(futures: Sequence[Future]) -> None:
    """Wait until all are done, or raise the first error."""
    done, _ = wait(futures, return_when=FIRST_EXCEPTION)
    for future in done:
        future.result()


def _stop(futures: Sequence[Future]) -> None:
    """Begin no further request. The pool waits for those under way."""
    under_way = sum(not future.cancel() and not future.done() for future in futures)
    if under_way:
        tqdm.write(f"waiting for {under_way} answers that are under way", file=sys.stderr)
