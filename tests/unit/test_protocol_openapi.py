"""The OpenAPI document: generated, whole, and true to the structs."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from headrace.protocol.batches import BatchItem, BatchV2, CreateBatch, CreateBatchResponse, StreamItemsResponse
from headrace.protocol.openapi import NDJSON_MEDIA, Operation, Parameter, build_document
from headrace.protocol.runs import RunDetail, RunList

OPERATIONS = [
    Operation(
        "POST", "/api/v3/batches", "Create", request=CreateBatch, responses={202: CreateBatchResponse, 200: CreateBatchResponse}
    ),
    Operation(
        "POST", "/api/v3/batches/{batch_id}/items", "Stream", BatchItem, NDJSON_MEDIA, {200: StreamItemsResponse},
        [Parameter("x-headrace-run-count", "header", "The final count", int)],
    ),
    Operation(
        "GET", "/api/v2/batches/{batch_id:str}", "Retrieve", responses={200: BatchV2},
        parameters=[Parameter("wait", "query", "Seconds to wait for its end", float)],
    ),
    Operation("GET", "/api/v1/runs", "List", responses={200: RunList}),
    Operation("GET", "/api/v3/runs/{run_id}", "Retrieve", responses={200: RunDetail}),
    Operation("GET", "/healthz", "Health", responses={200: None}, needs_key=False),
]  # fmt: skip


def build() -> dict[str, Any]:
    return build_document(OPERATIONS, title="headrace", version="1.2.3")


def find_references(value: Any) -> set[str]:
    match value:
        case {"$ref": reference}:
            return {reference}
        case dict():
            return set().union(*(find_references(inner) for inner in value.values()))
        case list():
            return set().union(*(find_references(inner) for inner in value))
        case _:
            return set()


def test_it_is_json_and_the_same_each_time() -> None:
    assert json.loads(json.dumps(build())) == build()
    assert build()["openapi"] == "3.1.0"
    assert build()["info"] == {"title": "headrace", "version": "1.2.3"}


def test_every_reference_leads_somewhere_and_nothing_is_left_over() -> None:
    document = build()
    names = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert find_references(document) == names


def test_every_operation_is_there_once_under_a_name_of_its_own() -> None:
    paths = build()["paths"]
    assert set(paths) == {
        "/api/v3/batches", "/api/v3/batches/{batch_id}/items", "/api/v2/batches/{batch_id}", "/api/v1/runs",
        "/api/v3/runs/{run_id}", "/healthz",
    }  # fmt: skip
    ids = [operation["operationId"] for path in paths.values() for operation in path.values()]
    assert len(set(ids)) == len(OPERATIONS)
    assert paths["/api/v3/batches"]["post"]["operationId"] == "post_api_v3_batches"


def test_parameters_of_path_query_and_header() -> None:
    paths = build()["paths"]
    in_path = {"name": "batch_id", "in": "path", "required": True, "schema": {"type": "string"}}
    wait = {"name": "wait", "in": "query", "required": False, "schema": {"type": "number"}}
    assert paths["/api/v2/batches/{batch_id}"]["get"]["parameters"] == [
        in_path,
        {**wait, "description": "Seconds to wait for its end"},
    ]
    assert [row["in"] for row in paths["/api/v3/batches/{batch_id}/items"]["post"]["parameters"]] == ["path", "header"]
    assert "parameters" not in paths["/api/v1/runs"]["get"]


def test_bodies() -> None:
    paths = build()["paths"]
    create, stream = paths["/api/v3/batches"]["post"], paths["/api/v3/batches/{batch_id}/items"]["post"]
    answer = {"schema": {"$ref": "#/components/schemas/CreateBatchResponse"}}
    assert {status: row.get("content") for status, row in create["responses"].items() if status != "default"} == {
        "200": {"application/json": answer},
        "202": {"application/json": answer},
    }
    assert create["responses"]["202"]["description"] == "Accepted"
    assert stream["requestBody"]["content"] == {NDJSON_MEDIA: {"schema": {"$ref": "#/components/schemas/BatchItem"}}}
    assert create["responses"]["default"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/ErrorBody"
    }
    assert "content" not in paths["/healthz"]["get"]["responses"]["200"]


def test_all_but_health_needs_a_key() -> None:
    document = build()
    assert document["components"]["securitySchemes"] == {"apiKey": {"type": "http", "scheme": "bearer"}}
    without = [
        path for path, row in document["paths"].items() for operation in row.values() if "security" not in operation
    ]
    assert without == ["/healthz"]


def test_the_schemas_are_those_of_the_structs() -> None:
    schemas = build()["components"]["schemas"]
    for struct in (CreateBatch, BatchItem, StreamItemsResponse, RunDetail):
        schema = schemas[struct.__name__]
        fields = msgspec.structs.fields(struct)
        assert list(schema["properties"]) == [field.encode_name for field in fields]
        assert schema["required"] == [field.encode_name for field in fields if field.required]
    assert schemas["BatchItem"]["properties"]["index"] == {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
    assert "\n  " not in schemas["CreateBatch"]["description"]
