"""The last event of an answer."""

from localcode.inference.v1 import inference_pb2 as pb
from services.worker.generation import Generation


def finish_message(generation: Generation, reason: "pb.FinishReason.ValueType", *, now: float) -> pb.Finish:
    """Sums up what it took in tokens and time."""
    started = generation.started_at if generation.started_at is not None else now
    first = generation.first_token_at if generation.first_token_at is not None else now
    from_store = min(generation.fetched_count, generation.cached.ram)
    from_remote = from_store if generation.was_fetched_remotely else 0
    return pb.Finish(
        reason=reason,
        usage=pb.Usage(
            prompt_token_count=generation.prompt_token_count,
            completion_token_count=generation.generated_count,
            cached_token_count=min(generation.cached.count, generation.prompt_token_count),
            cached_from=pb.CacheSources(
                parked_token_count=generation.cached.parked,
                running_token_count=generation.cached.running,
                ram_token_count=generation.cached.ram - from_store,
                disk_token_count=from_store - from_remote,
                remote_token_count=from_remote,
            ),
            reasoning_token_count=generation.answer.reasoning_token_count,
            accepted_draft_token_count=generation.speculation.accepted_count,
            rejected_draft_token_count=generation.speculation.rejected_count,
        ),
        timings=pb.Timings(
            queue_seconds=started - generation.arrived_at, prefill_seconds=first - started, decode_seconds=now - first
        ),
        stop_sequence=generation.answer.stop_sequence,
        cache=pb.CacheExplanation(restore_seconds=generation.restore_seconds),
    )
