"""The OpenAPI 3.1 document of the HTTP contract, generated from the structs of this package and a table of routes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, Literal

import msgspec

from headrace.protocol.errors import ErrorBody

JSON_MEDIA: Final = "application/json"
NDJSON_MEDIA: Final = "application/x-ndjson"

_REF_TEMPLATE: Final = "#/components/schemas/{name}"
_PATH_PARAM: Final = re.compile(r"\{(\w+)(?::\w+)?\}")


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter or a header of an operation; those in the path are read off the path."""

    name: str
    place: Literal["query", "header"]
    meaning: str
    type: Any = str
    required: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. ``responses`` maps a status to the type of its body, or to None where it has no JSON body.

    The type of an NDJSON body is that of one line.
    """

    method: str
    path: str
    summary: str
    request: Any = None
    request_media: str = JSON_MEDIA
    responses: Mapping[int, Any] = field(default_factory=dict[int, Any])
    parameters: Sequence[Parameter] = ()
    needs_key: bool = True


def build_document(operations: Sequence[Operation], *, title: str, version: str) -> dict[str, Any]:
    """The document, as plain JSON values.

    >>> from headrace.protocol.batches import SealBatch
    >>> seal = Operation("POST", "/batches/{batch_id}/seal", "Seal", request=SealBatch, responses={200: None})
    >>> build_document([seal], title="headrace", version="1")["paths"]["/batches/{batch_id}/seal"]["post"]["operationId"]
    'post_batches_batch_id_seal'
    """
    schemas = _Schemas(operations)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        path = _PATH_PARAM.sub(r"{\1}", operation.path)
        paths.setdefault(path, {})[operation.method.lower()] = _describe(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "securitySchemes": {"apiKey": {"type": "http", "scheme": "bearer"}},
        },
    }


class _Schemas:
    """The schemas of all types that the operations name, each component once."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._types: list[Any] = [ErrorBody]
        for operation in operations:
            named = [operation.request, *operation.responses.values(), *(row.type for row in operation.parameters)]
            self._types += [type_ for type_ in named if type_ is not None and type_ not in self._types]
        self._schemas, self.components = msgspec.json.schema_components(self._types, ref_template=_REF_TEMPLATE)
        for schema in self.components.values():
            if "description" in schema:
                schema["description"] = inspect.cleandoc(schema["description"])

    def find(self, type_: Any) -> dict[str, Any]:
        return self._schemas[self._types.index(type_)]

    def content(self, type_: Any, media: str) -> dict[str, Any]:
        return {media: {"schema": self.find(type_)}}


def _describe(operation: Operation, schemas: _Schemas) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": "_".join(
            [operation.method.lower(), *re.findall(r"\w+", _PATH_PARAM.sub(r"\1", operation.path))]
        ),
        "summary": operation.summary,
        "responses": {
            **{str(status): _describe_response(status, body, schemas) for status, body in operation.responses.items()},
            "default": {"description": "An error", "content": schemas.content(ErrorBody, JSON_MEDIA)},
        },
    }
    if parameters := _describe_parameters(operation, schemas):
        described["parameters"] = parameters
    if operation.request is not None:
        described["requestBody"] = {
            "required": True,
            "content": schemas.content(operation.request, operation.request_media),
        }
    if operation.needs_key:
        described["security"] = [{"apiKey": []}]
    return described


def _describe_response(status: int, body: Any, schemas: _Schemas) -> dict[str, Any]:
    response: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if body is not None:
        response["content"] = schemas.content(body, JSON_MEDIA)
    return response


def _describe_parameters(operation: Operation, schemas: _Schemas) -> list[dict[str, Any]]:
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PATH_PARAM.findall(operation.path)
    ]
    others = [
        {
            "name": row.name,
            "in": row.place,
            "required": row.required,
            "description": row.meaning,
            "schema": schemas.find(row.type),
        }
        for row in operation.parameters
    ]
    return in_path + others
