"""Which addresses the server may be sent to by those who use it: public ones, and no other.

Somebody who names a URL has this machine ask for it, from inside the networks that it is in. What
these networks keep for themselves is refused: private and local addresses, those of the machine
itself, of clouds' metadata, and every way of writing an IPv4 address as an IPv6 one.
"""

import re
from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from yarl import URL

from executor.errors import NetworkError

MOST_CHARACTERS = 2_000
"""Of a URL; browsers and proxies take hardly more."""

# Written down, since Python's own idea of what is global has changed between versions.
_NOT_PUBLIC_4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this network; Linux takes 0.0.0.0 for this machine
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # carriers' own; metadata of some clouds
            "127.0.0.0/8",  # this machine
            "168.63.129.16/32",  # Azure's machines talk to their host there
            "169.254.0.0/16",  # link-local; metadata of most clouds
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocols; metadata of Oracle's cloud
            "192.0.2.0/24",  # documentation
            "192.88.99.0/24",  # relays of 6to4
            "192.168.0.0/16",  # private
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, and broadcast
        ),
    )
)
# All that is public lies in here: neither mapped IPv4 addresses do, nor those of NAT64, nor local
# and multicast ones.
_PUBLIC_6 = IPv6Network("2000::/3")
_NOT_PUBLIC_6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocols; Teredo, which wraps IPv4
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4, which wraps IPv4
            "3fff::/20",  # documentation
        ),
    )
)

_NAME = re.compile(r"[a-z0-9_]([a-z0-9._-]*[a-z0-9_-])?\.?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


def is_public(address: str) -> bool:
    """Whether an address, as sockets have it, is one of the public network."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv4Address):
        return not any(parsed in network for network in _NOT_PUBLIC_4)
    is_of_a_link = parsed.scope_id is not None
    is_wrapped = any(parsed in network for network in _NOT_PUBLIC_6)
    return parsed in _PUBLIC_6 and not is_wrapped and not is_of_a_link


def literal(host: str) -> str | None:
    """The address that a host is, if it is no name.

    Raises NetworkError for an address in a form that programs read differently: decimal, octal,
    hexadecimal, short.
    """
    if "%" in host:
        raise NetworkError(
            f"{host[:60]!r} is no address of a host; it names a link of this machine"
        )
    if ":" in host:
        try:
            return str(IPv6Address(host))
        except ValueError as error:
            raise NetworkError(f"{host[:60]!r} is no address of a host") from error
    if not _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
        return None
    try:
        return str(IPv4Address(host))
    except ValueError as error:
        raise NetworkError(
            f"{host[:60]!r} is no address of a host; write IPv4 as four decimal numbers"
        ) from error


def checked_url(text: str, *, ports: Collection[int], private_hosts: Collection[str] = ()) -> URL:
    """A URL that the server may be sent to, as far as it says itself where that is.

    ``private_hosts`` may be anywhere, on any port. Raises NetworkError.
    """
    if len(text) > MOST_CHARACTERS:
        raise NetworkError(f"a URL has at most {MOST_CHARACTERS:,} characters, got {len(text):,}")
    if not text.isprintable() or " " in text or "\\" in text:
        raise NetworkError("a URL has no spaces, backslashes or control characters")
    try:
        url = URL(text)
        host, port = url.raw_host or "", url.port
    except ValueError as error:
        raise NetworkError(f"{text[:100]!r} is no URL: {str(error)[:200]}") from error
    if url.scheme not in ("http", "https") or not host:
        raise NetworkError(f"{text[:100]!r} is no http or https URL")
    if url.user is not None or url.password is not None:
        raise NetworkError("a URL must not hold a user's name or password")
    if ":" not in host and not _NAME.fullmatch(host):
        raise NetworkError(f"{host[:60]!r} is no name of a host")
    address = literal(host)
    if is_named(host, private_hosts):
        return url
    if port not in ports:
        offered = ", ".join(map(str, sorted(ports)))
        raise NetworkError(f"port {port} is not asked; those that are: {offered} (outside_ports)")
    if address is not None and not is_public(address):
        raise NetworkError(not_public(host))
    return url


def is_named(host: str, hosts: Collection[str]) -> bool:
    """Whether a host is one of these."""
    return host.rstrip(".").casefold() in {name.rstrip(".").casefold() for name in hosts}


def not_public(host: str) -> str:
    """What is said of a host that leads to where nobody is to be sent."""
    return f"{host[:60]!r} is not in the public network, and nothing else is asked"
