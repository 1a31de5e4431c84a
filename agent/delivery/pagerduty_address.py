"""To which host are PagerDuty's events sent? The configured address, checked, without the path of one kind of event.

Plain http is only for hosts of this machine or cluster, because the routing key travels with every event. No message
repeats the address: a login may have been written into it.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from agent.errors import Unfit

ENQUEUE, CHANGE = "/v2/enqueue", "/v2/change/enqueue"
WANTED = "https://events.pagerduty.com or https://events.eu.pagerduty.com, with or without its /v2/enqueue"
_INSIDE = (".svc", ".local", ".internal", ".localhost")


def address(url: str) -> str:
    """``https://host[:port]`` of an address. Raises Unfit; the message does not repeat the address.

    The path that Alertmanager and PagerDuty's own pages append is removed: each kind of event has its own.
    Plain http would show the routing key to everybody on the way, so it is for hosts of this machine or cluster.
    """
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        raise Unfit("one that cannot be read", WANTED) from None
    if parts.scheme not in ("http", "https") or not re.fullmatch(r"[\w.:-]+", parts.hostname or ""):
        raise Unfit("one without https:// and a host", WANTED)
    if parts.username is not None or parts.password is not None:
        raise Unfit("a login in it: the key is read from routing_key_file", WANTED)
    if parts.path.rstrip("/") not in ("", "/v2", ENQUEUE, CHANGE) or parts.query or parts.fragment:
        raise Unfit("another path or a query behind the host", WANTED)
    name = str(parts.hostname)
    if parts.scheme == "http" and not _inside(name):
        raise Unfit("http:// to a host outside, which would show the routing key on the way", WANTED)
    host = f"[{name}]" if ":" in name else name
    return f"{parts.scheme}://{host}" + (f":{port}" if port is not None else "")


def _inside(host: str) -> bool:
    """Is this a host of this machine, this cluster or a private network?"""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith(_INSIDE)
