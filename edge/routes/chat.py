"""`POST /v1/chat/completions`."""

from contextlib import AsyncExitStack
from time import time

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from edge.answer import Answer
from edge.body import read_json_object
from edge.dependencies import EdgeDep, json_response, require_api_key
from edge.generation import Generation
from edge.openai import ChatCompletionRequest
from edge.route_headers import route_headers
from edge.sse import EventStream, stream_frames, take_all, take_until_admitted, unless_disconnected
from edge.translate import to_generate_requests, to_request_context
from edge.turn import Turn
from edge.validation import parse_chat_completion_request, unknown_fields

router = APIRouter(dependencies=[Depends(require_api_key)])


@router.post("/v1/chat/completions")
async def create_chat_completion(request: Request, edge: EdgeDep) -> Response:
    """Answers a conversation with one JSON object, or with server-sent events when `stream` is set."""
    body = await read_json_object(request, max_bytes=edge.settings.max_body_bytes)
    chat = parse_chat_completion_request(body)
    edge.unknown_fields.note(unknown_fields(body))
    request_id: str = request.state.request_id
    context = to_request_context(request.headers, chat)
    requests = to_generate_requests(chat, request_id=request_id, context=context)
    answer = Answer(f"chatcmpl-{request_id[4:]}", created=int(time()), choice_count=len(requests))
    async with AsyncExitStack() as stack:
        turn = stack.enter_context(Turn(requests[0], answer, edge.log, edge.metrics, is_stream=bool(chat.stream)))
        generation = Generation(edge.client.generate, requests, peer_count=edge.client.peer_count)
        stack.push_async_callback(generation.aclose)
        if not chat.stream:
            await unless_disconnected(request.receive, take_all(generation, answer, turn))
            return json_response(answer.completion(), headers=route_headers(answer))
        # A refusal keeps its status, so the headers wait for `admitted`.
        admitted = take_until_admitted(generation, answer, turn, edge.settings.first_headers_seconds)
        first_chunks = await unless_disconnected(request.receive, admitted)
        frames = stream_frames(
            generation,
            answer,
            turn,
            first_chunks,
            with_usage=_wants_usage(chat),
            keep_alive_seconds=edge.settings.keep_alive_seconds,
        )
        return EventStream(frames, close=stack.pop_all().aclose, headers=route_headers(answer))


def _wants_usage(chat: ChatCompletionRequest) -> bool:
    return bool(chat.stream_options and chat.stream_options.include_usage)
