"""Deployments on the wire: versions of the code that workers brought. research/engine.md C2.3.

The wire knows deployments that are built and shipped; here a version is there once a worker that runs it has registered, so
every one is DEPLOYED. What only a build has is empty.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from headrace.protocol.runs import Pagination

DEPLOYMENT_PREFIX = "deployment_"


class DeploymentItem(Struct, frozen=True, rename="camel", kw_only=True):
    """A version as it is listed. headrace's own: ``currentTasks`` are those of ``tasks`` whose new runs it takes,
    ``workers`` counts those that live.
    """

    id: str
    created_at: str
    short_code: str
    version: str
    deployed_at: str
    tasks: list[str]
    current_tasks: list[str]
    is_current: bool
    workers: int
    last_seen_at: str
    promoted_at: str | UnsetType = UNSET
    runtime: str = "python"
    runtime_version: str = ""
    status: Literal["DEPLOYED"] = "DEPLOYED"


class DeploymentTask(Struct, frozen=True, rename="camel"):
    """A task of a deployment's worker."""

    id: str
    slug: str
    file_path: str = ""
    export_name: str = ""


class DeploymentWorker(Struct, frozen=True):
    """What a deployment runs."""

    id: str
    version: str
    tasks: list[DeploymentTask]


class Deployment(DeploymentItem, frozen=True, rename="camel", kw_only=True):
    """Answer to ``GET /api/v1/deployments/{id}``, ``/current`` and ``/latest``."""

    worker: DeploymentWorker
    content_hash: str
    image_reference: str | None = None
    image_platform: str = ""
    external_build_data: dict[str, Any] | None = None
    error_data: dict[str, Any] | None = None


class DeploymentList(Struct, frozen=True):
    """Answer to ``GET /api/v1/deployments``, the one that came last first."""

    data: list[DeploymentItem]
    pagination: Pagination


class PromotedDeployment(Struct, frozen=True, rename="camel"):
    """Answer to ``POST /api/v1/deployments/{version}/promote``. ``tasks`` are those whose new runs it takes now."""

    id: str
    version: str
    short_code: str
    tasks: list[str]


def format_deployment_id(number: int) -> str:
    """The id of the deployment that a version is.

    >>> format_deployment_id(7)
    'deployment_7'
    """
    return f"{DEPLOYMENT_PREFIX}{number}"


def parse_deployment_id(text: str) -> int | None:
    """The number in a deployment's id; None where it is none."""
    number = text.removeprefix(DEPLOYMENT_PREFIX)
    if number == text or not (number.isascii() and number.isdigit()) or len(number) > 9:
        return None
    return int(number)
