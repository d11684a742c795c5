"""The calls on webhooks: read a request, keep what it says, answer.

Owns: these handlers.
Does not know: what a definition holds (``hook_definitions``), which addresses are open
(``hook_addresses``), when and how a webhook is told of anything.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.answering import Action, Answering
from gateway.errors import Code, RequestRejected
from gateway.exchange import Exchange
from gateway.executions.bodies import render_list
from gateway.executions.hook_addresses import Names, checked_endpoint
from gateway.executions.hook_definitions import (
    changed_hook,
    definition_of,
    parse_hook,
    render_hook,
)
from gateway.executions.records import Hook, checked_id
from gateway.executions.service import Executions
from gateway.outlet import Written
from gateway.reading import Reading
from gateway.routing import Target


class HookCalls:
    """The handlers, as ``actions``. ``wall``: Unix seconds."""

    def __init__(
        self,
        answering: Answering,
        reading: Reading,
        executions: Executions,
        *,
        wall: Callable[[], float],
    ) -> None:
        self._answering = answering
        self._reading = reading
        self._store = executions.store
        self._section = executions.section.hooks
        self._wall = wall
        self._names = Names()
        self.actions: dict[str, Action] = {
            "create_hook": self._create,
            "list_hooks": self._list,
            "get_hook": self._get,
            "put_hook": self._put,
            "delete_hook": self._delete,
        }

    async def _create(self, exchange: Exchange, target: Target) -> Written:
        owner = self._answering.identify(exchange).owner
        hook = parse_hook(await self._reading.body(exchange), owner=owner, now=self._wall())
        if await self._store.hook(owner, hook.id) is not None:
            raise RequestRejected(f'there is a webhook "{hook.id}" already', code=Code.CONFLICT)
        await self._keep(exchange, hook)
        return await self._send(exchange, render_hook(hook, with_secret=True))

    async def _list(self, exchange: Exchange, target: Target) -> Written:
        owner = self._answering.identify(exchange).owner
        hooks = await self._store.hooks(owner)
        return await self._send(exchange, render_list([render_hook(each) for each in hooks]))

    async def _get(self, exchange: Exchange, target: Target) -> Written:
        return await self._send(exchange, render_hook(await self._named(exchange, target)))

    async def _put(self, exchange: Exchange, target: Target) -> Written:
        before = await self._named(exchange, target)
        body = await self._reading.body(exchange)
        changed = changed_hook(before, body, self._wall(), self._section.rotation_s)
        await self._keep(exchange, changed.hook)
        shown = render_hook(changed.hook, with_secret=changed.new_secret)
        return await self._send(exchange, shown)

    async def _delete(self, exchange: Exchange, target: Target) -> Written:
        owner = self._answering.identify(exchange).owner
        hook_id = checked_id(target.id, "the webhook's ID")
        if not await self._store.delete_hook(owner, hook_id):
            raise _unknown(hook_id)
        return await self._answering.send(exchange, 204, None)

    async def _named(self, exchange: Exchange, target: Target) -> Hook:
        """The webhook that the path means, which is the caller's own."""
        owner = self._answering.identify(exchange).owner
        hook_id = checked_id(target.id, "the webhook's ID")
        hook = await self._store.hook(owner, hook_id)
        if hook is None:
            raise _unknown(hook_id)
        return hook

    async def _keep(self, exchange: Exchange, hook: Hook) -> None:
        definition = definition_of(hook)
        allowed = self._section.allow_networks
        await checked_endpoint(definition.endpoint, allowed, self._names)
        if definition.transform is not None:
            await exchange.site.services.sandbox.check_syntax(definition.transform)
        hooks_max = self._section.hooks_max
        if not await self._store.put_hook(hook, hooks_max=hooks_max):
            raise RequestRejected(
                f"there are {hooks_max} webhooks already (executions.hooks.hooks_max)",
                code=Code.CONFLICT,
            )

    async def _send(self, exchange: Exchange, body: bytes) -> Written:
        return await self._answering.send(exchange, 200, body)


def _unknown(hook_id: str) -> RequestRejected:
    return RequestRejected(f'there is no webhook "{hook_id}"', code=Code.NOT_FOUND)
