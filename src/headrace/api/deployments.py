"""Deployments: the versions that workers brought, listed, retrieved, promoted."""

from __future__ import annotations

from typing import Any, Final

from msgspec import UNSET
from starlette.responses import Response

from headrace.api import filters, limits
from headrace.api.errors import answer_error, answer_json, answer_missing, forbid_unless
from headrace.api.routing import Call
from headrace.api.views import format_time
from headrace.engine import versions
from headrace.engine.versions import VersionMissing, VersionPromoted, VersionView
from headrace.protocol.deployments import (
    Deployment,
    DeploymentItem,
    DeploymentList,
    DeploymentTask,
    DeploymentWorker,
    PromotedDeployment,
    format_deployment_id,
    parse_deployment_id,
)
from headrace.protocol.runs import Pagination
from headrace.version_names import find_version_fault

DEFAULT_PAGE: Final = 20

_SHORT: Final = 8


async def list_deployments(call: Call) -> Response:
    """A page of versions, the one that came last first."""
    size = _read_size(call)
    text = filters.read_text(call, "page[after]")
    after = parse_deployment_id(text) if text else None
    if text and after is None:
        raise limits.bad_query("page[after]", f"page[after] is {text!r}, but must be a deployment's id")
    status = filters.read_text(call, "status")
    forbid_unless(call.caller.may("read", ("deployments", None)))
    if status not in (None, "DEPLOYED"):  # no other is there
        return answer_json(200, DeploymentList(data=[], pagination=Pagination()))
    page = await versions.list_versions(call.engine, call.environment_id, after=after, limit=size)
    last = format_deployment_id(page.versions[-1].number) if page.versions and page.has_older else UNSET
    items = [DeploymentItem(**_list_fields(version)) for version in page.versions]
    return answer_json(200, DeploymentList(data=items, pagination=Pagination(next=last)))


async def retrieve_deployment(call: Call) -> Response:
    """A version, by the id of its deployment or by its own name."""
    text = call.path_param("deployment_id")
    forbid_unless(call.caller.may("read", ("deployments", text)))
    number = parse_deployment_id(text)
    if number is not None:
        page = await versions.list_versions(call.engine, call.environment_id, after=number + 1, limit=1)
        return _answer(next((version for version in page.versions if version.number == number), None))
    if find_version_fault(text):
        return _answer(None)
    return _answer(await versions.find_version(call.engine, call.environment_id, text))


async def retrieve_current(call: Call) -> Response:
    """The version that was promoted last, of those that take new runs."""
    forbid_unless(call.caller.may("read", ("deployments", None)))
    return _answer(await versions.find_current_version(call.engine, call.environment_id))


async def retrieve_latest(call: Call) -> Response:
    """The version that came last, whether it takes new runs or not."""
    forbid_unless(call.caller.may("read", ("deployments", None)))
    page = await versions.list_versions(call.engine, call.environment_id, limit=1)
    return _answer(page.versions[0] if page.versions else None)


async def promote_deployment(call: Call) -> Response:
    """Makes a version, newer or older, take the new runs of all its tasks."""
    name = call.path_param("version")
    forbid_unless(call.caller.may("write", ("deployments", name)))
    if fault := find_version_fault(name):
        return answer_error(400, f"The version {fault}")
    match await versions.promote_version(call.engine, call.environment_id, name):
        case VersionPromoted(version):
            answer = PromotedDeployment(
                id=format_deployment_id(version.number),
                version=version.version,
                short_code=version.version[:_SHORT],
                tasks=version.current_for,
            )
            return answer_json(200, answer)
        case VersionMissing():
            return answer_missing(f"No worker has brought the version {name!r} to this environment")


def _read_size(call: Call) -> int:
    text = filters.read_text(call, "page[size]")
    if text is None:
        return DEFAULT_PAGE
    if not (text.isascii() and text.isdigit() and len(text) < 5 and 1 <= int(text) <= filters.MAX_PAGE):
        raise limits.bad_query("page[size]", f"page[size] must be from 1 to {filters.MAX_PAGE}")
    return int(text)


def _answer(version: VersionView | None) -> Response:
    if version is None:
        return answer_missing("Deployment not found")
    worker = DeploymentWorker(
        id=f"worker_{version.number}",
        version=version.version,
        tasks=[DeploymentTask(id=task, slug=task) for task in version.tasks],
    )
    return answer_json(200, Deployment(**_list_fields(version), worker=worker, content_hash=version.version))


def _list_fields(version: VersionView) -> dict[str, Any]:
    return {
        "id": format_deployment_id(version.number),
        "created_at": format_time(version.first_seen_at),
        "short_code": version.version[:_SHORT],
        "version": version.version,
        "deployed_at": format_time(version.first_seen_at),
        "tasks": version.tasks,
        "current_tasks": version.current_for,
        "is_current": bool(version.current_for),
        "workers": version.workers,
        "last_seen_at": format_time(version.last_seen_at),
        "promoted_at": format_time(version.promoted_at) if version.promoted_at else UNSET,
    }
