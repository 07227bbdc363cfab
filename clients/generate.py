"""Write the typed parts of the Python client from the OpenAPI documents: answers, bodies and resources.

`make client` runs this on the documents of the code (`tests/contract/client.py`), and a contract test compares. An
operationId (`consents.create`) is the name of a method.
"""

import itertools
import json
import keyword
import re
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

PACKAGE = Path(__file__).parent / "python" / "src" / "placet_client"
HEADER = '"""{title}\n\nWritten by `make client` from the OpenAPI documents: edit the services, not this file.\n"""\n\n'
Schema = Mapping[str, Any]
Documents = Mapping[str, Schema]


@dataclass(frozen=True)
class Named:
    """How an operation is called: `resource.method`, its operationId.

    `body`: of a body with several forms, the schema; the answer's forms are in the same order. `kind`: of the method.
    `without`: query parameters that the method fixes or does not take. `fixed`: query and header parameters with the
    only value. `defaults`: Python's default of an argument. `content`: the media type of a
    body that is a file.
    """

    name: str
    kind: Literal["operation", "listing", "download"] | None = None
    body: str | None = None
    without: tuple[str, ...] = ()
    fixed: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, str] = field(default_factory=dict)
    content: str | None = None

    @property
    def resource(self) -> str:
        return self.name.partition(".")[0]

    @property
    def method(self) -> str:
        return self.name.partition(".")[2]


# Operations of several forms, and answers that the documents cannot say
SPECIAL: Mapping[str, tuple[Named, ...]] = {
    "copies.get": (
        Named("copies.get", without=("format",)),
        Named("copies.get_csv", "download", without=("format",), fixed={"format": "csv"}),
    ),
    "consent_imports.dry_run": (Named("consent_imports.dry_run", content="application/octet-stream"),),
    "contact_imports.dry_run": (Named("contact_imports.dry_run", content="application/octet-stream"),),
    "consent_imports.get_verdicts": (Named("consent_imports.get_verdicts", "download"),),
    # an upload's opening has no body; the file goes through `upload`
    "contact_imports.create": (Named("contact_imports.create", defaults={"upload_defer_length": '"1"'}),),
    # the feed has no end: an iteration waits for the next event, for less than the client's timeout
    "events.list": (Named("events.list", defaults={"wait_s": "20"}),),
    "messages.create": (
        Named("messages.create", body="Send"),
        Named("messages.create_batch", body="Batch"),
    ),
}
# Operations without a method of their own: `upload.py` sends files, in the one version of tus
BY_HAND = frozenset(
    f"{imports}.{method}"
    for imports in ("consent_imports", "contact_imports")
    for method in ("discover", "get_offset", "upload")
)
OPERATORS_OWN = "/v1/callbacks/"  # operators call these, not tenants
# Calls that change nothing though they are POST: the bodies have numbers, and URLs have none
READS = frozenset(
    [
        ("consent", "POST /v1/subjects/lookup"),
        ("consent", "POST /v1/consents/check"),
        ("consent", "POST /v1/proofs"),
        ("consent", "POST /v1/imports/{import_id}/dry-run"),
        ("consent", "POST /v1/reconciliations/dry-run"),
        ("campaign", "POST /v1/imports/{import_id}/dry-run"),
        ("campaign", "POST /v1/campaigns/{campaign_id}/pre-flight"),
        ("campaign", "POST /v1/campaigns/{campaign_id}/trace"),
        ("campaign", "POST /v1/segments/count"),
        ("campaign", "POST /v1/contacts/lookup"),
        ("campaign", "POST /v1/contacts/search"),
        ("campaign", "POST /v1/texts/preview"),
        ("consent", "POST /v1/timeline"),
        ("campaign", "POST /v1/timeline"),
        ("dispatch", "POST /v1/timeline"),
        ("dispatch", "POST /v1/messages/search"),
        ("dispatch", "POST /v1/messages/before-reviews"),
    ]
)
UPLOADS = {"consent_imports": "consent", "contact_imports": "campaign"}  # by resource: the service
TITLES = {
    "consent_imports": "Imports of consents and suppression lists (consent-svc).",
    "contact_imports": "Imports of contacts (campaign-svc).",
    "dead_letters": "Records set aside by a service, because no version can read them.",
}


def files(documents: Documents) -> dict[Path, str]:
    """Return the generated files by path, formatted."""
    readers = {service: _Types(service, document) for service, document in documents.items()}
    resources = _resources(documents, readers)  # first: it says which types are needed
    written = {PACKAGE / "resources.py": resources}
    for service, types in readers.items():
        written[PACKAGE / "answers" / f"{service}.py"] = types.answers()
        written[PACKAGE / "bodies" / f"{service}.py"] = types.bodies()
    for folder, what in (("answers", "What the services answer"), ("bodies", "What the services take")):
        written[PACKAGE / folder / "__init__.py"] = HEADER.format(title=f"{what}, a module for each service.")
    return {path: _formatted(text) for path, text in written.items()}


