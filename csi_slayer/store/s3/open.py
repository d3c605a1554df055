"""From options to an open S3 store."""

from __future__ import annotations

import asyncio
import hashlib
import os
from urllib.parse import urlsplit

from csi_slayer.config.plain import check_region
from csi_slayer.errors import ConfigError
from csi_slayer.store.options import StoreOptions
from csi_slayer.store.retry import RetryPolicy
from csi_slayer.store.s3.address import locate, split_url
from csi_slayer.store.s3.credentials import Credentials
from csi_slayer.store.s3.engine import Engine
from csi_slayer.store.s3.pool import ConnectionPool
from csi_slayer.store.s3.proxy import find_proxy
from csi_slayer.store.s3.request import RequestWriter
from csi_slayer.store.s3.resolver import Resolver
from csi_slayer.store.s3.sources import choose_source
from csi_slayer.store.s3.store import S3Store
from csi_slayer.store.s3.sts import StsEndpoint
from csi_slayer.store.s3.surroundings import find_way
from csi_slayer.store.s3.target import Target, make_tls
from csi_slayer.store.s3.transfers import Transfers


async def open_s3(url: str, options: StoreOptions) -> S3Store:
    """The store at ``s3://bucket/prefix``. Raises ConfigError and AccessDenied.

    Endpoint, region, authorities and proxy that are not given come from the environment and the
    profile, as with other AWS tools.
    """
    bucket, prefix = split_url(url)
    way = await asyncio.to_thread(find_way, options)
    region = way.region
    try:
        check_region(region)
    except ValueError as error:
        raise ConfigError(f"region: {error}") from None
    address = locate(bucket, prefix, way.endpoint, region, options.path_style, setting=way.setting)
    policy = RetryPolicy(deadline=options.retry_deadline, retried=options.observer.on_retry)
    credentials, who = None, "anonymous"
    if not options.anonymous:
        credentials = await _credentials(options, region)
        who = credentials.identity
    tls = proxy = None
    if address.secure:
        tls = await asyncio.to_thread(make_tls, way.ca_bundle, options.verify_tls)
        proxy = find_proxy(options, address.host, address.port)
    target = Target(
        address.host,
        address.port,
        options.connect_timeout,
        options.request_timeout,
        tls,
        proxy,
    )
    resolver = Resolver(target)
    engine = Engine(
        RequestWriter(address, options.objects),
        str(target),
        credentials,
        ConnectionPool(target, resolver, options.max_connections),
        Transfers(target, resolver, options.transfer_threads),
        policy,
        options.observer,
    )
    identity = ""
    if who:
        digest = hashlib.sha256(who.encode()).hexdigest()[:24]
        scheme = "https" if address.secure else "http"
        identity = f"{scheme}://{address.host_header}{address.root}{prefix}#{digest}"
    return S3Store(engine, identity, options.check_deadline, region)


async def renew_s3(store: S3Store, options: StoreOptions) -> None:
    """Go on with the credentials of ``options`` once the bucket accepts them; until then, and if
    it does not, with the old ones. Raises the StoreError that the new ones meet."""
    await store.use(await _credentials(options, store.region))


async def _credentials(options: StoreOptions, region: str) -> Credentials:
    sts = await asyncio.to_thread(_sts, options, region)
    credentials = Credentials(choose_source(options.credentials, sts), region)
    if not options.lazy:
        policy = RetryPolicy(deadline=options.check_deadline, retried=options.observer.on_retry)
        await policy.run(credentials.current, "credentials")
    return credentials


def _sts(options: StoreOptions, region: str) -> StsEndpoint:
    given = (
        options.credentials.sts_endpoint
        or os.environ.get("AWS_ENDPOINT_URL_STS")
        or os.environ.get("AWS_ENDPOINT_URL")
    )
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    url = given or f"https://sts.{region}.{domain}"
    ca_bundle = find_way(options).ca_bundle
    tls = proxy = None
    if url.startswith("https://"):
        needed = _needs_sts(options)
        if needed:
            tls = make_tls(ca_bundle, options.verify_tls)
        if needed or options.proxy is not None:  # the role of a profile needs one, too
            parts = urlsplit(url)
            proxy = find_proxy(options, parts.hostname or "", parts.port or 443)
    verify = ca_bundle if options.verify_tls else False
    return StsEndpoint(url, region, options.connect_timeout, tls, proxy, verify)


def _needs_sts(options: StoreOptions) -> bool:
    """Whether a role may be assumed: contexts with all authorities in them are not small, and a
    proxy that cannot be used is no error of who needs none."""
    by_environment = "AWS_WEB_IDENTITY_TOKEN_FILE" in os.environ
    given = options.credentials
    return given.role_arn is not None or given.has_token or by_environment
