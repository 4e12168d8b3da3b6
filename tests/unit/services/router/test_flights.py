import asyncio
from collections.abc import AsyncGenerator

import pytest

from localcode.inference.v1 import inference_pb2 as pb
from services.router.flights import Flight, Flights, flight_key
from services.shared.errors import NoWorker
from tests.fakes.inference import admitted, content, finish


def request(session_id: str = "s", text: str = "Hi", request_id: str = "r") -> pb.GenerateRequest:
    context = pb.RequestContext(session_id=session_id)
    return pb.GenerateRequest(request_id=request_id, model="coder", text=text, context=context)


class Source:
    """An answer that comes when a test says so."""

    def __init__(self) -> None:
        self.coming: asyncio.Queue[pb.GenerateResponse | Exception | None] = asyncio.Queue()
        self.is_closed = False

    async def events(self) -> AsyncGenerator[pb.GenerateResponse]:
        try:
            while (event := await self.coming.get()) is not None:
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            self.is_closed = True

    def say(self, *events: pb.GenerateResponse | Exception | None) -> None:
        for event in events:
            self.coming.put_nowait(event)


async def begin(flights: Flights, source: Source, asked: pb.GenerateRequest) -> tuple[Flight, list[str]]:
    flight = flights.start(asked, flight_key(asked), source.events())
    source.say(admitted(), content("Hello"))
    reader = flight.read()
    seen = [(await anext(reader)).WhichOneof("event") or "" for _ in range(2)]
    await reader.aclose()
    return flight, seen


async def rest(flight: Flight) -> list[pb.GenerateResponse]:
    return [event async for event in flight.read()]


def test_the_same_request_has_the_same_key_whatever_its_attempt() -> None:
    again = request(request_id="other")
    again.resume_tokens.append(7)
    assert flight_key(again) == flight_key(request())
    assert len({flight_key(one) for one in (request(), request("t"), request(text="Ho"))}) == 3


def test_without_a_session_nobody_comes_back() -> None:
    assert flight_key(request("")) == ""


async def test_a_client_that_was_cut_off_gets_the_answer_from_its_beginning() -> None:
    flights, source = Flights(rejoin_seconds=5), Source()
    flight, _ = await begin(flights, source, request())
    flights.leave(flight, is_complete=False)
    source.say(content(" world"))
    await asyncio.sleep(0)
    assert flights.rejoin(flight_key(request())) is flight
    source.say(content("!"), finish(), None)
    events = await rest(flight)
    assert [event.WhichOneof("event") for event in events] == ["admitted", "delta", "delta", "finish"]
    assert "".join(event.delta.content for event in events) == "Hello world!"


async def test_an_answer_that_ended_meanwhile_is_still_there() -> None:
    flights, source = Flights(rejoin_seconds=5), Source()
    flight, _ = await begin(flights, source, request())
    flights.leave(flight, is_complete=False)
    source.say(finish(), None)
    await asyncio.sleep(0.01)
    assert flights.rejoin(flight_key(request())) is flight
    assert len(await rest(flight)) == 3


async def test_only_one_client_may_come_back() -> None:
    flights, source = Flights(rejoin_seconds=5), Source()
    flight, _ = await begin(flights, source, request())
    assert flights.rejoin(flight.key) is None  # the first reader is still there
    flights.leave(flight, is_complete=False)
    assert flights.rejoin(flight.key) is flight
    assert flights.rejoin(flight.key) is None
    await flights.aclose()


async def test_an_answer_that_nobody_comes_back_for_ends() -> None:
    flights, source = Flights(rejoin_seconds=0.02), Source()
    flight, _ = await begin(flights, source, request())
    flights.leave(flight, is_complete=False)
    assert not source.is_closed
    await asyncio.sleep(0.06)
    assert source.is_closed
    assert flights.rejoin(flight.key) is None


@pytest.mark.parametrize(("session_id", "rejoin_seconds"), [("", 5), ("s", 0)])
async def test_without_a_session_or_where_it_is_off_an_answer_ends_with_its_client(
    session_id: str, rejoin_seconds: float
) -> None:
    flights, source = Flights(rejoin_seconds=rejoin_seconds), Source()
    flight, _ = await begin(flights, source, request(session_id))
    flights.leave(flight, is_complete=False)
    await asyncio.sleep(0.01)
    assert source.is_closed


async def test_an_answer_that_has_not_begun_costs_nothing() -> None:
    flights, source = Flights(rejoin_seconds=5), Source()
    flight = flights.start(request(), "key", source.events())
    await asyncio.sleep(0)
    flights.leave(flight, is_complete=False)
    await asyncio.sleep(0.01)
    assert source.is_closed


async def test_another_request_of_the_session_ends_what_it_left_behind() -> None:
    flights, source, other = Flights(rejoin_seconds=5), Source(), Source()
    flight, _ = await begin(flights, source, request())
    flights.leave(flight, is_complete=False)
    await begin(flights, other, request(text="Something else"))
    await asyncio.sleep(0.01)
    assert source.is_closed
    await flights.aclose()


async def test_an_answer_without_a_reader_makes_room_for_others() -> None:
    flights, source = Flights(rejoin_seconds=5), Source()
    flight, _ = await begin(flights, source, request())
    assert not flights.make_room("coder")
    flights.leave(flight, is_complete=False)
    assert not flights.make_room("other")
    assert flights.make_room("coder")
    await asyncio.sleep(0.01)
    assert source.is_closed


async def test_an_error_reaches_the_reader() -> None:
    flights, source = Flights(rejoin_seconds=5), Source()
    flight, _ = await begin(flights, source, request())
    source.say(NoWorker("gone"))
    with pytest.raises(NoWorker):
        await rest(flight)


async def test_a_slow_reader_slows_the_answer_down() -> None:
    flights, source = Flights(rejoin_seconds=5), Source()
    flights.start(request(), "", source.events())
    source.say(*[content("x")] * 1000)
    for _ in range(2000):
        await asyncio.sleep(0)
    assert 0 < source.coming.qsize() < 800
    await flights.aclose()
    assert source.is_closed


async def test_a_client_that_comes_back_while_the_answer_waits_for_it_gets_each_piece_once() -> None:
    flights, source = Flights(rejoin_seconds=5), Source()
    flight = flights.start(request(), "key", source.events())
    source.say(*(content(f"{number} ") for number in range(600)))
    for _ in range(2000):
        await asyncio.sleep(0)
    flights.leave(flight, is_complete=False)
    assert flights.rejoin("key") is flight
    source.say(finish(), None)
    said = "".join([event.delta.content async for event in flight.read()])
    assert said == "".join(f"{number} " for number in range(600))
