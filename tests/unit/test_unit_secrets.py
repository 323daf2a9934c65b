# SPDX-License-Identifier: Apache-2.0
"""Which names hold a secret, what is a part of one, and how texts are blanked."""

import base64
import copy
import json
import pickle
import secrets
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
import requests

from lucidworks_provider.client.http.messages import Response, read_blanked, redact, scrub, vendor_message
from lucidworks_provider.client.secrets import (
    TokenText,
    blank,
    is_secret_name,
    parts_of,
    secrets_in,
    without_secrets,
)
from lucidworks_provider.errors import LucidworksError, MalformedResponseError

TOKEN = f"AT.{secrets.token_urlsafe(600)}"
KEY = "sk-abcdef0123456789wxyz1234"
ABBREVIATED = (
    *("sk-abc***1234", "sk-abcdef0123***************1234", "sk-abc...1234", "sk-abcd***", "***wxyz1234"),
    *("sk-abc\N{HORIZONTAL ELLIPSIS}1234", "sk-\N{HORIZONTAL ELLIPSIS}***1234", "sk-ab\\u20261234"),
    "sk-\N{BULLET}\N{BULLET}1234",
)
ACCOUNT = {
    "type": "service_account",
    "project_id": "acme-search",
    "private_key_id": "0a1b2c3d4e",
    "private_key": "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\nc2hvcnQ=\n-----END PRIVATE KEY-----\n",
    "token_uri": "https://oauth2.googleapis.com/token",
    "universe_domain": "googleapis.com",
}


@pytest.mark.parametrize(
    ("secret", "names"),
    [
        (True, "azureApiKey anthropicKey api_key apiKey apikey API_KEY x-api-key APIKey OPENAI_API_KEY"),
        (True, "openaikey anthropickey KEY1 key_2 key Ocp-Apim-Subscription-Key privateKeyId"),
        (True, "token accessToken access_token hf_token hfToken sessionToken Authorization private_key"),
        (True, "serviceAccountKey service_account_json serviceaccount credentials connectionString"),
        (True, "password PASSWORD dbPasswd passphrase clientSecret client_secret secretAccessKey"),
        (True, "trainingDataCredentials googleCredentials accountKey"),
        (False, "tokensUsed maxTokens max_tokens promptTokens tokenizer tokenLimit stopToken keywords"),
        (False, "keyword-extraction maxKeywords monkey keyboard turkey topK topk temperature azureEndpoint"),
        (False, "azureDeployment googleProjectId googleRegion memoryUuid 1 _ publicKey sortKey"),
        (False, "trainer.primary_key oov_token trainer_config.clsToken start_token"),
    ],
)
def test_names_of_secrets_and_others(secret: bool, names: str) -> None:
    assert [name for name in names.split() if is_secret_name(name) is not secret] == []
    for name in ("", None, 5, ("a", "key")):
        assert not is_secret_name(name)


def test_secrets_are_found_and_left_out_however_deep_they_are() -> None:
    listed, credentials = [{"apiKey": "one", "b": {"token": ["two", 3]}}], {"x": {"y": "three"}}
    config = {"a": listed, "credentials": credentials, "c": 4}
    assert list(secrets_in(config)) == ["one", "two", "three"]
    assert without_secrets(config) == {"a": [{"b": {}}], "c": 4}


@pytest.mark.parametrize(
    "secret",
    [
        json.dumps(ACCOUNT),
        json.dumps(ACCOUNT, indent=2),
        base64.b64encode(json.dumps(ACCOUNT).encode()).decode(),
        base64.encodebytes(json.dumps(ACCOUNT).encode()).decode(),
    ],
    ids=["JSON", "indented", "base64", "base64 in lines"],
)
def test_the_parts_of_a_service_account(secret: str) -> None:
    parts = parts_of(secret)
    assert {secret, "acme-search", "0a1b2c3d4e", "MIIEvQIBADANBgkqhkiG9w0B", "c2hvcnQ="} <= set(parts)
    assert all(len(part) >= 8 for part in parts)
    # The same in every key file.
    assert not {"service_account", "googleapis.com", "https://oauth2.googleapis.com/token"} & set(parts)
    for value in (ACCOUNT["private_key"], ACCOUNT["private_key_id"]):
        for text in (value, json.dumps(value), json.dumps(json.dumps(value))):
            blanked = blank(f"no {text} here", [secret])
            assert "MIIE" not in blanked
            assert "0a1b" not in blanked


@pytest.mark.parametrize("secret", ["a", "sk-1234", KEY, '{"a"', "12345678", "null", "[]", "=", "\ud800" * 9])
def test_any_text_has_itself_as_its_part(secret: str) -> None:
    assert secret in parts_of(secret)
    assert blank(f"<{secret}>", [secret]) == "<***>"


@pytest.mark.parametrize(
    ("text", "blanked"),
    [
        *((f"key={written}, no", "key=***, no") for written in ABBREVIATED),
        *((text, text) for text in ["Wait...", "a * b", "...", "4...3", "s...4", "one...two"]),
        *((text, text) for text in ["sk-abcd", "Loading***"]),
    ],
)
def test_an_abbreviated_key(text: str, blanked: str) -> None:
    assert blank(text, [KEY]) == blanked


def test_a_key_at_which_a_message_was_cut() -> None:
    for cut in range(8, len(KEY)):
        assert blank(f"Unknown key {KEY[:cut]}", [KEY]) == "Unknown key ***"


def test_a_large_body_is_searched_in_time() -> None:
    body = "... " * (1 << 20) + json.dumps(ACCOUNT)
    began = time.process_time()
    assert "MIIE" not in blank(body, [KEY, json.dumps(ACCOUNT)])
    assert time.process_time() - began < 5


