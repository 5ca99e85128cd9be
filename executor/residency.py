"""The networks of one device, and the room that they share.

A network's weights come when it computes and stay until others' need their room; then they leave:
text encoders' first, of each kind those that were unused for longest, and no more than is needed.
A network that is larger than its room is computed part by part (``executor.streaming``). How much
room there is, and what is given up before networks leave, ``executor.devices`` decides.
"""

import logging
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from enum import IntEnum
from threading import RLock
from weakref import WeakSet, ref

import torch
from torch import Tensor, nn

from executor.weight_place import Place, absent, sent

log = logging.getLogger(__name__)

_ATTRIBUTE = "weft_residence"
_LEAST_SHARE = 1 / 64  # of a network; with less room than that it is not tried any more


class Turn(IntEnum):
    """In which order networks leave the device."""

    TEXT_ENCODER = 0
    AUTOENCODER = 1
    CONTROL = 2
    DIFFUSION = 3
    NEVER = 4  # small, or used in ways that nobody watches


class Residence:
    """What is known of a network: its places, and how it is used."""

    def __init__(
        self, residency: "Residency", title: str, turn: Turn, places: Mapping[str, Place]
    ) -> None:
        self.residency = residency
        self.title = title
        self.turn = turn
        self.places = places  # by the parameter's name
        self.nbytes = sum(place.nbytes for place in places.values())
        self.users = 0  # how many compute with it now
        self.last_used = 0  # by the residency's clock
        self.most_bytes: float = float("inf")  # less after memory ran out with more
        self.whole_at: int | None = None  # the count of departures when all of it was here
        self.is_in_parts = False
        self.successors: dict[str, str] = {}  # of its parts, in the order in which they compute

    @property
    def in_bytes(self) -> int:
        """What of it is on the device."""
        return sum(place.nbytes for place in self.places.values() if place.is_in)

    @property
    def limit_bytes(self) -> float:
        """What it may take, all others having left that can."""
        return min(self.residency.limit_bytes - self.residency.busy_bytes(self), self.most_bytes)


