"""`POST /v1/route` and `POST /v1/estimate`: what would become of a request, without an answer to it."""

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from edge.body import read_json_object
from edge.dependencies import Edge, EdgeDep, json_response, require_api_key
from edge.translate import to_generate_requests, to_request_context
from edge.validation import parse_chat_completion_request
from localcode.inference.v1 import inference_pb2 as pb

router = APIRouter(dependencies=[Depends(require_api_key)])


@router.post("/v1/route")
async def explain_route(request: Request, edge: EdgeDep) -> Response:
    """Says which model a chat completion request would go to, and why."""
    answer = await edge.client.route(await _read(request, edge))
    return json_response(
        {
            "model": answer.routed.model,
            "class": answer.routed.request_class,
            "reasons": list(answer.routed.reasons),
            "considered": [
                {
                    "model": one.model,
                    "reason": one.reason,
                    "obstacle": one.obstacle or None,
                    "first_token_seconds": round(one.first_token_seconds, 3),
                }
                for one in answer.considered
            ],
        }
    )


@router.post("/v1/estimate")
async def estimate_cost(request: Request, edge: EdgeDep) -> Response:
    """Says which worker would answer a chat completion request, and when its first token is to be expected."""
    answer = await edge.client.estimate(await _read(request, edge))
    return json_response(
        {
            "model": answer.model,
            "worker_id": answer.worker_id,
            "prompt_tokens": answer.prompt_token_count,
            "is_tokenized": answer.is_tokenized,
            "cached_tokens": {tier.tier: tier.token_count for tier in answer.cached},
            "tokens_to_prefill": answer.prefill_token_count,
            "queue_position": answer.queue_position,
            "queue_seconds": round(answer.queue_seconds, 3),
            "prefill_seconds": round(answer.prefill_seconds, 3),
            "first_token_seconds": round(answer.queue_seconds + answer.prefill_seconds, 3),
        }
    )


async def _read(request: Request, edge: Edge) -> pb.GenerateRequest:
    body = await read_json_object(request, max_bytes=edge.settings.max_body_bytes)
    chat = parse_chat_completion_request(body)
    context = to_request_context(request.headers, chat)
    return to_generate_requests(chat, request_id=request.state.request_id, context=context)[0]
