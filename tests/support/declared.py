"""Judge each answer that a test gets: the service's OpenAPI document declares its status, its problem and its body."""

import re
from dataclasses import dataclass
from typing import Any

import httpx
from fastapi import FastAPI
from jsonschema_rs import Validator, validator_for

from common.web.problems import MEDIA_TYPE, PATH

JSON = "application/json"
TOLD = {"allow", "etag", "location", "retry-after", "upload-length", "upload-offset", "www-authenticate"}
_KNOWN: dict[str, "Declared"] = {}  # by service: the documents do not depend on settings


@dataclass(frozen=True)
class _Operation:
    path: re.Pattern[str]
    name: str
    problems: dict[int, set[str]]  # slugs by status; a success has none
    bodies: dict[int, Validator]
    headers: dict[int, set[str]]


class Declared:
    def __init__(self, document: dict[str, Any]) -> None:
        self._components = document["components"]
        self._operations: dict[str, list[_Operation]] = {}
        for path in sorted(document["paths"], key=lambda path: path.count("{")):  # the plain path first
            for method, operation in document["paths"][path].items():
                self._operations.setdefault(method.upper(), []).append(self._operation(method, path, operation))

    def _operation(self, method: str, path: str, operation: dict[str, Any]) -> _Operation:
        problems: dict[int, set[str]] = {}
        bodies: dict[int, Validator] = {}
        headers: dict[int, set[str]] = {}
        for status, told in operation["responses"].items():
            answer = self._components["responses"][told["$ref"].rpartition("/")[2]] if "$ref" in told else told
            content = answer.get("content", {})
            headers[int(status)] = {name.lower() for name in answer.get("headers", ())}
            problems[int(status)] = {*content.get(MEDIA_TYPE, {}).get("examples", ())}
            if JSON in content and content[JSON].get("schema"):
                bodies[int(status)] = validator_for({"components": self._components, **content[JSON]["schema"]})
        pattern = re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path)))
        return _Operation(pattern, f"{method.upper()} {path}", problems, bodies, headers)

    async def judge(self, response: httpx.Response) -> None:
        """Raise AssertionError for an answer that the document does not declare (an httpx event hook)."""
        request = response.request
        every = self._operations.get(request.method, ())
        found = next((each for each in every if each.path.fullmatch(request.url.path)), None)
        if found is None:
            return
        assert response.status_code in found.problems, f"{found.name} does not declare {response.status_code}"
        told = response.headers.keys() & TOLD - found.headers[response.status_code]
        assert not told, f"{found.name} does not declare the headers {told} of {response.status_code}"
        media_type = response.headers.get("content-type", "").partition(";")[0]
        if media_type not in (JSON, MEDIA_TYPE) or request.method == "HEAD":
            return
        await response.aread()
        if media_type == MEDIA_TYPE:
            slug = response.json()["type"].removeprefix(f"{PATH}/")
            told = found.problems[response.status_code]
            assert slug in told, f"{found.name} does not declare the problem {slug}: add it to `refuses`"
        elif response.status_code in found.bodies:
            error = next(found.bodies[response.status_code].iter_errors(response.json()), None)
            assert error is None, f"{found.name} does not declare {error.message} at {error.instance_path}"


def declared(service: str, app: FastAPI) -> Declared:
    if service not in _KNOWN:
        _KNOWN[service] = Declared(app.openapi())
    return _KNOWN[service]