def write(documents: Documents) -> None:
    """Write the generated files."""
    for path, text in files(documents).items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


def named(documents: Documents) -> Iterator[tuple[str, str, Named]]:
    """Yield (service, method and path, name) of each operation that has a method."""
    for service, operation, name in operation_ids(documents):
        if name not in BY_HAND:
            for each in SPECIAL.get(name, (Named(name),)):
                yield service, operation, each


def operation_ids(documents: Documents) -> Iterator[tuple[str, str, str]]:
    """Yield (service, method and path, operationId) of each public operation."""
    for service, document in documents.items():
        for path, methods in document["paths"].items():
            for verb, said in methods.items():
                if not path.startswith(OPERATORS_OWN):
                    yield service, f"{verb.upper()} {path}", str(said["operationId"])


def _formatted(text: str) -> str:
    ruff = [str(Path(sys.executable).with_name("ruff")), "format", "--line-length=120", "--target-version=py311", "-"]
    formatted: str = subprocess.run(ruff, input=text, capture_output=True, text=True, check=True).stdout
    return formatted


# -- types


class _Types:
    """The types of a service, as far as calls need them."""

    def __init__(self, service: str, document: Schema) -> None:
        self.service = service
        self.schemas: Mapping[str, Schema] = document.get("components", {}).get("schemas", {})
        self._answers: dict[str, str] = {}  # by schema: the source
        self._bodies: dict[str, str] = {}
        self._aliases: dict[str, str] = {}

    def class_name(self, schema: str) -> str:
        """Return a short name; a name of several schemas has the module's name before."""
        short = re.sub(r"-(Input|Output)$", "", schema)
        if "__" in short:
            *modules, last = short.split("__")
            same = [name for name in self.schemas if name.rpartition("__")[2] == last]
            short = last if len(same) == 1 else "".join(map(str.capitalize, modules[1:2])) + last
        return "".join(part[:1].upper() + part[1:] for part in re.split(r"[^A-Za-z0-9]+", short))

    def answer(self, schema: Schema, prefix: str = "") -> str:
        """Return the type of a part of an answer. `prefix`: of the names of classes."""
        return self._type(schema, "answer", prefix)

    def body(self, schema: Schema, prefix: str = "") -> str:
        return self._type(schema, "body", prefix)

    def _type(self, schema: Schema, side: str, prefix: str) -> str:
        if "$ref" in schema:
            return self._named(schema["$ref"].rpartition("/")[2], side, prefix)
        if "allOf" in schema and len(schema["allOf"]) == 1:
            return self._type(schema["allOf"][0], side, prefix)
        if side == "answer" and "discriminator" in schema:
            return self._told_by(schema, prefix)
        for union in ("anyOf", "oneOf"):
            if union in schema:
                return _union(*(self._type(part, side, prefix) for part in schema[union]))
        if "const" in schema:
            return self._closed([schema["const"]], side)
        if "enum" in schema:
            return self._closed(schema["enum"], side)
        kind = schema.get("type")
        if isinstance(kind, list):
            return _union(*(self._type({**schema, "type": each}, side, prefix) for each in kind))
        match kind, schema.get("format"):
            case "string", "date-time":
                return "dt.datetime"
            case "string", "date":
                return "dt.date"
            case "string", "time":
                return "dt.time" if side == "answer" else "str"
            case "string", "uuid":
                return "UUID" if side == "answer" else "UUID | str"
            case "string", _:
                return "str"
            case "integer", _:
                return "int"
            case "number", _:
                return "float"
            case "boolean", _:
                return "bool"
            case "null", _:
                return "None"
            case "array", _:
                of = self._type(schema.get("items", {}), side, prefix)
                return f"list[{of}]" if side == "answer" else f"Sequence[{of}]"
            case "object", _:
                return self._mapping(schema, side, prefix)
        return "Any"

    def _told_by(self, schema: Schema, prefix: str) -> str:
        """Define the alias of a union that a field discriminates, and return its name."""
        said = schema["discriminator"]
        forms = {value: self.class_name(ref.rpartition("/")[2]) for value, ref in said["mapping"].items()}
        for ref in said["mapping"].values():
            self._named(ref.rpartition("/")[2], "answer", "")
        tags = [*dict.fromkeys(forms.values()), "Unknown"]
        name = f"Any{_common_end(tags[:-1])}"
        told = " | ".join(f'Annotated[{tag}, Tag("{tag}")]' for tag in tags)
        # a value, and not an annotation: the classes come first
        self._aliases[name] = f"{name} = Annotated[{told}, told_by({json.dumps(said['propertyName'])}, {forms})]"
        return f"{prefix}{name}"

    def _mapping(self, schema: Schema, side: str, prefix: str) -> str:
        patterns = [*schema.get("patternProperties", {}).values()]
        more = schema.get("additionalProperties")
        of = patterns[0] if patterns else more if isinstance(more, Mapping) else {}
        value = self._type(of, side, prefix)
        return f"dict[str, {value}]" if side == "answer" else f"Mapping[str, {value}]"

    def _closed(self, values: Iterable[object], side: str) -> str:
        said = [json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value) for value in values]
        literal = f"Literal[{', '.join(said)}]"
        # a newer service may answer a further value
        return f"{literal} | str" if side == "answer" and all(isinstance(value, str) for value in values) else literal

    def _named(self, name: str, side: str, prefix: str) -> str:
        schema = self.schemas[name]
        if schema.get("properties", {}).keys() == {"items", "next"}:
            return f"Page[{self._type(schema['properties']['items']['items'], side, prefix)}]"
        if "properties" not in schema:
            return self._type(schema, side, prefix)
        sources = self._answers if side == "answer" else self._bodies
        if name not in sources:
            sources[name] = ""  # a type may contain itself
            sources[name] = self._model(name) if side == "answer" else self._dictionary(name)
        return f"{prefix}{self.class_name(name)}"

    def _model(self, name: str) -> str:
        schema = self.schemas[name]
        lines = [f"class {self.class_name(name)}(Answer):", *_docstring(schema.get("description"), 4)]
        for prop, of in schema["properties"].items():
            kind = self.answer(of)
            attribute = _identifier(prop)
            default = ""
            if prop not in schema.get("required", ()):
                kind = _union(kind, "None")
                default = " = None"
            if attribute != prop:
                default = f' = Field({"default=None, " if default else ""}alias="{prop}")'
            lines.append(f"    {attribute}: {kind}{default}")
            lines += _docstring(of.get("description"), 4)
        return "\n".join(lines)

    def _dictionary(self, name: str) -> str:
        schema = self.schemas[name]
        lines = [f"class {self.class_name(name)}(TypedDict):", *_docstring(schema.get("description"), 4)]
        for prop, of in schema["properties"].items():
            kind = self.body(of)
            lines.append(f"    {prop}: {kind if prop in schema.get('required', ()) else f'NotRequired[{kind}]'}")
            lines += _docstring(of.get("description"), 4)
        return "\n".join(lines)

    def answers(self) -> str:
        sources = [source for _, source in sorted(self._answers.items())] + [*self._aliases.values()]
        more = ", Unknown, told_by" if self._aliases else ""
        return self._module("answers", sources, f"from placet_client.answer import Answer{more}")

    def bodies(self) -> str:
        return self._module("bodies", [source for _, source in sorted(self._bodies.items())], "")

    def _module(self, folder: str, sources: list[str], base: str) -> str:
        text = "\n\n\n".join(sources)
        title = f"{'What' if folder == 'answers' else 'Parts of what'} {self.service}-svc"
        title += " answers." if folder == "answers" else " takes."
        # classes name each other in any order, and themselves
        later = "from __future__ import annotations\n\n" if sources else ""
        return HEADER.format(title=title) + later + _imports(text, base if sources else "") + text + "\n"


