"""Webhooks in Redis, and what waits to be delivered to them.

Owns: how the promises of ``Store`` about them are kept there.
Does not know: what a webhook is told, how it is delivered.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.executions import redis_forms as forms
from gateway.executions import redis_scripts as scripts
from gateway.executions.records import Delivery, Hook
from gateway.executions.redis_asking import Asking


class HookCalls(Asking):
    """The calls of ``Store`` about webhooks."""

    async def put_hook(self, hook: Hook, *, hooks_max: int) -> bool:
        """See ``Store``."""
        kept = forms.hook_argument(hook)
        return bool(await self._script(scripts.PUT_HOOK, hook.owner, hook.id, kept, hooks_max))

    async def hook(self, owner: str, hook_id: str) -> Hook | None:
        """See ``Store``."""
        kept = await self._wire.command(b"HGET", f"{self._prefix}hooks:{owner}", hook_id)
        return None if kept is None else forms.hook_of(kept)

    async def hooks(self, owner: str) -> list[Hook]:
        """See ``Store``."""
        kept = await self._wire.command(b"HVALS", f"{self._prefix}hooks:{owner}")
        return sorted(map(forms.hook_of, kept), key=lambda hook: (hook.created_at, hook.id))

    async def delete_hook(self, owner: str, hook_id: str) -> bool:
        """See ``Store``."""
        return bool(await self._script(scripts.DELETE_HOOK, owner, hook_id))

    async def add_deliveries(self, deliveries: Sequence[Delivery]) -> None:
        """See ``Store``."""
        if deliveries:
            await self._script(scripts.ADD_DELIVERIES, *forms.delivery_arguments(deliveries))

    async def due(self, holder: str, now: float, *, limit: int) -> list[Delivery]:
        """See ``Store``."""
        found = await self._taken(scripts.DUE, holder, now, limit, whole=_deliveries)
        return found or []

    async def put_off(self, delivery: Delivery) -> None:
        """See ``Store``."""
        await self._script(scripts.PUT_OFF, delivery.id, *forms.due_arguments(delivery))

    async def delivered(self, delivery: Delivery) -> None:
        """See ``Store``."""
        await self._script(scripts.DELIVERED, delivery.id)


async def _deliveries(found: list[bytes]) -> list[Delivery]:
    return [forms.delivery_of(each) for each in found]
