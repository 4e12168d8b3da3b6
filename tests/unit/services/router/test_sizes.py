from itertools import pairwise

from localcode.inference.v1 import inference_pb2 as pb
from services.router.sizes import prefix_sizes
from services.router.statistics import ModelStatistics
from services.shared.lineage import lineage


def message(role: "pb.Role.ValueType", text: str) -> pb.Message:
    return pb.Message(role=role, content=[pb.ContentPart(text=text)])


CHAT = pb.ChatPrompt(
    messages=[message(pb.ROLE_SYSTEM, "s" * 1000), message(pb.ROLE_USER, "u" * 100), message(pb.ROLE_ASSISTANT, "a")],
    tools=[pb.Tool(name="read", description="d" * 96, parameters_json="{}" * 450)],
)


def test_there_is_one_size_for_each_lineage_hash() -> None:
    sizes = prefix_sizes(pb.GenerateRequest(chat=CHAT))
    assert len(sizes) == len(lineage("coder", CHAT))
    assert [later - earlier for earlier, later in pairwise(sizes)] == [120, 21]
    assert 2000 <= sizes[0] <= 2040


def test_an_image_has_a_size() -> None:
    image = pb.Message(role=pb.ROLE_USER, content=[pb.ContentPart(image=pb.Image(data=b"x"))])
    assert prefix_sizes(pb.GenerateRequest(chat=pb.ChatPrompt(messages=[image])))[-1] > 1000


def test_raw_text_has_one_size() -> None:
    assert prefix_sizes(pb.GenerateRequest(text="abc")) == (3,)


def test_the_size_of_a_token_is_learned() -> None:
    statistics = ModelStatistics()
    for _ in range(40):
        statistics.observe_prompt(5000, 1000)
    assert 990 <= statistics.token_count(5000) <= 1010


def test_tiny_prompts_teach_nothing() -> None:
    statistics = ModelStatistics()
    statistics.observe_prompt(2, 30)
    statistics.observe_prompt(5000, 0)
    assert statistics == ModelStatistics()
