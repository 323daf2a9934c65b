# SPDX-License-Identifier: Apache-2.0
"""Which hosts may see a token, however their address is spelt."""

import pytest

from lucidworks_provider.client.http.transport import AllowedHosts
from lucidworks_provider.client.settings import LucidworksSettings
from lucidworks_provider.errors import InputError


def allowed(application_url: str) -> AllowedHosts:
    return AllowedHosts.of(LucidworksSettings("c", "id", "secret", application_url=application_url))


@pytest.mark.parametrize(
    ("application_url", "url"),
    [
        ("https://a.example", "https://a.example/ai/usecases"),
        ("https://a.example:443", "https://a.example/ai/usecases"),
        ("https://a.example", "https://A.example:443/"),
        ("http://127.0.0.1:80/x", "http://127.0.0.1/x"),
        ("https://bücher.example", "https://xn--bcher-kva.example/"),
        ("http://[::1]:8765", "http://[::1]:8765/ai"),
        ("https://a.example", "https://api.lucidworks.com/customers"),
    ],
)
def test_the_same_host_in_another_spelling(application_url: str, url: str) -> None:
    allowed(application_url).check(url)


@pytest.mark.parametrize(
    "url",
    [
        *("http://a.example/", "https://a.example:8443/", "https://a.example.evil/"),
        *("https://evil/?https://a.example/", "https://a.example@evil/", "https://a.example:99999/"),
        *("//a.example/", "", None),
    ],
)
def test_any_other_host_is_refused(url: str | None) -> None:
    with pytest.raises(
        InputError, match=r"access token is for https://a.example, https://api.lucidworks.com;"
    ):
        allowed("https://a.example").check(url)
