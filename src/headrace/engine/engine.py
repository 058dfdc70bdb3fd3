"""What every rule works on: the store, the payload store, the settings and the notices of one process."""

from __future__ import annotations

from dataclasses import dataclass, field

from headrace.engine.key_memory import KeyMemory
from headrace.engine.lanes import LaneBook
from headrace.engine.notices import Notices
from headrace.payloads import Payloads
from headrace.settings import Settings
from headrace.store.migrate import check_schema
from headrace.store.store import Store


@dataclass(slots=True)
class Engine:
    """The engine of one process: ``engine = await Engine.open(settings)``, then ``await engine.close()``."""

    store: Store
    payloads: Payloads
    settings: Settings
    notices: Notices
    lanes: LaneBook = field(default_factory=LaneBook)
    keys: KeyMemory = field(default_factory=KeyMemory)

    @classmethod
    async def open(cls, settings: Settings, *, listen: bool = False) -> Engine:
        """Connects, and with ``listen`` takes hints from other processes.

        Raises ConfigurationError where the database can't be reached or lacks migrations.
        """
        payloads = Payloads.open(settings)
        store = await Store.open(settings)
        try:
            async with store.connect() as connection, connection.transaction():
                await check_schema(connection)
        except BaseException:
            await store.close()
            raise
        notices = Notices(store, settings)
        if listen:
            notices.start_listening()
        return cls(store, payloads, settings, notices)

    async def close(self) -> None:
        """Lets go of every connection."""
        await self.notices.close()
        await self.store.close()
