# SPDX-License-Identifier: Apache-2.0
"""
Which authorities to trust and which proxy to use: decided once, for both clients.

requests and aiohttp differ in both by default (certifi against the system's store; ``HTTPS_PROXY`` honoured
against ignored), so that behind a corporate proxy workers would work and triggers would hang.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

import certifi
from requests.utils import get_environ_proxies, select_proxy

from lucidworks_provider.client.settings import LucidworksSettings
from lucidworks_provider.errors import ConfigurationError

# Environment variables that requests reads, in its order.
_BUNDLE_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def trusted(settings: LucidworksSettings) -> bool | str:
    """
    What requests calls ``verify``: False, or the path of the bundle to trust.

    The connection's ``ca_bundle`` comes first, then the environment, then certifi.

    :raises ConfigurationError: the environment names a bundle that is not there.
    """
    if not settings.verify:
        return False
    if settings.ca_bundle:
        return settings.ca_bundle
    for name in _BUNDLE_VARIABLES:
        if path := os.environ.get(name):
            if not Path(path).exists():
                raise ConfigurationError(f"{name} names {path!r}, which is not there on this host.")
            return path
    return certifi.where()


def proxy_for(url: str) -> str | None:
    """
    The proxy that the environment names for a URL (``HTTPS_PROXY``, ``NO_PROXY``, …), or None.

    :raises ConfigurationError: its address cannot be used; said without it, as it may hold a password.
    """
    proxy: str | None = select_proxy(url, get_environ_proxies(url))
    if not proxy:
        return None
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    try:
        parts = urlsplit(proxy)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigurationError(
            f"The proxy that the environment names for {urlsplit(url).hostname} has no usable address; "
            "use http://HOST:PORT."
        ) from None
    return proxy
