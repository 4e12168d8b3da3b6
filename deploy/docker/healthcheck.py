"""Whether the service in this container takes requests: `healthcheck.py HOST:PORT` by gRPC, `http://...` by HTTP."""

import asyncio
import sys
from http.client import HTTPException
from urllib.request import ProxyHandler, build_opener

from services.shared.grpc_runtime import is_serving, open_channel


def answers_http(url: str) -> bool:
    """Whether a GET gets 200."""
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=3) as answer:
            return bool(answer.status == 200)
    except (OSError, HTTPException):
        return False


async def answers_grpc(address: str) -> bool:
    """Whether the gRPC health service says SERVING."""
    async with open_channel(address) as channel:
        return await is_serving(channel, timeout_seconds=3)


if __name__ == "__main__":
    target = sys.argv[1]
    is_well = answers_http(target) if target.startswith("http") else asyncio.run(answers_grpc(target))
    sys.exit(not is_well)
