"""Where users may send the server: to public addresses, however they write others."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from executor.api.addresses import MOST_CHARACTERS, checked_url, is_public, literal
from executor.errors import NetworkError

PORTS = (80, 443)

NOT_PUBLIC = [
    *("127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255"),
    *("172.16.0.1", "172.31.255.255", "192.168.0.1", "192.168.255.255"),
    *("169.254.0.1", "169.254.169.254", "100.64.0.1", "100.100.100.200", "100.127.255.255"),
    *("192.0.0.192", "192.0.2.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1"),
    *("168.63.129.16", "192.88.99.1", "224.0.0.1", "239.255.255.255", "240.0.0.1"),
    "255.255.255.255",
    *("::", "::1", "fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1"),
    *("::ffff:127.0.0.1", "::ffff:93.184.216.34", "::127.0.0.1", "64:ff9b::7f00:1"),
    *("64:ff9b::a00:1", "64:ff9b:1::a00:1", "2002:7f00:1::", "2002:a00:1::1", "2001:0:1::1"),
    *("2001:db8::1", "3fff::1", "100::1", "2001:20::1", "5f00::1", "4000::1"),
    *("", "localhost", "1.2.3", "0x7f000001", "2130706433", "127.1", "01.02.03.04", "x"),
]

PUBLIC = [
    *("93.184.216.34", "1.1.1.1", "172.15.255.255", "172.32.0.1", "100.63.255.255", "100.128.0.1"),
    *("192.167.255.255", "169.253.0.1", "198.17.0.1", "223.255.255.255", "168.63.129.17"),
    *("2606:2800:220:1:248:1893:25c8:1946", "2a00:1450::1", "2001:4860::1", "2620:fe::fe"),
]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_what_networks_keep_for_themselves_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_the_rest_is(address: str) -> None:
    assert is_public(address)


@given(st.integers(0, 2**32 - 1).map(IPv4Address))
@example(IPv4Address("192.88.99.1"))
def test_no_address_is_public_that_python_knows_as_none(address: IPv4Address) -> None:
    if is_public(str(address)):
        kinds = ("private", "loopback", "link_local", "multicast", "reserved", "unspecified")
        assert not any(getattr(address, f"is_{kind}") for kind in kinds)


@given(st.integers(0, 2**32 - 1).map(IPv4Address))
def test_no_address_hides_in_a_longer_one(address: IPv4Address) -> None:
    number = int(address)
    for wrapped in (
        0xFFFF << 32 | number,  # mapped
        number,  # compatible
        0x0064_FF9B << 96 | number,  # NAT64
        0x2002 << 112 | number << 80,  # 6to4
        0x2001_0000 << 96 | number << 64,  # Teredo: its server
        0x2001_0000 << 96 | number ^ 0xFFFF_FFFF,  # its client
    ):
        assert not is_public(str(IPv6Address(wrapped)))


@pytest.mark.parametrize(
    "host",
    [
        *("2130706433", "0x7f000001", "0x7f.1", "127.1", "0177.0.0.1", "127.0.0.01", "1.2.3.4."),
        *("127.0.0.0x1", "1.2.3.4.5", "256.1.1.1", "0x", "fe80::1%25eth0", "::g"),
    ],
)
def test_an_address_is_written_in_one_way(host: str) -> None:
    with pytest.raises(NetworkError, match="is no address of a host"):
        literal(host)


@pytest.mark.parametrize(("host", "address"), [("1.2.3.4", "1.2.3.4"), ("2A00:0:0::1", "2a00::1")])
def test_addresses_are_told_from_names(host: str, address: str) -> None:
    assert literal(host) == address
    for name in ("example.com", "1.2.3.4.example", "localhost", "x1", "0x7f.example.", "a.b1"):
        assert literal(name) is None


@pytest.mark.parametrize(
    "url",
    [
        *("http://example.com", "https://example.com/a?b=c#d", "HTTP://EXAMPLE.com.:80/"),
        *("http://93.184.216.34/", "https://[2606:2800::1]/x.png", "http://bücher.example/ä"),
        "http://a_b/",
    ],
)
def test_public_urls_pass(url: str) -> None:
    assert checked_url(url, ports=PORTS).raw_host


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "is no http or https URL"),
        ("example.com", "is no http or https URL"),
        ("//example.com/", "is no http or https URL"),
        ("http:/example.com", "is no http or https URL|is no URL"),
        ("http://", "is no URL|no http"),
        ("ftp://example.com/", "is no http or https URL"),
        ("file:///etc/passwd", "is no http or https URL"),
        ("gopher://example.com/", "is no http or https URL"),
        ("http://me@example.com/", "a user's name or password"),
        ("http://me:secret@example.com/", "a user's name or password"),
        ("http://example.com@127.0.0.1/", "a user's name or password"),
        ("http://example.com:22/", "port 22 is not asked"),
        ("http://example.com:0/", "port 0 is not asked"),
        ("http://example.com:99999/", "is no URL"),
        ("http://127.0.0.1/", "not in the public network"),
        ("http://169.254.169.254/latest/meta-data/", "not in the public network"),
        ("http://[::1]/", "not in the public network"),
        ("http://[::ffff:127.0.0.1]/", "not in the public network"),
        ("http://[fe80::1%25eth0]/", "is no address"),
        ("http://2130706433/", "is no address"),
        ("http://0x7f.0.0.1/", "is no address"),
        ("http://0177.0.0.1/", "is no address"),
        ("http://①②⑦.0.0.1/", "not in the public network"),
        ("http://127。0。0。1/", "not in the public network"),
        ("http://%31%32%37.0.0.1/", "is no name of a host|is no address|is no URL"),
        ("http://exam%70le.com/", "is no name of a host|is no URL"),
        ("http://example.com\\@127.0.0.1/", "no spaces, backslashes"),
        ("http://exa mple.com/", "no spaces, backslashes"),
        ("http://example.com/\r\nHost: x", "control characters"),
        ("http://local\thost/", "control characters"),
        ("http://.example.com/", "is no name of a host|is no URL"),
        ("http://[::1/", "is no URL"),
        ("http://example.com/" + "a" * MOST_CHARACTERS, "characters"),
    ],
)
def test_other_urls_are_refused_with_words(url: str, why: str) -> None:
    with pytest.raises(NetworkError, match=why):
        checked_url(url, ports=PORTS)


@given(st.text(max_size=40).map(lambda text: f"http://{text}/") | st.text(max_size=40))
def test_no_text_brings_the_check_down(text: str) -> None:
    try:
        url = checked_url(text, ports=PORTS)
    except NetworkError:
        return
    host = url.raw_host or ""
    assert host
    assert url.port in PORTS
    address = literal(host)
    assert address is None or is_public(address)


def test_hosts_that_were_named_may_be_anywhere() -> None:
    named = ("Hooks.lan", "10.0.0.7", "fd00::1")
    for url in ("http://hooks.LAN.:9000/x", "http://10.0.0.7:1/", "http://[fd00::1]:8080/"):
        assert checked_url(url, ports=PORTS, private_hosts=named)
    for url in ("http://10.0.0.8/", "http://x.hooks.lan:9000/", "http://me@hooks.lan/"):
        with pytest.raises(NetworkError):
            checked_url(url, ports=PORTS, private_hosts=named)
