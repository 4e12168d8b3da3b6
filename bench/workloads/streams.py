"""Total decode rate of several streams at once."""

import asyncio

from bench.servers.target import Target
from bench.sessions import explanation_request
from bench.stats import rate_together
from bench.workload import Round, Sample, Workload


async def measure(target: Target, turn: Round) -> list[Sample]:
    """Each number of streams, with new prompts each time."""
    samples, alone = [], 0.0
    for count in turn.sizes.streams:
        salt = turn.salt(f"streams {count}")
        requests = [
            explanation_request(number, max_tokens=turn.sizes.answer_tokens, salt=salt) for number in range(count)
        ]
        answers = await asyncio.gather(*map(target.chat, requests))
        rate = rate_together(answers)
        alone = alone or rate
        samples.append(Sample(f"{count} at once", rate, "tokens/s", "higher"))
        if count > 1:
            samples.append(Sample(f"{count} at once over 1", rate / alone, "times", "higher"))
        whole = max(answer.ended_at for answer in answers) - min(answer.started_at for answer in answers)
        samples.append(Sample(f"{count} at once, until all had ended", whole, "s", "lower"))
    return samples


STREAMS = Workload("streams", "total decode rate of streams at once", measure, fresh=False, slots=8)