def _common_end(names: Sequence[str]) -> str:
    """Return the words that all names end with: Event of ConsentEvent and MessageEvent."""
    words = [re.findall(r"[A-Z][^A-Z]*", name)[::-1] for name in names]
    same = [each[0] for each in itertools.takewhile(lambda each: len({*each}) == 1, zip(*words, strict=False))]
    return "".join(reversed(same))


def _imports(module: str, *lines: str) -> str:
    text = re.sub(r'""".*?"""', "", module, flags=re.DOTALL)  # a description may say UUID, or Any
    typing = [
        name
        for name in ("Annotated", "Any", "Generic", "Literal", "NotRequired", "TypedDict")
        if re.search(rf"\b{name}\b", text)
    ]
    pydantic = [name for name in ("Field", "Tag") if f"{name}(" in text]
    abc = [name for name in ("Mapping", "Sequence") if f"{name}[" in text]
    found = [
        *(["import datetime as dt"] if "dt." in text else []),
        *([f"from collections.abc import {', '.join(abc)}"] if abc else []),
        *([f"from typing import {', '.join(typing)}"] if typing else []),
        *(["from uuid import UUID"] if "UUID" in text else []),
        "",
        *([f"from pydantic import {', '.join(pydantic)}", ""] if pydantic else []),
        *[line for line in lines if line],
    ]
    return "\n".join(found).strip("\n") + "\n\n\n"


