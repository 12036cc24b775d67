"""Show which versions every model server has and every gateway uses."""

from collections.abc import Iterator, Sequence

from microtome.rollout.configuration import wanted
from microtome.rollout.gateways import Gateway
from microtome.rollout.servers import Server, Unreachable
from microtome.rollout.stores import Store


def status_lines(store: Store, servers: Sequence[Server], gateways: Sequence[Gateway], model: str) -> Iterator[str]:
    """Yield a line for the configuration, one for each server and one for each gateway.

    Raises:
        CannotBegin: the configuration cannot be read.
    """
    told = wanted(store.read(), model)
    labels = ", ".join(f"{label} is {version}" for label, version in sorted(told.labels.items()))
    yield f"configuration  {', '.join(map(str, told.versions)) or 'by the default policy'}; {labels or 'no labels'}"
    for server in servers:
        try:
            states = server.states(model)
        except Unreachable as error:
            yield f"model server   {error}"
            continue
        shown = (f"{version} {state.state} {state.error}".rstrip() for version, state in sorted(states.items()))
        yield f"model server   {server.address}  {', '.join(shown) or 'no version'}"
    for gateway in gateways:
        version, why = gateway.version(model)
        yield f"gateway        {gateway.address}  {f'uses {version}' if version else 'uses none'} {why}".rstrip()