class Residency:
    """Which weights are on the device."""

    def __init__(
        self, budget: Callable[[int], int] | None = None, *, is_shared: bool = False
    ) -> None:
        """A device with so much room.

        Args:
            budget: how many bytes networks may take when they take so many; None: any.
            is_shared: whether it is more when what is no network lets go of memory.
        """
        self.budget, self.is_shared = budget, is_shared
        self.on_shortage: Callable[[], bool] = lambda: False
        """Lets go of what is no network, when memory has run out. False if there is nothing."""
        self.admitted = 0  # how many networks were loaded
        self.peak_bytes = 0  # the most that networks ever took
        self.came_bytes = 0  # all that ever came
        self.clock = 0  # rises with each use of a network
        self.lock = RLock()
        self._residences: WeakSet[Residence] = WeakSet()
        self._in: dict[ref[Place], int] = {}  # bytes of what is here, for as long as it lives
        self._departures = 0

    @property
    def used_bytes(self) -> int:
        """What networks take on the device."""
        return sum(tuple(self._in.values()))

    @property
    def limit_bytes(self) -> float:
        """What they may take."""
        return float("inf") if self.budget is None else self.budget(self.used_bytes)

    # -- networks come to be -----------------------------------------------------------------------

    def admit(
        self,
        network: nn.Module,
        homes: Mapping[str, Tensor],
        *,
        device: torch.device,
        dtype: torch.dtype,
        layout: torch.memory_format,
        title: str,
        turn: Turn,
    ) -> None:
        """Give a network that has no storage its tensors, from where they are in host memory.

        Parameters come when they are computed with; at once where there is no limit.

        Args:
            homes: all tensors of its state by name, in any precision.
            layout: of those with four dimensions.
        """
        self.admitted += 1
        is_watched = self.budget is not None and turn is not Turn.NEVER
        layouts = {
            name: layout if home.ndim == 4 else torch.contiguous_format
            for name, home in homes.items()
        }
        parameters = {name: weight.numel() for name, weight in network.named_parameters()}
        residence = Residence(self, title, turn, {})
        if self.budget is not None and not is_watched:
            self.make_room(sum(parameters.values()) * dtype.itemsize, residence)
        state = {
            name: absent(home, device, dtype)
            if is_watched and name in parameters
            else sent(home, device, dtype, layouts[name])
            for name, home in homes.items()
        }
        network.load_state_dict(state, assign=True)
        network.eval().requires_grad_(False)
        if self.budget is None:
            return
        places = {
            name: Place(parameter, homes[name] if is_watched else None, layouts[name])
            for name, parameter in network.named_parameters()
        }
        self._settle(network, Residence(self, title, turn, places))
        if not is_watched:
            self.note(places.values())

    def adopt(self, parameter: nn.Parameter) -> Place:
        """A place for a parameter that was just made; it stays only if there is room for it."""
        place = Place(parameter)
        with self.lock, unwatched():
            if self.used_bytes + place.nbytes > self.limit_bytes:
                place.leave()
            else:
                self.note([place])
        return place

    def settle_beside(self, base: Residence, network: nn.Module, own: Mapping[str, Place]) -> None:
        """Know a network that has all parameters of another but for its ``own``."""
        places = {name: own.get(name, place) for name, place in base.places.items()}
        self._settle(network, Residence(self, f"{base.title}, changed", base.turn, places))

    def _settle(self, network: nn.Module, residence: Residence) -> None:
        vars(network)[_ATTRIBUTE] = residence
        self._residences.add(residence)

    # -- networks compute --------------------------------------------------------------------------

    @contextmanager
    def holding(self, network: nn.Module, residence: Residence) -> Generator[None]:
        """Keep a network's weights on the device, or let them come and go part by part."""
        with self.lock:
            self.clock += 1
            residence.users += 1
            residence.last_used = self.clock
        try:
            if self._is_whole(residence):
                yield
            else:
                from executor.streaming import streamed  # which knows what is defined here

                with streamed(network, residence):
                    yield
        finally:
            with self.lock:
                residence.users -= 1

    def _is_whole(self, residence: Residence) -> bool:
        """Bring a network to the device. False if there is no room for all of it."""
        if residence.whole_at == self._departures:
            return True
        with self.lock:
            while missing := [p for p in residence.places.values() if not p.is_in]:
                if residence.nbytes > residence.limit_bytes:
                    if self.is_shared and self.on_shortage():
                        continue
                    self._tell_of_parts(residence)
                    return False
                self.make_room(sum(place.nbytes for place in missing), residence)
                try:
                    self.come(missing)
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    if not self.on_shortage() and not self.leave_idle(keep=[residence]):
                        residence.most_bytes = residence.in_bytes // 2
            residence.whole_at, residence.is_in_parts = self._departures, False
            return True

    def _tell_of_parts(self, residence: Residence) -> None:
        if not residence.is_in_parts:
            residence.is_in_parts = True
            log.info(
                "%s takes %s, and there is room for %s: its parts come when they compute",
                residence.title,
                size(residence.nbytes),
                size(max(0, residence.limit_bytes)),
            )

    def busy_bytes(self, residence: Residence) -> int:
        """What other networks take that cannot leave for this one."""
        own = set(map(id, residence.places.values()))
        busy = {
            id(place): place.nbytes
            for other in self._residences
            if other is not residence and (other.users or other.turn is Turn.NEVER)
            for place in other.places.values()
            if place.is_in
        }
        return sum(nbytes for key, nbytes in busy.items() if key not in own)

    def come(self, places: Iterable[Place]) -> None:
        """Bring places to the device."""
        with self.lock, unwatched():
            for place in places:
                if not place.is_in:
                    place.come()
                    self.note([place])

    def note(self, places: Iterable[Place]) -> None:
        """Count places that have come."""
        with self.lock:
            for place in places:
                self._in[ref(place, self._gone)] = place.nbytes
                self.came_bytes += place.nbytes
            self.peak_bytes = max(self.peak_bytes, self.used_bytes)

    def _gone(self, place: "ref[Place]") -> None:
        with self.lock:
            self._in.pop(place, None)

    # -- networks leave ----------------------------------------------------------------------------

    def leave(self, places: Iterable[Place]) -> int:
        """Send places away; says how many bytes that gives."""
        given = 0
        with self.lock, unwatched():
            for place in places:
                if place.is_in:
                    place.leave()
                    given += self._in.pop(ref(place), 0)
            self._departures += 1
        return given

    def make_room(self, nbytes: int, residence: Residence) -> None:
        """Let others leave until so many bytes fit, for this network."""
        with self.lock:
            excess = self.used_bytes + nbytes - self.limit_bytes
            kept = _places([residence])
            for other in self._leaving([residence]):
                if excess <= 0:
                    break
                excess -= self._send_away(
                    other, excess, kept, f"to make room for {residence.title}"
                )

    def leave_idle(self, *, keep: Iterable[Residence] = (), since: int | None = None) -> bool:
        """Let all networks leave that nobody computes with. False if none of them was here.

        Not those to ``keep``, nor those used after the clock said ``since``.
        """
        with self.lock:
            kept = [*keep, *(self._used(since) if since is not None else ())]
            places = _places(kept)
            given = sum(
                self._send_away(other, float("inf"), places, "since memory ran out")
                for other in self._leaving(kept)
            )
        _give_back()
        return given > 0

    def give(self, nbytes: int, *, since: int) -> bool:
        """Give so many bytes back, first of what is no network. False if there are none to give.

        Networks used after the clock said ``since`` stay.
        """
        if self.on_shortage():
            return True
        with self.lock:
            kept = self._used(since)
            places, given = _places(kept), 0
            for other in self._leaving(kept):
                if given < nbytes:
                    why = "to make room for a computation"
                    given += self._send_away(other, nbytes - given, places, why)
        _give_back()
        return given > 0

    def relax(self) -> None:
        """Forget what networks could not have when memory ran out, now that nothing computes."""
        with self.lock:
            for one in self._residences:
                one.most_bytes = float("inf")

    def shrink(self, since: int) -> bool:
        """Let the largest network used after ``since`` have half of the room that it takes.

        It is computed part by part from then on. False if there is none that can be.
        """
        with self.lock:
            used = [
                one for one in self._used(since) if one.turn is not Turn.NEVER and not one.users
            ]
            largest = max(used, key=lambda one: one.in_bytes, default=None)
            if largest is None or largest.in_bytes < 2 * _LEAST_SHARE * largest.nbytes:
                return False
            largest.most_bytes = largest.in_bytes // 2
            self.leave(largest.places.values())
            self._tell_of_parts(largest)
        _give_back()
        return True

    def _used(self, since: int) -> list[Residence]:
        return [one for one in self._residences if one.last_used > since]

    def _leaving(self, kept: Iterable[Residence]) -> list[Residence]:
        """Networks that can leave, in that order."""
        stays = set(map(id, kept))
        leaving = [
            one
            for one in self._residences
            if not one.users and one.turn is not Turn.NEVER and id(one) not in stays
        ]
        return sorted(leaving, key=lambda one: (one.turn, one.last_used))

    def _send_away(self, leaving: Residence, nbytes: float, kept: set[int], why: str) -> int:
        """Send so much of a network away, its last parts first, that no busy one shares."""
        kept = kept | _places(one for one in self._residences if one.users)
        chosen: list[Place] = []
        for place in reversed(list(leaving.places.values())):
            if nbytes <= 0:
                break
            if place.is_in and id(place) not in kept:
                chosen.append(place)
                nbytes -= place.nbytes
        given = self.leave(chosen) if chosen else 0
        if given:
            log.info("moved %s of %s off the device, %s", size(given), leaving.title, why)
        return given


def residence_of(network: nn.Module) -> Residence | None:
    """What is known of a network; nothing where there is no limit."""
    return vars(network).get(_ATTRIBUTE)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device's or the host's memory ran out."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def size(nbytes: float) -> str:
    """Bytes in words."""
    return f"{nbytes / 2**30:.1f} GiB" if nbytes >= 2**30 / 10 else f"{nbytes / 2**20:.1f} MiB"


@contextmanager
def unwatched() -> Generator[None]:
    """While this holds, tensors are made that can be used outside of inference mode too."""
    with torch.inference_mode(mode=False), torch.no_grad():
        yield


def _places(residences: Iterable[Residence]) -> set[int]:
    return {id(place) for one in residences for place in one.places.values()}


def _give_back() -> None:
    """Let the device have what this process holds and does not use."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