def _union(*kinds: str) -> str:
    """Return the union of types, each once and None last."""
    parts = dict.fromkeys(part for kind in kinds for part in _members(kind))
    return " | ".join(sorted(parts, key=lambda part: part == "None"))


def _members(kind: str) -> list[str]:
    """Return the parts of a union; a union within brackets is no part."""
    found, depth, start = [], 0, 0
    for place, letter in enumerate(kind):
        depth += {"[": 1, "]": -1}.get(letter, 0)
        if letter == "|" and depth == 0:
            found.append(kind[start:place].strip())
            start = place + 1
    return [*found, kind[start:].strip()]


# -- resources


def _resources(documents: Documents, types: Mapping[str, _Types]) -> str:
    methods: dict[str, list[str]] = {}
    found = [*named(documents)]
    counted = Counter(name.name for _, _, name in found)
    done: set[str] = set()
    for service, operation, name in found:
        if name.name in done:
            continue  # every service has the operation
        done.add(name.name)
        several = counted[name.name] > 1
        method = _method(service, documents[service], types[service], operation, name, several)
        methods.setdefault(name.resource, []).append(method)
    classes = []
    for resource, sources in sorted(methods.items()):
        title = TITLES.get(resource, f"The {resource.replace('_', ' ')}.")
        base = "Uploads" if resource in UPLOADS else "Resource"
        head = [f"class {class_of(resource)}({base}[S]):", f'    """{title}"""', ""]
        if (service_of := UPLOADS.get(resource)) is not None:
            head += [f'    _service: Service = "{service_of}"', f"    _import = {service_of}.Import", ""]
        classes.append("\n".join(head) + "\n" + "\n\n".join(sources))
    listed = "\n".join(f"        self.{resource} = {class_of(resource)}(session)" for resource in sorted(methods))
    everything = (
        "class Resources(Generic[S]):\n"
        '    """All resources of a client."""\n\n'
        f"    def __init__(self, session: S) -> None:\n{listed}\n"
    )
    whole = "\n\n\n".join([*classes, everything])
    used = [service for service in documents if re.search(rf"[ \[(]{service}\.", whole)]
    taken = [service for service in documents if f"{service}_bodies." in whole]
    imports = [
        "from placet_client.answer import Page",
        f"from placet_client.answers import {', '.join(sorted(used))}",
        *[f"from placet_client.bodies import {service} as {service}_bodies" for service in sorted(taken)],
        "from placet_client.operation import Resource, S, download, listing, operation",
        "from placet_client.request import OMITTED, Omitted, Request, Service",
        "from placet_client.upload import Uploads",
    ]
    title = "The resources of the client, a method for each operation of the services."
    return HEADER.format(title=title) + _imports(whole, *imports) + whole + "\n"


def class_of(resource: str) -> str:
    return "".join(map(str.capitalize, resource.split("_")))


