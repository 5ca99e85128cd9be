"""The clients that are connected, and what is sent to them.

A client may have several sockets; all get its events, and none takes over from another. A client's
id is no secret: a socket gets the events of jobs that it may see, and of no others. To send is to
put into outboxes, which waits for nobody.
"""

from collections.abc import Awaitable, Callable, Collection, Iterator

from executor.api.outbox import Message, Outbox


class Socket:
    """One websocket of a client."""

    def __init__(
        self,
        client_id: str,
        drop: Callable[[], None],
        leave: Callable[[], Awaitable[object]],
        scope: str | None = None,
    ) -> None:
        """``scope``: whose jobs it may see; None: everybody's."""
        self.client_id, self.leave, self.scope = client_id, leave, scope
        self.outbox = Outbox()
        self.takes_preview_metadata = False
        """It said so in its feature flags: previews go to it, with their node."""
        self.follows_numbers = False
        """It asked for what it missed, so it knows more than stock clients do."""
        self._drop = drop

    def sees(self, owner: str) -> bool:
        """Whether jobs of an owner are for it to see."""
        return self.scope is None or self.scope == owner

    def post(self, message: Message) -> None:
        """Send a message some time; a socket that is too slow is dropped."""
        self.outbox.put(message)
        if self.outbox.is_overrun:
            self._drop()


class Hub:
    """All sockets, by client."""

    def __init__(self) -> None:
        self._sockets: dict[str, dict[Socket, None]] = {}
        self._count = 0

    def __iter__(self) -> Iterator[Socket]:
        return (socket for sockets in self._sockets.values() for socket in sockets)

    def __len__(self) -> int:
        return self._count

    def add(self, socket: Socket) -> None:
        """From now on, what is for its client is for this socket too."""
        self._sockets.setdefault(socket.client_id, {})[socket] = None
        self._count += 1

    def remove(self, socket: Socket) -> None:
        """It is gone."""
        sockets = self._sockets.get(socket.client_id, {})
        if socket in sockets:
            del sockets[socket]
            self._count -= 1
        if not sockets:
            self._sockets.pop(socket.client_id, None)

    def of(self, client_id: str, owner: str) -> Collection[Socket]:
        """A client's sockets that see an owner's jobs; a job without a client is nobody's."""
        sockets = self._sockets.get(client_id, {}) if client_id else {}
        return [socket for socket in sockets if socket.sees(owner)]
