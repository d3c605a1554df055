"""Jobs, bounded work, open stores, paging tokens."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_slayer.config.driver import DriverConfig
from csi_slayer.errors import (
    AccessDenied,
    BucketNotFound,
    StoreUnavailable,
    VolumeBusy,
    VolumeConflict,
)
from csi_slayer.volumes import tokens, turns
from csi_slayer.volumes.bounded import for_each
from csi_slayer.volumes.identity import driver_identity
from csi_slayer.volumes.ids import Kind, valid_name
from csi_slayer.volumes.jobs import Jobs, StillRunning
from csi_slayer.volumes.places import Access, Service, mount_config
from csi_slayer.volumes.stores import StorePool
from csi_slayer.volumes.turns import Work


def test_calls_join_a_job_and_hear_how_far_it_is(run):
    async def scenario():
        jobs = Jobs(0.02)
        gate = asyncio.Event()
        begun = 0

        async def work(progress) -> str:
            nonlocal begun
            begun += 1
            progress.add(3, 7)
            await gate.wait()
            return "done"

        for _ in range(3):
            with pytest.raises(StillRunning, match="copying: 3 objects, 7 bytes so far; it goes"):
                await jobs.join("k", "copying", work)
        gate.set()
        assert await jobs.join("k", "copying", work) == "done"
        assert begun == 1
        assert await jobs.join("k", "copying", work) == "done"
        assert begun == 2
        await jobs.close()

    run(scenario())


def test_a_failed_job_tells_who_waits_and_begins_anew(run):
    async def scenario():
        jobs = Jobs(5)
        outcomes = iter([AccessDenied("wrong secret"), None])

        async def work(progress) -> str:
            await asyncio.sleep(0)
            if (error := next(outcomes)) is not None:
                raise error
            return "done"

        both = await asyncio.gather(
            jobs.join("k", "x", work), jobs.join("k", "x", work), return_exceptions=True
        )
        assert [str(error) for error in both] == ["wrong secret"] * 2
        assert await jobs.join("k", "x", work) == "done"
        await jobs.close()

    run(scenario())


@pytest.mark.allow_log("a job failed")
def test_a_job_that_fails_alone_is_logged_not_lost(run, capsys):
    async def scenario():
        jobs = Jobs(0.001)
        gate = asyncio.Event()

        async def work(progress) -> None:
            await gate.wait()
            raise StoreUnavailable("away")

        with pytest.raises(StillRunning):
            await jobs.join("k", "copying", work)
        task = jobs._jobs["k"].task
        gate.set()
        await asyncio.wait((task,))
        await jobs.close()

    run(scenario())
    assert "away" in capsys.readouterr().out


def test_a_cancelled_call_leaves_its_job_and_the_end_of_the_process_ends_it(run):
    async def scenario():
        jobs = Jobs(60)
        ended = asyncio.Event()

        async def work(progress) -> None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                ended.set()

        call = asyncio.ensure_future(jobs.join("k", "x", work))
        await asyncio.sleep(0.01)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert not ended.is_set()
        other = asyncio.ensure_future(jobs.join("k", "x", work))
        await asyncio.sleep(0)
        await jobs.close()
        assert ended.is_set()
        with pytest.raises(VolumeBusy, match="ask again"):
            await other
        with pytest.raises(VolumeBusy, match="about to end"):
            await jobs.join("k", "x", work)

    run(scenario())


@contextlib.asynccontextmanager
async def hanging(jobs: Jobs, kind: Work, services: list[str]):
    """Jobs that hang, one at each of the services, as far as they get a turn."""
    begun: list[str] = []

    def work(service: str):
        async def hang(progress) -> None:
            begun.append(service)
            await asyncio.get_running_loop().create_future()

        return hang

    calls = [
        asyncio.ensure_future(jobs.join(f"{number}", "x", work(service), kind, service))
        for number, service in enumerate(services)
    ]
    for _ in range(10):
        await asyncio.sleep(0)
    yield begun
    await jobs.close()
    await asyncio.gather(*calls, return_exceptions=True)


async def done(progress) -> str:
    return "done"


def test_jobs_that_hang_stop_no_other_kind_and_no_other_service(run):
    async def scenario():
        jobs = Jobs(20)
        async with hanging(jobs, Work.DELETION, ["dead"] * 20) as begun:
            assert len(begun) == turns.AT_SERVICE
            for kind, service in [
                (Work.DELETION, turns.OWN),
                (Work.DELETION, "other"),
                (Work.COPY, "dead"),
                (Work.COPY, turns.OWN),
            ]:
                assert await jobs.join("k", "x", done, kind, service) == "done"

    run(scenario())


def test_however_many_services_hang_the_driver_s_own_has_its_turns(run):
    async def scenario():
        jobs = Jobs(20)
        services = [f"dead{number}" for number in range(100)]
        async with hanging(jobs, Work.DELETION, services) as begun:
            assert len(begun) == turns.ELSEWHERE
            assert await jobs.join("k", "x", done, Work.DELETION, turns.OWN) == "done"
            assert await jobs.join("k", "x", done, Work.COPY, "dead1") == "done"
        assert not jobs._turns._services, "a service that has no jobs is not remembered"

    run(scenario())


def test_a_service_is_told_from_the_driver_s_own(run):
    async def scenario():
        driver = DriverConfig.model_validate(
            {"store": {"endpoint": "https://s3.example", "bucket": "home", "anonymous": True}}
        )
        pool = StorePool()
        found = [
            Access(driver, pool, Service(endpoint=endpoint), await driver_identity(driver.store))
            for endpoint in (None, "https://s3.example", "https://other.example")
        ]
        assert [access.service for access in found] == ["", "", "https://other.example"]
        await pool.close()

    run(scenario())


async def numbers(count: int, asked: list[int]):
    for number in range(count):
        asked.append(number)
        yield number


@given(st.integers(0, 30), st.integers(1, 5))
def test_bounded_work_does_everything_and_never_too_much_at_a_time(count, limit):
    async def scenario():
        running = most = 0
        done: list[int] = []
        asked: list[int] = []

        async def work(number: int) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            assert len(asked) <= len(done) + limit + 1
            await asyncio.sleep(0)
            running -= 1
            done.append(number)

        await for_each(numbers(count, asked), work, limit)
        assert sorted(done) == list(range(count))
        assert most <= limit

    asyncio.run(scenario())


def test_the_first_failure_ends_bounded_work(run):
    async def scenario():
        cancelled = []

        async def work(number: int) -> None:
            if number == 2:
                raise VolumeConflict("two")
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                cancelled.append(number)
                raise

        with pytest.raises(VolumeConflict, match="two"):
            await for_each(numbers(100, []), work, 3)
        assert sorted(cancelled) == [0, 1]

    run(scenario())


class Closes:
    """A store that counts its closing."""

    def __init__(self, inner, log: list[str]) -> None:
        self.inner, self.log = inner, log
        log.append("open")

    async def close(self) -> None:
        self.log.append("close")
        await self.inner.close()


def make_configs(root, count: int):
    driver = DriverConfig.model_validate({"store": {"local": str(root)}})
    for number in range(count):
        (root / str(number)).mkdir(exist_ok=True)
    return [mount_config(driver, f"file://{root}/{number}", {}) for number in range(count)]


def test_stores_are_shared_and_the_oldest_unused_are_closed(run, tmp_path):
    async def scenario():
        log: list[str] = []
        pool = StorePool(most=2, wrap=lambda store: Closes(store, log))  # type: ignore[arg-type]
        configs = make_configs(tmp_path, 4)
        async with pool.use(configs[0]) as first:
            async with pool.use(configs[0]) as second:
                assert first is second
            for config in configs[1:]:
                async with pool.use(config):
                    pass
            async with pool.use(configs[0]) as third:
                assert first is third, "it was closed while it was used"
        await pool.close()
        assert log.count("open") == log.count("close") == 4

    run(scenario())


def test_a_store_that_cannot_be_opened_is_tried_again(run, tmp_path):
    async def scenario():
        pool = StorePool()
        config = make_configs(tmp_path, 1)[0]
        (tmp_path / "0").rmdir()

        async def use() -> None:
            async with pool.use(config):
                pass

        both = await asyncio.gather(use(), use(), return_exceptions=True)
        assert [type(error) for error in both] == [BucketNotFound] * 2
        (tmp_path / "0").mkdir()
        await use()
        await pool.close()

    run(scenario())


def test_a_directory_that_was_made_again_is_another_store(run, tmp_path):
    async def scenario():
        pool = StorePool()
        config = make_configs(tmp_path, 1)[0]
        async with pool.use(config) as store:
            await store.put("a", b"1")
        (tmp_path / "0").rename(tmp_path / "old")
        (tmp_path / "0").mkdir()
        async with pool.use(config) as store:
            await store.put("b", b"2")
        assert (tmp_path / "0" / "b").exists()
        await pool.close()

    run(scenario())


def test_closing_the_pool_waits_for_who_uses_a_store_to_fail_not_to_hang(run, tmp_path):
    async def scenario():
        pool = StorePool()
        config = make_configs(tmp_path, 1)[0]
        async with pool.use(config) as store:
            await pool.close()
            with pytest.raises(StoreUnavailable):
                await store.head("x")
        await pool.drop(config)

    run(scenario())


@given(st.sampled_from(Kind), st.from_regex(r"[a-z0-9][a-z0-9-]{0,44}", fullmatch=True))
def test_a_token_reads_back(kind, name):
    assert tokens.read(kind, tokens.make(kind, name)) == name


@given(st.sampled_from(Kind), st.text(max_size=80))
def test_any_text_is_a_token_of_a_name_or_refused(kind, text):
    try:
        name = tokens.read(kind, text)
    except VolumeBusy:
        return
    assert name == "" if not text else valid_name(name)