def _method(service: str, document: Schema, types: _Types, operation: str, name: Named, several: bool) -> str:
    """Return the source of a method. `several`: services have the operation, and the caller names one first."""
    verb, _, path = operation.partition(" ")
    said = document["paths"][path][verb.lower()]
    arguments: list[str] = []  # of the signature
    optional: list[str] = []
    told: dict[str, list[str]] = {"names": [], "query": [], "headers": [], "body": []}
    notes: list[str] = []
    if several:
        arguments.append("service: Service")
    keyed = False
    parameters = {each["name"]: each for each in said.get("parameters", [])}
    for each in parameters.values():
        if each["in"] == "path":
            attribute = _identifier(each["name"])
            arguments.append(f"{attribute}: {types.body(each['schema'], f'{service}_bodies.')}")
            told["names"].append(f'"{each["name"]}": {attribute}')
    keyword_only = len(arguments)
    for each in parameters.values():
        if each["in"] == "path" or each["name"] in name.without:
            continue
        if each["name"].lower() == "idempotency-key":
            keyed = True
            continue
        attribute = _identifier(each["name"])
        kind = types.body(each["schema"], f"{service}_bodies.")
        if each["required"]:
            arguments.append(f"{attribute}: {kind}")
        else:
            kind = _union(*(part for part in _members(kind) if part != "None"), "Omitted")
            optional.append(f"{attribute}: {kind} = {name.defaults.get(attribute, 'OMITTED')}")
        place = "headers" if each["in"] == "header" else "query"
        told[place].append(f'"{each["name"]}": {attribute}')
        if each.get("description"):
            notes.append(f"`{attribute}`: {each['description']}")
    for parameter, value in name.fixed.items():
        told["query"].append(f'"{parameter}": "{value}"')
    has_body = False
    if (schema := body_of(said, name)) is not None:
        has_body = True
        model = types.schemas[schema]
        for prop, of in model["properties"].items():
            attribute = _identifier(prop)
            if prop in parameters and parameters[prop]["in"] == "path":
                continue  # the path says it
            kind = types.body(of, f"{service}_bodies.")
            if prop in model.get("required", ()):
                arguments.append(f"{attribute}: {kind}")
            else:
                optional.append(f"{attribute}: {_union(kind, 'Omitted')} = OMITTED")
            told["body"].append(f'"{prop}": {attribute}')
            if of.get("description"):
                notes.append(f"`{attribute}`: {of['description']}")
    if name.content is not None:
        arguments.append("file: bytes")
        told["headers"].append(f'"Content-Type": "{name.content}"')
        notes.append("`file`: the file, or its first lines.")
    if keyed:
        optional.append("idempotency_key: str | None = None")
    kind, answer, value = _answer(service, types, said, verb, name)
    rest = [*arguments[keyword_only:], *optional]
    signature = ["self", *arguments[:keyword_only], *(["*", *rest] if rest else [])]
    call = [f'"{verb}"', "service" if several else f'"{service}"', f'"{path}"']
    call += [f"answer={value}"] if value else []
    call += [f"{part}={{{', '.join(values)}}}" for part, values in told.items() if values and part != "body"]
    call += [f"body={{{', '.join(told['body'])}}}"] if has_body else []
    call += ["content=file"] if name.content is not None else []
    call += ["keyed=True", "idempotency_key=idempotency_key"] if keyed else []
    call += ["reads=True"] if (service, operation) in READS else []
    description = _sentence(said)
    return "\n".join(
        [
            f"    @{kind}",
            f"    def {name.method}({', '.join(signature)}) -> Request[{answer}]:",
            *_docstring("\n\n".join([description, *notes]), 8),
            f"        return Request({', '.join(call)})",
        ]
    )


def body_of(said: Schema, name: Named) -> str | None:
    """Return the name of the schema of an operation's JSON body, None without such a body."""
    if name.body is not None:
        return name.body
    forms = _forms(said)
    if len(forms) > 1:
        raise ValueError(f"{name.name} has a body of several forms: name each in SPECIAL")
    return forms[0] if forms else None


def _forms(said: Schema) -> list[str]:
    """Return the names of the schemas of an operation's JSON body; none without such a body."""
    schema = said.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    if schema is None:
        return []
    parts = schema.get("anyOf", schema.get("oneOf", [schema]))
    return [part["$ref"].rpartition("/")[2] for part in parts if part.get("type") != "null"]


def _answer(service: str, types: _Types, said: Schema, verb: str, name: Named) -> tuple[str, str, str]:
    """Return the decorator, the type of the answer, and the type as a value."""
    good = next(each for status, each in said["responses"].items() if status.startswith("2"))
    content = good.get("content", {})
    json_body = content.get("application/json")
    if name.kind == "download" or (content and json_body is None):
        return "download", "bytes", ""
    if json_body is None:
        return "operation", "None", ""
    schema = json_body["schema"]
    if name.body is not None:
        schema = schema["anyOf"][_forms(said).index(name.body)]
    found = types.answer(schema, f"{service}.")
    return ("listing" if found.startswith("Page[") else "operation"), found, found


def _sentence(said: Schema) -> str:
    """Return the summary, a sentence of its own, and what follows."""
    summary, more = f"{said['summary']}.", str(said["description"])
    return summary if more == summary else f"{summary}\n\n{more}"


# -- words


def _identifier(name: str) -> str:
    snake = re.sub(r"\W", "_", name).lower()
    return f"{snake}_" if keyword.iskeyword(snake) else snake


def _wrapped(text: str, indent: int) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), 112 - indent, break_long_words=False, break_on_hyphens=False)


def _docstring(text: str | None, indent: int) -> list[str]:
    if not text:
        return []
    paragraphs = ["\n".join(_wrapped(part, indent)) for part in re.split(r"\n\s*\n", text)]
    said = "\n\n".join(paragraphs).replace("\\", "\\\\").replace('"""', "'''")
    if said.endswith('"'):
        said += " "
    said = f'"""{said}"""' if "\n" not in said else f'"""{said}\n"""'
    return textwrap.indent(said, " " * indent).splitlines()
