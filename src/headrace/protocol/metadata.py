"""Metadata of a run on the wire: what is changed of it, operation by operation. research/engine.md C1.6."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct, UnsetType


class SetKey(Struct, frozen=True, tag_field="type", tag="set"):
    """Puts ``value`` under ``key``."""

    key: str
    value: Any


class DeleteKey(Struct, frozen=True, tag_field="type", tag="delete"):
    """Removes ``key``, where it is there."""

    key: str


class IncrementKey(Struct, frozen=True, tag_field="type", tag="increment"):
    """Adds ``value`` to the number under ``key``, 0 where there is none."""

    key: str
    value: int | float


class AppendToKey(Struct, frozen=True, tag_field="type", tag="append"):
    """Adds ``value`` to the list under ``key``, a new one where there is none."""

    key: str
    value: Any


class RemoveFromKey(Struct, frozen=True, tag_field="type", tag="remove"):
    """Removes what equals ``value`` from the list under ``key``, where there is one."""

    key: str
    value: Any


class ReplaceMetadata(Struct, frozen=True, tag_field="type", tag="update"):
    """Makes ``value`` all of the metadata: what is not in it is gone."""

    value: dict[str, Any]


MetadataOperation = SetKey | DeleteKey | IncrementKey | AppendToKey | RemoveFromKey | ReplaceMetadata
"""A key that begins with ``$.`` is a path: ``$.files.0.name``, ``$.files[0].name``."""


class UpdateMetadata(Struct, frozen=True, rename="camel"):
    """Body of ``PUT /api/v1/runs/{id}/metadata``: all of it anew, or operations; and operations on the runs above.

    A run that has no parent is its own parent and root.
    """

    metadata: dict[str, Any] | UnsetType = UNSET
    operations: list[MetadataOperation] | UnsetType = UNSET
    parent_operations: list[MetadataOperation] | UnsetType = UNSET
    root_operations: list[MetadataOperation] | UnsetType = UNSET


class MetadataResponse(Struct, frozen=True, rename="camel"):
    """A run's metadata, as it stands now."""

    metadata: dict[str, Any]
    metadata_type: str = "application/json"