def test_a_result_is_not_altered_and_an_error_is_blanked_before_it_is_cut() -> None:
    def read(answer: Response) -> bytes:
        if b"result" not in answer.body:
            raise MalformedResponseError(vendor_message(answer.body)[:300], status=200)
        return answer.body

    body = f'{{"result": "with {KEY}"}}'.encode()
    assert read_blanked(read, Response(200, {}, body), KEY) == body
    with pytest.raises(LucidworksError) as caught:
        read_blanked(read, Response(200, {}, f"{'x' * 290}{KEY}".encode()), KEY)
    assert str(caught.value) == "x" * 290 + "***"
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "text",
    [
        '{"azureApiKey": "s3cr3t-v"}',
        "anthropicKey=s3cr3t-v",
        "token: s3cr3t-v",
        r"{\"clientSecret\": \"s3cr3t-v\"}",
        "of sk-s3cr3t-v",
        "sk-s3c...r3t",
        "s3c****r3t",
        "input: {'x': apiKey=s3cr3t-v}",
        "Bearer eyJraWQiOiJ4In0.eyJzdWIiOiJ5In0.c2lnbmF0dXJl",
        "Authorization: Basic ZGVtbzpzZWNyZXQ=",
        '{"client_secret": "s3cr3t-value"}',
        "client_secret=s3cr3t-value&x=1",
        '{"serviceAccountKey": "s3cr3t-value"}',
        '{"apiKey":"s3cr3t-value"}',
        # A key file is JSON within JSON, and an excerpt may be cut anywhere.
        r'{"serviceAccountKey": "{\"type\": \"x\", \"private_key\": \"s3cr3t-value',
        r"pe\": \"x\", \"private_key\": \"s3cr3t-value\"}",
        '{"credentials": {"private_key": "s3cr3t-value"}}',
        "Nobody knows sk-canary-s3cr3t-0123456789.",
        "Nobody knows 'sk-ant-api03-s3cr3tXYZ'",
        "0123456789s3cr3t0123456789 is no key",
        "A key file: -----BEGIN PRIVATE KEY----- MIIEs3cr3t",
    ],
)
def test_an_unknown_key_is_scrubbed_by_its_name_or_form(text: str) -> None:
    assert [one for one in ("s3c", "r3t", "eyJ", "ZGVtbzpzZWNyZXQ") if one in scrub(text)] == []


@pytest.mark.parametrize(
    "text",
    [
        "tokensUsed: 512, maxTokens=100",
        "Unknown key: temperature",
        "keywords: one, two",
        "monkey=banana",
        "sk-learn",
        "Unknown model 'text-embedding-3-large-2024-07-18' or llama-3-8b-instruct.",
        "Job 0f0c41ad-6a5a-4b7e-9d07-6c1f3f5d8a10 is not known.",
        "HTTP 503 from upstream 10.1.2.3:8443 after 123456789012345678901234567890 ms",
    ],
)
def test_what_is_no_key_is_shown(text: str) -> None:
    assert scrub(text) == text


@pytest.mark.parametrize("secret", ['quo"ted\\\\ä', "pl+ain/with%signs", "plain"])
@pytest.mark.parametrize(
    "write", [str, json.dumps, lambda s: json.dumps(s, ensure_ascii=False), quote, quote_plus]
)
def test_a_quoted_secret_is_blanked_however_it_is_written(secret: str, write: Any) -> None:
    written = write(secret).strip('"')
    answer = redact(Response(401, {}, f"<p>{written} is wrong</p>".encode()), secret)
    assert answer.body == b"<p>*** is wrong</p>"


def test_a_large_response_is_cleaned_too() -> None:
    quoting = Response(400, {}, b"x" * 200_000 + b"canary-of-a-token")
    assert b"canary" not in redact(quoting, "canary-of-a-token").body
    inner = json.dumps({"key": 'a"canary'})
    assert b"canary" not in redact(Response(400, {}, json.dumps({"said": inner}).encode()), 'a"canary').body


def test_scrubbing_takes_linear_time() -> None:
    began = time.process_time()
    for text in ("a" * 200_000, "a=" * 100_000, "*" * 200_000, '\\"' * 100_000, "token" * 40_000):
        scrub(text)
    assert time.process_time() - began < 5


class TestTokenText:
    def test_it_is_the_token(self) -> None:
        token = TokenText(TOKEN)
        assert f"Bearer {token}" == "Bearer " + token == f"Bearer {TOKEN}" == "Bearer %s" % token  # noqa: UP031
        assert (token, hash(token), {TOKEN: 1}[token]) == (TOKEN, hash(TOKEN), 1)
        assert json.loads(json.dumps({"token": token, token: 1})) == {"token": TOKEN, TOKEN: 1}
        assert type(str(token)) is type(f"{token}") is str
        assert str(token) == TOKEN
        request = requests.Request("GET", "https://x.test", headers={"Authorization": f"Bearer {token}"})
        assert request.prepare().headers["Authorization"] == f"Bearer {TOKEN}"

    def test_it_does_not_show_itself(self) -> None:
        @dataclass
        class Holder:
            token: str

        token = TokenText(TOKEN)
        shown = [repr(token), f"{token!r}", f"{token!a}", "%r" % token]  # noqa: UP031
        shown += [repr([{"t": (token,)}]), repr(Holder(token))]
        assert not [text for text in shown if TOKEN in text]
        assert all("<access token>" in text for text in shown)

    def test_copies_do_not_either(self) -> None:
        for each in (
            pickle.loads(pickle.dumps(TokenText(TOKEN))),  # noqa: S301
            copy.deepcopy(TokenText(TOKEN)),
            copy.copy(TokenText(TOKEN)),
        ):
            assert isinstance(each, TokenText)
            assert each == TOKEN
